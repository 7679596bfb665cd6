//! The machine's own clock and randomness: the one place that asks for either.

use backstay_model::{Clock, Moment, Random};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The wall clock. It may jump either way; nothing may order events by it.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is where time enters")]
    fn now(&self) -> Moment {
        let millis = match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
            // A machine without a battery may start before the epoch; that is a strange time, not a failure.
            Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |ms| -ms),
        };
        Moment::from_millis(millis).expect("a machine's clock stays within the years a time can be written in")
    }

    fn uptime(&self) -> Duration {
        let spec = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let (seconds, nanos) = (u64::try_from(spec.tv_sec).unwrap_or(0), u32::try_from(spec.tv_nsec).unwrap_or(0));
        Duration::new(seconds, nanos)
    }
}

/// The operating system's random bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsRandom;

impl Random for OsRandom {
    fn fill(&self, bytes: &mut [u8]) {
        use aws_lc_rs::rand::{SecureRandom, SystemRandom};
        // Going on with guessable keys would be worse than stopping.
        SystemRandom::new().fill(bytes).expect("the operating system gives random bytes");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_stands_in_this_age() {
        let built_after: Moment = "2026-01-01T00:00:00Z".parse().expect("valid");
        assert!(SystemClock.now() > built_after);
    }

    #[test]
    fn the_span_since_the_start_is_no_wall_clock_and_never_shrinks() {
        let (first, second) = (SystemClock.uptime(), SystemClock.uptime());
        assert!(!first.is_zero() && first <= second);
        // A machine that has been up for ten years would be news.
        assert!(first < Duration::from_secs(10 * 366 * 86_400), "{first:?}");
    }

    #[test]
    fn random_bytes_fill_the_whole_slice_and_differ() {
        let (mut a, mut b) = ([0; 64], [0; 64]);
        OsRandom.fill(&mut a);
        OsRandom.fill(&mut b);
        assert_ne!(a, b);
        assert!(a.chunks(16).all(|part| part != [0; 16]));
    }
}
