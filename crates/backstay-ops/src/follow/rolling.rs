//! Rolling up: what was put in many small objects becomes one larger object, so that a day of following is not hundreds
//! of thousands of requests.
//!
//! Made of this run's own sealed objects, as they were put, with the data key it has in memory: neither the source nor the
//! store is asked for anything. Every commit stays, with its digest. Worth less than the log: what cannot be made or
//! put is given up, and the slots are there as before.

use super::lasts::Lasts;
use crate::OpsError;
use crate::catalog::Vault;
use crate::log::{self, IMAGES_MAX, RECORDS_MAX};
use backstay_model::Generation;
use backstay_store::keys::LogName;
use backstay_store::repo::{LogObject, LogSigning};
use bytes::Bytes;
use std::collections::VecDeque;
use std::time::Duration;

/// How long what one roll-up of each level holds was committed in. Each is made of those of the level before.
pub const LEVELS: [Duration; 3] = [Duration::from_secs(30), Duration::from_secs(5 * 60), Duration::from_secs(60 * 60)];
/// Between two attempts to put one.
const PAUSE: Duration = Duration::from_secs(30);

/// An object that is durable.
pub struct Whole {
    pub object: LogObject,
    /// What is known of it without opening it.
    pub lasts: Option<Lasts>,
}

impl From<LogObject> for Whole {
    fn from(object: LogObject) -> Self {
        Self { object, lasts: None }
    }
}

/// One of them, until it is in a roll-up of the next level.
struct Held {
    whole: Whole,
    images: u64,
    records: u64,
    /// When the first of what it holds was put.
    since: Duration,
}

/// What waits to be rolled up, by level.
#[derive(Default)]
pub struct Rolling {
    held: [VecDeque<Held>; LEVELS.len()],
    ready: Option<(usize, Held)>,
    /// What went through the last level, in order, until somebody takes it.
    whole: VecDeque<Whole>,
    not_before: Duration,
}

impl Rolling {
    /// An object that became durable in its slot just now.
    pub fn add(&mut self, whole: Whole, now: Duration) {
        let front = &whole.object.front;
        let follows = |held: &Held| held.whole.object.front.name.last.next() == Some(front.name.first);
        if !self.held[0].back().is_none_or(follows) {
            *self = Self::default();
        }
        if let Ok((images, records)) = whole.object.raw() {
            self.held[0].push_back(Held { whole, images, records, since: now });
        }
    }

    /// Whether one may be due: what does not follow the one before it is none.
    pub fn is_due_at_all(&self, now: Duration) -> bool {
        now >= self.not_before && (self.ready.is_some() || (0..LEVELS.len()).any(|level| self.is_due(level, now)))
    }

    /// The roll-up to put now, if one is due. It stays the same until it is known to be there or given up.
    pub fn next(&mut self, now: Duration, with: Rolled<'_>) -> Option<(LogName, Bytes)> {
        if !self.is_due_at_all(now) {
            return None;
        }
        for level in 0..LEVELS.len() {
            while self.ready.is_none() && self.is_due(level, now) {
                let run = self.take_run(level);
                match <[Held; 1]>::try_from(run) {
                    Ok([alone]) => self.promote(level, alone),
                    Err(run) => self.ready = Some((level, with.of(run).ok()?)),
                }
            }
        }
        let (_, held) = self.ready.as_ref()?;
        let object = &held.whole.object;
        Some((object.front.name, object.bytes().clone()))
    }

    /// The roll-up is known to be there.
    pub fn done(&mut self) {
        if let Some((level, held)) = self.ready.take() {
            self.promote(level, held);
        }
    }

    /// The store did not take it.
    pub fn failed(&mut self, now: Duration) {
        self.not_before = now + PAUSE;
        if self.held.iter().flatten().map(|held| held.images).sum::<u64>() > IMAGES_MAX * LEVELS.len() as u64 {
            self.give_up();
        }
    }

    pub fn give_up(&mut self) {
        *self = Self { not_before: self.not_before, ..Self::default() };
    }

    fn is_due(&self, level: usize, now: Duration) -> bool {
        let held = &self.held[level];
        let sum = |of: fn(&Held) -> u64| held.iter().map(of).sum::<u64>();
        held.front().is_some_and(|first| now.saturating_sub(first.since) >= LEVELS[level])
            || sum(|held| held.images) >= IMAGES_MAX
            || sum(|held| held.records) >= RECORDS_MAX
    }

    /// As many as go into one, from the oldest on.
    fn take_run(&mut self, level: usize) -> Vec<Held> {
        let (mut run, mut images, mut records) = (Vec::new(), 0, 0);
        while let Some(held) = self.held[level].pop_front() {
            (images, records) = (images + held.images, records + held.records);
            if !run.is_empty() && (images > IMAGES_MAX || records > RECORDS_MAX) {
                self.held[level].push_front(held);
                break;
            }
            run.push(held);
        }
        run
    }

    /// Behind the last level nothing is made of it any more.
    fn promote(&mut self, level: usize, held: Held) {
        match self.held.get_mut(level + 1) {
            Some(next) => next.push_back(held),
            None => self.whole.push_back(held.whole),
        }
    }

    /// Everything that still waits for a roll-up, in order: nothing more comes.
    pub fn rest(&mut self) -> Vec<Whole> {
        let (mut rest, mut ready) = (Vec::new(), self.ready.take());
        for (level, held) in self.held.iter_mut().enumerate().rev() {
            let made = ready.take_if(|(of, _)| *of == level).map(|(_, made)| made);
            rest.extend(made.into_iter().chain(held.drain(..)).map(|held| held.whole));
        }
        rest
    }

    /// What went through the last level since it was asked last.
    pub fn whole(&mut self) -> VecDeque<Whole> {
        std::mem::take(&mut self.whole)
    }
}

/// What a roll-up is made with.
#[derive(Clone, Copy)]
pub struct Rolled<'a> {
    pub vault: &'a Vault,
    pub with: LogSigning<'a>,
}

impl Rolled<'_> {
    fn of(&self, run: Vec<Held>) -> Result<Held, OpsError> {
        let parts: Vec<&LogObject> = run.iter().map(|held| &held.whole.object).collect();
        let parts = (parts.as_slice(), Generation::FIRST);
        let (name, bytes) = log::roll(&self.vault.repo, parts, log::Opens::Own(self.with.sealer), self.with)?;
        let object = self.vault.repo.parse_log(&name, bytes)?;
        let (images, records) = object.raw()?;
        let since = run.first().map_or(Duration::ZERO, |held| held.since);
        let lasts = Lasts::of_all(run.into_iter().map(|held| held.whole.lasts));
        Ok(Held { whole: Whole { object, lasts }, images, records, since })
    }
}
