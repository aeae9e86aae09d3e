//! Times and dates as the formats write them. This crate has no clock: `now` is an argument.

use std::fmt;
use std::str::FromStr;

use crate::json::as_text;

/// A UTC time in whole seconds; its text form is exactly `2026-04-15T09:30:00Z`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// A calendar date; its text form is exactly `2026-04-15`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Date {
    year: u16,
    month: u8,
    day: u8,
}

/// A text that is not such a time or date.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadTime {
    /// Not a UTC time.
    #[error("not a UTC time such as 2026-04-15T09:30:00Z")]
    Time,
    /// Not a date.
    #[error("not a date such as 2026-04-15")]
    Date,
}

impl Timestamp {
    /// From seconds since 1970; `None` outside the years 1970 to 9999.
    pub const fn from_unix(seconds: i64) -> Option<Self> {
        // 9999-12-31T23:59:59Z, the last time with a four-digit year.
        if 0 <= seconds && seconds <= 253_402_300_799 { Some(Self(seconds)) } else { None }
    }

    /// Seconds since 1970.
    pub const fn unix(self) -> i64 {
        self.0
    }

    /// This time `seconds` later (or earlier), kept within the format's years.
    #[must_use]
    pub const fn plus(self, seconds: i64) -> Self {
        match Self::from_unix(self.0.saturating_add(seconds)) {
            Some(time) => time,
            None if seconds < 0 => Self(0),
            None => Self(253_402_300_799),
        }
    }

    /// The date at this time, UTC.
    pub const fn date(self) -> Date {
        let (year, month, day) = civil(self.0.div_euclid(86_400));
        Date { year: year as u16, month: month as u8, day: day as u8 }
    }
}

impl Date {
    /// Midnight UTC at the start of this date.
    pub const fn start(self) -> Timestamp {
        Timestamp(days(self.year as i64, self.month as i64, self.day as i64) * 86_400)
    }
}

/// Days since 1970-01-01 of a proleptic Gregorian date (years counted from March, 400-year eras).
const fn days(year: i64, month: i64, day: i64) -> i64 {
    let shifted = if month <= 2 { year - 1 } else { year };
    let era = shifted.div_euclid(400);
    let year_of_era = shifted.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The inverse of [`days`].
const fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

/// Digits of `text[from..to]` as a number.
fn number(text: &[u8], from: usize, to: usize) -> Option<i64> {
    text.get(from..to)?.iter().try_fold(0, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + i64::from(byte - b'0')))
}

impl FromStr for Date {
    type Err = BadTime;

    fn from_str(text: &str) -> Result<Self, BadTime> {
        let bytes = text.as_bytes();
        let parse = || {
            let shape = bytes.len() == 10 && bytes[4] == b'-' && bytes[7] == b'-';
            let (year, month, day) = (number(bytes, 0, 4)?, number(bytes, 5, 7)?, number(bytes, 8, 10)?);
            // A date that does not exist (the 31st of June) comes back as another one.
            let real = (1..=12).contains(&month) && civil(days(year, month, day)) == (year, month, day);
            (shape && year >= 1970 && real).then_some(Self { year: year as u16, month: month as u8, day: day as u8 })
        };
        parse().ok_or(BadTime::Date)
    }
}

impl FromStr for Timestamp {
    type Err = BadTime;

    fn from_str(text: &str) -> Result<Self, BadTime> {
        let bytes = text.as_bytes();
        let parse = || {
            let date: Date = text.get(..10)?.parse().ok()?;
            let shape =
                bytes.len() == 20 && bytes[10] == b'T' && bytes[13] == b':' && bytes[16] == b':' && bytes[19] == b'Z';
            let (hour, minute, second) = (number(bytes, 11, 13)?, number(bytes, 14, 16)?, number(bytes, 17, 19)?);
            (shape && hour < 24 && minute < 60 && second < 60)
                .then(|| Self(date.start().0 + hour * 3600 + minute * 60 + second))
        };
        parse().ok_or(BadTime::Time)
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let second = self.0.rem_euclid(86_400);
        write!(f, "{}T{:02}:{:02}:{:02}Z", self.date(), second / 3600, second / 60 % 60, second % 60)
    }
}

as_text!(Timestamp, r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z$");
as_text!(Date, r"^\d{4}-\d{2}-\d{2}$");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_times() {
        for (text, unix) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T23:59:59Z", 951_868_799),
            ("2026-04-15T09:30:00Z", 1_776_245_400),
            ("9999-12-31T23:59:59Z", 253_402_300_799),
        ] {
            assert_eq!(text.parse(), Ok(Timestamp(unix)));
            assert_eq!(Timestamp(unix).to_string(), text);
        }
    }

    #[test]
    fn not_times() {
        for bad in [
            "",
            "2026-04-15",
            "2026-04-15 09:30:00Z",
            "2026-04-15T09:30:00+00:00",
            "2026-04-15T24:00:00Z",
            "2025-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "1969-12-31T00:00:00Z",
            "٢٠٢٦-04-15T09:30:00Z",
        ] {
            assert!(bad.parse::<Timestamp>().is_err(), "{bad}");
        }
    }

    #[test]
    fn every_day_of_a_long_time_round_trips() {
        for day in 0..200_000 {
            let time = Timestamp(day * 86_400);
            assert_eq!(time.date().to_string().parse(), Ok(time.date()));
            assert_eq!(time.date().start(), time);
        }
    }
}
