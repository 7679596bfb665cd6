//! Instants for people: in their zone, and in UTC beside it where something was resolved.

use backstay_model::Moment;
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// `2026-11-21 12:00:05 CET`
pub fn local(moment: Moment, zone: &TimeZone) -> String {
    match Timestamp::from_millisecond(moment.as_millis()) {
        Ok(instant) => instant.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S %Z").to_string(),
        Err(_) => moment.to_string(),
    }
}

/// `2026-11-21 12:00:05 CET (2026-11-21T11:00:05.000Z)`, for an instant that decides what happens.
pub fn resolved(moment: Moment, zone: &TimeZone) -> String {
    format!("{} ({moment})", local(moment, zone))
}

/// How long something took: in milliseconds where a tenth of a second says too little.
pub fn took(millis: u64) -> String {
    match millis {
        0..1000 => format!("{millis} ms"),
        _ => backstay_model::moment::human_span(i64::try_from(millis).unwrap_or(i64::MAX)),
    }
}
