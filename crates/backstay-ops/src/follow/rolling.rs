//! Rolling up: what was put in many small objects becomes one larger object, so that a day of following is not hundreds
//! of thousands of requests.
//!
//! Made of this run's own sealed objects, as they were put, with the data key it has in memory: neither the source nor the
//! store is asked for anything. Every commit stays, with its digest. Worth less than the log: what cannot be made or
//! put is given up, and the slots are there as before.

use crate::OpsError;
use crate::catalog::Vault;
use crate::log::{self, Merged};
use backstay_format::layout::FRAME_TARGET;
use backstay_store::keys::LogName;
use backstay_store::repo::{LogDraft, LogFront, LogObject, LogSigning};
use bytes::Bytes;
use std::collections::VecDeque;
use std::time::Duration;

/// How long what one roll-up of each level holds was committed in. Each is made of those of the level before.
pub const LEVELS: [Duration; 3] = [Duration::from_secs(30), Duration::from_secs(5 * 60), Duration::from_secs(60 * 60)];
/// Raw images, and bytes of records, in one roll-up: it is made before its time when there are so many.
const IMAGES_MAX: u64 = 8 << 20;
const RECORDS_MAX: u64 = 512 << 10;
/// Between two attempts to put one.
const PAUSE: Duration = Duration::from_secs(30);

/// An object that is durable, until it is in a roll-up of the next level.
struct Held {
    object: LogObject,
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
    not_before: Duration,
}

impl Rolling {
    /// An object that became durable in its slot just now.
    pub fn add(&mut self, object: LogObject, now: Duration) {
        let follows = |held: &Held| held.object.front.name.last.next() == Some(object.front.name.first);
        if !self.held[0].back().is_none_or(follows) {
            *self = Self::default();
        }
        if let Ok((images, records)) = object.raw() {
            self.held[0].push_back(Held { object, images, records, since: now });
        }
    }

    /// The roll-up to put now, if one is due. It stays the same until it is known to be there or given up.
    pub fn next(&mut self, now: Duration, with: Rolled<'_>) -> Option<(LogName, Bytes)> {
        if now < self.not_before {
            return None;
        }
        for level in 0..LEVELS.len() {
            while self.ready.is_none() && self.is_due(level, now) {
                let run = self.take_run(level);
                match <[Held; 1]>::try_from(run) {
                    Ok([alone]) => self.promote(level, alone),
                    Err(run) => self.ready = Some((level, with.of(&run).ok()?)),
                }
            }
        }
        let (_, held) = self.ready.as_ref()?;
        Some((held.object.front.name, held.object.bytes().clone()))
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
        if let Some(next) = self.held.get_mut(level + 1) {
            next.push_back(held);
        }
    }
}

/// What a roll-up is made with.
#[derive(Clone, Copy)]
pub struct Rolled<'a> {
    pub vault: &'a Vault,
    pub with: LogSigning<'a>,
}

impl Rolled<'_> {
    fn of(&self, run: &[Held]) -> Result<Held, OpsError> {
        let parts: Vec<&LogObject> = run.iter().map(|held| &held.object).collect();
        let (name, bytes) = self.roll(&parts)?;
        let object = self.vault.repo.parse_log(&name, bytes)?;
        let (images, records) = object.raw()?;
        let since = run.first().map_or(Duration::ZERO, |held| held.since);
        Ok(Held { object, images, records, since })
    }

    /// The same commits in one object: what the parts hold, in their order.
    fn roll(&self, parts: &[&LogObject]) -> Result<(LogName, Bytes), OpsError> {
        let fronts: Vec<&LogFront> = parts.iter().map(|part| &part.front).collect();
        let Merged { facts, previous, spans } = log::merged(&fronts).ok_or_else(unsound)?;
        let name = LogName { stream: facts.stream, first: facts.first, last: facts.last };
        let id = self.vault.repo.fresh_id(self.with.random);
        let mut draft = LogDraft::roll_up(&facts, previous, id, self.with);
        let (mut records, mut frame) = (Vec::new(), Vec::with_capacity(FRAME_TARGET));
        for (part, numbers) in parts.iter().zip(spans) {
            let own = part.open_own::<OpsError>(self.with.sealer, |_, _, _, image| {
                if frame.len() + image.len() > FRAME_TARGET {
                    draft.images(&frame);
                    frame.clear();
                }
                frame.extend_from_slice(image);
                Ok(())
            })?;
            for mut record in own {
                record.span = numbers.get(usize::from(record.span)).copied().ok_or_else(unsound)?;
                records.push(record);
            }
        }
        if !frame.is_empty() {
            draft.images(&frame);
        }
        Ok((name, draft.finish(&records).0))
    }
}

fn unsound() -> OpsError {
    OpsError::Unsound { problem: "the parts of a roll-up do not follow one another".into() }
}
