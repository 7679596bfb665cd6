//! Which object of a log a copy reads next: what is in the slot, or a roll-up that has it.
//!
//! A copy that keeps up asks for slots by name and lists nothing. One that is behind lists the roll-ups of the stream
//! once a step: a day is thousands of slots. Slots go, long after they were rolled up, so where nothing is in one it
//! is looked for roll-ups now and then.

use super::Place;
use crate::log::Rolled;
use backstay_model::StreamId;
use backstay_store::keys::LogName;
use backstay_store::repo::{LogObject, RepoError, Repository};
use std::collections::BTreeSet;

/// Objects of one step before roll-ups are looked for.
const BEHIND: usize = 4;

/// What one step knows of the stream it is in.
#[derive(Default)]
pub struct Step {
    /// Objects that were gone through.
    pub passed: usize,
    rolled: Option<(StreamId, Rolled)>,
}

impl Step {
    async fn listed(&mut self, repo: &Repository, stream: StreamId) -> Result<&Rolled, RepoError> {
        match &mut self.rolled {
            Some((of, _)) if *of == stream => {}
            other => *other = Some((stream, Rolled::of(repo, &stream).await?)),
        }
        Ok(self.rolled.as_ref().map(|(_, rolled)| rolled).expect("it was listed above"))
    }
}

/// What is read at a place, without some roll-ups. `look`: whether it is looked for one where the slot is empty.
pub async fn at(
    repo: &Repository,
    place: &Place,
    step: &mut Step,
    (without, look): (&BTreeSet<LogName>, bool),
) -> Result<Option<LogObject>, RepoError> {
    let (stream, slot) = (place.stream, place.sequence);
    if step.passed >= BEHIND {
        let over = step.listed(repo, stream).await?.over(slot);
        let begin = over.into_iter().filter(|name| name.first == slot && !without.contains(name));
        if let Ok(Some(object)) = first_of(repo, begin).await? {
            return Ok(Some(object));
        }
    }
    let in_slot = match repo.log_object(&stream, slot).await {
        Err(error) if error.is_outage() && !error.is_unreadable() => return Err(error),
        Ok(Some(object)) => return Ok(Some(object)),
        Ok(None) if !look && step.rolled.is_none() => return Ok(None),
        other => other,
    };
    let over = step.listed(repo, stream).await?.over(slot).into_iter().filter(|name| !without.contains(name));
    match first_of(repo, over).await? {
        Ok(None) => in_slot,
        found => found,
    }
}

/// The first that can be read, or why the last could not.
async fn first_of(
    repo: &Repository,
    names: impl Iterator<Item = LogName>,
) -> Result<Result<Option<LogObject>, RepoError>, RepoError> {
    let mut unread = Ok(None);
    for name in names {
        match repo.log_object_of(&name).await {
            Err(error) if error.is_outage() && !error.is_unreadable() => return Err(error),
            Ok(Some(object)) => return Ok(Ok(Some(object))),
            Ok(None) => {}
            Err(error) => unread = Err(error),
        }
    }
    Ok(unread)
}
