//! What a release's texts and lists keep (docs/format.md sections 3 and 8), field by field.
//!
//! The types keep names, digests and times; what is left is how long a text may be and what may
//! not stand in it. A variable that a loader reads would run other code than was reviewed.

use crate::limits;

/// A field that breaks a rule of docs/format.md section 8; `field` is its dotted path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct BadField {
    /// Such as `launch.env`.
    pub field: String,
    /// What is wrong and what would be right.
    pub problem: String,
}

impl BadField {
    pub(crate) fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }
}

pub(super) fn check_text(field: &str, text: &str) -> Result<(), BadField> {
    if text.trim().is_empty() {
        return Err(BadField::new(field, "must not be empty"));
    }
    if text.chars().any(char::is_control) {
        return Err(BadField::new(field, "must be one line without control characters"));
    }
    check_value(field, text)
}

pub(super) fn check_value(field: &str, text: &str) -> Result<(), BadField> {
    if text.len() > limits::TEXT_BYTES {
        return Err(BadField::new(field, format!("longer than {} bytes", limits::TEXT_BYTES)));
    }
    if text.contains('\0') {
        return Err(BadField::new(field, "must not contain NUL"));
    }
    Ok(())
}

pub(super) fn check_count(field: &str, count: usize) -> Result<(), BadField> {
    match count > limits::LIST_ITEMS {
        true => Err(BadField::new(field, format!("more than {} items", limits::LIST_ITEMS))),
        false => Ok(()),
    }
}

pub(super) fn check_list(field: &str, items: &[String]) -> Result<(), BadField> {
    check_count(field, items.len())?;
    items.iter().try_for_each(|item| check_text(field, item))
}

pub(super) fn check_env_name(field: &str, name: &str) -> Result<(), BadField> {
    let good = name.bytes().enumerate().all(|(at, byte)| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'_' => true,
        b'0'..=b'9' => at > 0,
        _ => false,
    });
    // The dynamic loader's and the interpreter's own variables would run other code than was reviewed.
    let loader = ["LD_", "DYLD_", "GCONV_"].iter().any(|prefix| name.starts_with(prefix));
    if name.is_empty() || !good {
        return Err(BadField::new(field, format!("{name:?} is not a variable name")));
    }
    if loader {
        return Err(BadField::new(field, format!("{name} would change what the loader loads")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environment_cannot_reach_the_loader() {
        for bad in ["", "1A", "A-B", "LD_PRELOAD", "A=B"] {
            assert!(check_env_name("f", bad).is_err(), "{bad}");
        }
        assert!(check_env_name("f", "MEMORY_FILE_PATH").is_ok());
    }
}
