//! How many puts a day may cost, shared out among all who put.
//!
//! One number for all of them: the time up to which a day's puts are given away. Each put moves it on by the same gap; whoever
//! wants to put takes the next turn, so nobody overtakes. Those who put seldom do not stand in that line, as long as they
//! alone keep to the same pace: one that is written to day and night does not keep a single commit of another waiting. What
//! was not used is saved for some minutes.

use std::num::NonZeroU32;
use std::time::Duration;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// What was not used within so long is lost; for those who put steadily, within half of that.
const SAVED: Duration = Duration::from_secs(10 * 60);
const SAVED_STEADY: Duration = Duration::from_secs(5 * 60);

/// How somebody puts who wants to put now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// After a while without anything.
    Seldom,
    /// Again and again.
    Steady,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// Between two turns when somebody always wants one.
    gap: Duration,
    /// Up to when turns were given, as if each had waited for its gap.
    given: Duration,
    /// The same of those to who puts seldom.
    given_seldom: Duration,
}

impl Allowance {
    /// So many turns in any 24 hours, with what may have been saved before them, and at most one more for each who takes
    /// turns: that of one who was waiting when others came who put seldom.
    pub fn new(per_day: NonZeroU32) -> Self {
        let gap = (DAY + SAVED) / per_day.get().saturating_sub(1).max(1);
        Self { gap, given: Duration::ZERO, given_seldom: Duration::ZERO }
    }

    /// Takes the next turn, and says when it has come.
    pub fn turn(&mut self, now: Duration, need: Need) -> Duration {
        let at = match need {
            Need::Seldom => self.given_seldom.saturating_sub(SAVED),
            Need::Steady => self.given.saturating_sub(SAVED_STEADY),
        };
        if need == Need::Seldom {
            self.given_seldom = self.given_seldom.max(now) + self.gap;
        }
        self.given = self.given.max(now) + self.gap;
        at.max(now)
    }

    /// Counts what was put without a turn. Those who put steadily make up for it, as far as what can be saved goes.
    pub fn charge(&mut self, now: Duration, puts: u32) {
        let charged = (self.given.max(now) + self.gap.saturating_mul(puts)).min(now + SAVED);
        self.given = self.given.max(charged);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn allowance(per_day: u32) -> Allowance {
        Allowance::new(NonZeroU32::new(per_day).expect("not zero"))
    }

    /// Sources that always have something, each asking again at its interval; gives each one's turns.
    fn written_day_and_night(per_day: u32, sources: usize, interval: Duration) -> Vec<Vec<Duration>> {
        let (mut all, mut turns) = (allowance(per_day), vec![Vec::new(); sources]);
        let mut next = vec![(Duration::ZERO, 0); sources];
        next.iter_mut().enumerate().for_each(|(source, next)| next.1 = source);
        while let Some((now, source)) = next.iter().min().copied().filter(|(now, _)| *now < DAY * 2) {
            let need = if turns[source].is_empty() { Need::Seldom } else { Need::Steady };
            let at = all.turn(now, need);
            turns[source].push(at);
            next[source].0 = at + interval;
        }
        turns
    }

    /// The most turns in any 24 hours.
    fn busiest_day(turns: &[Vec<Duration>]) -> usize {
        let mut all: Vec<Duration> = turns.iter().flatten().copied().collect();
        all.sort_unstable();
        let within = |from: usize| all[from..].partition_point(|at| *at < all[from] + DAY);
        (0..all.len()).map(within).max().unwrap_or(0)
    }

    #[test]
    fn no_day_has_more_puts_than_it_may_and_nobody_gets_more_than_others() {
        for (per_day, sources) in [(100, 1), (100, 7), (20_000, 1), (20_000, 60), (30_000, 300)] {
            let turns = written_day_and_night(per_day, sources, SECOND);
            let busiest = busiest_day(&turns);
            assert!((per_day as usize * 98 / 100..=per_day as usize).contains(&busiest), "{busiest} of {per_day}");
            let counts = turns.iter().map(Vec::len);
            let (least, most) = (counts.clone().min().expect("one"), counts.max().expect("one"));
            assert!(most - least <= 1, "{least} to {most}");
        }
    }

    #[test]
    fn those_who_put_seldom_and_those_who_put_steadily_keep_to_a_days_puts_together() {
        let (per_day, sources) = (2000, 50);
        let (mut all, mut turns) = (allowance(per_day), vec![Vec::new(); sources + 1]);
        let mut next = vec![Duration::ZERO; sources];
        // Each second: whoever has used his turn takes another, and in every other minute one who puts seldom comes.
        for now in (0..3 * 24 * 3600).map(|second| SECOND * second) {
            for (source, next) in next.iter_mut().enumerate().filter(|(_, next)| **next <= now) {
                *next = all.turn(now, Need::Steady).max(now + SECOND);
                turns[source].push(*next);
            }
            if now.as_secs() % 120 == 0 {
                turns[sources].push(all.turn(now, Need::Seldom));
            }
        }
        let waited = turns[sources].iter().zip(0_u32..).map(|(at, n)| *at - SECOND * 120 * n);
        assert_eq!(waited.max(), Some(Duration::ZERO));
        let busiest = busiest_day(&turns);
        assert!((1900..=per_day as usize + sources).contains(&busiest), "{busiest}");
    }

    #[test]
    fn what_is_enough_keeps_nobody_waiting() {
        let turns = written_day_and_night(90_000, 1, SECOND);
        assert!(turns[0].windows(2).all(|pair| pair[1] - pair[0] == SECOND));
    }

    #[test]
    fn a_single_commit_does_not_wait_for_those_who_are_written_to_day_and_night() {
        let mut all = allowance(20_000);
        // As after an hour of steady load from a thousand sources, each with a turn it waits for.
        let mut now = Duration::ZERO;
        while now < SECOND * 3600 {
            now = all.turn(now, Need::Steady);
        }
        for _ in 0..1000 {
            all.turn(now, Need::Steady);
        }
        let waits = all.turn(now, Need::Steady) - now;
        assert!(waits > SECOND * 4000, "the others wait: {waits:?}");
        assert_eq!(all.turn(now, Need::Seldom), now);
        assert!(all.turn(now, Need::Steady) > now + waits + all.gap, "and make up for it");
        // Too many of them are no single commits any more.
        let turns: Vec<Duration> = (0..1000).map(|_| all.turn(now, Need::Seldom)).collect();
        assert_eq!(turns.iter().filter(|at| **at == now).count(), 137);
        assert!(turns.windows(2).all(|pair| pair[1] == now || pair[1] - pair[0] <= all.gap));
    }

    #[test]
    fn what_was_put_without_a_turn_is_made_up_for_within_bounds() {
        let (mut all, now) = (allowance(20_000), SECOND * 9000);
        assert_eq!(all.turn(now, Need::Steady), now);
        all.charge(now, 1_000_000);
        let at = all.turn(now, Need::Steady);
        assert!(at > now && at <= now + SAVED - SAVED_STEADY, "{:?}", at - now);
        assert_eq!(all.turn(now, Need::Seldom), now);
        let mut some = allowance(20_000);
        some.charge(now, 3);
        assert_eq!(some.given, now + some.gap * 3);
        let before = some;
        some.charge(now, 0);
        assert_eq!(some, before);
    }
}
