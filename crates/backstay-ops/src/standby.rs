//! A copy that stays seconds behind its source, from the repository alone, and can be promoted.
//!
//! Owns one copy, which others read. The log is read slot by slot, each slot asked for by name; what it says becomes
//! one transaction of the copy after another, so readers see whole states only. Where the log leads no further (a
//! recorded gap, a new branch, what cannot be read) the newest state is restored beside the copy and becomes one
//! transaction as well. Whoever writes to the copy is told "locked" while this runs, and noticed otherwise: nothing
//! of theirs is overwritten.
//!
//! A crash at any point leaves the copy in one of the states there were; the next start knows which one by the sum of
//! its pages, see [`memory`].
//!
//! Locks: the copy's own, as a writer, see `backstay_sqlite::Standby`.

pub mod drive;
mod memory;
mod objects;
mod place;
mod promote;

pub use promote::{Promoted, promote};

use crate::OpsError;
use crate::catalog::Vault;
use crate::disk::At;
use crate::env::blocking;
use crate::log::{Applying, Commits, Link};
use crate::prove::with_causes;
use crate::restore::{self, Destination, Planned, RestorePlan, RestoreRequest, Whole};
use backstay_format::facts::FingerprintFacts;
use backstay_format::sqlite::DatabaseHeader;
use backstay_format::{Corrupt, FingerprintKey};
use backstay_model::catalog::{Quality, Target};
use backstay_model::{BranchNo, ByteLen, Digest, Kind, Kinded, Moment, ObjectId, SourceName, Tx, seams};
use backstay_sqlite::{Standby, Sum};
use backstay_store::keys::LogName;
use backstay_store::repo::LogObject;
use memory::{Memory, Spot};
use objects::Step;
use place::{Place, Says, Turn, turn};
use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Between two looks for a snapshot that no log leads to; of a source that is not followed, between any two.
const LOOK_AROUND: Duration = Duration::from_secs(60);
const LOOK_AROUND_UNFOLLOWED: Duration = Duration::from_secs(10);
/// Manifests that are looked at to find the newest one taken here.
const LOOK_BACK: usize = 8;

/// What a person asked for.
#[derive(Debug, Clone)]
pub struct StandbyRequest {
    pub source: SourceName,
    pub to: PathBuf,
    /// Asked of a restored state before it becomes the copy's.
    pub smoke: Vec<String>,
    pub busy: Duration,
}

/// How a copy came to its state.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Came {
    /// It was restored just now.
    Made,
    /// From where it was before.
    Continued,
    /// Over something that no log leads across.
    Jumped { reason: String },
}

/// What one step did.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Ticked {
    /// States that were gone through, and objects they came in.
    pub states: u64,
    pub objects: u64,
    pub jumped: Option<String>,
}

/// Where a copy stands.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Position {
    pub branch: BranchNo,
    pub snapshot: ObjectId,
    /// The number of its state, and when that was committed.
    pub tx: Option<Tx>,
    pub at: Moment,
    /// When the repository said last that there is nothing more.
    pub asked: Moment,
    /// Why nothing more comes of the log, while that is so.
    pub fault: Option<String>,
}

/// What is done when the log does not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lost {
    ForGood,
    Again,
}

/// A copy that follows its source.
pub struct Following<'v> {
    vault: &'v Vault,
    request: StandbyRequest,
    file: Standby,
    memory: Memory,
    came: Came,
    /// What was read on from the copy's state, and where; committed as soon as it is a state.
    applying: Applying,
    place: Option<Place>,
    fault: Option<String>,
    /// When it is looked for snapshots that the log does not lead to.
    look_due: Duration,
    /// A newer snapshot, seen at the last look.
    newer: Option<ObjectId>,
    /// Roll-ups that said something else than what they stand for: it is gone on without them.
    without: BTreeSet<LogName>,
    /// The one that was gone through last.
    through: Option<LogName>,
}

impl<'v> Following<'v> {
    /// Goes on with the copy that is there, or restores one.
    pub async fn start(vault: &'v Vault, mut request: StandbyRequest) -> Result<Self, OpsError> {
        request.to = std::path::absolute(&request.to).at("find", &request.to)?;
        let there = request.to.symlink_metadata().is_ok();
        let (file, memory, came) = match Memory::read(&request.to)?.filter(|_| there) {
            None if there => return Err(OpsError::TargetExists { path: request.to }),
            None => {
                let (file, memory) = make(vault, &request).await?;
                (file, memory, Came::Made)
            }
            Some(memory) => {
                if memory.repository != vault.repo.id() || memory.source != request.source {
                    let why = "it is one of another source or repository";
                    return Err(OpsError::NoStandby { path: Memory::path_of(&request.to), why });
                }
                let (file, memory) = blocking(|| open(&request.to, memory, request.busy))?;
                (file, memory, Came::Continued)
            }
        };
        let (applying, place) = begin(&memory.spot);
        // What was there before is older than what was just restored.
        let pause = if came == Came::Made { LOOK_AROUND_UNFOLLOWED } else { Duration::ZERO };
        let look_due = vault.env.clock.uptime() + pause;
        let (fault, newer, without, through) = (None, None, BTreeSet::new(), None);
        Ok(Self { vault, request, file, memory, came, applying, place, fault, look_due, newer, without, through })
    }

    pub fn came(&self) -> &Came {
        &self.came
    }

    pub fn position(&self) -> Position {
        let Memory { spot, asked, .. } = &self.memory;
        let (branch, snapshot, tx, at) = (spot.branch, spot.snapshot, spot.tx, spot.at);
        Position { branch, snapshot, tx, at, asked: *asked, fault: self.fault.clone() }
    }

    /// Brings the copy to the newest state there is. An error of the store leaves it where it is: the next step goes
    /// on from there.
    pub async fn tick(&mut self) -> Result<Ticked, OpsError> {
        blocking(|| self.file.hold())?;
        let mut ticked = Ticked::default();
        let asking = self.vault.env.clock.now();
        if self.fault.is_none() {
            self.read_on(&mut ticked).await?;
        }
        let uptime = self.vault.env.clock.uptime();
        if uptime >= self.look_due {
            self.look_around(&mut ticked).await?;
            let pause = if self.place.is_none() { LOOK_AROUND_UNFOLLOWED } else { LOOK_AROUND };
            self.look_due = uptime + pause;
        }
        if self.fault.is_none() {
            self.memory.asked = asking;
        }
        Ok(ticked)
    }

    /// Lets go of the copy, which stays one: another run goes on with it.
    pub fn stop(self) -> Result<Position, OpsError> {
        let position = self.position();
        let Self { vault, request, file, memory, .. } = self;
        blocking(|| file.close())?;
        memory.write(vault.env.disk.as_ref(), &request.to)?;
        Ok(position)
    }

    /// Object after object, until nothing is there.
    async fn read_on(&mut self, ticked: &mut Ticked) -> Result<(), OpsError> {
        let mut step = Step::default();
        while let Some(place) = self.place {
            self.vault.env.cancel.check()?;
            let look = self.vault.env.clock.uptime() >= self.look_due;
            let found = objects::at(&self.vault.repo, &place, &mut step, (&self.without, look)).await;
            let why = match found {
                Ok(None) => break,
                Ok(Some(object)) => self.gone_through(place, &object, ticked)?,
                Err(error) if error.is_outage() => return Err(error.into()),
                Err(error) => Some(with_causes(&error)),
            };
            step.passed += 1;
            if let Some(why) = why
                && self.lose(why)? == Lost::ForGood
            {
                break;
            }
        }
        Ok(())
    }

    /// Goes through one object. Gives why it cannot be gone on behind it, if that is so.
    fn gone_through(
        &mut self,
        place: Place,
        object: &LogObject,
        ticked: &mut Ticked,
    ) -> Result<Option<String>, OpsError> {
        let rolled = Some(object.front.name).filter(LogName::is_rolled);
        let why = match self.take(place, object, ticked) {
            Err(error) if error.kind() == Kind::Corrupt => Some(with_causes(&error)),
            Err(error) => {
                self.undo()?;
                return Err(error);
            }
            Ok(why) => why,
        };
        // What follows a roll-up, and fits, speaks for it.
        if rolled.is_some() || why.is_none() {
            self.through = rolled;
        }
        Ok(why)
    }

    /// What one object says. Gives why nothing more can come behind it, if that is so.
    fn take(&mut self, place: Place, object: &LogObject, ticked: &mut Ticked) -> Result<Option<String>, OpsError> {
        match place.says(&self.memory.spot, &self.request.source, &object.front) {
            Says::Over(next) => {
                // Another run took over; perhaps with a snapshot.
                self.place = Some(Place::first_of(next));
                self.look_due = Duration::ZERO;
            }
            Says::Nothing => self.place = place.behind(&object.front),
            Says::Anew => return Ok(Some("following it began anew, with a snapshot".to_owned())),
            Says::Broken => return Ok(Some(format!("log object {} does not follow", place.sequence))),
            Says::Commits(span) => {
                let before = self.memory.spot.tx;
                blocking(|| self.apply(object, span, place))?;
                ticked.objects += 1;
                let states = |tx: Option<Tx>| tx.map_or(0, Tx::get);
                ticked.states += states(self.memory.spot.tx).saturating_sub(states(before));
            }
        }
        Ok(None)
    }

    /// Reads the commits of one object into the open transaction, and commits it where it ends with a whole one.
    fn apply(&mut self, object: &LogObject, span: usize, place: Place) -> Result<(), OpsError> {
        let rule = Corrupt::Rule { what: "a log object", rule: "its spans are those of its front" };
        let front = &object.front;
        let span = front.facts.spans.get(span).cloned().ok_or(rule)?;
        let link = Link { name: front.name, digest: front.digest, span };
        let until = Some(Tx::new(u64::MAX));
        let commits = link.open(object, self.vault.unsealer()?, until, Commits::default())?;
        if !link.is_whole(&commits.records) {
            return Err(Corrupt::Rule { what: "a log object", rule: "it has the commits its front names" }.into());
        }
        let commits = commits.behind(self.applying.tx);
        let (file, end) = (&mut self.file, commits.records.last().map_or(0, |record| record.page_count));
        // What a later commit of the object cuts off is not written; if it comes back, that commit has all of it.
        let mut put = |page, bytes: &[u8]| if page <= end { file.put(page, bytes) } else { Ok(()) };
        self.applying.object(&commits, &mut |_, page, bytes| Ok(put(page, bytes)?))?;
        self.place = place.behind(front);
        if self.applying.is_amid() {
            return Ok(());
        }
        let Some(last) = self.applying.last.as_ref() else { return Ok(()) };
        let spot = Spot {
            tx: Some(self.applying.tx),
            at: last.time,
            chain: self.applying.complete,
            place: self.place,
            ..self.memory.spot.clone()
        };
        let pages = last.page_count;
        self.commit(spot, pages)
    }

    fn commit(&mut self, spot: Spot, pages: u32) -> Result<(), OpsError> {
        self.file.finish(pages, spot.cookie_plus)?;
        self.memory.next = Some(spot.with_sum(self.file.sum_after()));
        self.memory.write(self.vault.env.disk.as_ref(), &self.request.to)?;
        let committed = self.file.commit();
        if self.file.sum() == self.file.sum_after()
            && let Some(spot) = self.memory.next.take()
        {
            self.memory.spot = spot;
        }
        Ok(committed?)
    }

    /// Nothing more comes of the log; unless it was a roll-up that led here: then it is gone on without that one.
    fn lose(&mut self, why: String) -> Result<Lost, OpsError> {
        let again = self.through.take().is_some_and(|name| self.without.insert(name));
        self.undo()?;
        if again {
            // The digest that it gave its last slot may be the lie.
            self.place = self.place.map(|place| Place { previous: None, ..place });
            return Ok(Lost::Again);
        }
        self.fault = Some(why);
        self.look_due = Duration::ZERO;
        Ok(Lost::ForGood)
    }

    /// Back to the copy's state.
    fn undo(&mut self) -> Result<(), OpsError> {
        blocking(|| self.file.undo())?;
        (self.applying, self.place) = begin(&self.memory.spot);
        Ok(())
    }

    /// Looks for a snapshot that the log does not lead to.
    async fn look_around(&mut self, ticked: &mut Ticked) -> Result<(), OpsError> {
        let (fronts, _) = self.vault.repo.newest_fronts(&self.request.source, LOOK_BACK).await?;
        let Some(newest) = fronts.into_iter().find(|front| !front.facts.imported) else { return Ok(()) };
        let waited = self.newer == Some(newest.name.id);
        match turn(&self.memory.spot, self.place.as_ref(), &newest, (self.fault.is_some(), waited)) {
            Turn::Stay => {}
            Turn::Wait => self.newer = Some(newest.name.id),
            Turn::Jump => {
                let reason = self.fault.clone().unwrap_or_else(|| "a newer snapshot is in no log".to_owned());
                self.jump(&reason).await?;
                ticked.jumped = Some(reason);
            }
        }
        Ok(())
    }

    /// The newest state, as one transaction.
    async fn jump(&mut self, reason: &str) -> Result<(), OpsError> {
        self.undo()?;
        let planned = plan(self.vault, &self.request, Destination::Live(self.request.to.clone())).await?;
        let whole = write_whole(self.vault, planned).await?;
        let spot = spot_of(&whole);
        blocking(|| {
            let file = Image::open(&whole.staged.main().path)?;
            let cookie = file.cookie()?;
            let cookie_plus = self.file.cookie()?.max(cookie).wrapping_add(1).wrapping_sub(cookie);
            file.each(self.vault, |page, bytes| Ok(self.file.put(page, bytes)?))?;
            self.commit(Spot { cookie_plus, ..spot }, file.pages)
        })?;
        (self.applying, self.place) = begin(&self.memory.spot);
        (self.fault, self.newer) = (None, None);
        self.came = Came::Jumped { reason: reason.to_owned() };
        Ok(())
    }
}

fn begin(spot: &Spot) -> (Applying, Option<Place>) {
    let tx = spot.tx.unwrap_or(Tx::new(0));
    (Applying::after(&key_of(&spot.fingerprint), spot.chain, tx), spot.place)
}

fn key_of(facts: &FingerprintFacts) -> FingerprintKey {
    FingerprintKey::new(facts.id, *facts.key.as_bytes())
}

/// Opens a copy and finds out which state it has.
fn open(copy: &Path, mut memory: Memory, busy: Duration) -> Result<(Standby, Memory), OpsError> {
    let file = Standby::open(copy, *memory.key.as_bytes(), busy)?;
    let Some(spot) = memory.found(file.sum()).cloned() else {
        return Err(backstay_sqlite::SqliteError::WrittenByOthers { path: copy.to_owned() }.into());
    };
    (memory.spot, memory.next) = (spot, None);
    Ok((file, memory))
}

async fn plan(vault: &Vault, request: &StandbyRequest, into: Destination) -> Result<Planned, OpsError> {
    let StandbyRequest { source, smoke, busy, .. } = request;
    let (source, smoke, busy) = (source.clone(), smoke.clone(), *busy);
    restore::plan(vault, RestoreRequest { source, target: Target::Latest, into, smoke, busy }).await
}

async fn write_whole(vault: &Vault, planned: Planned) -> Result<Whole<'_>, OpsError> {
    let whole = restore::write_whole(vault, planned).await?;
    vault.env.tell(crate::Event::Ended);
    if whole.snapshot.quality != Quality::Whole {
        let problem = "a byte-for-byte capture of a malformed database is no state of it".into();
        return Err(OpsError::Unsound { problem });
    }
    Ok(whole)
}

/// Restores a copy. What it is remembered by is durable before it has its name.
async fn make(vault: &Vault, request: &StandbyRequest) -> Result<(Standby, Memory), OpsError> {
    let planned = plan(vault, request, Destination::New(request.to.clone())).await?;
    let whole = write_whole(vault, planned).await?;
    let key: [u8; 32] = seams::fresh(vault.env.random.as_ref());
    let memory = blocking(|| {
        let image = Image::open(&whole.staged.main().path)?;
        let mut sum = Sum { pages: image.pages, ..Sum::EMPTY };
        image.each(vault, |page, bytes| {
            sum.turn(&key, page, bytes);
            Ok(())
        })?;
        let memory = Memory {
            repository: vault.repo.id(),
            source: request.source.clone(),
            key: Digest::from_bytes(key),
            spot: spot_of(&whole).with_sum(sum),
            next: None,
            asked: vault.env.clock.now(),
        };
        memory.write(vault.env.disk.as_ref(), &request.to)?;
        restore::into_new(vault, &whole.staged, &request.to)?;
        Ok::<_, OpsError>(memory)
    })?;
    blocking(|| open(&request.to, memory, request.busy))
}

/// The state that was restored, and where the log goes on from it.
fn spot_of(whole: &Whole<'_>) -> Spot {
    let Whole { plan, snapshot, front, fingerprint, chain, .. } = whole;
    let (tx, at, place) = match (&plan.log, &front.facts.following) {
        (log, Some(following)) => {
            let first = Place { stream: following.stream, sequence: following.sequence, previous: None };
            let place = log.iter().flat_map(|log| &log.links).last().map_or(Some(first), Place::behind_link);
            let tx = log.as_ref().map_or(following.tx, |log| log.tx);
            (Some(tx), at_of(plan), place)
        }
        _ => (None, at_of(plan), None),
    };
    Spot {
        branch: snapshot.branch,
        snapshot: snapshot.id,
        sequence: front.name.sequence,
        tx,
        at,
        chain: *chain,
        fingerprint: fingerprint.clone(),
        place,
        cookie_plus: 0,
        pages: 0,
        sum: Digest::ZERO,
    }
}

fn at_of(plan: &RestorePlan) -> Moment {
    plan.log.as_ref().map_or(plan.taken, |log| log.at)
}

/// A restored file under its private name.
struct Image {
    file: File,
    path: PathBuf,
    page_size: u32,
    pages: u32,
    header: DatabaseHeader,
}

impl Image {
    fn open(path: &Path) -> Result<Self, OpsError> {
        let file = File::open(path).at("open", path)?;
        let length = file.metadata().at("look at", path)?.len();
        let mut first = [0; 100];
        file.read_exact_at(&mut first, 0).at("read", path)?;
        let problem = || OpsError::Unsound { problem: "it does not begin as a database does".into() };
        let header = DatabaseHeader::parse(&first, ByteLen::new(length)).map_err(|_| problem())?;
        let page_size = header.page_size.get();
        let pages = u32::try_from(length / u64::from(page_size)).map_err(|_| problem())?;
        Ok(Self { file, path: path.to_owned(), page_size, pages, header })
    }

    fn cookie(&self) -> Result<u32, OpsError> {
        Ok(self.header.schema_cookie)
    }

    fn each(&self, vault: &Vault, mut visit: impl FnMut(u32, &[u8]) -> Result<(), OpsError>) -> Result<(), OpsError> {
        let mut bytes = vec![0; self.page_size as usize];
        let lock_byte = (1 << 30) / self.page_size + 1;
        for page in (1..=self.pages).filter(|page| *page != lock_byte) {
            if page.is_multiple_of(4096) {
                vault.env.cancel.check()?;
            }
            let offset = u64::from(page - 1) * u64::from(self.page_size);
            self.file.read_exact_at(&mut bytes, offset).at("read", &self.path)?;
            visit(page, &bytes)?;
        }
        Ok(())
    }
}

/// Whether a step that failed like this can simply be tried again.
pub fn is_passing(error: &OpsError) -> bool {
    matches!(error.kind(), Kind::Unavailable | Kind::NoSpace)
}
