//! Marks: facts added later about a snapshot, and the notices by which new ones are found.
//!
//! A mark lies in its snapshot's folder, so that what is said of one snapshot is one request. A notice is the same
//! object once more, under a name that counts down: the newest are listed first, and whoever knows every mark up
//! to some height reads on from there, and not ten thousand names.
//!
//! **No mark without a notice above everything that anybody may know.** The notice is put first, one higher than the
//! highest, and the listing is looked at once more: a higher one there by then was put by somebody who did not
//! know of this one, so whoever has read that far has passed this one by, and it is put again above. Only then the
//! mark. A listing that goes on from a height begins at that very height.
//!
//! A crash leaves a notice without its mark: signed and true, seen by a list and by nothing else.

use super::records::{Chain, Record, Signing};
use super::{RepoError, Repository};
use crate::keys::{self, MarkName};
use crate::seam::{Entry, Key};
use backstay_format::ObjectType;
use backstay_format::facts::{self, Mark, Role};
use backstay_model::catalog::MarkKind;
use backstay_model::{Moment, ObjectId, SignerKey, SourceName};
use bytes::Bytes;
use futures::stream::{self, StreamExt};
use std::collections::{HashMap, HashSet};

/// Marks read at once for a listing.
const MARKS_AT_ONCE: usize = 16;
/// Marks whose bytes are held at once.
const BATCH: usize = 1024;
/// Notices looked at to find the highest: other names may lie above it.
const TOP: usize = 16;
/// Notices of one mark, before whoever puts it gives up against the others.
const NOTICES_MAX: usize = 32;

/// A source's marks: what was verified, and what is wrong with the rest.
#[derive(Debug, Default)]
pub struct Marks {
    pub records: Vec<Record<Mark>>,
    pub faults: Vec<MarkFault>,
}

/// A mark that cannot be believed, or that must exist and is not there.
#[derive(Debug)]
pub enum MarkFault {
    Unreadable {
        key: Key,
        /// What its name says it is about.
        snapshot: ObjectId,
        kind: MarkKind,
        error: RepoError,
    },
    /// A later mark of the same signer follows one that is not there. What is missing was made at this
    /// instant at the latest, so it is about a snapshot taken before it.
    Missing { until: Moment, error: RepoError },
}

impl MarkFault {
    pub fn error(&self) -> &RepoError {
        match self {
            Self::Unreadable { error, .. } | Self::Missing { error, .. } => error,
        }
    }

    pub fn into_error(self) -> RepoError {
        match self {
            Self::Unreadable { error, .. } | Self::Missing { error, .. } => error,
        }
    }
}

impl Marks {
    /// A signer's marks on a source are one chain. Two runs of one signer may have put two marks after
    /// the same one; but the one that a mark follows must be there.
    fn find_holes(&mut self, source: &SourceName) {
        let there: HashSet<(SignerKey, Chain)> =
            self.records.iter().filter_map(|r| Some((r.signer, Chain::after(r.chain.sequence, r.digest)?))).collect();
        let follows = |r: &&Record<Mark>| r.chain == Chain::START || there.contains(&(r.signer, r.chain));
        let holes = self.records.iter().filter(|record| !follows(record)).map(|record| {
            let facts = &record.facts;
            let key = keys::mark(source, &facts.snapshot, facts.kind, &record.object).to_string();
            MarkFault::Missing { until: facts.at, error: RepoError::BrokenChain { key } }
        });
        self.faults.extend(holes);
    }
}

/// Every mark there is of a source, when the highest notice had this height.
#[derive(Debug, Clone, Default)]
pub struct MarkNames {
    /// Where each can be read: under its own name, or as its notice.
    at: HashMap<Key, Key>,
    /// Nothing is known to have been noticed before the first notice.
    pub height: Option<u64>,
}

/// Every mark that a host knows of a source, when the highest notice had this height.
#[derive(Debug, Clone)]
pub struct KnownMarks {
    pub height: u64,
    pub marks: Vec<Key>,
}

impl MarkNames {
    /// The marks' own names.
    pub fn marks(&self) -> impl Iterator<Item = &Key> {
        self.at.keys()
    }

    /// What would be noticed next.
    pub fn noticed(&self) -> u64 {
        self.height.map_or(0, |height| height.saturating_add(1))
    }
}

impl Repository {
    /// All marks on a source's snapshots. One that cannot be verified, and one that must have been there,
    /// is a fault beside the others: a missing quarantine must not turn a snapshot green, nor may one
    /// bad mark hide a source.
    pub async fn marks(&self, source: &SourceName) -> Result<Marks, RepoError> {
        let entries = self.list(&keys::mark_prefix(source)).await?;
        let at = entries.into_iter().map(|entry| (entry.key.clone(), entry.key)).collect();
        self.marks_named(source, &MarkNames { at, height: None }).await
    }

    /// Reads and verifies marks whose names are known.
    pub async fn marks_named(&self, source: &SourceName, names: &MarkNames) -> Result<Marks, RepoError> {
        let mut marks = Marks::default();
        let mut named: Vec<(MarkName, &Key, &Key)> =
            names.at.iter().filter_map(|(key, at)| Some((keys::parse_mark(source, key)?, key, at))).collect();
        named.sort_unstable_by_key(|(_, key, _)| *key);
        for batch in named.chunks(BATCH) {
            let owned: Vec<(MarkName, Key, Key)> =
                batch.iter().map(|(name, key, at)| (*name, (*key).clone(), (*at).clone())).collect();
            let reads = owned.into_iter().map(|(name, key, at)| async move {
                let bytes = self.store().get(&at).await;
                (name, key, bytes)
            });
            let read: Vec<_> = stream::iter(reads).buffered(MARKS_AT_ONCE).collect().await;
            let verified = side_by_side(read, |(name, key, bytes)| {
                let record =
                    bytes.map_err(RepoError::from).and_then(|bytes| self.parse_mark(source, (&key, &bytes), name));
                (name, key, record)
            });
            for (name, key, read) in verified {
                match read {
                    Ok(record) => marks.records.push(record),
                    Err(error) if error.is_outage() && !error.is_unreadable() => return Err(error),
                    Err(error) => {
                        marks.faults.push(MarkFault::Unreadable { key, snapshot: name.0, kind: name.1, error });
                    }
                }
            }
        }
        marks.find_holes(source);
        Ok(marks)
    }

    pub(super) fn parse_mark(
        &self,
        source: &SourceName,
        (key, bytes): (&Key, &Bytes),
        name: MarkName,
    ) -> Result<Record<Mark>, RepoError> {
        let record = self.parse_record::<Mark>((key, bytes), ObjectType::Mark, &[Role::Reader, Role::Keeper])?;
        let says = (record.facts.snapshot, record.facts.kind, record.object);
        if name != says || record.facts.source != *source {
            return Err(RepoError::misplaced(key, "it marks another snapshot than its name says"));
        }
        Ok(record)
    }

    /// Where every mark on a source's snapshots is, and every one that is noticed and not there yet.
    pub async fn mark_names(&self, source: &SourceName) -> Result<MarkNames, RepoError> {
        let mut names = MarkNames::default();
        let prefix = keys::mark_prefix(source);
        // Side by side: what is noticed is known up to the highest notice that was seen, whenever the marks were listed.
        let (noticed, marks) = futures::join!(self.add_noticed(source, 0, &mut names), self.list(&prefix));
        noticed?;
        for entry in marks? {
            names.at.insert(entry.key.clone(), entry.key);
        }
        Ok(names)
    }

    /// The same from what is known: only what was noticed since is asked for. `None` when the notice up to which it is
    /// known is not there, as in another copy of the repository that went on by itself: everything has to be
    /// looked at.
    pub async fn mark_names_since(
        &self,
        source: &SourceName,
        known: &KnownMarks,
    ) -> Result<Option<MarkNames>, RepoError> {
        let mut names = MarkNames::default();
        self.add_noticed(source, known.height, &mut names).await?;
        let height = |mark| Some(keys::parse_notice(source, names.at.get(mark)?)?.0);
        if !known.marks.iter().any(|mark| height(mark) == Some(known.height)) {
            return Ok(None);
        }
        names.at.extend(known.marks.iter().map(|key| (key.clone(), key.clone())));
        Ok(Some(names))
    }

    /// Where the newest of the marks are that were noticed from a height on.
    pub async fn mark_names_from(&self, source: &SourceName, from: u64, most: usize) -> Result<MarkNames, RepoError> {
        let mut names = MarkNames::default();
        self.add_noticed(source, from, &mut names).await?;
        let mut newest: Vec<(Key, Key)> = names.at.drain().collect();
        // Notices count down.
        newest.sort_unstable_by(|(_, a), (_, b)| a.cmp(b));
        names.at.extend(newest.into_iter().take(most));
        Ok(names)
    }

    /// Every notice of a source, by the mark it is of.
    pub async fn notices(&self, source: &SourceName) -> Result<HashMap<Key, Vec<Key>>, RepoError> {
        let mut notices: HashMap<Key, Vec<Key>> = HashMap::new();
        for entry in self.list(&keys::notice_prefix(source)).await? {
            if let Some(mark) = keys::noticed(&entry.key) {
                notices.entry(mark).or_default().push(entry.key);
            }
        }
        Ok(notices)
    }

    /// Adds what was noticed, the newest first, down to a height. Of a mark's notices the lowest is kept.
    async fn add_noticed(&self, source: &SourceName, from: u64, names: &mut MarkNames) -> Result<(), RepoError> {
        let mut after = None;
        loop {
            let page = self.list_page(&keys::notice_prefix(source), after.as_ref(), super::PAGE).await?;
            for Entry { key, .. } in page.entries {
                let Some((height, (snapshot, kind, id))) = keys::parse_notice(source, &key) else { continue };
                if height < from {
                    return Ok(());
                }
                names.height = names.height.max(Some(height));
                names.at.insert(keys::mark(source, &snapshot, kind, &id), key);
            }
            after = page.next;
            if after.is_none() || names.at.len() >= super::LISTED_MAX {
                return Ok(());
            }
        }
    }

    /// Puts a mark: its notice first, then the mark itself.
    pub async fn put_mark(&self, mark: Mark, chain: Chain, new: Signing<'_>) -> Result<(), RepoError> {
        let name = (mark.snapshot, mark.kind, new.id);
        let key = keys::mark(&mark.source, &mark.snapshot, mark.kind, &new.id);
        let bytes = self.sign(ObjectType::Mark, facts::encode(&mark), chain, new);
        self.give_notice(&mark.source, name, &bytes).await?;
        self.put_fresh(&key, bytes).await
    }

    async fn give_notice(&self, source: &SourceName, name: MarkName, bytes: &Bytes) -> Result<(), RepoError> {
        let mut height = self.highest_notice(source).await?.map_or(0, |highest| highest.saturating_add(1));
        for _ in 0..NOTICES_MAX {
            let key = keys::notice(source, height, name);
            self.put_fresh(&key, bytes.clone()).await?;
            match self.highest_notice(source).await? {
                Some(highest) if highest > height => height = highest.saturating_add(1),
                _ => return Ok(()),
            }
        }
        Err(RepoError::LostRace { key: keys::notice(source, height, name).to_string() })
    }

    async fn highest_notice(&self, source: &SourceName) -> Result<Option<u64>, RepoError> {
        let mut after = None;
        loop {
            let page = self.list_page(&keys::notice_prefix(source), after.as_ref(), TOP).await?;
            let highest = page.entries.iter().find_map(|entry| keys::parse_notice(source, &entry.key));
            after = page.next;
            if highest.is_some() || after.is_none() {
                return Ok(highest.map(|(height, _)| height));
            }
        }
    }
}

/// Fewer signatures than this are not worth another thread.
const LANE_MIN: usize = 32;

/// Works on all of them, over the cores, and keeps their order. Signatures are most of the time of a list.
pub(super) fn side_by_side<T: Send, R: Send>(items: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let lanes = cores.min(items.len() / LANE_MIN).max(1);
    if lanes == 1 {
        return items.into_iter().map(work).collect();
    }
    let per_lane = items.len().div_ceil(lanes);
    let mut items = items.into_iter();
    std::thread::scope(|scope| {
        let work = &work;
        let lanes: Vec<_> = (0..lanes)
            .map(|_| {
                let share: Vec<T> = items.by_ref().take(per_lane).collect();
                scope.spawn(move || share.into_iter().map(work).collect::<Vec<R>>())
            })
            .collect();
        lanes.into_iter().flat_map(|lane| lane.join().expect("a panic here is the caller's too")).collect()
    })
}
