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

use reqwest::header::{ETAG, HeaderMap, HeaderValue, RETRY_AFTER};

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

/// The entity tag of an answer, if it has one that can be sent back.
pub(super) fn tag(headers: &HeaderMap) -> Option<HeaderValue> {
    headers.get(ETAG).filter(|tag| !tag.is_empty() && tag.len() <= TAG_BYTES).cloned()
}

/// How long the server wants to be left alone: `Retry-After` in seconds or as a date.
pub(super) fn rest(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let rest = match text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than a number has: for ever.
        true if !text.is_empty() => text.parse().map_or(LONGEST, Duration::from_secs),
        // A date of HTTP is one of RFC 2822 in Greenwich.
        _ => {
            let then = SystemTime::from(jiff::fmt::rfc2822::parse(text).ok()?.timestamp());
            then.duration_since(now).unwrap_or(Duration::ZERO)
        }
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
