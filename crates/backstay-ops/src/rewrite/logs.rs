//! Logs sealed again: what lies in slots and roll-ups of before comes to lie in roll-ups of a later generation.
//!
//! No slot is put and nothing is deleted: the next prune compares and lets go what the new ones stand for. Each is read
//! back and compared with what it was made of before the next is made. A stop leaves whole roll-ups, which the next run
//! counts among what is there.

use super::front_opens;
use crate::catalog::Vault;
use crate::check::Problem;
use crate::log::{self, IMAGES_MAX, Opens, RECORDS_MAX};
use crate::retain::logs::{listed, name_in, named, walk_to_its_end};
use crate::retain::turn::Turn;
use crate::{Event, OpsError};
use backstay_format::facts::Role;
use backstay_model::prune::logs::{Anchor, Logs, RollUp, Rolled, Stream};
use backstay_model::prune::reseal::{Again, Before};
use backstay_model::{ByteLen, Generation, Kind, Kinded, Sequence, SourceName, StreamId, Verdict};
use backstay_store::keys::LogName;
use backstay_store::repo::{LogObject, LogSigning, RepoError};
use backstay_store::seal::{Sealer, Unsealer};
use futures::stream::{self, StreamExt};
use std::collections::{BTreeMap, BTreeSet};

/// Log objects fetched at once.
const AHEAD: usize = 8;
/// How often is looked anew for what a follower put meanwhile that had not heard of the new master.
const ROUNDS: usize = 4;

#[derive(Debug, Clone, serde::Serialize)]
pub struct LogsReport {
    /// Partial when a master of before opens commits that nothing can take the place of yet.
    pub verdict: Verdict,
    /// Streams something of which was sealed again.
    pub streams: usize,
    /// Log objects that roll-ups of this run take the place of, and these roll-ups.
    pub objects: u64,
    pub roll_ups: u64,
    pub bytes: ByteLen,
    /// The end of streams that nobody has taken over yet: it stays until somebody has.
    pub left: u64,
    pub problems: Vec<Problem>,
}

/// The logs of a repository while they are sealed again.
pub(super) struct LogsRun<'a> {
    vault: &'a Vault,
    present: &'a Unsealer,
    sealer: Sealer,
    report: LogsReport,
    sealed: BTreeSet<StreamId>,
    failed: BTreeSet<LogName>,
    /// By source, how many of its objects stay as they are.
    left: BTreeMap<SourceName, u64>,
}

/// All logs there are: one stream may hold commits of several sources.
pub(super) async fn rewrite(
    vault: &Vault,
    present: &Unsealer,
    turn: &mut Turn<'_>,
) -> Result<(LogsReport, BTreeMap<SourceName, u64>), OpsError> {
    let verdict = Verdict::Pass;
    let (streams, objects, roll_ups, bytes, left) = (0, 0, 0, ByteLen::new(0), 0);
    let report = LogsReport { verdict, streams, objects, roll_ups, bytes, left, problems: Vec::new() };
    let sealer = vault.repo.sealer(vault.env.random.as_ref());
    let (sealed, failed) = (BTreeSet::new(), BTreeSet::new());
    let mut run = LogsRun { vault, present, sealer, report, sealed, failed, left: BTreeMap::new() };
    for _ in 0..ROUNDS {
        let before = run.report.roll_ups;
        run.round(turn).await?;
        if run.report.roll_ups == before {
            break;
        }
    }
    Ok(run.end())
}

impl LogsRun<'_> {
    fn end(mut self) -> (LogsReport, BTreeMap<SourceName, u64>) {
        self.report.streams = self.sealed.len();
        let problems = self.report.problems.iter().map(|problem| problem.verdict).reduce(Verdict::and);
        let left = if self.report.left > 0 { Verdict::Partial } else { Verdict::Pass };
        self.report.verdict = problems.unwrap_or(Verdict::Pass).and(left);
        (self.report, self.left)
    }

    async fn round(&mut self, turn: &mut Turn<'_>) -> Result<(), OpsError> {
        let mut logs = Logs { streams: listed(self.vault).await?, ..Logs::default() };
        for (id, stream) in &mut logs.streams {
            // One whose end cannot be read counts as going on.
            let _ = walk_to_its_end(self.vault, id, stream).await?;
        }
        if logs.streams.is_empty() {
            return Ok(());
        }
        logs.anchors = anchors(self.vault).await?;
        (self.report.left, self.left) = (0, BTreeMap::new());
        let ids: Vec<StreamId> = logs.streams.keys().copied().collect();
        for id in ids {
            let Some(stream) = logs.streams.get(&id) else { continue };
            let before = self.before(&id, stream).await?;
            let again = logs.again(&id, &before);
            self.stays(&id, &again.left).await?;
            if !again.is_empty() {
                self.stream(&mut logs, (&id, again), turn).await?;
            }
        }
        Ok(())
    }

    /// What a master of before opens. Masters only go forward, so of slots, and of what a writer rolled up, those
    /// come first.
    async fn before(&self, id: &StreamId, stream: &Stream) -> Result<Before, OpsError> {
        let slots: Vec<(u64, u64)> = stream.slots.iter().map(|(slot, len)| (*slot, *len)).collect();
        let slot_of = |(slot, len): (u64, u64)| (LogName::slot(*id, Sequence::new(slot)), len);
        let mut old: BTreeSet<u64> = BTreeSet::new();
        let count = self.first_of(&slots, slot_of).await?;
        // What closes a stream has no commits.
        let closes = slots.last().filter(|_| stream.onward.ends()).map(|(slot, _)| *slot);
        old.extend(slots.iter().take(count).map(|(slot, _)| *slot).filter(|slot| Some(*slot) != closes));
        let (first, later): (Vec<_>, Vec<_>) =
            stream.rolled.iter().map(|(name, rolled)| (*name, rolled.len)).partition(|(name, _)| name.generation == 0);
        let name_of = |(name, len): (Rolled, u64)| (named(id, name), len);
        let count = self.first_of(&first, name_of).await?;
        let mut rolled: BTreeSet<Rolled> = first.iter().take(count).map(|(name, _)| *name).collect();
        for (name, len) in later {
            if !self.is_present((named(id, name), len)).await? {
                rolled.insert(name);
            }
        }
        Ok(Before { slots: old, rolled })
    }

    /// How many of the first of these the present master does not open.
    async fn first_of<T: Copy>(&self, all: &[T], name: impl Fn(T) -> (LogName, u64)) -> Result<usize, OpsError> {
        let (mut low, mut high) = (0, all.len());
        while low < high {
            let middle = low + (high - low) / 2;
            let Some(one) = all.get(middle) else { break };
            if self.is_present(name(*one)).await? { high = middle } else { low = middle + 1 }
        }
        Ok(low)
    }

    /// What nobody can read is sealed to nothing that matters: it is named where it is read.
    async fn is_present(&self, (name, len): (LogName, u64)) -> Result<bool, OpsError> {
        match front_opens(self.vault, self.present, (&name.key(), len)).await {
            Err(error) if error.is_outage() && !error.is_unreadable() => Err(error.into()),
            opens => Ok(opens.unwrap_or(false)),
        }
    }

    /// Counts what stays, and says whose it is.
    async fn stays(&mut self, id: &StreamId, slots: &[u64]) -> Result<(), OpsError> {
        for slot in slots {
            let found = match self.vault.repo.log_front(id, Sequence::new(*slot)).await {
                Err(error) if error.is_outage() && !error.is_unreadable() => return Err(error.into()),
                found => found.ok().flatten(),
            };
            self.report.left += 1;
            let spans = found.map(|front| front.facts.spans).unwrap_or_default();
            let sources: BTreeSet<SourceName> = spans.into_iter().map(|span| span.source).collect();
            for source in sources {
                *self.left.entry(source).or_default() += 1;
            }
        }
        Ok(())
    }

    async fn stream(
        &mut self,
        logs: &mut Logs,
        (id, again): (&StreamId, Again),
        turn: &mut Turn<'_>,
    ) -> Result<(), OpsError> {
        let Some(stream) = logs.streams.get_mut(id) else { return Ok(()) };
        for name in again.rolled {
            let names = [named(id, name)];
            match self.vault.repo.log_object_of(&names[0]).await {
                Ok(Some(object)) => self.put(stream, &[object], turn).await?,
                Ok(None) => {}
                Err(error) => self.bad(names[0], error)?,
            }
        }
        for (first, last) in again.runs {
            self.run(stream, (id, first, last), turn).await?;
        }
        Ok(())
    }

    /// Slots that follow one another, as many in one as a follower would roll up.
    async fn run(
        &mut self,
        stream: &mut Stream,
        (id, first, last): (&StreamId, u64, u64),
        turn: &mut Turn<'_>,
    ) -> Result<(), OpsError> {
        let vault = self.vault;
        let slots = (first..=last).map(|slot| LogName::slot(*id, Sequence::new(slot)));
        let reads = slots.map(|name| async move { (name, vault.repo.log_object_of(&name).await) });
        let mut reads = stream::iter(reads).buffered(AHEAD);
        let mut batch = Batch::default();
        while let Some((name, found)) = reads.next().await {
            let read = match found {
                Ok(Some(object)) => object.raw().map(|raw| Some((object, raw))),
                Ok(None) => Ok(None),
                Err(error) => Err(error),
            };
            if !matches!(&read, Ok(Some((_, raw))) if batch.fits(*raw)) {
                self.put(stream, &batch.take(), turn).await?;
            }
            match read {
                Ok(Some((object, raw))) => batch.add(object, raw),
                Ok(None) => {}
                Err(error) => self.bad(name, error)?,
            }
        }
        self.put(stream, &batch.take(), turn).await
    }

    /// One roll-up: made, durable, read back and compared.
    async fn put(&mut self, stream: &mut Stream, parts: &[LogObject], turn: &mut Turn<'_>) -> Result<(), OpsError> {
        let (Some(first), Some(last)) = (parts.first(), parts.last()) else { return Ok(()) };
        let vault = self.vault;
        vault.env.cancel.check()?;
        turn.check().await?;
        let names: Vec<LogName> = parts.iter().map(|part| part.front.name).collect();
        let next = stream.next_of(first.front.name.first.get(), last.front.name.last.get());
        let generation = Generation::new(next.generation);
        let with =
            LogSigning { signer: vault.signer(Role::Keeper)?, sealer: &self.sealer, random: vault.env.random.as_ref() };
        let parts: Vec<&LogObject> = parts.iter().collect();
        let unsealer = vault.unsealer()?;
        let made = crate::env::blocking(|| log::roll(&vault.repo, (&parts, generation), Opens::Any(unsealer), with));
        let (name, bytes) = match made {
            Ok(made) => made,
            Err(OpsError::Repo(error)) => return self.bad(names[0], error),
            Err(error) => return Err(error),
        };
        if vault.repo.is_outdated().await? {
            return Err(OpsError::KeysChanged);
        }
        let len = bytes.len() as u64;
        vault.repo.put_roll_up(&name, bytes).await?;
        // Once it is there the ones before it go: so it is what the store gives back that counts.
        match log::is_of(vault, &name, &names).await {
            Ok(true) => {}
            Err(error) if error.kind() != Kind::Corrupt => return Err(error),
            _ => {
                let what = "the store does not give it back as it was put";
                return self.bad(name, RepoError::misplaced(&name.key(), what));
            }
        }
        stream.rolled.insert(name_in(&name), RollUp { len, stored: turn.now() });
        self.sealed.insert(name.stream);
        self.report.objects += names.len() as u64;
        self.report.roll_ups += 1;
        self.report.bytes = ByteLen::new(self.report.bytes.get() + len);
        vault.env.tell(Event::Advanced { bytes: len });
        Ok(())
    }

    /// One object that cannot be read keeps none of the others.
    fn bad(&mut self, name: LogName, error: RepoError) -> Result<(), OpsError> {
        if !super::is_of_the_snapshot(&error) {
            return Err(error.into());
        }
        if self.failed.insert(name) {
            self.report.problems.push(Problem::of(name.key().to_string(), &error, Vec::new()));
        }
        Ok(())
    }
}

/// Slots that follow one another, and the raw bytes of their images and records.
#[derive(Default)]
struct Batch {
    parts: Vec<LogObject>,
    images: u64,
    records: u64,
}

impl Batch {
    fn fits(&self, (images, records): (u64, u64)) -> bool {
        self.parts.is_empty() || self.images + images <= IMAGES_MAX && self.records + records <= RECORDS_MAX
    }

    fn add(&mut self, part: LogObject, (images, records): (u64, u64)) {
        self.parts.push(part);
        (self.images, self.records) = (self.images + images, self.records + records);
    }

    fn take(&mut self) -> Vec<LogObject> {
        std::mem::take(self).parts
    }
}

/// Where snapshots lead into logs.
async fn anchors(vault: &Vault) -> Result<Vec<Anchor>, OpsError> {
    let mut anchors = Vec::new();
    for source in vault.repo.sources().await? {
        let catalog = vault.catalog(&source).await?;
        for front in catalog.fronts.values() {
            let Some(following) = &front.facts.following else { continue };
            anchors.push(Anchor {
                source: source.clone(),
                branch: front.facts.branch,
                number: front.name.sequence,
                at: front.facts.taken,
                stream: following.stream,
                slot: following.sequence,
                // Nothing is let go by what is found here.
                counts: true,
            });
        }
    }
    Ok(anchors)
}
