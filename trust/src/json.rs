//! Strict JSON: bounded, without duplicate keys, without trailing bytes.
//!
//! serde rejects a duplicate *field* of a struct but keeps the last of two equal
//! keys of a map, silently. Two readers of such a text can see different things,
//! so every text is first walked by a visitor that refuses duplicates and depth
//! (docs/format.md section 2), and only then given its type.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use crate::error::VerifyError;
use crate::limits;

/// Parses `bytes`, called `what` in errors, as strict JSON of at most `limit` bytes.
///
/// # Errors
/// `SizeExceeded` above `limit`, `NotARegistry` for what looks like HTML, else `Malformed`.
pub fn parse<T: DeserializeOwned>(bytes: &[u8], limit: u64, what: &'static str) -> Result<T, VerifyError> {
    if bytes.len() as u64 > limit {
        return Err(VerifyError::SizeExceeded { what, limit });
    }
    let malformed = |error: serde_json::Error| VerifyError::malformed(what, error);
    let mut walker = serde_json::Deserializer::from_slice(bytes);
    let walked = NoDuplicates(limits::JSON_DEPTH).deserialize(&mut walker).and_then(|()| walker.end());
    match walked {
        Ok(()) => serde_json::from_slice(bytes).map_err(malformed),
        Err(_) if looks_like_html(bytes) => Err(VerifyError::NotARegistry { what }),
        Err(error) => Err(malformed(error)),
    }
}

/// Pretty JSON with a newline at its end: what people also read.
pub fn encode<T: serde::Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(value).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

/// Compact JSON: what is signed.
pub fn encode_compact<T: serde::Serialize>(value: &T) -> Vec<u8> {
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
    use std::collections::BTreeMap;

    use super::*;

    fn map(text: &str) -> Result<BTreeMap<String, serde_json::Value>, VerifyError> {
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
        assert!(matches!(parse::<serde_json::Value>(deep.as_bytes(), 1000, "t"), Err(VerifyError::Malformed { .. })));
    }
}
