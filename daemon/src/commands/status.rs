//! `mcpfs status`: one line for the eye, then what needs attention.

use mcpfs_trust::error::bounded;

use super::{CommandError, Door};
use crate::control::facts::Status;
use crate::control::protocol::Request;
use crate::words::{size, span};

/// The state of the mount.
///
/// # Errors
/// If no daemon answers.
pub fn run(door: &Door) -> Result<String, CommandError> {
    let status = door.ask(&Request::Status {})?;
    Ok(door.show(&status, text))
}

fn text(status: &Status) -> String {
    let now = status.now.unix();
    let since = |then: i64| span(u64::try_from(now - then).unwrap_or(0));
    let until = |then: i64| span(u64::try_from(then - now).unwrap_or(0));
    let head = match &status.head {
        None => "no head accepted yet".to_owned(),
        Some(head) => {
            let end = match head.expires.unix() > now {
                true => format!("expires in {}", until(head.expires.unix())),
                false => format!("EXPIRED {} ago", since(head.expires.unix())),
            };
            format!("head {} ({} old, {end})", head.version, since(head.issued.unix()))
        }
    };
    let refused = match status.refused_count {
        0 => String::new(),
        count => format!(", {count} refused"),
    };
    let servers = if status.servers == 1 { "server" } else { "servers" };
    let parts = [
        bounded(&status.registry),
        head,
        format!("{} {servers}{refused}", status.servers),
        format!("reads {}", status.reads),
        format!("cache {} of {}", size(status.cache_bytes), size(status.cache_quota)),
        match &status.audit_error {
            None if status.audit_kept.is_empty() => "audit ok".to_owned(),
            None => format!("audit ok, kept {}", bounded(&status.audit_kept)),
            Some(_) => "audit FAILING".to_owned(),
        },
        match status.sandbox.as_str() {
            "off" => "sandbox off (launches run unconfined)".to_owned(),
            other => format!("sandbox {other}"),
        },
        format!("takeover: {}", if status.takeover { "yes" } else { "no" }),
    ];
    let mut text = parts.join(" · ") + "\n";
    if let Some(reason) = &status.refresh_error {
        let (code, message) = (bounded(&reason.code), bounded(&reason.message));
        text += &format!("site: the last look, {} ago, failed: {code} ({message})\n", since(status.refreshed.unix()));
    }
    if let Some(free) = status.cache_free.filter(|free| *free < status.cache_keep_free) {
        text += &format!(
            "cache: its file system has {} free, less than the {} of cache.keep_free: nothing more is cached; free \
             space there, or lower it\n",
            size(free),
            size(status.cache_keep_free)
        );
    }
    if let Some(stop) = status.next_stop.as_ref().filter(|stop| stop.share >= crate::registry::STEPS[0]) {
        text += &format!(
            "stale: {} % of registry.max_stale is over: {} stops starting in {}, at {}; the last head that lists it \
             was signed {} ago\n",
            stop.share,
            bounded(&stop.name),
            until(stop.at.unix()),
            stop.at,
            since(stop.issued.unix())
        );
    }
    if let Some(error) = &status.audit_error {
        text += &format!("audit: {}: nothing can be opened or launched until it can be written\n", bounded(error));
    }
    if let Some(why) = &status.audit_kept_because {
        text += &format!("retention: rows older than retention.audit are kept: {}\n", bounded(why));
    }
    for one in &status.refused {
        let (code, message) = (bounded(&one.reason.code), bounded(&one.reason.message));
        text += &format!("refused: {}: {code} ({message})\n", bounded(&one.name));
    }
    let more = status.refused_count.saturating_sub(status.refused.len() as u64);
    if more > 0 {
        text += &format!("and {more} more: mcpfs ls --all\n");
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::control::facts::{Head, NextStop, Reason, RefusedName};

    fn status() -> Status {
        Status {
            now: "2026-04-15T09:34:10Z".parse().unwrap(),
            registry: "mcp.example.com/prod".to_owned(),
            trust_version: 3,
            head: Some(Head {
                version: 123_461,
                issued: "2026-04-15T09:30:00Z".parse().unwrap(),
                expires: "2026-04-22T09:30:00Z".parse().unwrap(),
            }),
            next_stop: Some(NextStop {
                name: "hello".to_owned(),
                issued: "2026-04-15T09:30:00Z".parse().unwrap(),
                at: "2026-05-15T09:30:00Z".parse().unwrap(),
                share: 0,
            }),
            refreshed: "2026-04-15T09:33:10Z".parse().unwrap(),
            refresh_error: None,
            servers: 42,
            refused: vec![],
            refused_count: 0,
            mount: "/mcp".into(),
            reads: "passthrough".to_owned(),
            takeover: false,
            cache_bytes: 2_040_109_466,
            cache_quota: 20 << 30,
            cache_free: Some(9 << 30),
            cache_keep_free: 5 << 30,
            open_files: None,
            in_flight: 0,
            open_handles: 0,
            lacking: vec![],
            audit_error: None,
            audit_kept: "400d".to_owned(),
            audit_oldest: None,
            audit_cut: None,
            audit_kept_because: None,
            sandbox: "off".to_owned(),
        }
    }

    #[test]
    fn all_is_well() {
        assert_eq!(
            text(&status()),
            "mcp.example.com/prod · head 123461 (4 min old, expires in 6d 23h) · 42 servers · reads passthrough · \
             cache 1.9 GiB of 20.0 GiB · audit ok, kept 400d · sandbox off (launches run unconfined) · takeover: no\n"
        );
    }

    #[test]
    fn what_needs_attention_has_its_line() {
        let reason = |code: &str, message: &str| Reason { code: code.to_owned(), message: message.to_owned() };
        let broken = Status {
            now: "2026-04-30T09:30:00Z".parse().unwrap(),
            refresh_error: Some(reason("Unreachable", "no route")),
            refused: vec![RefusedName { name: "x".to_owned(), reason: reason("Revoked", "CVE\u{1b}[2J") }],
            refused_count: 2,
            audit_error: Some("disk full".to_owned()),
            audit_kept_because: Some("the clock".to_owned()),
            cache_free: Some(1 << 30),
            next_stop: status().next_stop.map(|stop| NextStop { share: 50, ..stop }),
            ..status()
        };
        let text = text(&broken);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].contains("head 123461 (15d 0h old, EXPIRED 8d 0h ago) · 42 servers, 2 refused"), "{text}");
        assert!(lines[0].contains("cache 1.9 GiB of 20.0 GiB · audit FAILING"), "{text}");
        assert_eq!(lines[1], "site: the last look, 14d 23h ago, failed: Unreachable (no route)");
        assert_eq!(
            lines[2],
            "cache: its file system has 1.0 GiB free, less than the 5.0 GiB of cache.keep_free: nothing more is \
             cached; free space there, or lower it"
        );
        assert_eq!(
            lines[3],
            "stale: 50 % of registry.max_stale is over: hello stops starting in 15d 0h, at 2026-05-15T09:30:00Z; the \
             last head that lists it was signed 15d 0h ago"
        );
        assert!(lines[4].starts_with("audit: disk full: "), "{text}");
        assert_eq!(lines[5], "retention: rows older than retention.audit are kept: the clock");
        assert_eq!(lines[6], "refused: x: Revoked (CVE\\u{1b}[2J)");
        assert_eq!(lines[7], "and 1 more: mcpfs ls --all");
        let young = Status { head: None, servers: 1, ..status() };
        assert!(super::text(&young).contains(" · no head accepted yet · 1 server · "));
    }
}
