//! A point in time: stored and printed in UTC with milliseconds, read from what people write.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, civil};
use std::fmt;
use std::str::FromStr;

/// An instant, to the millisecond.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(Timestamp);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a time: write 2026-11-21T10:00:00Z, \"2026-11-21 10:00\" (local time), 2026-11-21, or \"2h ago\""
)]
pub struct BadMoment(pub String);

impl Moment {
    pub fn from_millis(ms: i64) -> Option<Self> {
        Timestamp::from_millisecond(ms).ok().map(Self)
    }
    pub fn as_millis(self) -> i64 {
        self.0.as_millisecond()
    }

    /// How long after `earlier` this is; negative when it is before.
    pub fn millis_since(self, earlier: Moment) -> i64 {
        self.as_millis().saturating_sub(earlier.as_millis())
    }

    /// `20261121T100000Z`, for names of files.
    pub fn compact(self) -> String {
        self.0.strftime("%Y%m%dT%H%M%SZ").to_string()
    }

    /// Reads what a person wrote: an instant, a civil time in `zone`, a date (its start), or `3h ago`.
    pub fn read(text: &str, now: Moment, zone: &TimeZone) -> Result<Self, BadMoment> {
        let bad = || BadMoment(text.to_owned());
        let text_trimmed = text.trim();
        if text_trimmed == "now" {
            return Ok(now);
        }
        if let Some(span) = text_trimmed.strip_suffix("ago") {
            let age = parse_age(span.trim()).ok_or_else(bad)?;
            return now.0.checked_sub(age).map(Self).map_err(|_| bad());
        }
        if let Ok(instant) = text_trimmed.parse::<Timestamp>() {
            return Ok(Self(instant));
        }
        let civil: civil::DateTime = text_trimmed.parse().map_err(|_| bad())?;
        zone.to_timestamp(civil).map(Self).map_err(|_| bad())
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.strftime("%Y-%m-%dT%H:%M:%S.%3fZ"))
    }
}

impl FromStr for Moment {
    type Err = BadMoment;
    fn from_str(text: &str) -> Result<Self, BadMoment> {
        text.parse().map(Self).map_err(|_| BadMoment(text.to_owned()))
    }
}

impl serde::Serialize for Moment {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Moment {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A time that somebody wrote into the name of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Named {
    pub at: Moment,
    /// Only the day is there, and `at` is its start.
    pub is_day: bool,
    day: civil::Date,
}

impl Named {
    /// Whether an instant lies on that day.
    pub fn covers(&self, instant: Moment, zone: &TimeZone) -> bool {
        instant.0.to_zoned(zone.clone()).date() == self.day
    }
}

/// Finds a time in a name, as scripts write it: `shop-2026-11-21.db`, `shop_20261121_103000.bak`,
/// `20261121T103000Z.db`. Without a `Z` it is a time in `zone`.
pub fn in_name(name: &str, zone: &TimeZone) -> Option<Named> {
    let bytes = name.as_bytes();
    let is_start =
        |at: usize| at.checked_sub(1).and_then(|before| bytes.get(before)).is_none_or(|b| !b.is_ascii_digit());
    (0..bytes.len()).filter(|at| is_start(*at)).find_map(|at| named_at(bytes, at, zone))
}

fn named_at(bytes: &[u8], at: usize, zone: &TimeZone) -> Option<Named> {
    let (year, at) = digits(bytes, at, 4)?;
    let (month, at) = digits(bytes, after(bytes, at, b"-_."), 2)?;
    let (day, at) = digits(bytes, after(bytes, at, b"-_."), 2)?;
    let day = civil::Date::new(year, i8::try_from(month).ok()?, i8::try_from(day).ok()?).ok()?;
    if !(1990..=2200).contains(&year) {
        return None;
    }
    let clock = clock_at(bytes, after(bytes, at, b"Tt-_."));
    if clock.is_none() && bytes.get(at).is_some_and(u8::is_ascii_digit) {
        return None;
    }
    let (time, is_utc) = clock.unwrap_or((civil::Time::midnight(), false));
    let zone = if is_utc { &TimeZone::UTC } else { zone };
    let at = zone.to_timestamp(day.to_datetime(time)).ok().map(Moment)?;
    Some(Named { at, is_day: clock.is_none(), day })
}

/// Hours, minutes and perhaps seconds, and whether a `Z` follows.
fn clock_at(bytes: &[u8], at: usize) -> Option<(civil::Time, bool)> {
    let small = |n: i16| i8::try_from(n).ok();
    let (hour, at) = digits(bytes, at, 2)?;
    let (minute, at) = digits(bytes, after(bytes, at, b":-_."), 2)?;
    let (second, at) = digits(bytes, after(bytes, at, b":-_."), 2).unwrap_or((0, at));
    let time = civil::Time::new(small(hour)?, small(minute)?, small(second)?, 0).ok()?;
    let is_more = bytes.get(at).is_some_and(u8::is_ascii_digit);
    (!is_more).then_some((time, bytes.get(at).is_some_and(|b| b.eq_ignore_ascii_case(&b'z'))))
}

fn digits(bytes: &[u8], at: usize, count: usize) -> Option<(i16, usize)> {
    let end = at.checked_add(count)?;
    let text = bytes.get(at..end).filter(|digits| digits.iter().all(u8::is_ascii_digit))?;
    Some((std::str::from_utf8(text).ok()?.parse().ok()?, end))
}

/// Past one of the separators, if it is there.
fn after(bytes: &[u8], at: usize, separators: &[u8]) -> usize {
    at + usize::from(bytes.get(at).is_some_and(|b| separators.contains(b)))
}

/// Reads `90d`, `24h`, `15m`, `30s`, `2w` or several of them in a row (`1d 12h`).
pub fn parse_age(text: &str) -> Option<SignedDuration> {
    let mut total: i64 = 0;
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: i64 = rest.get(..digits)?.parse().ok()?;
        rest = rest.get(digits..)?.trim_start();
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let millis = millis_in(rest.get(..letters)?)?;
        rest = rest.get(letters..)?.trim_start();
        total = total.checked_add(number.checked_mul(millis)?)?;
    }
    Some(SignedDuration::from_millis(total))
}

fn millis_in(unit: &str) -> Option<i64> {
    if unit == "ms" {
        return Some(1);
    }
    let seconds: i64 = match unit {
        "s" | "sec" | "second" | "seconds" => 1,
        "m" | "min" | "minute" | "minutes" => 60,
        "h" | "hour" | "hours" => 3600,
        "d" | "day" | "days" => 86_400,
        "w" | "week" | "weeks" => 604_800,
        _ => return None,
    };
    seconds.checked_mul(1000)
}

/// A span in the largest two units that matter: `3 d 4 h`, `12 min 5 s`, `0.4 s`.
pub fn human_span(millis: i64) -> String {
    let ms = millis.unsigned_abs();
    let (d, h, m, s) = (ms / 86_400_000, ms / 3_600_000 % 24, ms / 60_000 % 60, ms / 1000 % 60);
    match (d, h, m) {
        (1.., _, _) => format!("{d} d {h} h"),
        (0, 1.., _) => format!("{h} h {m} min"),
        (0, 0, 1..) => format!("{m} min {s} s"),
        _ => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Moment {
        text.parse().expect("a valid instant")
    }

    #[test]
    fn people_write_times_in_many_ways() {
        let now = at("2026-11-21T12:00:00Z");
        let zone = TimeZone::fixed(jiff::tz::offset(2));
        let cases = [
            ("now", "2026-11-21T12:00:00Z"),
            ("2h ago", "2026-11-21T10:00:00Z"),
            ("1d 12h ago", "2026-11-20T00:00:00Z"),
            ("2026-11-21T10:00:00Z", "2026-11-21T10:00:00Z"),
            ("2026-11-21T10:00:00+01:00", "2026-11-21T09:00:00Z"),
            ("2026-11-21 10:00", "2026-11-21T08:00:00Z"),
            ("2026-11-21", "2026-11-20T22:00:00Z"),
        ];
        for (text, want) in cases {
            assert_eq!(Moment::read(text, now, &zone), Ok(at(want)), "{text}");
        }
        for bad in ["", "ago", "x ago", "yesterday-ish", "99999999999999999999d ago", "-3h ago"] {
            assert!(Moment::read(bad, now, &zone).is_err(), "{bad}");
        }
    }

    #[test]
    fn moments_round_trip_to_the_millisecond() {
        let moment = Moment::from_millis(1_795_000_000_123).expect("in range");
        assert_eq!(at(&moment.to_string()), moment);
    }

    #[test]
    fn spans_name_two_units() {
        let cases = [(400, "0.4 s"), (61_000, "1 min 1 s"), (3_600_000, "1 h 0 min"), (90_000_000, "1 d 1 h")];
        for (ms, text) in cases {
            assert_eq!(human_span(ms), text);
        }
    }

    #[test]
    fn times_in_the_names_of_files_are_found() {
        let zone = TimeZone::fixed(jiff::tz::offset(1));
        let found = |name: &str| in_name(name, &zone).map(|named| (named.at.to_string(), named.is_day));
        let instant = |text: &str, is_day| Some((text.to_owned(), is_day));
        assert_eq!(found("shop-2026-11-21.db"), instant("2026-11-20T23:00:00.000Z", true));
        assert_eq!(found("shop_20261121_103000.bak"), instant("2026-11-21T09:30:00.000Z", false));
        assert_eq!(found("20261121T103000Z.db.gz"), instant("2026-11-21T10:30:00.000Z", false));
        assert_eq!(found("v2-shop.2026-11-21-02-00.db"), instant("2026-11-21T01:00:00.000Z", false));
        for none in ["shop.db", "shop-20261341.db", "shop-12026112100.db", "1234567890123.db", "shop-20261121999999.db"]
        {
            assert_eq!(found(none), None, "{none}");
        }
        let day = in_name("shop-2026-11-21.db", &zone).expect("a day");
        let at = |text: &str| text.parse::<Moment>().expect("an instant");
        assert!(day.covers(at("2026-11-20T23:30:00Z"), &zone) && !day.covers(at("2026-11-21T23:30:00Z"), &zone));
    }
}
