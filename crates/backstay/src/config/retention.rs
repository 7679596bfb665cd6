//! The table `[retention]`: how many snapshots to keep by each rule, how long before what is freed goes.

use super::error::ConfigError;
use super::settings::Below;
use backstay_model::prune::GRACE_MIN_MILLIS;
use backstay_model::retention::RetentionPolicy;
use jiff::tz::TimeZone;
use std::time::Duration;

/// What holds for a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retention {
    pub rules: RetentionPolicy,
    pub grace: Duration,
    /// How long every commit of a followed database can be restored.
    pub log: Duration,
    pub zone: TimeZone,
}

const MANY: u32 = 1_000_000;
const GRACE_MIN: Duration = Duration::from_millis(GRACE_MIN_MILLIS as u64);

impl Retention {
    pub(super) fn read(below: &Below<'_, '_>) -> Result<Self, ConfigError> {
        let count = |key: &str| below.with(key, |named| named.number(0, MANY));
        let rules = RetentionPolicy {
            last: count("retention.last")?,
            days: count("retention.days")?,
            hourly: count("retention.hourly")?,
            daily: count("retention.daily")?,
            weekly: count("retention.weekly")?,
            monthly: count("retention.monthly")?,
            yearly: count("retention.yearly")?,
        };
        let grace = below.with("retention.grace", |named| {
            let span = named.duration()?;
            let sooner = "a span of at least \"24h\" (`backstay retention apply --grace` deletes sooner, once)";
            if span >= GRACE_MIN { Ok(span) } else { Err(named.bad(sooner)) }
        })?;
        let log = below.with("retention.log", |named| named.duration())?;
        let zone = below.with("retention.zone", |named| {
            let wanted = "the name of a time zone, such as \"UTC\" or \"Europe/Berlin\"";
            TimeZone::get(named.text(wanted)?).map_err(|_| named.bad(wanted))
        })?;
        Ok(Self { rules, grace, log, zone })
    }
}
