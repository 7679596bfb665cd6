//! Following a database: every commit of its write-ahead log becomes durable in the repository, in order,
//! each exactly once; where that cannot be proven a snapshot is taken and the gap recorded.
//!
//! Owns the two halves that must not wait for each other: the [`catcher`](catch) reads commits from the log
//! and holds the log only that long; the [`shipper`](ship) seals them and puts them into the dense slots of
//! this run's stream. What waits for the store and could be overwritten in the log lies sealed in a bounded
//! [`spool`] on the disk. [`Follower::tick`] is one step of both, for whoever drives them.
//!
//! A crash at any point leaves a stream whose contiguous part is whole. The next run finds out from the
//! store what of it is durable, takes the stream's next slot, so that nothing can still come into it, and
//! goes on in a stream of its own: from the very frame, if the log can still prove it, else by a snapshot.
//!
//! Locks: the source's lock on this host as long as it lives; a read mark, see `backstay_sqlite::tail`.

pub mod account;
mod along;
mod aside;
mod audit;
mod begin;
pub mod carrier;
mod catch;
pub mod drive;
mod due;
mod ends;
mod errand;
mod followed;
mod hours;
mod lasts;
mod member;
mod memory;
mod pace;
mod press;
mod resume;
mod rolling;
mod ship;
mod snapshots;
mod spool;
mod turns;
mod watch;

pub use audit::Audited;
pub use catch::{Limits, Mode};
pub use followed::Followed;
pub use pace::Pace;

use crate::OpsError;
use crate::backup::{BackupRequest, Malformed};
use crate::catalog::Vault;
use crate::env::blocking;
use crate::log::LogTip;
use crate::state::{SeenSource, SourceLock};
use along::Along;
use aside::Aside;
use backstay_format::FingerprintKey;
use backstay_format::facts::Role;
use backstay_model::{BranchNo, ByteLen, Kind, Kinded, Moment, ObjectId, SourceName, StreamId, Tx};
use backstay_sqlite::{SqliteError, Step, Steps};
use backstay_store::repo::RepoError;
use begin::{Anew, begin_anew, open_tail};
use catch::{Catcher, Looked, Safe};
use hours::Hours;
use memory::Memory;
use ship::Shipper;
use std::path::PathBuf;
use std::time::Duration;
use turns::Turns;

/// What a person asked for.
#[derive(Clone)]
pub struct FollowRequest {
    pub source: SourceName,
    pub path: PathBuf,
    pub busy: Duration,
    pub hold_max: Duration,
    pub log_growth_max: ByteLen,
    pub uploads_in_flight: usize,
    pub limits: Limits,
    /// Where tests let others act.
    pub steps: Steps,
}

impl FollowRequest {
    fn backup(&self) -> BackupRequest {
        BackupRequest {
            source: self.source.clone(),
            path: self.path.clone(),
            label: None,
            keep: None,
            busy: self.busy,
            hold_max: self.hold_max,
            log_growth_max: self.log_growth_max,
            malformed: Malformed::Refuse,
            uploads_in_flight: self.uploads_in_flight,
        }
    }
}

/// How following began, or began anew.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Began {
    /// At the very commit where the run before stopped.
    Continued { tx: Tx },
    /// With a snapshot. Without a reason there was no log before it.
    Snapshot { id: ObjectId, branch: BranchNo, tx: Tx, reason: Option<String> },
}

/// What one step did.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Ticked {
    /// Commits read from the log.
    pub caught: u64,
    /// Commits that became durable.
    pub shipped: u64,
    /// Log objects put.
    pub objects: u64,
    pub bytes: u64,
    /// Following began anew.
    pub began: Option<Began>,
}

/// Where following stands.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Position {
    pub branch: BranchNo,
    /// The last state that is durable in the repository, and when it was committed.
    pub tx: Tx,
    pub at: Moment,
    /// Commits and bytes that are read and not yet durable.
    pub waiting: u64,
    pub waiting_bytes: u64,
    /// When the oldest of them was read.
    pub waiting_since: Option<Moment>,
    /// How much of that lies sealed on this host's disk.
    pub spooled_bytes: u64,
    /// How long the application's log is, as a file.
    pub log_bytes: u64,
    pub mode: Mode,
    /// Why the log is not held although it should be, if it is not.
    pub alarm: Option<Alarm>,
    /// The last look of the audit.
    pub audit: Option<Audited>,
    /// Why what was committed since is not known any more, until following has begun anew.
    pub lost: Option<String>,
}

/// A state that a person should know of while it lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Alarm {
    /// What waits for the store has reached its bound: the log is not read any more.
    SpoolFull,
    /// The spool cannot be written: only memory keeps what waits.
    SpoolRefused,
}

/// What became of what was to be put.
enum Shipped {
    All,
    /// The stream has ended for others, and goes on elsewhere.
    LeftBehind(RepoError),
}

/// Above this what was read does not stay in memory.
const MEMORY_MAX: u64 = 16 << 20;
/// So many objects that are sealed and not put yet are put soon: waiting makes no fewer of them.
const SEALED_MANY: usize = 4;

/// One database being followed.
pub struct Follower<'v> {
    vault: &'v Vault,
    request: FollowRequest,
    halves: Halves<'v>,
    began: Began,
    /// Where it is about to go on, since its stream ended.
    next: Option<StreamId>,
    /// Given up while it rests.
    lock: Option<SourceLock>,
    /// What this host remembered of the source when it went to rest.
    rested_with: Option<SeenSource>,
}

/// What reads and what writes.
struct Halves<'v> {
    catcher: Catcher,
    shipper: Shipper<'v>,
    hours: Hours,
    alarm: Option<Alarm>,
    /// When it was looked at the log last.
    looked_at: Duration,
}

impl<'v> Halves<'v> {
    fn new(catcher: Catcher, shipper: Shipper<'v>, hours: Hours) -> Self {
        Self { catcher, shipper, hours, alarm: None, looked_at: Duration::ZERO }
    }

    fn waiting_bytes(&self) -> u64 {
        self.catcher.waiting_bytes() + self.shipper.waiting_bytes()
    }

    /// Whether something was read that is not durable.
    fn has_read(&self) -> bool {
        !self.shipper.is_clear() || self.catcher.waiting() > 0
    }

    /// Whether nothing waits and nothing is to be read.
    fn is_quiet(&self) -> bool {
        self.alarm.is_none() && self.shipper.is_clear() && self.catcher.is_quiet()
    }

    /// One look at the log. Gives the number of commits read.
    fn look(&mut self) -> Result<u64, OpsError> {
        let looked = self.look_now();
        self.looked_at = self.catcher.uptime();
        looked
    }

    /// How long until the next look, whatever is done meanwhile.
    fn next_look(&self) -> Duration {
        (self.looked_at + self.catcher.gap()).saturating_sub(self.catcher.uptime())
    }

    fn look_now(&mut self) -> Result<u64, OpsError> {
        let limit = match self.alarm {
            Some(Alarm::SpoolRefused) => MEMORY_MAX * 4,
            _ => self.catcher.limits().spool_limit.get(),
        };
        if self.waiting_bytes() >= limit {
            self.catcher.release();
            self.alarm = self.alarm.or(Some(Alarm::SpoolFull));
            return Ok(0);
        }
        self.alarm = self.alarm.filter(|alarm| *alarm != Alarm::SpoolFull);
        self.take_sealed(false);
        let clear = self.shipper.is_clear() && self.catcher.waiting() == 0;
        let looked = self.catcher.look(clear)?;
        let mut count = 0;
        if let Looked::Read(read) = looked {
            count += read;
            let memory = self.catcher.limits().memory.get();
            let is_full = self.catcher.waiting_bytes() >= memory;
            let is_much = self.shipper.ride().is_some() && self.catcher.is_much_waiting();
            if self.catcher.must_be_safe() || is_full || is_much {
                keep_safe(&mut self.shipper, &mut self.catcher, &mut self.alarm);
            } else if self.shipper.is_free() && self.catcher.is_much_waiting() {
                self.shipper.seal(self.catcher.next_pieces(), true);
                self.catcher.reach(Step::Handed);
            }
        }
        self.catcher.move_on();
        if let Some(ride) = self.shipper.ride()
            && (self.catcher.is_in_the_way() || self.catcher.is_lost())
        {
            ride.carrier().hurry();
        }
        if self.catcher.is_copying_due(count == 0) {
            self.take_sealed(true);
            let Self { catcher, shipper, alarm, .. } = self;
            count += catcher.copy_back(&mut Keeping { shipper, alarm })?;
        }
        self.catcher.audit()?;
        Ok(count)
    }

    /// Takes what was sealed meanwhile; `waits` until it is.
    fn take_sealed(&mut self, waits: bool) {
        if waits && !self.shipper.is_free() {
            self.catcher.reach(Step::Handed);
        }
        match self.shipper.take_sealed(waits) {
            Some(Ok(Err(_))) => self.alarm = Some(Alarm::SpoolRefused),
            Some(Err(_)) => {
                self.catcher.lose(catch::UNREAD);
                // Nothing that comes can be gone on from: nobody must wait for what is held.
                self.catcher.release();
            }
            Some(Ok(Ok(()))) | None => {}
        }
    }
}

impl Halves<'_> {
    /// Gives up every handle of the database, if it can be gone on from there. What must be done before is done, for
    /// the next time it is asked.
    fn rest(&mut self) -> Result<bool, OpsError> {
        let Self { catcher, shipper, hours, alarm, .. } = self;
        if hours.is_making()
            || alarm.is_some()
            || shipper.ride().is_some()
            || !shipper.is_clear()
            || catcher.waiting() > 0
        {
            return Ok(false);
        }
        if catcher.has_log() {
            catcher.copy_back(&mut Keeping { shipper, alarm })?;
            return Ok(false);
        }
        catcher.rest()
    }

    /// Holds again, and makes safe what was read: nobody else could prove any more that nothing is missing.
    fn wake(&mut self) -> Result<u64, OpsError> {
        let count = self.catcher.wake()?;
        if count > 0 {
            keep_safe(&mut self.shipper, &mut self.catcher, &mut self.alarm);
        }
        Ok(count)
    }
}

/// What makes safe what is to be copied back.
struct Keeping<'a, 'v> {
    shipper: &'a mut Shipper<'v>,
    alarm: &'a mut Option<Alarm>,
}

impl Safe for Keeping<'_, '_> {
    fn begin(&mut self, catcher: &mut Catcher) {
        // What others carry is asked for by who waits for it.
        while self.shipper.ride().is_none() && catcher.waiting() > 0 {
            take_safely(self.shipper, catcher);
            self.shipper.seal(catcher.next_pieces(), true);
        }
    }

    fn finish(&mut self, catcher: &mut Catcher) {
        keep_safe(self.shipper, catcher, self.alarm);
    }
}

/// Waits for what is being sealed.
fn take_safely(shipper: &mut Shipper<'_>, catcher: &mut Catcher) {
    if let Some(Err(_)) = shipper.take_sealed(true) {
        // What comes after it must not be taken for what follows.
        catcher.lose(catch::UNREAD);
    }
}

/// Seals what was read and writes it to the disk. A disk that takes no more is told, and costs at most a snapshot: the
/// application does not wait for it.
fn keep_safe(shipper: &mut Shipper<'_>, catcher: &mut Catcher, alarm: &mut Option<Alarm>) {
    let held = shipper.hold_on();
    loop {
        take_safely(shipper, catcher);
        let pieces = catcher.next_pieces();
        if pieces.is_empty() {
            break;
        }
        shipper.seal(pieces, false);
    }
    catcher.reach(Step::Sealed);
    *alarm = match held.and_then(|()| shipper.spool()) {
        Ok(()) => None,
        Err(_) => Some(Alarm::SpoolRefused),
    };
    catcher.reach(Step::Spooled);
}

impl<'v> Follower<'v> {
    /// Goes on where the run before stopped, or begins with a snapshot.
    pub async fn start(vault: &'v Vault, request: FollowRequest) -> Result<Self, OpsError> {
        Self::start_in(vault, request, &Turns::new()).await
    }

    /// The same beside others: a snapshot waits for its turn.
    async fn start_in(vault: &'v Vault, request: FollowRequest, turns: &Turns) -> Result<Self, OpsError> {
        vault.signer(Role::Writer)?;
        let lock = vault.state.lock(&request.source)?;
        let (began, halves) = resume::begin(vault, &request, turns).await?;
        Ok(Self { vault, request, halves, began, next: None, lock: Some(lock), rested_with: None })
    }

    /// How it began.
    pub fn began(&self) -> &Began {
        &self.began
    }

    pub fn position(&self) -> Position {
        let Halves { catcher, shipper, alarm, .. } = &self.halves;
        let standing = shipper.standing();
        Position {
            branch: shipper.branch(),
            tx: standing.tx,
            at: standing.time,
            waiting: catcher.waiting() + shipper.waiting(),
            waiting_bytes: self.halves.waiting_bytes(),
            waiting_since: shipper.waiting_since().or(catcher.waiting_since()),
            spooled_bytes: shipper.spooled_bytes(),
            log_bytes: catcher.log_len(),
            mode: catcher.limits().mode,
            alarm: *alarm,
            audit: catcher.audited(),
            lost: catcher.lost(),
        }
    }

    /// Audits with the next look, instead of within a minute.
    pub fn hurry_audit(&mut self) {
        self.halves.catcher.hurry_audit();
    }

    /// How soon to look again while something goes on.
    pub(crate) fn gap(&self) -> Duration {
        self.halves.catcher.gap()
    }

    /// Reads what was committed, without putting it anywhere yet. Of a thousand databases most are quiet: to see that
    /// takes less than to leave the worker to others meanwhile.
    pub fn catch(&mut self) -> Result<u64, OpsError> {
        if self.halves.is_quiet() {
            self.halves.catcher.saw_nothing();
            return Ok(0);
        }
        blocking(|| self.halves.look())
    }

    /// Gives up every handle, on the database and on the source's lock, if it can be gone on from there.
    pub fn rest(&mut self) -> Result<bool, OpsError> {
        if !blocking(|| self.halves.rest())? {
            return Ok(false);
        }
        self.rested_with = Some(self.vault.state.seen(&self.request.source)?);
        self.lock = None;
        Ok(true)
    }

    pub fn rests(&self) -> bool {
        self.halves.catcher.rests()
    }

    /// Whether somebody seems to have been at the database while it rested.
    pub fn is_stirred(&self) -> bool {
        self.halves.catcher.is_stirred()
    }

    /// Goes on after a rest. Gives the number of commits read.
    pub fn wake(&mut self) -> Result<u64, OpsError> {
        if self.lock.is_none() {
            self.lock = Some(self.vault.state.lock(&self.request.source)?);
        }
        let seen = self.vault.state.seen(&self.request.source)?;
        let count = blocking(|| self.halves.wake())?;
        let before = self.rested_with.as_ref();
        if before.is_some_and(|before| (&before.head, &before.written) != (&seen.head, &seen.written)) {
            self.halves.catcher.lose_sight("another snapshot was taken while it rested".to_owned());
        }
        Ok(count)
    }

    /// Whether something was read, or lost to sight, that is not in the repository yet.
    pub fn has_news(&self) -> bool {
        let Halves { catcher, shipper, .. } = &self.halves;
        catcher.waiting() > 0 || !shipper.is_clear() || catcher.lost().is_some()
    }

    /// Whether waiting would cost more than the request it saves: a gap lasts longer, an application waits, or there is an
    /// object's worth.
    pub(crate) fn is_pressing(&self) -> bool {
        let Halves { catcher, shipper, .. } = &self.halves;
        let is_much = self.halves.waiting_bytes() >= catcher.limits().memory.get();
        catcher.is_lost() || catcher.is_in_the_way() || is_much || shipper.sealed() >= SEALED_MANY
    }

    /// Keeps on the disk what could not be put, for the next run. Gives the number of commits.
    pub fn keep(&mut self) -> u64 {
        let Halves { catcher, shipper, alarm, .. } = &mut self.halves;
        blocking(|| keep_safe(shipper, catcher, alarm));
        shipper.waiting()
    }

    /// One step: reads what was committed, makes all of it durable, and begins anew where it must. An error
    /// of the store leaves everything where it was: the next step tries the same again.
    pub async fn tick(&mut self) -> Result<Ticked, OpsError> {
        self.tick_in(&Turns::new()).await
    }

    /// The same beside others.
    async fn tick_in(&mut self, turns: &Turns) -> Result<Ticked, OpsError> {
        let mut ticked = Ticked { caught: self.catch()?, ..Ticked::default() };
        if self.has_news() {
            // Who shares waits for the others, and holds nothing meanwhile that they need.
            let rides = self.rides();
            let turn = async { if rides { None } else { turns.put().await } };
            let _turn = self.meanwhile(turn, &mut ticked).await?;
            self.ship_past_others(turns, &mut ticked).await?;
            // Sight may have been lost behind what was read meanwhile, which is provable and comes first.
            while self.halves.catcher.is_lost() && self.halves.has_read() {
                self.ship_past_others(turns, &mut ticked).await?;
            }
        }
        if self.halves.catcher.is_lost() {
            self.be_alone(turns, &mut ticked).await?;
        }
        if let Some(reason) = self.halves.catcher.lost() {
            // Nothing of the application's is held while others are at it.
            self.halves.catcher.release();
            let _turn = turns.snapshot(&self.request.path).await;
            self.begin_anew(reason, &mut ticked).await?;
        }
        Ok(ticked)
    }

    /// Ships, and goes on where others lead.
    async fn ship_past_others(&mut self, turns: &Turns, ticked: &mut Ticked) -> Result<(), OpsError> {
        while let Shipped::LeftBehind(lost) = self.ship(ticked).await? {
            // The spool belongs to whoever goes on.
            blocking(|| self.halves.take_sealed(true));
            (self.began, self.halves) = self.follow_others(turns).await?.ok_or(lost)?;
        }
        Ok(())
    }

    /// Waits for something. The log goes on being read: a slow store must not hold it, and neither may many puts one after
    /// another.
    async fn meanwhile<T>(&mut self, work: impl Future<Output = T>, ticked: &mut Ticked) -> Result<T, OpsError> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                () = tokio::time::sleep(self.halves.next_look()) => ticked.caught += blocking(|| self.halves.look())?,
            }
        }
    }

    /// Makes durable what was read when it began.
    async fn ship(&mut self, ticked: &mut Ticked) -> Result<Shipped, OpsError> {
        if let Along::Shipped(shipped) = self.ship_along(ticked).await? {
            return Ok(shipped);
        }
        let goal = self.halves.catcher.tx();
        loop {
            self.halves.take_sealed(false);
            let Halves { catcher, shipper, .. } = &mut self.halves;
            // Who commits without an end must not keep everything else from its turn: what came since is with the next.
            if !shipper.is_clear() && shipper.standing().tx >= goal {
                return Ok(Shipped::All);
            }
            if shipper.is_clear() {
                let pieces = if shipper.standing().tx < goal { catcher.next_pieces() } else { Vec::new() };
                if pieces.is_empty() {
                    self.note_the_end(ticked).await?;
                    return Ok(Shipped::All);
                }
                shipper.seal(pieces, false);
            }
            if let Some(told) = shipper.only_sealing() {
                self.meanwhile(told.notified(), ticked).await?;
                continue;
            }
            let next = shipper.next();
            let (ready, looked) = self.beside(move || next.ready(), ticked).await;
            let Halves { catcher, shipper, .. } = &mut self.halves;
            shipper.noted(ready.noted);
            looked?;
            let Some((stream, sequence, bytes)) = ready.object else {
                blocking(|| shipper.give_up());
                catcher.lose("what was read of its log is gone from the state folder");
                return Ok(Shipped::All);
            };
            catcher.reach(Step::Putting);
            match self.meanwhile(self.vault.repo.put_log(&stream, sequence, bytes.clone()), ticked).await? {
                Ok(()) => {}
                Err(lost @ RepoError::LostRace { .. }) => {
                    let there = self.vault.repo.log_front(&stream, sequence).await?;
                    let is_left = there.is_some_and(|there| there.facts.is_left_by_others(&self.request.source));
                    return if is_left { Ok(Shipped::LeftBehind(lost)) } else { Err(lost.into()) };
                }
                Err(error) => return Err(error.into()),
            }
            self.halves.catcher.reach(Step::Put);
            let sent = blocking(|| self.halves.shipper.confirm());
            self.halves.catcher.reach(Step::Confirmed);
            blocking(|| self.halves.shipper.keep_to_roll(sequence, bytes, sent.lasts));
            ticked.objects += 1;
            ticked.shipped += sent.commits;
            ticked.bytes += sent.bytes;
        }
    }

    /// What was put since the last note is in the next one, if that would be many.
    async fn note_the_end(&mut self, ticked: &mut Ticked) -> Result<(), OpsError> {
        let Some(note) = self.halves.shipper.last_note() else { return Ok(()) };
        let (ready, looked) = self.beside(move || note.ready(), ticked).await;
        self.halves.shipper.noted(ready.noted);
        looked
    }

    /// Does something on another thread. The log goes on being read; what is not well there ends nothing of it.
    async fn beside<T: Send + 'static>(
        &mut self,
        work: impl FnOnce() -> T + Send + 'static,
        ticked: &mut Ticked,
    ) -> (T, Result<(), OpsError>) {
        let work = Aside::begin(work);
        let told = work.told();
        let looked = self.meanwhile(told.notified(), ticked).await;
        (blocking(|| work.wait()), looked)
    }

    /// Puts a roll-up of what this run made durable, if one is due. What the store does not take is tried again or
    /// given up: following does not need it.
    pub async fn roll(&mut self) -> Result<Ticked, OpsError> {
        let mut ticked = Ticked::default();
        self.hour(&mut ticked).await?;
        if !self.halves.shipper.is_roll_up_due() {
            return Ok(ticked);
        }
        let rolling_up = self.halves.shipper.rolling_up();
        let ((rolling, made), looked) = self.beside(rolling_up, &mut ticked).await;
        self.halves.shipper.go_on_rolling(rolling);
        looked?;
        let Some((name, bytes)) = made else { return Ok(ticked) };
        let len = bytes.len() as u64;
        let put = self.vault.repo.put_roll_up(&name, bytes);
        let sent = self.meanwhile(put, &mut ticked).await?;
        self.halves.shipper.rolled_up(&sent);
        if sent.is_ok() {
            (ticked.objects, ticked.bytes) = (1, len);
        }
        Ok(ticked)
    }

    /// Its stream ended because others were taken over: goes on where that leads, with what the log still proves. What
    /// holds the log lets go only when what comes in its place does.
    async fn follow_others(&mut self, turns: &Turns) -> Result<Option<(Began, Halves<'v>)>, OpsError> {
        self.halves.hours.stop().await;
        let begun = resume::go_on(self.vault, &self.request, turns, &mut self.next).await?;
        self.next = None;
        Ok(begun)
    }

    async fn begin_anew(&mut self, reason: String, ticked: &mut Ticked) -> Result<(), OpsError> {
        let tail = open_tail(self.vault, &self.request)?;
        let Halves { catcher, shipper, hours, .. } = &mut self.halves;
        catcher.release();
        hours.stop().await;
        let standing = shipper.standing();
        let tip = Some(LogTip::of_run(shipper.branch(), standing.tx, shipper.last_used(), standing.time));
        let (stream, sequence, previous) = shipper.place();
        let place = Anew { stream, sequence, previous: Some(previous), tip, reason };
        let (began, catcher, shipper, hours) = begin_anew(self.vault, &self.request, tail, place).await?;
        self.halves = Halves::new(catcher, shipper, hours);
        ticked.began = Some(began.clone());
        self.began = began;
        Ok(())
    }
}

/// The time of the newest commit of a source that this host made durable. Best effort, as the memory it stands in.
pub(crate) fn last_time(vault: &Vault, source: &SourceName) -> Option<Moment> {
    Memory::recall(vault, source).ok().flatten().and_then(|memory| memory.last_time())
}

/// Whether a step that failed like this can simply be tried again. A file that is being replaced is away for a moment.
pub fn is_passing(error: &OpsError) -> bool {
    let away = matches!(
        error,
        OpsError::Sqlite(SqliteError::Missing { .. } | SqliteError::Replaced { .. } | SqliteError::PinLost { .. })
    );
    // What a snapshot was to build on was sealed again under another name meanwhile.
    let moved = matches!(error, OpsError::BaseVanished { .. });
    away || moved || matches!(error.kind(), Kind::Unavailable | Kind::NoSpace)
}

/// The secret behind the digests of a log, as it is remembered.
fn key_of(facts: &backstay_format::facts::FingerprintFacts) -> FingerprintKey {
    FingerprintKey::new(facts.id, *facts.key.as_bytes())
}
