//! Numbers in the words of people.

/// A time span for people: `45 s`, `4 min`, `5h 10min`, `6d 23h`.
pub fn span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min"),
        (0, _, _) => format!("{hours}h {}min", minutes % 60),
        _ => format!("{days}d {}h", hours % 24),
    }
}

/// A size for people, in powers of 1024: `512 B`, `1.9 GiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let power = bytes.ilog2() / 10;
    // The precision of a f64 is far above the one digit shown.
    let value = bytes as f64 / f64::powi(1024.0, power as i32);
    format!("{value:.1} {}", UNITS[power as usize - 1])
}

/// A number of things: `1 server`, `2 servers`.
pub fn count(number: u64, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {thing}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans() {
        for (seconds, want) in [(0, "0 s"), (59, "59 s"), (250, "4 min"), (18_600, "5h 10min"), (601_200, "6d 23h")] {
            assert_eq!(span(seconds), want);
        }
    }

    #[test]
    fn counts() {
        for (number, want) in [(0, "0 servers"), (1, "1 server"), (2, "2 servers")] {
            assert_eq!(count(number, "server"), want);
        }
    }

    #[test]
    fn sizes() {
        for (bytes, want) in
            [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (2_040_109_466, "1.9 GiB"), (u64::MAX, "16.0 EiB")]
        {
            assert_eq!(size(bytes), want);
        }
    }
}
