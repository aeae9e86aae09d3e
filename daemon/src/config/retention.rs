//! `[retention]`: how long rows of the audit are kept.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;

use super::value::Span;

const DAY: u64 = 86_400;

/// How long what is recorded is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RetentionConfig {
    /// `audit`: how long a row of the audit is kept, "400d"; at least a day, or "forever".
    pub audit: Keep,
}

/// How long something is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Written")]
pub enum Keep {
    /// So long, and then removed.
    For(Duration),
    /// Never removed.
    Forever,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "retention.audit is such as \"400d\", or \"forever\"")]
enum Written {
    Text(String),
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct PartialRetention {
    audit: Option<Keep>,
}

impl Default for Keep {
    /// A year, and a month to look back at it.
    fn default() -> Self {
        Self::For(Duration::from_secs(400 * DAY))
    }
}

impl FromStr for Keep {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "forever" {
            return Ok(Self::Forever);
        }
        let Span(span) = Span::try_from(text.to_owned()).map_err(|_| {
            format!(
                "retention.audit = {text:?} is no time to keep rows for: it is such as \"400d\", which it is without \
                     the line, or \"forever\""
            )
        })?;
        match span.as_secs() {
            0..DAY => Err(format!(
                "retention.audit = {text:?}: rows of the same day are what incidents are looked into by; the least is \
                 \"1d\""
            )),
            _ => Ok(Self::For(span)),
        }
    }
}

impl TryFrom<Written> for Keep {
    type Error = String;

    fn try_from(Written::Text(text): Written) -> Result<Self, String> {
        text.parse()
    }
}

/// As configuration writes it, in the largest unit that fits.
impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::For(span) = self else { return f.write_str("forever") };
        let seconds = span.as_secs();
        let (size, unit) = [(DAY, "d"), (3600, "h"), (60, "m")]
            .into_iter()
            .find(|(size, _)| seconds.is_multiple_of(*size))
            .unwrap_or((1, "s"));
        write!(f, "{}{unit}", seconds / size)
    }
}

impl From<PartialRetention> for RetentionConfig {
    fn from(written: PartialRetention) -> Self {
        Self { audit: written.audit.unwrap_or_default() }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn spans_and_their_written_form() {
        for (text, written) in [
            ("400d", "400d"),
            ("1d", "1d"),
            ("24h", "1d"),
            ("36h", "36h"),
            ("90001s", "90001s"),
            ("forever", "forever"),
        ] {
            let keep: Keep = text.parse().unwrap();
            assert_eq!(keep.to_string(), written);
            assert_eq!(written.parse::<Keep>().unwrap(), keep);
        }
        assert_eq!(Keep::default().to_string(), "400d");
        for (text, says) in [
            ("23h", "the least is \"1d\""),
            ("0d", "is no time"),
            ("", "is no time"),
            ("400", "is no time"),
            ("1y", "is no time"),
            ("-1d", "is no time"),
            ("Forever", "is no time"),
            ("999999999999d", "is no time"),
        ] {
            let error = text.parse::<Keep>().unwrap_err();
            assert!(error.contains(says) && error.starts_with("retention.audit"), "{text}: {error}");
        }
    }
}
