//! Carries the logs behind the snapshots that a copy has: slot after slot, so that what is there is always the
//! beginning of what is here. What a prune of the copy has taken is not sent again.

use super::perform::Run;
use super::{Act, Reread};
use crate::OpsError;
use crate::catalog::{Catalog, PruneRead};
use backstay_model::{ObjectId, Sequence, SourceName, StreamId};
use backstay_store::keys::{self, Place};
use backstay_store::repo::{RepoError, Repository};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The streams of this run, each with the first slot that was dealt with and where it leads.
#[derive(Default)]
pub(super) struct Streams(HashMap<StreamId, (Sequence, Option<StreamId>)>);

impl Run<'_> {
    /// The log behind every snapshot of a source that both sides have.
    pub(super) async fn logs(
        &mut self,
        copy: &Repository,
        catalog: &Catalog,
        source: &SourceName,
    ) -> Result<(), OpsError> {
        let there: BTreeSet<ObjectId> = copy.snapshot_names(source).await?.iter().map(|(name, _)| name.id).collect();
        let mut places: Vec<(Sequence, StreamId, Sequence)> = catalog
            .fronts
            .values()
            .filter(|front| there.contains(&front.name.id))
            .filter_map(|front| Some((front.name.sequence, front.facts.following.as_ref()?)))
            .map(|(number, following)| (number, following.stream, following.sequence))
            .collect();
        // The oldest first: what it leads through need not be gone through again for the later ones.
        places.sort_unstable();
        for (_, mut stream, mut slot) in places {
            loop {
                let known = self.streams.0.get(&stream).filter(|(first, _)| *first <= slot).map(|(_, next)| *next);
                let next = match known {
                    Some(_) => break,
                    None => self.stream(copy, stream, slot).await?,
                };
                self.streams.0.insert(stream, (slot, next));
                match next {
                    Some(next) => (stream, slot) = (next, Sequence::FIRST),
                    None => break,
                }
            }
        }
        Ok(())
    }

    /// One stream from a slot on. Where it leads, if everything of it is there now.
    async fn stream(
        &mut self,
        copy: &Repository,
        stream: StreamId,
        slot: Sequence,
    ) -> Result<Option<StreamId>, OpsError> {
        let prune = PruneRead::of(copy).await?.head;
        let gone = prune.map_or(0, |head| head.record.facts.log_below(&stream));
        let here = slots(&self.vault.repo, &stream).await?;
        let there = slots(copy, &stream).await?;
        let mut wanted = None;
        for (number, len) in here.range(slot.get().max(gone)..) {
            self.vault.env.cancel.check()?;
            let sequence = Sequence::new(*number);
            let key = keys::log(&stream, sequence);
            if wanted.is_some_and(|wanted| wanted != *number) {
                let missing = RepoError::Missing { key: keys::log(&stream, Sequence::new(*number - 1)).to_string() };
                self.found(&key, missing, Vec::new()).await?;
                return Ok(None);
            }
            wanted = number.checked_add(1);
            let same = there.get(number) == Some(len);
            if same && self.request.reread == Reread::Nothing {
                continue;
            }
            if !there.contains_key(number) && self.request.act == Act::Compare {
                self.lacking += 1;
                continue;
            }
            match self.vault.repo.log_object(&stream, sequence).await {
                Ok(Some(object)) => self.small(&key, object.bytes().clone()).await?,
                Ok(None) => return Ok(None),
                Err(error) => {
                    self.found(&key, error, Vec::new()).await?;
                    return Ok(None);
                }
            }
        }
        let Some(last) = here.keys().next_back() else { return Ok(None) };
        match self.vault.repo.log_front(&stream, Sequence::new(*last)).await {
            Ok(front) => Ok(front.and_then(|front| front.facts.next)),
            Err(error) => {
                self.found(&keys::log(&stream, Sequence::new(*last)), error, Vec::new()).await?;
                Ok(None)
            }
        }
    }
}

/// The slots of a stream that are taken, by a listing, and how long each is.
async fn slots(repo: &Repository, stream: &StreamId) -> Result<BTreeMap<u64, u64>, OpsError> {
    let entries = repo.list(&keys::log_prefix(stream)).await?;
    let slot = |entry: &backstay_store::Entry| match Place::of(&entry.key) {
        Place::Log(_, slot) => Some((slot.get(), entry.len)),
        _ => None,
    };
    Ok(entries.iter().filter_map(slot).collect())
}
