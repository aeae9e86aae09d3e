//! What servers ask of their clients: not to fetch again what they have, and to come back later.
//!
//! The head is asked for every few minutes by every host, and mostly nothing has changed. A
//! mirror's last head is kept with the entity tag that it came with; a `304` gives those very
//! bytes to the same check as any answer. So a mirror that lies with a `304` gains what it could
//! have by sending the old head: nothing but time, which the head's expiry bounds.
//!
//! `Retry-After` is honoured within the deadline of a read, and across reads for at most
//! [`LONGEST`]: a header of a thousand years must not silence a host for good.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use reqwest::header::{DATE, ETAG, HeaderMap, HeaderValue, LAST_MODIFIED, RETRY_AFTER};

/// Longest rest that a server can ask for.
pub(super) const LONGEST: Duration = Duration::from_secs(60);
/// Longest entity tag that is kept.
const TAG_BYTES: usize = 256;

/// An answer that passed its check, to be had again without its bytes.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub(super) path: String,
    pub(super) tag: HeaderValue,
    pub(super) bytes: Arc<[u8]>,
}

/// How long a file must have been there before its tag is believed.
const SETTLED: Duration = Duration::from_secs(3);

/// The entity tag of an answer, if it has one that can be sent back, and that will change when the
/// bytes do.
///
/// Web servers of files make it of size and time of change, in whole seconds: two heads of one
/// second have one tag (RFC 9110, sections 8.8.1 and 8.8.2.2). So an answer with a time of change
/// is kept only if that lies some seconds before the answer's own date. Buckets hash the content,
/// and do not give that away; they wait those seconds as well.
pub(super) fn tag(headers: &HeaderMap) -> Option<HeaderValue> {
    let tag = headers.get(ETAG).filter(|tag| !tag.is_empty() && tag.len() <= TAG_BYTES)?;
    if tag.as_bytes().starts_with(b"W/") {
        return None;
    }
    let time = |name| headers.get(name).map(|text: &HeaderValue| date(text.to_str().ok()?));
    match (time(LAST_MODIFIED), time(DATE).flatten()) {
        (None, _) => Some(tag.clone()),
        (Some(changed), Some(answered)) => {
            let age = answered.duration_since(changed?).ok()?;
            (age >= SETTLED).then(|| tag.clone())
        }
        (Some(_), None) => None,
    }
}

/// A date of HTTP, which is one of RFC 2822 in Greenwich.
fn date(text: &str) -> Option<SystemTime> {
    Some(SystemTime::from(jiff::fmt::rfc2822::parse(text).ok()?.timestamp()))
}

/// How long the server wants to be left alone: `Retry-After` in seconds or as a date.
pub(super) fn rest(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let rest = match text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than a number has: for ever.
        true if !text.is_empty() => text.parse().map_or(LONGEST, Duration::from_secs),
        _ => date(text)?.duration_since(now).unwrap_or(Duration::ZERO),
    };
    Some(rest.min(LONGEST))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const NOW: &str = "Wed, 21 Oct 2026 07:28:00 GMT";

    fn asked(text: &'static str) -> Option<Duration> {
        let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(text))]);
        rest(&headers, SystemTime::from(jiff::fmt::rfc2822::parse(NOW).unwrap().timestamp()))
    }

    #[test]
    fn a_tag_of_a_second_that_is_not_over_is_not_kept() {
        let answer = |tag: &'static str, changed: Option<&'static str>, date: Option<&'static str>| {
            let mut headers = HeaderMap::from_iter([(ETAG, HeaderValue::from_static(tag))]);
            headers.extend(changed.map(|text| (LAST_MODIFIED, HeaderValue::from_static(text))));
            headers.extend(date.map(|text| (DATE, HeaderValue::from_static(text))));
            super::tag(&headers).is_some()
        };
        let earlier = "Wed, 21 Oct 2026 07:27:57 GMT";
        assert!(answer("\"a\"", Some(earlier), Some(NOW)));
        assert!(answer("\"a\"", None, None) && answer("\"a\"", None, Some(NOW)));
        for changed in [NOW, "Wed, 21 Oct 2026 07:27:58 GMT", "Wed, 21 Oct 2026 07:28:09 GMT", "lately"] {
            assert!(!answer("\"a\"", Some(changed), Some(NOW)), "{changed}");
        }
        assert!(!answer("\"a\"", Some(earlier), None) && !answer("W/\"a\"", Some(earlier), Some(NOW)));
        assert!(!answer("", None, None));
    }

    #[test]
    fn seconds_and_dates() {
        assert_eq!(asked("7"), Some(Duration::from_secs(7)));
        assert_eq!(asked("0"), Some(Duration::ZERO));
        assert_eq!(asked("Wed, 21 Oct 2026 07:28:20 GMT"), Some(Duration::from_secs(20)));
        assert_eq!(asked("Wed, 21 Oct 2020 07:28:00 GMT"), Some(Duration::ZERO));
        for for_ever in ["86400", "99999999999999999999999", "Fri, 31 Dec 2100 23:59:59 GMT"] {
            assert_eq!(asked(for_ever), Some(LONGEST), "{for_ever}");
        }
        for nonsense in ["", "-1", "soon", "1.5"] {
            assert_eq!(asked(nonsense), None, "{nonsense}");
        }
    }
}
