//! The half that reads: commits from the log into a queue, numbered and timed.
//!
//! Never uploads and never waits for a store. Decides how long the log is held: see [`Mode`]. What is lost to
//! sight when it is not is noticed by the next look, and following begins anew.

use super::MEMORY_MAX;
use super::aside::Aside;
use super::audit::{Audit, Audited};
use super::due::Due;
use super::memory::Standing;
use super::pace::Hearing;
use crate::OpsError;
use crate::disk::At;
use backstay_format::log::{Part, Record};
use backstay_model::{ByteLen, Clock, Moment, Tx};
use backstay_sqlite::{Caught, Commit, Images, LogCursor, Seen, SqliteError, Step, Tail};
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Raw images in one log object.
const IMAGES_MAX: u64 = 16 << 20;
/// Bytes of records in one log object, which are one frame.
const RECORDS_MAX: usize = 512 << 10;

/// From here the log is copied back by us when nobody commits: where SQLite's own checkpoint would be due.
const COPY_BACK_IDLE: u64 = 4 << 20;
/// From here what waits is sealed while more is read.
const SEAL_AHEAD: u64 = 8 << 20;
/// From here a mark stays under load: half of where the application's own checkpoints begin, for whom a mark that moves is
/// something to sync.
const MARK_STAYS: u64 = COPY_BACK_IDLE / 2;
/// How long the writer's lock is waited for.
pub(super) const LOCK_PATIENCE: Duration = Duration::from_millis(5);
/// What may be left to be made safe while nobody can commit, beside the copying, and how often it is tried to come below.
const PREPARED: u64 = 2 << 20;
const PREPARING_MAX: u32 = 4;
/// Where it takes longer than this, more was written meanwhile than need be: it is done once more.
const PREPARED_WITHIN: Duration = Duration::from_millis(2);
/// How long the log is left alone when it could not be copied back.
const COPY_BACK_PAUSE: Duration = Duration::from_millis(250);

/// Between two looks where somebody waits for the next.
const SOON: Duration = Duration::from_millis(1);
/// Under load so long without a commit, and nobody is in the middle of something any more.
const AT_REST: Duration = Duration::from_millis(20);

/// How the application's log is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Until what was read of it is durable in the repository.
    Hold,
    /// Until it was read.
    Yield,
    /// Not at all: what is begun anew between two looks costs a snapshot and a gap.
    Watch,
    /// There is no log: every change is a snapshot.
    Snapshots,
}

/// How following behaves towards others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub mode: Mode,
    /// Between two looks at the log while an object is on its way.
    pub look: Duration,
    /// How long the application's log may become because of us before it is not held any more.
    pub wal_limit: ByteLen,
    /// What may be read and not yet be durable.
    pub spool_limit: ByteLen,
    /// Above this what was read does not stay in memory.
    pub memory: ByteLen,
    /// How much of the log goes into one snapshot that is made of it; none are made without.
    pub hours: Option<Duration>,
    /// Whether it goes on following. One that ends copies nothing back: a log that lies whole in the main file is
    /// begun anew by the next commit, which nobody would hold, and that costs the next run a snapshot.
    pub stays: bool,
}

impl Limits {
    pub const STANDARD: Limits = Limits {
        mode: Mode::Yield,
        look: Duration::from_millis(10),
        wal_limit: ByteLen::new(64 << 20),
        spool_limit: ByteLen::new(1 << 30),
        memory: ByteLen::new(MEMORY_MAX),
        hours: None,
        stays: true,
    };
}

struct Queued {
    tx: Tx,
    time: Moment,
    commit: Commit,
    images: Arc<Images>,
    /// When it was read.
    read_at: Moment,
    /// How many of its pages are in objects already.
    sent: usize,
}

/// A commit, or the part of it that goes into one object.
#[derive(Clone)]
pub struct Piece {
    pub part: Part,
    pub tx: Tx,
    pub time: Moment,
    pub page_count: u32,
    pub pages: Vec<(u32, u64)>,
    pub images: Arc<Images>,
    /// The end of the commit.
    pub end: LogCursor,
}

/// Why following begins anew when pages that were caught cannot be had again.
pub const UNREAD: &str = "what was read of its log could not be read again";

pub struct Catcher {
    tail: Tail,
    cursor: LogCursor,
    /// The number and time given last.
    tx: Tx,
    time: Moment,
    queue: VecDeque<Queued>,
    bytes: u64,
    limits: Limits,
    lost: Option<String>,
    /// Somebody waits for what we hold until everything is durable.
    in_the_way: bool,
    /// How busy it is, and whether somebody was seen to wait for us in a checkpoint.
    load: Hearing,
    is_waited_for: bool,
    /// The last reading found another generation of the log than the one before: whoever goes on after us can prove
    /// nothing of the old one any more.
    crossed: bool,
    /// Until then the log is not copied back.
    leave_until: Duration,
    /// From which length on it is, at the next moment when the writer's lock is free.
    due: Due,
    audit: Audit,
    clock: Arc<dyn Clock>,
    /// Where times stood when the clock was seen behind them, and since when.
    ahead: Option<(Moment, Duration)>,
}

/// What makes safe what was read, before it can be overwritten.
pub trait Safe {
    /// Begins to. What comes last is done beside whatever comes next.
    fn begin(&mut self, catcher: &mut Catcher);
    /// All of it is safe, or that it cannot be is told.
    fn finish(&mut self, catcher: &mut Catcher);
}

/// What one look led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Looked {
    Nothing,
    /// So many commits were read. The log is still held where it was: [`Catcher::move_on`] is to follow.
    Read(u64),
}

impl Catcher {
    pub fn new(tail: Tail, from: &Standing, limits: Limits, audit: Audit, clock: Arc<dyn Clock>) -> Self {
        let (tx, time, cursor) = (from.tx, from.time, from.cursor.clone());
        let (queue, lost, leave_until) = (VecDeque::new(), None, Duration::ZERO);
        let due = Due::new(limits.wal_limit.get());
        Self {
            tail,
            cursor,
            tx,
            time,
            queue,
            bytes: 0,
            limits,
            lost,
            in_the_way: false,
            load: Hearing::default(),
            is_waited_for: false,
            crossed: false,
            leave_until,
            due,
            audit,
            clock,
            ahead: None,
        }
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    pub fn waiting(&self) -> u64 {
        self.queue.len() as u64
    }

    pub fn waiting_bytes(&self) -> u64 {
        self.bytes
    }

    /// When the oldest commit of the queue was read.
    pub fn waiting_since(&self) -> Option<Moment> {
        self.queue.front().map(|queued| queued.read_at)
    }

    pub fn audited(&self) -> Option<Audited> {
        self.audit.last()
    }

    /// Looks at some pages of the live database, where that is due.
    pub fn audit(&mut self) -> Result<(), OpsError> {
        let now = self.clock.uptime();
        if self.lost.is_some() || !self.audit.is_due(now) {
            return Ok(());
        }
        let looked = match self.tail.held() {
            Ok(Some(held)) if *held.cursor() == self.cursor => self.audit.look(&held, now, self.clock.now()),
            Ok(_) => return Ok(()),
            Err(error) => Err(error.into()),
        };
        match looked {
            Ok(None) => Ok(()),
            Ok(Some(page)) => {
                self.lost = Some(format!("page {page} is not what was captured of it"));
                Ok(())
            }
            Err(OpsError::Sqlite(error)) => self.passes(error),
            Err(error) => Err(error),
        }
    }

    /// The next audit comes with the next look.
    pub fn hurry_audit(&mut self) {
        self.audit.hurry();
    }

    /// The number given last.
    pub fn tx(&self) -> Tx {
        self.tx
    }

    pub fn log_len(&self) -> u64 {
        self.tail.log_len()
    }

    /// Lets whoever there is act. Nothing at all but in tests.
    pub fn reach(&self, step: Step) {
        self.tail.reach(step);
    }

    pub fn release(&mut self) {
        self.tail.release();
    }

    /// Why following must begin anew, once everything caught before is durable.
    pub fn lost(&self) -> Option<String> {
        self.lost.clone().filter(|_| self.queue.is_empty())
    }

    /// Whether it must, and something that was caught before may still wait.
    pub fn is_lost(&self) -> bool {
        self.lost.is_some()
    }

    pub fn is_in_the_way(&self) -> bool {
        self.in_the_way
    }

    /// Looks whether something was committed or we are in the way, and reads on then. `clear`: all that was read
    /// is durable.
    pub fn look(&mut self, clear: bool) -> Result<Looked, OpsError> {
        self.is_waited_for = false;
        if self.lost.is_some() || self.tail.rests() {
            return Ok(Looked::Nothing);
        }
        self.in_the_way = false;
        let looked = self.look_on(clear)?;
        self.load.looked(matches!(looked, Looked::Read(count) if count > 0), self.clock.uptime());
        Ok(looked)
    }

    fn look_on(&mut self, clear: bool) -> Result<Looked, OpsError> {
        match self.tail.look() {
            Ok(Seen::Nothing) => self.make_way(),
            Ok(Seen::Behind) if self.keeps_mark(false) => Ok(Looked::Nothing),
            Ok(Seen::InTheWay) if self.limits.mode == Mode::Hold && !clear => {
                self.in_the_way = true;
                Ok(Looked::Nothing)
            }
            // An audit needs the state that is held to be the one that is known.
            Ok(Seen::News) if !self.audit.is_due(self.clock.uptime()) => self.read_ahead(),
            Ok(Seen::News | Seen::Behind | Seen::InTheWay) => self.read(),
            Err(error) => self.passes(error).map(|()| Looked::Nothing),
        }
    }

    fn make_way(&mut self) -> Result<Looked, OpsError> {
        match self.tail.make_way() {
            Ok(()) => Ok(Looked::Nothing),
            Err(error) => self.passes(error).map(|()| Looked::Nothing),
        }
    }

    /// Whether a look would find nothing to do.
    pub fn is_quiet(&self) -> bool {
        let idle = self.lost.is_none() && self.queue.is_empty() && !self.audit.is_due(self.clock.uptime());
        idle && !self.is_copying_due(true) && self.tail.is_quiet()
    }

    /// Gives up what was read and is not safe: following must begin anew.
    pub fn lose(&mut self, reason: &str) {
        self.queue.clear();
        self.bytes = 0;
        self.lost = Some(reason.to_owned());
    }

    /// What comes after what was read cannot be had: following must begin anew.
    pub fn lose_sight(&mut self, reason: String) {
        self.lost = Some(reason);
    }

    /// Reads on without moving the mark, as long as commits go on meanwhile: the application's checkpoints must not find a
    /// little more each time.
    fn read_ahead(&mut self) -> Result<Looked, OpsError> {
        let count = match self.tail.read_ahead(&self.cursor) {
            Ok(Some(caught)) => self.add(caught)?,
            Ok(None) => return self.read(),
            Err(error) => return self.passes(error).map(|()| Looked::Nothing),
        };
        match self.tail.look() {
            Ok(Seen::Behind) if !self.keeps_mark(count > 0) => match self.read()? {
                Looked::Read(more) => Ok(Looked::Read(count + more)),
                Looked::Nothing => Ok(Looked::Read(count)),
            },
            _ => Ok(Looked::Read(count)),
        }
    }

    /// Whether the mark stays although there is nothing behind what was read. Under load that is a moment in which the
    /// application waits for its own disk: a mark that moves then gives the checkpoint after its next commit something to
    /// sync, in which the next such moment comes.
    fn keeps_mark(&mut self, found: bool) -> bool {
        if !self.load.is_hushed() || self.tail.log_in_use() < MARK_STAYS || !found && self.is_at_rest() {
            return false;
        }
        self.is_waited_for = self.tail.is_waited_for();
        !self.is_waited_for
    }

    /// Whether a look that finds nothing means that nobody commits.
    fn is_at_rest(&self) -> bool {
        !self.load.is_hushed() || self.load.rests_for(AT_REST, self.clock.uptime())
    }

    pub fn uptime(&self) -> Duration {
        self.clock.uptime()
    }

    /// Between two looks while something goes on.
    pub fn gap(&self) -> Duration {
        if self.is_waited_for { SOON.min(self.limits.look) } else { self.limits.look }
    }

    /// There was nothing to look at.
    pub fn saw_nothing(&mut self) {
        self.is_waited_for = false;
        self.load.looked(false, self.clock.uptime());
    }

    /// Gives the number of commits.
    fn add(&mut self, caught: Caught) -> Result<u64, OpsError> {
        let salts = |cursor: &LogCursor| cursor.generation.map(|generation| generation.salts);
        self.crossed = salts(&self.cursor) != salts(&caught.end);
        let count = caught.commits.len() as u64;
        if let Err(error) = self.take(caught) {
            // Some of it is in the queue, and would come there once more.
            self.lose(UNREAD);
            return Err(error);
        }
        Ok(count)
    }

    fn read(&mut self) -> Result<Looked, OpsError> {
        match self.tail.read_on(&self.cursor) {
            Ok(Ok(caught)) => self.add(caught).map(Looked::Read),
            Ok(Err(lost)) => {
                self.lost = Some(lost.to_string());
                Ok(Looked::Nothing)
            }
            Err(error) => self.passes(error).map(|()| Looked::Nothing),
        }
    }

    fn passes(&mut self, error: SqliteError) -> Result<(), OpsError> {
        match error {
            SqliteError::Replaced { .. } | SqliteError::Missing { .. } => {
                self.lost = Some("another file stands at its path".to_owned());
                Ok(())
            }
            // Somebody has it locked whole, for a recovery or a last close: the hold stays, the next look goes on.
            SqliteError::Locked { .. } => Ok(()),
            error => Err(error.into()),
        }
    }

    /// Whether what was read must be safe before [`Catcher::move_on`]: the log may be overwritten then, or was.
    pub fn must_be_safe(&self) -> bool {
        self.tail.will_free_the_log() || self.crossed
    }

    /// Lets go of what was held before the last reading.
    pub fn move_on(&mut self) {
        self.tail.move_on();
        let too_long = self.limits.mode == Mode::Yield && self.tail.log_in_use() > self.limits.wal_limit.get();
        if self.limits.mode == Mode::Watch || too_long {
            self.tail.release();
        }
    }

    /// Whether the log should be copied back by us: the application cannot, while we read behind each commit.
    pub fn is_copying_due(&self, idle: bool) -> bool {
        let due = if idle && self.is_at_rest() {
            COPY_BACK_IDLE.min(self.limits.wal_limit.get() / 4)
        } else {
            self.due.bytes()
        };
        let allowed = self.limits.stays && self.limits.mode != Mode::Watch && self.lost.is_none() && self.tail.holds();
        // Whoever waits in a checkpoint has the lock, and copies it back.
        let allowed = allowed && !self.is_waited_for;
        allowed && self.tail.log_in_use() >= due && self.clock.uptime() >= self.leave_until
    }

    /// Whether so much waits that it is sealed already while more is read: what must be safe before the log is copied back is
    /// little then.
    pub fn is_much_waiting(&self) -> bool {
        self.is_waited_for && self.bytes > 0
            || self.bytes >= SEAL_AHEAD.min(self.limits.wal_limit.get() / 4).min(self.limits.memory.get() / 2)
    }

    /// Gives up every handle, if it can be gone on from there: all that was read must be durable. `Ok(false)` as long as
    /// the log is not copied back.
    pub fn rest(&mut self) -> Result<bool, OpsError> {
        let may = self.limits.stays && self.limits.mode != Mode::Watch && self.lost.is_none() && self.queue.is_empty();
        if !may {
            return Ok(false);
        }
        match self.tail.rest(&self.cursor) {
            Ok(rests) => Ok(rests),
            Err(error) => self.passes(error).map(|()| false),
        }
    }

    pub fn rests(&self) -> bool {
        self.tail.rests()
    }

    /// Whether somebody seems to have been at the database while it rested.
    pub fn is_stirred(&self) -> bool {
        self.tail.is_stirred()
    }

    /// Holds again, and reads what was committed meanwhile.
    pub fn wake(&mut self) -> Result<u64, OpsError> {
        match self.tail.wake(&self.cursor) {
            Ok(Ok(caught)) => {
                let count = caught.commits.len() as u64;
                self.take(caught)?;
                Ok(count)
            }
            Ok(Err(lost)) => {
                self.lost = Some(format!("it was written to while it rested, and {lost}"));
                Ok(0)
            }
            Err(error) => self.passes(error).map(|()| 0),
        }
    }

    /// Whether the log has something that is not in the main file yet, or was not found to be there by our hold.
    pub fn has_log(&self) -> bool {
        self.tail.log_in_use() > 0
    }

    /// Copies the log back under the writer's lock. Gives the number of commits read.
    pub fn copy_back(&mut self, safe: &mut dyn Safe) -> Result<u64, OpsError> {
        let before = self.tx;
        let settling = self.prepare_copying(safe)?;
        let locked = match self.tail.lock_writers(LOCK_PATIENCE) {
            Err(error) => return self.passes(error).map(|()| 0),
            Ok(locked) => locked,
        };
        let (since, log) = (self.clock.uptime(), self.tail.log_in_use());
        let done = if locked { self.copy_back_locked(settling, safe) } else { Ok(false) };
        self.tail.unlock_writers();
        if matches!(done, Ok(true)) {
            self.due.copied(log, self.clock.uptime().saturating_sub(since));
        }
        if locked && !matches!(done, Ok(true)) {
            self.due.failed();
            self.leave_until = self.clock.uptime() + COPY_BACK_PAUSE;
        }
        done.map(|_| self.tx.get() - before.get())
    }

    /// Makes safe nearly all of what there is, and has the log on the disk, while everybody can still commit: what is left
    /// for the time when nobody can is little. The disk does its part meanwhile: who commits makes more of both. Gives what
    /// it is not done with, where somebody commits too fast to wait for it.
    fn prepare_copying(&mut self, safe: &mut dyn Safe) -> Result<Option<Aside<()>>, OpsError> {
        let most = self.due.too_long();
        let (mut settling, mut again) = (Aside::begin(self.tail.settling()), false);
        for _ in 0..PREPARING_MAX {
            let since = self.clock.uptime();
            // Whoever commits faster than we make safe must wait for us: the log has a bound.
            if self.tail.log_in_use() > most || self.lost.is_some() {
                break;
            }
            self.look_ahead()?;
            if self.bytes > PREPARED {
                safe.finish(self);
                settling = settling.done().map_or_else(|still| still, |()| Aside::begin(self.tail.settling()));
                continue;
            }
            settling.wait();
            if again || self.clock.uptime().saturating_sub(since) < PREPARED_WITHIN {
                return Ok(None);
            }
            (settling, again) = (Aside::begin(self.tail.settling()), true);
        }
        Ok(Some(settling))
    }

    fn look_ahead(&mut self) -> Result<(), OpsError> {
        match self.lost.is_none().then(|| self.tail.read_ahead(&self.cursor)) {
            Some(Ok(Some(caught))) => self.add(caught).map(|_| ()),
            Some(Err(error)) => self.passes(error),
            Some(Ok(None)) | None => Ok(()),
        }
    }

    fn copy_back_locked(&mut self, settling: Option<Aside<()>>, safe: &mut dyn Safe) -> Result<bool, OpsError> {
        let rest = Aside::begin(self.tail.settling());
        if self.read()? == Looked::Nothing {
            self.tail.move_on();
            return Ok(false);
        }
        safe.begin(self);
        settling.into_iter().chain([rest]).for_each(Aside::wait);
        self.tail.move_on();
        let copied = self.tail.copy_back();
        // As long as the writer's lock is ours, no commit can begin the log anew.
        safe.finish(self);
        match copied {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(error) => return self.passes(error).map(|()| false),
        }
        // Nobody could commit meanwhile: this only moves the hold to what is in the main file.
        let moved = self.read()?;
        self.tail.move_on();
        Ok(matches!(moved, Looked::Read(_)))
    }

    /// The time of a commit that is read now: never before that of the one before it, and never ahead of the clock by
    /// counting, so that many commits may have one time. While a clock that was set back has not come there again, times
    /// go on at half its pace.
    fn stamp(&mut self) -> Moment {
        let (now, uptime) = (self.clock.now(), self.clock.uptime());
        if now >= self.time {
            self.ahead = None;
            return now;
        }
        let (from, since) = *self.ahead.get_or_insert((self.time, uptime));
        let half = i64::try_from(uptime.saturating_sub(since).as_millis() / 2).unwrap_or(0);
        Moment::from_millis(from.as_millis().saturating_add(half)).unwrap_or(self.time).max(self.time)
    }

    /// Numbers and times commits, and keeps them for the shipper.
    pub fn take(&mut self, caught: Caught) -> Result<(), OpsError> {
        let images = Arc::new(caught.images);
        self.audit.captured(&caught.commits, &images).at("read", Path::new("the spool of the log"))?;
        for commit in caught.commits {
            let Some(tx) = self.tx.next() else { break };
            (self.tx, self.time) = (tx, self.stamp());
            self.bytes += commit.pages.len() as u64 * u64::from(commit.end.page_size);
            let (images, read_at) = (images.clone(), self.clock.now());
            self.queue.push_back(Queued { tx, time: self.time, commit, images, read_at, sent: 0 });
        }
        self.cursor = caught.end;
        Ok(())
    }

    /// As many whole commits as fit into one object, or a part of one that does not fit.
    pub fn next_pieces(&mut self) -> Vec<Piece> {
        let (mut pieces, mut images, mut records) = (Vec::new(), 0, 0);
        while let Some(front) = self.queue.front_mut() {
            let size = u64::from(front.commit.end.page_size);
            let left = front.commit.pages.len() - front.sent;
            let fits = |pages: usize| {
                images + pages as u64 * size <= IMAGES_MAX && records + Record::encoded_len(pages) <= RECORDS_MAX
            };
            let take = match fits(left) {
                true => left,
                false if !pieces.is_empty() => break,
                false => usize::try_from(IMAGES_MAX / size).unwrap_or(left).min(RECORDS_MAX / 8).min(left),
            };
            let part = match (front.sent == 0, take == left) {
                (true, true) => Part::Whole,
                (true, false) => Part::First,
                (false, false) => Part::Middle,
                (false, true) => Part::Last,
            };
            let pages = front.commit.pages.iter().skip(front.sent).take(take).copied().collect();
            front.sent += take;
            images += take as u64 * size;
            records += Record::encoded_len(take);
            pieces.push(Piece {
                part,
                tx: front.tx,
                time: front.time,
                page_count: front.commit.page_count,
                pages,
                images: front.images.clone(),
                end: front.commit.end.clone(),
            });
            if !part.completes() {
                break;
            }
            self.bytes = self.bytes.saturating_sub(front.commit.pages.len() as u64 * size);
            self.queue.pop_front();
        }
        pieces
    }
}
