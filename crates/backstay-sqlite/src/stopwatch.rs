//! Spans of time for reports and limits, measured by the clock that was given.

use backstay_model::{Clock, Moment};
use std::time::Duration;

/// Began at some moment; says how long ago that was. A clock set back reads as no time at all.
pub(crate) struct Stopwatch<'a> {
    clock: &'a dyn Clock,
    begun: Moment,
}

impl<'a> Stopwatch<'a> {
    pub(crate) fn begin(clock: &'a dyn Clock) -> Self {
        Self { clock, begun: clock.now() }
    }

    pub(crate) fn millis(&self) -> u64 {
        millis_since(self.clock, self.begun)
    }

    pub(crate) fn is_past(&self, limit: Duration) -> bool {
        u128::from(self.millis()) >= limit.as_millis()
    }
}

pub(crate) fn millis_since(clock: &dyn Clock, begun: Moment) -> u64 {
    u64::try_from(clock.now().millis_since(begun)).unwrap_or(0)
}
