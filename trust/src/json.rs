//! Strict JSON: bounded, without duplicate keys, without trailing bytes, in one form.
//!
//! serde is lenient in two ways that would let two readers see different things in one text:
//!
//! - It refuses a duplicate *field* of a struct but keeps the last of two equal keys of a map,
//!   silently. So a visitor first walks every text and refuses duplicates and depth.
//! - What it derives takes more than it writes: a list of values for an object, `{"active": null}`
//!   for `"active"`, `null` or an empty list for a field that is absent. So what was read is
//!   written again and has to be the same value. That is complete whatever the types are: two
//!   texts that are read as one thing are one JSON value, but for white space, the order of
//!   fields and the escapes of strings (docs/format.md section 2).
//!
//! A publisher writes with [`encode`] and [`encode_compact`], so nearly always the bytes are
//! compared as they are written, and only a text in other white space is compared as a value.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::str::FromStr;

use serde::Serialize;
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use crate::error::VerifyError;
use crate::limits;

/// How the error of a text begins whose end is missing.
pub const IN_THE_MIDDLE: &str = "it ends in the middle";

/// Parses `bytes`, called `what` in errors, as strict JSON of at most `limit` bytes in its one form.
///
/// # Errors
/// `SizeExceeded` above `limit`, `NotARegistry` for what looks like HTML, else `Malformed`.
pub fn parse<T: DeserializeOwned + Serialize>(bytes: &[u8], limit: u64, what: &'static str) -> Result<T, VerifyError> {
    check(bytes, limit, what)?;
    let typed: T = serde_json::from_slice(bytes).map_err(|error| VerifyError::malformed(what, error))?;
    if !is_written(bytes, &typed) {
        let given: Value = serde_json::from_slice(bytes).map_err(|error| VerifyError::malformed(what, error))?;
        one_form(&given, &typed).map_err(|detail| VerifyError::malformed(what, detail))?;
    }
    Ok(typed)
}

/// Parses `bytes` as strict JSON of any shape; what is made of it has to look at its form.
///
/// # Errors
/// As [`parse`].
pub fn value(bytes: &[u8], limit: u64, what: &'static str) -> Result<Value, VerifyError> {
    check(bytes, limit, what)?;
    serde_json::from_slice(bytes).map_err(|error| VerifyError::malformed(what, error))
}

/// Reads a part of what [`value`] gave, in its one form.
///
/// # Errors
/// Where it deviates, and what to do there.
pub(crate) fn read<T: DeserializeOwned + Serialize>(given: &Value) -> Result<T, String> {
    let typed = T::deserialize(given).map_err(|error| error.to_string())?;
    one_form(given, &typed)?;
    Ok(typed)
}

/// The size, and what no type sees: duplicates, depth, numbers, and what follows the value.
fn check(bytes: &[u8], limit: u64, what: &'static str) -> Result<(), VerifyError> {
    if bytes.len() as u64 > limit {
        return Err(VerifyError::SizeExceeded { what, limit });
    }
    read_alike(bytes, limits::JSON_DEPTH, what)
}

/// Refuses a text that two readers could read as two things: an object with one key twice, a number with a fraction,
/// something after the value, or more than `levels` levels. For texts of others, whose form is not ours to say.
///
/// # Errors
/// `NotARegistry` for what looks like HTML, else `Malformed`.
pub fn read_alike(bytes: &[u8], levels: usize, what: &'static str) -> Result<(), VerifyError> {
    let mut walker = serde_json::Deserializer::from_slice(bytes);
    match NoDuplicates(levels).deserialize(&mut walker).and_then(|()| walker.end()) {
        Ok(()) => Ok(()),
        Err(_) if looks_like_html(bytes) => Err(VerifyError::NotARegistry { what }),
        Err(_) if bytes.trim_ascii().is_empty() => Err(VerifyError::malformed(what, "there is nothing in it")),
        Err(error) if error.is_eof() => {
            let (line, column) = (error.line(), error.column());
            let detail = format!("{IN_THE_MIDDLE} (line {line}, column {column}), as if cut off");
            Err(VerifyError::malformed(what, detail))
        }
        Err(error) => Err(VerifyError::malformed(what, error)),
    }
}

/// Whether `bytes` are just what [`encode`] or [`encode_compact`] writes; nothing is kept of it.
fn is_written<T: Serialize>(bytes: &[u8], typed: &T) -> bool {
    /// What is still to be written; another byte than the next one is an error.
    struct Expected<'a>(&'a [u8]);
    impl io::Write for Expected<'_> {
        fn write(&mut self, written: &[u8]) -> io::Result<usize> {
            self.0 = self.0.strip_prefix(written).ok_or(io::ErrorKind::InvalidData)?;
            Ok(written.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let (mut pretty, mut compact) = (Expected(bytes), Expected(bytes));
    serde_json::to_writer_pretty(&mut pretty, typed).is_ok() && pretty.0 == b"\n"
        || serde_json::to_writer(&mut compact, typed).is_ok() && compact.0.is_empty()
}

/// Refuses a text that says `typed` in another form than `typed` is written in.
fn one_form<T: Serialize>(given: &Value, typed: &T) -> Result<(), String> {
    let written = serde_json::to_value(typed).map_err(|error| error.to_string())?;
    let Some((path, advice)) = deviation(given, &written) else { return Ok(()) };
    let path = path.trim_start_matches('.');
    let place = if path.is_empty() { String::new() } else { format!("{path}: ") };
    Err(format!("{place}{advice} (docs/format.md section 2)"))
}

/// Where `given` is not `written`, and what to do there.
fn deviation(given: &Value, written: &Value) -> Option<(String, &'static str)> {
    let below =
        |step: String, given, written| deviation(given, written).map(|(path, why)| (format!("{step}{path}"), why));
    match (given, written) {
        (Value::Object(given), Value::Object(written)) => {
            let differing = given.iter().find_map(|(name, value)| match written.get(name) {
                Some(other) => below(format!(".{name}"), value, other),
                None => Some((format!(".{name}"), "leave it out, that says the same")),
            });
            let missing = || written.keys().find(|name| !given.contains_key(*name));
            differing.or_else(|| missing().map(|name| (format!(".{name}"), "is missing")))
        }
        (Value::Array(given), Value::Array(written)) if given.len() == written.len() => {
            let mut pairs = given.iter().zip(written).enumerate();
            pairs.find_map(|(at, (given, written))| below(format!("[{at}]"), given, written))
        }
        _ if given == written => None,
        (_, Value::Object(_)) => Some((String::new(), "must be an object with named fields")),
        _ => Some((String::new(), "is not written in its one form")),
    }
}

/// Pretty JSON with a newline at its end: what people also read.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(value).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

/// Compact JSON: what is signed.
pub fn encode_compact<T: Serialize>(value: &T) -> Vec<u8> {
    // Our types have text keys and no failing serialisers, so there is no error to give.
    serde_json::to_vec(value).unwrap_or_default()
}

/// A captive portal or an error page where JSON should be.
fn looks_like_html(bytes: &[u8]) -> bool {
    bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'<')
}

/// Deserialises a value from its text form.
pub(crate) fn text<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr,
    T::Err: fmt::Display,
{
    struct Text<T>(std::marker::PhantomData<T>);
    impl<T: FromStr<Err: fmt::Display>> Visitor<'_> for Text<T> {
        type Value = T;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string")
        }
        fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
            text.parse().map_err(E::custom)
        }
    }
    deserializer.deserialize_str(Text(std::marker::PhantomData))
}

/// One object stands for a list of one; a list has at least two items, so that there is one spelling.
pub(crate) fn one_or_many<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: serde::Deserialize<'de>,
{
    struct OneOrMany<T>(std::marker::PhantomData<T>);
    impl<'de, T: serde::Deserialize<'de>> Visitor<'de> for OneOrMany<T> {
        type Value = Vec<T>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object, or a list of several")
        }
        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Vec<T>, A::Error> {
            T::deserialize(serde::de::value::MapAccessDeserializer::new(map)).map(|one| vec![one])
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
            let mut items = Vec::new();
            while let Some(item) = seq.next_element()? {
                items.push(item);
                if items.len() > limits::LIST_ITEMS {
                    return Err(A::Error::custom("too many items"));
                }
            }
            if items.len() < 2 {
                return Err(A::Error::custom("a list needs at least two items; write one as an object"));
            }
            Ok(items)
        }
    }
    deserializer.deserialize_any(OneOrMany(std::marker::PhantomData))
}

/// Gives a type with `Display` and `FromStr` the JSON form of its text, strictly parsed.
macro_rules! as_text {
    ($type:ident, $pattern:literal) => {
        impl std::fmt::Debug for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Display::fmt(self, f)
            }
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                crate::json::text(deserializer)
            }
        }

        #[cfg(feature = "schema")]
        impl schemars::JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({"type": "string", "pattern": $pattern})
            }
        }
    };
}
pub(crate) use as_text;

/// Walks any value to the given depth and keeps nothing but the keys of open objects.
struct NoDuplicates(usize);

impl<'de> DeserializeSeed<'de> for NoDuplicates {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl NoDuplicates {
    fn deeper<E: Error>(&self) -> Result<usize, E> {
        self.0.checked_sub(1).ok_or_else(|| E::custom("nested too deeply"))
    }
}

impl<'de> Visitor<'de> for NoDuplicates {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON without duplicate keys")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let depth = self.deeper()?;
        let mut keys = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            map.next_value_seed(NoDuplicates(depth))?;
            if let Some(twice) = keys.replace(key) {
                return Err(A::Error::custom(format!("duplicate key {twice:?}")));
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let depth = self.deeper()?;
        while seq.next_element_seed(NoDuplicates(depth))?.is_some() {}
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        Err(E::custom("numbers with a fraction or an exponent are not used here"))
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use super::*;

    fn map(text: &str) -> Result<BTreeMap<String, Value>, VerifyError> {
        parse(text.as_bytes(), 1000, "test")
    }

    #[test]
    fn strict() {
        assert!(map(r#"{"a":1,"b":{"a":[null,true,"x"]}}"#).is_ok());
        for bad in
            [r#"{"a":1,"a":2}"#, r#"{"b":{"a":1,"a":2}}"#, r#"{"a":1} x"#, r#"{"a":1.5}"#, r#"{"a":1e0}"#, "{", ""]
        {
            assert!(matches!(map(bad), Err(VerifyError::Malformed { .. })), "{bad}");
        }
        assert!(matches!(map(&" ".repeat(1001)), Err(VerifyError::SizeExceeded { .. })));
        assert!(matches!(map("\n<html>"), Err(VerifyError::NotARegistry { .. })));
        let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
        assert!(matches!(value(deep.as_bytes(), 1000, "t"), Err(VerifyError::Malformed { .. })));
    }

    #[derive(Debug, PartialEq, Serialize, serde::Deserialize)]
    struct Lenient {
        word: Word,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        list: Vec<Lenient>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pair: Option<(u8, u8)>,
    }

    #[derive(Debug, PartialEq, Serialize, serde::Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Word {
        Yes,
        Several(Vec<u8>),
    }

    #[test]
    fn one_form_only() {
        let lenient = |text: &str| parse::<Lenient>(text.as_bytes(), 1000, "test");
        for good in [
            r#"{"word":"yes"}"#,
            r#"{ "pair": [1,2], "list": [{"word": {"several": [1]}}], "word": "\u0079es" }"#,
            "{\n  \"word\": \"yes\"\n}\n",
        ] {
            assert!(lenient(good).is_ok(), "{good}: {:?}", lenient(good));
        }
        for (bad, said) in [
            (r#"["yes",[],null]"#, "test: must be an object with named fields"),
            (r#"{"word":{"yes":null}}"#, "word: is not written"),
            (r#"{"word":"yes","list":[]}"#, "list: leave it out"),
            (r#"{"word":"yes","pair":null}"#, "pair: leave it out"),
            (r#"{"word":"yes","unread":1}"#, "unread: leave it out"),
            (r#"{"word":"yes","list":[{"word":"yes"},["yes",[],null]]}"#, "list[1]: must be an object"),
            (r#"{"word":"yes","list":[{"word":{"yes":null}}]}"#, "list[0].word: is not written"),
        ] {
            // serde alone takes it: otherwise this would test something else.
            assert!(serde_json::from_str::<Lenient>(bad).is_ok(), "{bad}");
            assert!(lenient(bad).unwrap_err().to_string().contains(said), "{bad}: {:?}", lenient(bad));
        }
    }
}
