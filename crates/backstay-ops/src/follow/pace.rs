//! When to put the next object: soon for a commit now and then, seldomer under steady load, because every put is paid
//! for.

use super::Mode;
use backstay_model::Need;
use std::time::Duration;

/// Between two snapshots of a database whose log is not held.
const WATCH_REST: Duration = Duration::from_secs(30);
/// How often the pause between two attempts doubles.
const DOUBLED_MAX: u32 = 4;
/// Steady load for so long, and the longer interval holds.
const STEADY_AFTER: Duration = Duration::from_secs(60);
/// Who has not put for so long has paused.
const PAUSE: Duration = Duration::from_secs(5);
/// Who has not put for so long puts seldom.
const QUIET: Duration = Duration::from_secs(60);

/// Found at each look for so long, and it is not listened for.
const HUSH_AFTER: Duration = Duration::from_secs(1);
/// Nothing was found for so long, and it is.
const QUIET_AFTER: Duration = Duration::from_millis(100);

/// How often objects are put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Between two puts.
    pub interval: Duration,
    /// The same once there was something to put each time for a minute.
    pub steady: Duration,
    /// How often it is looked although nothing was heard.
    pub poll: Duration,
    /// Between the first two attempts at a store that is away.
    pub retry: Duration,
}

impl Pace {
    pub const STANDARD: Pace = Pace {
        interval: Duration::from_millis(250),
        steady: Duration::from_secs(1),
        poll: Duration::from_secs(2),
        retry: Duration::from_secs(2),
    };
}

/// The puts of one source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pacing {
    pace: Pace,
    /// Since when there was something to put each time.
    steady_since: Option<Duration>,
    /// Since when it has put without a pause.
    busy_since: Option<Duration>,
    last: Option<Duration>,
    /// Attempts that failed, one after another.
    failed: u32,
    /// Not before.
    pub next: Duration,
    /// Its turn among all sources, taken and not used yet.
    turn: Option<Turn>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Turn {
    asked: Duration,
    at: Duration,
}

impl Pacing {
    pub fn new(pace: Pace) -> Self {
        Self { pace, steady_since: None, busy_since: None, last: None, failed: 0, next: Duration::ZERO, turn: None }
    }

    /// The interval that holds now: its own, or how long it waits for its turn.
    pub fn interval(&self) -> Duration {
        self.turn.map_or(self.own(), |turn| self.own().max(turn.at.saturating_sub(turn.asked)))
    }

    /// For how long it has put without a pause.
    pub fn busy_for(&self) -> Duration {
        self.last.unwrap_or_default().saturating_sub(self.busy_since.unwrap_or_default())
    }

    /// When it may be tried again, if it failed.
    pub fn again(&self) -> Duration {
        if self.failed > 0 { self.next } else { Duration::ZERO }
    }

    fn own(&self) -> Duration {
        match (self.steady_since, self.last) {
            (Some(since), Some(last)) if last.saturating_sub(since) >= STEADY_AFTER => self.pace.steady,
            _ => self.pace.interval,
        }
    }

    /// When what there is may be put. `ask` takes a turn among all sources: once for each put.
    pub fn due(&mut self, now: Duration, ask: impl FnOnce(Need) -> Duration) -> Duration {
        let recently = self.last.is_some_and(|last| now.saturating_sub(last) < QUIET);
        let need = if recently { Need::Steady } else { Need::Seldom };
        let turn = self.turn.get_or_insert_with(|| Turn { asked: now, at: ask(need) });
        self.next.max(turn.at)
    }

    /// Until when there is nothing to do for what waits to be put.
    pub fn waits_until(&self) -> Duration {
        self.next.max(self.turn.map_or(Duration::ZERO, |turn| turn.at))
    }

    /// An object was put. Says whether that used a turn: what was put before its time leaves it to the next.
    pub fn put(&mut self, now: Duration) -> bool {
        let used = self.turn.take_if(|turn| turn.at <= now).is_some();
        // Twice the interval: what was put at the first moment it was due counts as steady, a pause does not.
        let gap = self.own() * 2;
        if self.last.is_none_or(|last| now.saturating_sub(last) > gap) {
            self.steady_since = Some(now);
        }
        if self.last.is_none_or(|last| now.saturating_sub(last) > PAUSE) {
            self.busy_since = Some(now);
        }
        (self.last, self.failed) = (Some(now), 0);
        self.next = now + self.own();
        used
    }

    /// Following began anew. Where the log is not held that may be due again at once, and it reads the whole
    /// database.
    pub fn began(&mut self, now: Duration, mode: Mode) {
        if mode == Mode::Watch {
            self.next = now + WATCH_REST;
        }
    }

    /// The store did not take it. Each time in a row it is left alone for longer: many sources must not hammer on a
    /// store that is coming back.
    pub fn failed(&mut self, now: Duration) {
        self.next = now + self.pace.retry * (1 << self.failed.min(DOUBLED_MAX));
        self.failed = self.failed.saturating_add(1);
    }
}

/// Whether writes to a database are listened for. Under steady load they are not: it is looked at every gap anyway, and each
/// write that is told of costs whoever makes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hearing {
    /// Since when each look found something, and when the last did.
    busy: Option<(Duration, Duration)>,
    is_hushed: bool,
}

impl Hearing {
    /// A look found something, or nothing. Says whether it is to be hushed or heard from now on, where that changes.
    pub fn looked(&mut self, found: bool, now: Duration) -> Option<bool> {
        let recent = self.busy.filter(|(_, last)| now.saturating_sub(*last) < QUIET_AFTER);
        self.busy = match (recent, found) {
            (Some((since, _)), true) => Some((since, now)),
            (None, true) => Some((now, now)),
            (recent, false) => recent,
        };
        let is_hushed = match self.is_hushed {
            true => self.busy.is_some(),
            false => self.busy.is_some_and(|(since, last)| last.saturating_sub(since) >= HUSH_AFTER),
        };
        (std::mem::replace(&mut self.is_hushed, is_hushed) != is_hushed).then_some(is_hushed)
    }

    pub fn is_hushed(&self) -> bool {
        self.is_hushed
    }

    /// Whether there was nothing for so long.
    pub fn rests_for(&self, rest: Duration, now: Duration) -> bool {
        self.busy.is_none_or(|(_, last)| now.saturating_sub(last) >= rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_hushed_after_a_second_of_writing_and_heard_after_a_pause() {
        let at = Duration::from_millis;
        let mut hearing = Hearing::default();
        for now in (0..1000).step_by(50) {
            assert_eq!(hearing.looked(true, at(now)), None, "{now}");
        }
        assert_eq!(hearing.looked(true, at(1000)), Some(true));
        assert_eq!((hearing.looked(false, at(1010)), hearing.looked(true, at(1090))), (None, None));
        assert_eq!((hearing.looked(false, at(1189)), hearing.is_hushed()), (None, true));
        assert_eq!((hearing.looked(false, at(1190)), hearing.is_hushed()), (Some(false), false));
        for now in (2000..9000).step_by(150) {
            assert_eq!(hearing.looked(true, at(now)), None, "a commit now and then is heard: {now}");
        }
    }

    #[test]
    fn steady_load_is_put_seldomer_and_a_single_commit_at_once() {
        let at = Duration::from_millis;
        let mut pacing = Pacing::new(Pace::STANDARD);
        assert_eq!(pacing.next, Duration::ZERO, "the first commit waits for nothing");
        let (mut now, mut puts) = (at(1000), 0);
        while now < at(61_000) {
            pacing.put(now);
            assert_eq!(pacing.next, now + at(250));
            (now, puts) = (pacing.next, puts + 1);
        }
        pacing.put(now);
        assert_eq!((pacing.next, puts), (now + at(1000), 240), "after a minute");
        pacing.put(now + at(1000));
        assert_eq!(pacing.next, now + at(2000));
        pacing.put(now + at(9000));
        assert_eq!(pacing.next, now + at(9250), "a pause ends it");
        let mut pauses = Vec::new();
        for _ in 0..6 {
            pacing.failed(now);
            pauses.push((pacing.next - now).as_secs());
        }
        assert_eq!(pauses, [2, 4, 8, 16, 32, 32]);
        pacing.put(now);
        pacing.failed(now);
        assert_eq!(pacing.next, now + at(2000), "one that was taken ends it");
    }

    #[test]
    fn a_commit_now_and_then_is_busy_until_a_pause() {
        let at = Duration::from_secs;
        let mut pacing = Pacing::new(Pace::STANDARD);
        assert_eq!(pacing.busy_for(), Duration::ZERO);
        for now in 100..=170 {
            pacing.put(at(now));
        }
        assert_eq!((pacing.busy_for(), pacing.interval()), (at(70), Pace::STANDARD.interval), "busy, and not steady");
        pacing.put(at(176));
        assert_eq!(pacing.busy_for(), Duration::ZERO);
    }

    #[test]
    fn a_turn_is_asked_for_once_and_used_by_one_put() {
        let at = Duration::from_millis;
        let mut pacing = Pacing::new(Pace::STANDARD);
        assert_eq!(pacing.due(at(1000), |need| at(if need == Need::Seldom { 1000 } else { 0 })), at(1000));
        assert!(pacing.put(at(1000)));
        let ask = |need| at(if need == Need::Steady { 9000 } else { 0 });
        assert_eq!(pacing.due(at(1100), ask), at(9000), "one that put just now waits for its turn");
        assert_eq!(pacing.due(at(1200), |_| panic!("it has its turn")), at(9000));
        assert_eq!((pacing.waits_until(), pacing.interval()), (at(9000), at(7900)));
        assert!(!pacing.put(at(2000)), "put before its time");
        assert_eq!((pacing.next, pacing.waits_until()), (at(2250), at(9000)));
        pacing.failed(at(9000));
        assert_eq!(pacing.due(at(9000), |_| panic!("it still has its turn")), at(11_000));
        assert!(pacing.put(at(11_000)));
        assert_eq!((pacing.waits_until(), pacing.interval()), (at(11_250), at(250)));
        assert_eq!(pacing.due(at(80_000), |need| at(if need == Need::Seldom { 80_000 } else { 0 })), at(80_000));
    }
}
