//! Snapshots that a follower makes of the log, one an hour: so that a restore begins near the wanted time, and hours
//! stay when the commits between them go.
//!
//! Made of what went through the last level of roll-ups, with the data key this run has in memory; no page is read,
//! neither from the source nor from the repository. Owns what was written since the newest snapshot: the last image of
//! each page, in a file without a name, each commit compared with the digest it was captured under, unless the images
//! were kept where that digest was made ([`Lasts`]). Where that is not known (this run began behind the snapshot, roll-ups
//! were given up) none is made: what a run before wrote is taken up from the repository, where this host may read it.
//! Worth less than the log: what cannot be made is not missed.

use super::aside;
use super::lasts::Lasts;
use super::memory::Standing;
use super::rolling::Whole;
use super::{FollowRequest, Follower, Halves, Ticked};
use crate::OpsError;
use crate::backup::{self, BackupReport, FromLog, Written};
use crate::catalog::Vault;
use crate::disk::At;
use crate::env::blocking;
use crate::fingerprints::FingerprintFile;
use crate::log::{self, Applying, Commits};
use backstay_format::FingerprintKey;
use backstay_format::facts::{After, Following, Made};
use backstay_format::log::Record;
use backstay_model::{BranchNo, Digest, Moment, ObjectId, PageSize, Sequence, SourceName, StreamId, Tx, UnitSize};
use backstay_store::repo::{LogObject, ManifestFront};
use backstay_store::seal::{Sealer, Unsealer};
use blake3::Hash;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Bytes of pages after which one is made before its time; more than that is not taken up from the repository.
const BYTES_MAX: u64 = 256 << 20;
/// Between two attempts.
const PAUSE: Duration = Duration::from_secs(5 * 60);
const WHAT: &str = "the pages of the hour";
/// How many are made at once, over all sources: each has a pack in memory.
static AT_ONCE: Semaphore = Semaphore::const_new(4);

/// A state of a log, and where the log goes on behind it.
#[derive(Clone)]
pub struct Place {
    pub began: ObjectId,
    pub branch: BranchNo,
    pub key: FingerprintKey,
    pub stream: StreamId,
    /// The next slot, and what the next span comes after.
    pub slot: Sequence,
    pub after: After,
    pub tx: Tx,
    pub at: Moment,
    pub chain: Digest,
}

/// The last images of pages, and how long the database was.
struct Pages {
    folder: PathBuf,
    file: Option<File>,
    /// Where each lies, and what it was when its commit was compared.
    at: BTreeMap<u32, (u64, Hash)>,
    size: Option<PageSize>,
    count: u32,
    fewest: u32,
}

impl Pages {
    fn in_folder(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), file: None, at: BTreeMap::new(), size: None, count: 0, fewest: u32::MAX }
    }

    fn bytes(&self) -> u64 {
        self.at.len() as u64 * self.size.map_or(0, PageSize::bytes)
    }

    fn put(&mut self, size: PageSize, page: u32, bytes: &[u8]) -> Result<(), OpsError> {
        if *self.size.get_or_insert(size) != size {
            return Err(OpsError::Unsound { problem: "the pages of a log are of one size".into() });
        }
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(FingerprintFile::nameless(&self.folder, "hour")?),
        };
        let next = self.at.len() as u64;
        let entry = self.at.entry(page).or_insert((next, Hash::from([0; 32])));
        entry.1 = blake3::hash(bytes);
        let at = entry.0;
        Ok(file.write_all_at(bytes, at * size.bytes()).at("write", Path::new(WHAT))?)
    }

    /// A commit that is whole.
    fn committed(&mut self, count: u32) {
        (self.count, self.fewest) = (count, self.fewest.min(count));
    }

    /// Adds what was written later.
    fn absorb(&mut self, later: &Self) -> Result<(), OpsError> {
        let Some(size) = later.size else { return Ok(()) };
        let mut bytes = vec![0; size.get() as usize];
        for page in later.pages() {
            later.read(page, &mut bytes).at("read", Path::new(WHAT))?;
            self.put(size, page, &bytes)?;
        }
        if later.fewest <= later.count {
            self.committed(later.fewest);
            self.committed(later.count);
        }
        Ok(())
    }
}

impl Written for Pages {
    fn pages(&self) -> Vec<u32> {
        self.at.keys().copied().collect()
    }

    fn read(&self, page: u32, into: &mut [u8]) -> io::Result<()> {
        let (at, hash) = self.at.get(&page).ok_or(io::ErrorKind::NotFound)?;
        self.file.as_ref().ok_or(io::ErrorKind::NotFound)?.read_exact_at(into, at * into.len() as u64)?;
        // Whoever reads it computes the root from it, and would believe anything.
        if blake3::hash(into) == *hash { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
    }
}

/// What was written since a snapshot, and where that has come to.
struct Since {
    place: Place,
    applying: Applying,
    pages: Pages,
    /// What was written before this run, and is to be taken up from the repository: from a snapshot to a state.
    before: Option<(ManifestFront, Tx, Digest)>,
}

impl Since {
    fn at(place: Place, folder: &Path) -> Self {
        let applying = Applying::after(&place.key, place.chain, place.tx);
        Self { place, applying, pages: Pages::in_folder(folder), before: None }
    }

    /// Goes on with an object.
    fn take(&mut self, source: &SourceName, whole: &Whole, sealer: &Sealer) -> Result<(), OpsError> {
        let front = &whole.object.front;
        let spans = &front.facts.spans;
        // In a stream of several there may be nothing of it; what there is comes after what was before.
        let first = spans.iter().find(|span| span.source == *source);
        if first.is_some_and(|first| first.after != self.place.after) {
            return Err(OpsError::LogHole { stream: front.name.stream, sequence: front.name.first });
        }
        match whole.lasts.as_ref().filter(|lasts| lasts.follow(self.applying.tx, &self.applying.complete)) {
            Some(lasts) if !self.applying.is_amid() => self.put(lasts)?,
            _ => self.open(source, &whole.object, sealer)?,
        }
        if let Some(last) = spans.iter().rposition(|span| span.source == *source) {
            self.place.after = front.behind(last);
        }
        self.place.stream = front.name.stream;
        self.place.slot = front.name.last.next().ok_or(backstay_model::backup::Exhausted)?;
        Ok(())
    }

    /// What was kept of an object when it was made.
    fn put(&mut self, lasts: &Lasts) -> Result<(), OpsError> {
        let pages = &mut self.pages;
        lasts.each(|page, image| pages.put(lasts.size, page, image))?;
        pages.committed(lasts.fewest);
        pages.committed(lasts.count);
        (self.place.tx, self.place.at, self.place.chain) = (lasts.tx, lasts.at, lasts.chain);
        self.applying = Applying::after(&self.place.key, lasts.chain, lasts.tx);
        Ok(())
    }

    /// What is in an object, every commit of which is compared with its digest.
    fn open(&mut self, source: &SourceName, object: &LogObject, sealer: &Sealer) -> Result<(), OpsError> {
        let spans = &object.front.facts.spans;
        let is_ours = |record: &Record| spans.get(usize::from(record.span)).is_some_and(|span| span.source == *source);
        let mut commits = Commits::default();
        let all = object.open_own::<OpsError>(sealer, |records, at, _, bytes| {
            if records.get(at).is_some_and(is_ours) {
                // Once, and for our own: others may have most of what is in it, in pages of another size.
                if commits.images.is_empty() {
                    let own = records.iter().filter(|record| is_ours(record));
                    commits.images.reserve_exact(own.map(|r| r.pages.len() * r.page_size.get() as usize).sum());
                }
                commits.images.extend_from_slice(bytes);
            }
            Ok(())
        })?;
        commits.records.extend(all.into_iter().filter(is_ours));
        self.apply(&commits)
    }

    fn take_all(
        mut self,
        source: &SourceName,
        objects: impl IntoIterator<Item = impl Into<Whole>>,
        sealer: &Sealer,
    ) -> Option<Self> {
        for object in objects {
            self.take(source, &object.into(), sealer).ok()?;
        }
        // None can be made, and there is more and more: the log has it all.
        (self.pages.bytes() <= BYTES_MAX * 2).then_some(self)
    }

    fn apply(&mut self, commits: &Commits) -> Result<(), OpsError> {
        let (pages, mut left) = (&mut self.pages, HashMap::<u32, u32>::new());
        commits.records.iter().flat_map(|record| &record.pages).for_each(|page| *left.entry(*page).or_default() += 1);
        self.applying.object(commits, &mut |record, page, bytes| {
            let left = left.entry(page).or_default();
            *left = left.saturating_sub(1);
            // Only what a page is in the end counts: a busy one is written by each commit.
            if *left > 0 { Ok(()) } else { pages.put(record.page_size, page, bytes) }
        })?;
        for record in commits.records.iter().filter(|record| record.part.completes()) {
            self.pages.committed(record.page_count);
            (self.place.tx, self.place.at, self.place.chain) = (record.tx, record.time, record.digest);
        }
        Ok(())
    }

    fn is_whole(&self) -> bool {
        self.pages.size.is_some() && !self.applying.is_amid()
    }

    /// Takes up what was written before this run began.
    async fn take_up(&mut self, vault: &Vault, unsealer: &Unsealer) -> Result<(), OpsError> {
        let Some((front, tx, chain)) = self.before.clone() else { return Ok(()) };
        let following = front.facts.following.as_ref().ok_or(OpsError::Cancelled)?;
        let place = Place { tx: following.tx, chain: front.facts.chain(), ..self.place.clone() };
        let mut before = Self::at(place, &self.pages.folder);
        for link in log::reach(&vault.repo, &front, following).await?.links {
            if link.span.first > tx {
                break;
            }
            vault.env.cancel.check()?;
            let mut commits = link.commits(&vault.repo, unsealer, Some(tx)).await?;
            commits.records.retain(|record| record.tx <= tx);
            before.apply(&commits)?;
            if before.pages.bytes() > BYTES_MAX {
                return Err(OpsError::Unsound { problem: "the log before this run is too long".into() });
            }
        }
        if (before.applying.tx, before.applying.complete) != (tx, chain) {
            return Err(OpsError::Unsound {
                problem: "the log before this run does not lead to where it began".into(),
            });
        }
        before.pages.absorb(&self.pages)?;
        (self.pages, self.before) = (before.pages, None);
        Ok(())
    }

    fn becomes(&self, base: ObjectId) -> Option<FromLog> {
        let Place { began, branch, stream, slot, after, tx, at, chain, .. } = self.place.clone();
        let made = Some(Made { began, after, chain });
        let following = Following { stream, sequence: slot, tx, resync: None, made };
        let (page_size, page_count, fewest) = (self.pages.size?, self.pages.count, self.pages.fewest);
        Some(FromLog { base, branch, at, page_size, page_count, fewest, following })
    }
}

/// What is known with some objects more.
pub struct Taken(Option<Since>);

type Done = (Since, Result<Option<BackupReport>, OpsError>);

pub struct Hours {
    source: SourceName,
    folder: PathBuf,
    every: Option<Duration>,
    due: Duration,
    /// After one that failed, the next attempt.
    not_before: Duration,
    /// The newest snapshot.
    base: ObjectId,
    /// Nothing while it is not known what was written.
    since: Option<Since>,
    making: JoinSet<Done>,
}

impl Hours {
    /// From the snapshot that following began with.
    pub fn begin(vault: &Vault, request: &FollowRequest, place: Place) -> Result<Self, OpsError> {
        let folder = vault.state.source_dir(&request.source)?;
        let (every, base) = (request.limits.hours, place.began);
        let since = every.map(|_| Since::at(place, &folder));
        let due = vault.env.clock.uptime() + every.unwrap_or_default();
        let (source, not_before, making) = (request.source.clone(), Duration::ZERO, JoinSet::new());
        Ok(Self { source, folder, every, due, not_before, base, since, making })
    }

    /// From where the run before stopped: `newest` is the newest snapshot, `place` where this run stands.
    pub fn resume(
        vault: &Vault,
        request: &FollowRequest,
        (newest, place): (&ManifestFront, Place),
    ) -> Result<Self, OpsError> {
        let (tx, chain) = (place.tx, place.chain);
        let mut hours = Self { base: newest.name.id, ..Self::begin(vault, request, place)? };
        let Some(following) = newest.facts.following.as_ref() else { return Ok(Self { since: None, ..hours }) };
        if (following.tx, newest.facts.chain()) != (tx, chain) {
            // Whoever cannot read has no way to know what was written in between.
            hours.since = hours.since.filter(|_| vault.unsealer.is_some());
            hours.since.iter_mut().for_each(|since| since.before = Some((newest.clone(), tx, chain)));
        }
        let passed = vault.env.clock.now().millis_since(newest.facts.taken).max(0).cast_unsigned();
        hours.due = hours.due.saturating_sub(Duration::from_millis(passed).min(hours.every.unwrap_or_default()));
        Ok(hours)
    }

    /// What takes objects that went through all roll-ups, for whoever has time for it: [`Hours::took`] is to follow. Nothing
    /// where it is not known what was written before them. What cannot be taken is the end of it for this run.
    pub fn taking(
        &mut self,
        objects: impl IntoIterator<Item = impl Into<Whole>> + Send + 'static,
        sealer: Arc<Sealer>,
    ) -> Option<impl FnOnce() -> Taken + Send + 'static> {
        let (since, source) = (self.since.take()?, self.source.clone());
        Some(move || {
            // Whoever commits or is captured just now has more need of a processor.
            aside::yields();
            Taken(since.take_all(&source, objects, &sealer))
        })
    }

    pub fn took(&mut self, Taken(since): Taken) {
        self.since = since;
    }

    /// Whether one can be made: it is known, or can be found out, what was written since the newest snapshot. Of pages
    /// smaller than what is stored at once none is.
    pub fn can_be_made(&self) -> bool {
        let is_stored = |size: PageSize| UnitSize::try_from(size.get()).is_ok();
        let can = |since: &Since| since.pages.size.is_none_or(is_stored);
        self.since.as_ref().map_or(self.is_making(), can)
    }

    /// Whether one is being made: the source's lock is needed as long.
    pub fn is_making(&self) -> bool {
        !self.making.is_empty()
    }

    /// Begins to make one, if it is due, or if `all` that there is shall be in one.
    pub fn next(&mut self, vault: &Vault, request: &FollowRequest, all: bool) {
        let now = vault.env.clock.uptime();
        let is_much = |since: &Since| since.pages.bytes() >= BYTES_MAX;
        let due = |since: &Since| all || now >= self.not_before && (now >= self.due || is_much(since));
        if self.is_making() || !self.since.as_ref().is_some_and(|since| since.is_whole() && due(since)) {
            return;
        }
        let Some(mut since) = self.since.take() else { return };
        self.since = Some(Since::at(since.place.clone(), &self.folder));
        let (vault, request, base) = (again(vault), request.clone(), self.base);
        self.making.spawn(async move {
            let done = make(&vault, &request, (&mut since, base)).await;
            (since, done)
        });
    }

    /// What became of one that was being made, once it is done.
    pub fn done(&mut self, now: Duration) -> Option<BackupReport> {
        match self.making.try_join_next() {
            Some(Ok(done)) => self.came(done, now),
            Some(Err(_)) => {
                self.since = None;
                None
            }
            None => None,
        }
    }

    /// Waits for it.
    pub async fn finish(&mut self, now: Duration) -> Option<BackupReport> {
        let joined = self.making.join_next().await?;
        joined.ok().and_then(|done| self.came(done, now))
    }

    /// Waits for what is being made: a manifest that is on its way must not meet another with its number.
    pub async fn stop(&mut self) {
        while self.making.join_next().await.is_some() {}
    }

    fn came(&mut self, (mut made, done): Done, now: Duration) -> Option<BackupReport> {
        match done {
            Ok(Some(report)) => {
                self.base = report.snapshot;
                self.due = now + self.every.unwrap_or_default();
                Some(report)
            }
            // Nothing came of it: what it was to have belongs to the next one.
            Err(error) if super::is_passing(&error) => {
                self.not_before = now + PAUSE;
                self.since = self.since.take().and_then(|later| {
                    made.pages.absorb(&later.pages).ok()?;
                    Some(Since { pages: made.pages, before: made.before, ..later })
                });
                None
            }
            _ => {
                self.since = None;
                None
            }
        }
    }
}

/// The same repository, for a task of its own.
pub(super) fn again(vault: &Vault) -> Vault {
    let Vault { repo, state, signer, unsealer, env } = vault;
    let unsealer = unsealer.as_ref().map(Unsealer::again);
    Vault { repo: repo.clone(), state: state.clone(), signer: signer.clone(), unsealer, env: env.clone() }
}

async fn make(
    vault: &Vault,
    request: &FollowRequest,
    (since, base): (&mut Since, ObjectId),
) -> Result<Option<BackupReport>, OpsError> {
    let _turn = AT_ONCE.acquire().await;
    if let Some(unsealer) = &vault.unsealer {
        since.take_up(vault, unsealer).await?;
    }
    let Some(of) = since.becomes(base).filter(|_| since.before.is_none()) else { return Ok(None) };
    backup::make_of_log(vault, &request.backup(), (&of, &since.pages)).await
}

/// Where a run stands behind a state of its own log.
pub fn place_of(
    (began, branch): (ObjectId, BranchNo),
    key: FingerprintKey,
    (stream, slot, after): (StreamId, Sequence, After),
    standing: &Standing,
) -> Place {
    let Standing { tx, time, chain, .. } = standing.clone();
    Place { began, branch, key, stream, slot, after, tx, at: time, chain }
}

impl Follower<'_> {
    /// Begins a snapshot of what went through all roll-ups, if one is due.
    pub(super) async fn hour(&mut self, ticked: &mut Ticked) -> Result<(), OpsError> {
        let now = self.vault.env.clock.uptime();
        if self.halves.hours.is_making() {
            blocking(|| self.halves.hours.done(now));
        }
        let Halves { shipper, hours, .. } = &mut self.halves;
        let (whole, sealer) = match shipper.ride() {
            Some(ride) => {
                let whole = ride.carrier().whole_of(&self.request.source);
                (whole.into_iter().map(Whole::from).collect(), ride.carrier().sealer())
            }
            None => (shipper.whole(), shipper.sealer()),
        };
        let taking = if whole.is_empty() { None } else { hours.taking(whole, sealer) };
        if let Some(taking) = taking {
            let (taken, looked) = self.beside(taking, ticked).await;
            self.halves.hours.took(taken);
            looked?;
        }
        self.next_hour(false);
        Ok(())
    }

    fn next_hour(&mut self, all: bool) {
        if self.lock.is_some() {
            self.halves.hours.next(self.vault, &self.request, all);
        }
    }

    /// Waits for a snapshot that is being made of the log. Gives its name. The log goes on being read: an application that
    /// waits with a checkpoint must not wait as long.
    pub async fn hour_done(&mut self) -> Option<ObjectId> {
        loop {
            let now = self.vault.env.clock.uptime();
            tokio::select! {
                biased;
                done = self.halves.hours.finish(now) => return done.map(|report| report.snapshot),
                () = tokio::time::sleep(self.request.limits.look) => {}
            }
            // What cannot be read now is with the next run.
            let _ = blocking(|| self.halves.look());
        }
    }

    /// Makes one of everything that is durable: this run ends, and the next one does not know what it wrote.
    pub async fn last_hour(&mut self) -> Option<ObjectId> {
        let before = self.hour_done().await;
        if self.has_news() || !self.request.limits.stays {
            return before;
        }
        let Halves { shipper, hours, .. } = &mut self.halves;
        let rest = shipper.whole().into_iter().chain(shipper.rest());
        if let Some(taking) = hours.taking(rest, shipper.sealer()) {
            let taken = blocking(taking);
            hours.took(taken);
        }
        self.next_hour(true);
        self.hour_done().await.or(before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_the_file_does_not_give_back_is_not_believed() {
        let folder = tempfile::tempdir().expect("a folder");
        let size = PageSize::try_from(4096).expect("a size");
        let mut pages = Pages::in_folder(folder.path());
        for (page, byte) in [(7, 1), (9, 2), (7, 3)] {
            pages.put(size, page, &[byte; 4096]).expect("put");
        }
        let mut read = [0; 4096];
        pages.read(7, &mut read).expect("the last image");
        assert_eq!(read, [3; 4096]);
        pages.file.as_ref().expect("a file").write_all_at(&[4], 5000).expect("another byte");
        assert_eq!(pages.read(9, &mut read).map_err(|error| error.kind()), Err(io::ErrorKind::InvalidData));
        pages.read(7, &mut read).expect("its neighbour is what it was");
        assert!(Pages::in_folder(folder.path()).absorb(&pages).is_err(), "nor is it taken over");
    }
}
