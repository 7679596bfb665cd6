//! Following the write-ahead log of a live database: every commit behind a place we know, and proof that
//! none is missing.
//!
//! Owns two connections and, between calls, at most one read transaction: the *hold*. [`Tail::advance`]
//! begins the next transaction on the other connection, reads what lies between, and ends the one
//! before: while it goes on like that somebody always holds. What is read is believed only up to the
//! commit that SQLite itself names as the end of the new transaction, and only if the chain of
//! checksums leads there.
//!
//! In the same generation of the log the chain alone is the proof. Another generation is gone on in only
//! when the hold was never given up: see decision 0019. Everything else is [`Lost`]: the caller takes a
//! snapshot and begins anew.
//!
//! Must never write to the database's pages, or open its main file or `-shm` by itself. It copies the log back
//! only while it has the writer's lock, see [`lock`]. Locks: one read mark, in slot 0 or 1 to 4; SHARED
//! on the main file as long as it lives, as any connection in WAL mode. A crash gives all of them back.

mod ahead;
mod aside;
mod held;
mod lock;
mod rest;
mod waits;

pub use held::Held;
pub use rest::give_back_memory;

use crate::error::{At, SqliteError};
use crate::facts::{FileIdentity, JournalMode};
use crate::ffi;
use crate::images::Images;
use crate::look::{LOG_BUFFER, main_shape, parse, pinned_log};
use crate::open::{Database, read_start, sibling};
use crate::pin::{IndexHeader, Live, Placement, decide, held};
use crate::stamp::FileStamp;
use crate::steps::{self, Step, Steps};
use crate::view::View;
use aside::Aside;
use backstay_format::sqlite::{Checksum, LOCK_BYTE, Salts, WalError, WalHeader, WalPlace, WriteFormat, wal};
use backstay_model::{Clock, PageSize};
use rest::Rest;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{BufReader, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How to follow.
#[derive(Clone)]
pub struct TailOptions {
    /// How long to wait for a locked database.
    pub busy: Duration,
    /// Where images go when they are many.
    pub spool_dir: PathBuf,
    /// Where tests let others act.
    pub steps: Steps,
}

impl TailOptions {
    /// A second for a lock: somebody may wait for our hold meanwhile.
    pub fn in_dir(spool_dir: PathBuf) -> Self {
        Self { busy: Duration::from_secs(1), spool_dir, steps: steps::nobody() }
    }
}

/// A state of the database as its log has it: everything up to here is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogCursor {
    pub page_size: u32,
    /// Of the database in this state.
    pub page_count: u32,
    /// `None` where there is no log, or one that was never written.
    pub generation: Option<Generation>,
}

/// A place in one generation of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    pub salts: [u8; 8],
    pub frames: u32,
    /// The running checksum after that frame.
    pub checksum: [u32; 2],
}

impl LogCursor {
    pub(crate) fn of(index: Option<&IndexHeader>, page_size: PageSize, page_count: u32) -> Self {
        let generation = index.map(|index| Generation {
            salts: index.salts.0,
            frames: index.frames,
            checksum: [index.checksum.first, index.checksum.second],
        });
        Self { page_size: page_size.get(), page_count, generation }
    }
}

/// Why the commits behind a place cannot all be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lost {
    /// The log was begun anew, or is gone, while nobody held it.
    Restarted,
    /// The log is shorter than what was read of it, or has other content.
    OtherContent,
    /// The log on disk is not the one SQLite shows.
    OtherLog,
    /// The hold was broken by something that should not be able to.
    HoldBroken,
    PageSizeChanged,
    /// It makes its commits without a write-ahead log now.
    NotWal,
}

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Lost::Restarted => "the write-ahead log was begun anew while it was not held",
            Lost::OtherContent => "the write-ahead log does not have what was read of it",
            Lost::OtherLog => "the write-ahead log on disk is not the one SQLite shows",
            Lost::HoldBroken => "a read mark was ignored",
            Lost::PageSizeChanged => "the page size changed",
            Lost::NotWal => "the database is no longer in WAL mode",
        })
    }
}

/// One transaction of the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// Of the database after it.
    pub page_count: u32,
    /// Ascending page numbers, and which of the images each has.
    pub pages: Vec<(u32, u64)>,
    /// Those of them that it added to the database without writing them, ascending: free pages, whose content
    /// means nothing.
    pub unwritten: Vec<u32>,
    /// The end of the commit.
    pub end: LogCursor,
}

/// What was committed between two states, and the images of the pages it wrote.
pub struct Caught {
    pub commits: Vec<Commit>,
    pub images: Images,
    pub end: LogCursor,
}

impl Caught {
    /// Puts what was committed right after it behind it.
    pub fn append(&mut self, later: Caught) -> std::io::Result<()> {
        let before = self.images.len();
        self.images.append(&later.images)?;
        self.commits.extend(later.commits.into_iter().map(|mut commit| {
            commit.pages.iter_mut().for_each(|(_, image)| *image += before);
            commit
        }));
        self.end = later.end;
        Ok(())
    }
}

/// What a look without any lock shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    Nothing,
    /// Something was committed, or the log was begun anew.
    News,
    /// Nothing behind what was read, but the mark stands before it.
    Behind,
    /// Everything is copied back and only our mark stands in the way of a new log.
    InTheWay,
}

struct Hold {
    at: usize,
    index: Option<IndexHeader>,
    placement: Placement,
    cursor: LogCursor,
    /// Everything was copied back before it began, so it is in slot 0 and in nobody's way.
    is_slot_0: bool,
    /// It stepped aside: no transaction any more, another slot's lock.
    aside: Option<Aside>,
    /// How far was read since, without moving on.
    ahead: Option<IndexHeader>,
}

impl Hold {
    /// The end of what was read.
    fn known(&self) -> Option<&IndexHeader> {
        self.ahead.as_ref().or(self.index.as_ref())
    }
}

/// The log of one database, being followed.
pub struct Tail {
    /// Two, and none while it rests.
    databases: Vec<Database>,
    /// As the caller wrote it, and with every symbolic link resolved.
    given: PathBuf,
    path: PathBuf,
    identity: FileIdentity,
    rest: Option<Rest>,
    hold: Option<Hold>,
    /// The hold that takes over once what was read is safe.
    next: Option<Hold>,
    /// What takes the writer's lock, once it was needed.
    writer: Option<lock::Writer>,
    /// The end of the log for which way was made last.
    made_way: Option<(Salts, u32)>,
    /// The state that was let go last, and the main file then.
    left: Option<(LogCursor, FileStamp)>,
    options: TailOptions,
    clock: Arc<dyn Clock>,
}

impl Tail {
    pub fn open(path: &Path, options: TailOptions, clock: Arc<dyn Clock>) -> Result<Self, SqliteError> {
        let open = || Database::open(path, None, options.busy);
        let (first, second) = (open()?, open()?);
        if first.identity != second.identity {
            return Err(SqliteError::Replaced { path: path.to_owned() });
        }
        let (given, path, identity) = (path.to_owned(), first.path.clone(), first.identity);
        let databases = vec![first, second];
        let (hold, next, writer, made_way, rest, left) = (None, None, None, None, None, None);
        Ok(Self { databases, given, path, identity, rest, hold, next, writer, made_way, left, options, clock })
    }

    /// Lets whoever there is act. Nothing at all but in tests.
    #[inline]
    pub fn reach(&self, step: Step) {
        steps::reach(&self.options.steps, step);
    }

    /// Which file is followed.
    pub fn identity(&self) -> FileIdentity {
        self.identity
    }

    pub fn holds(&self) -> bool {
        self.hold.is_some()
    }

    /// How long the log is, by its name.
    pub fn log_len(&self) -> u64 {
        std::fs::metadata(sibling(&self.path, "-wal")).map_or(0, |log| log.len())
    }

    /// Bytes of the log that the next commit would have to be written behind: none when it may begin the log anew.
    pub fn log_in_use(&self) -> u64 {
        let Some(hold) = self.hold.as_ref().filter(|hold| !hold.is_slot_0) else { return 0 };
        let frames = hold.known().map_or(0, |index| u64::from(index.frames));
        frames * (u64::from(hold.cursor.page_size) + wal::FRAME_HEADER_LEN as u64)
    }

    /// Looks whether there is anything to do: no lock, a few reads of shared memory. Fails when the path
    /// leads to another file.
    pub fn look(&self) -> Result<Seen, SqliteError> {
        let Some(hold) = &self.hold else { return Ok(Seen::News) };
        let Some(database) = self.databases.get(hold.at) else { return Ok(Seen::News) };
        database.still_there()?;
        let live = ffi::live_index(&database.conn()).at("read the wal-index of", &database.path)?;
        let Some(live) = live else { return Ok(Seen::News) };
        let (frames, live) = (IndexHeader::of_words(&live.header).frames, Live::of_index(&live));
        Ok(match hold.known() {
            None if frames == 0 => Seen::Nothing,
            Some(index) if index.salts == live.salts && index.frames == frames => {
                let copied = frames > 0 && live.backfilled >= frames;
                match copied && !hold.is_slot_0 {
                    true => Seen::InTheWay,
                    false if hold.ahead.is_some() => Seen::Behind,
                    false if self.is_aside_too_long(hold) => Seen::News,
                    false => Seen::Nothing,
                }
            }
            _ => Seen::News,
        })
    }

    /// Whether a look would find nothing, and there is no way to make for anybody. Never waits.
    pub fn is_quiet(&self) -> bool {
        self.hold.is_some() && self.has_made_way() && matches!(self.look(), Ok(Seen::Nothing))
    }

    /// Begins to hold, while somebody else (a capture) holds as well. Gives the state held.
    pub fn hold(&mut self) -> Result<LogCursor, SqliteError> {
        self.release();
        let hold = self.begin(0)?;
        let cursor = hold.cursor.clone();
        self.hold = Some(hold);
        Ok(cursor)
    }

    /// Gives the hold up. What happens in the log from now on may be lost to sight.
    pub fn release(&mut self) {
        self.left = self.leaving();
        for hold in [self.hold.take(), self.next.take()].into_iter().flatten() {
            self.end(&hold);
        }
    }

    /// What is left behind, if whoever holds next can see whether anybody was at it meanwhile: all of it is in the main
    /// file, as for a rest.
    fn leaving(&self) -> Option<(LogCursor, FileStamp)> {
        let hold = self.hold.as_ref().filter(|hold| hold.index.as_ref().is_none_or(|index| index.frames == 0))?;
        let main = FileStamp::of_path(&self.path).ok().flatten()?;
        let settled = main.is_older_than(self.clock.now(), rest::SETTLED_MILLIS) && self.is_unbroken().unwrap_or(false);
        settled.then(|| (hold.cursor.clone(), main))
    }

    /// Whether nobody wrote the main file since a state was left. Asked after the next hold has begun.
    fn is_untouched(&self, from: &LogCursor) -> bool {
        let left = self.left.as_ref().filter(|(cursor, _)| cursor == from);
        left.is_some_and(|(_, main)| FileStamp::of_path(&self.path).ok().flatten().as_ref() == Some(main))
    }

    fn end(&self, hold: &Hold) {
        if let Some(database) = self.databases.get(hold.at) {
            if let Some(aside) = &hold.aside {
                return aside.end(database);
            }
            // Ending to read takes nothing that could be refused; a connection that is broken holds nothing.
            let _ = database.end();
        }
    }

    /// What was committed between `from` and the state held, for a `from` that somebody held without a
    /// break until after this hold began.
    pub fn catch_up(&self, from: &LogCursor) -> Result<Result<Caught, Lost>, SqliteError> {
        match &self.hold {
            Some(hold) => self.read_between(from, hold, true),
            None => Ok(Err(Lost::HoldBroken)),
        }
    }

    /// Reads everything committed behind `from`, and holds the state it leads to.
    pub fn advance(&mut self, from: &LogCursor) -> Result<Result<Caught, Lost>, SqliteError> {
        let caught = self.read_on(from);
        self.move_on();
        caught
    }

    /// Reads everything committed behind `from`. What was held before is held on until [`Tail::move_on`]: until
    /// then nothing of what was read can go.
    pub fn read_on(&mut self, from: &LogCursor) -> Result<Result<Caught, Lost>, SqliteError> {
        self.move_on();
        let next = self.hold.as_ref().map_or(0, |hold| 1 - hold.at.min(1));
        let new = self.begin(next)?;
        self.reach(Step::Begun);
        // Only the very state that is held is known to have been the newest for as long as it was.
        let unbroken = match &self.hold {
            Some(hold) => hold.cursor == *from,
            None => self.is_untouched(from),
        };
        let mut caught = self.read_between(from, &new, unbroken);
        self.reach(Step::Read);
        match self.is_unbroken() {
            Ok(true) => self.reach(Step::Proven),
            Ok(false) if matches!(caught, Ok(Ok(_))) => caught = Ok(Err(Lost::HoldBroken)),
            Ok(false) => {}
            Err(error) => caught = Err(error),
        }
        self.next = Some(new);
        caught
    }

    /// Whether the next commit may begin the log anew, and with it overwrite what was read, after
    /// [`Tail::move_on`].
    pub fn will_free_the_log(&self) -> bool {
        self.next.as_ref().is_some_and(|next| next.is_slot_0)
    }

    /// Ends the hold before the one that [`Tail::read_on`] began.
    pub fn move_on(&mut self) {
        let Some(next) = self.next.take() else { return };
        self.reach(Step::LettingGo);
        if let Some(before) = self.hold.replace(next) {
            self.end(&before);
        }
        self.reach(Step::Ended);
    }

    /// Whether the live wal-index is one that the hold allows. True without a hold.
    fn is_unbroken(&self) -> Result<bool, SqliteError> {
        let Some(hold) = &self.hold else { return Ok(true) };
        let Some(database) = self.databases.get(hold.at) else { return Ok(false) };
        database.still_there()?;
        let live = ffi::live_index(&database.conn()).at("read the wal-index of", &database.path)?;
        let live = live.map(|live| Live::of_index(&live));
        if hold.aside.is_some() {
            // Its lock keeps the log from being begun anew; how much is copied back it does not bound.
            return Ok(hold.index.zip(live).is_some_and(|(index, live)| index.salts == live.salts));
        }
        Ok(held(hold.index.as_ref(), hold.placement, live.as_ref()))
    }

    /// One of the two. There is none while it rests, when nobody may ask.
    fn database(&self, at: usize) -> Result<&Database, SqliteError> {
        self.databases.get(at).ok_or_else(|| SqliteError::Missing { path: self.path.clone() })
    }

    /// Begins a read transaction, and says which state it sees.
    fn begin(&self, at: usize) -> Result<Hold, SqliteError> {
        let database = self.database(at)?;
        let copied_before = self.copied_back();
        self.reach(Step::Beginning);
        let begun = database.begin(self.clock.as_ref()).and_then(|_| self.describe(database, at, copied_before));
        if begun.is_err() {
            let _ = database.end();
            // A file that was put in the place of another has a log of its own: both at once are rubbish.
            database.still_there()?;
        }
        begun
    }

    fn describe(
        &self,
        database: &Database,
        at: usize,
        copied_before: Option<(Salts, u32)>,
    ) -> Result<Hold, SqliteError> {
        let path = &database.path;
        let (main, index, live) = {
            let conn = database.conn();
            let (first, len) = read_start(&conn).at("read", path)?;
            let index = ffi::snapshot(&conn).at("read the position of", path)?;
            let live = ffi::live_index(&conn).at("read the wal-index of", path)?;
            (parse(&first, len, path)?, index.map(|words| IndexHeader::of_words(&words)), live)
        };
        if !main.as_ref().is_some_and(|(header, _)| header.format == WriteFormat::Wal) {
            return Err(SqliteError::NotWal { path: path.clone() });
        }
        database.still_there()?;
        let live = live.map(|live| Live::of_index(&live));
        let shape = main_shape(main, JournalMode::Wal);
        let page_count = index.map(|index| index.page_count).filter(|count| *count > 0).unwrap_or(shape.page_count);
        let is_slot_0 = match &index {
            None => true,
            Some(index) => index.frames == 0 || copied_before == Some((index.salts, index.frames)),
        };
        let placement = decide(index.as_ref(), live.as_ref());
        let cursor = LogCursor::of(index.as_ref(), shape.page_size, page_count);
        Ok(Hold { at, index, placement, cursor, is_slot_0, aside: None, ahead: None })
    }

    /// Generation and length of a log that is copied back whole, as the held connection sees it.
    fn copied_back(&self) -> Option<(Salts, u32)> {
        let database = self.databases.get(self.hold.as_ref()?.at)?;
        let live = ffi::live_index(&database.conn()).ok()??;
        let header = IndexHeader::of_words(&live.header);
        (live.backfilled >= header.frames).then_some((header.salts, header.frames))
    }

    fn read_between(&self, from: &LogCursor, to: &Hold, unbroken: bool) -> Result<Result<Caught, Lost>, SqliteError> {
        let nothing = |end: &LogCursor| Caught { commits: Vec::new(), images: self.images(end), end: end.clone() };
        if from.page_size != to.cursor.page_size {
            return Ok(Err(Lost::PageSizeChanged));
        }
        let Some(index) = &to.index else {
            let same = from.generation.is_none() && unbroken;
            return Ok(if same { Ok(nothing(&to.cursor)) } else { Err(Lost::Restarted) });
        };
        let same = from.generation.filter(|generation| generation.salts == index.salts.0);
        let begin = match same {
            None if !unbroken => return Ok(Err(Lost::Restarted)),
            None => None,
            Some(known) if known.frames > index.frames => return Ok(Err(Lost::OtherContent)),
            Some(known) => Some(known),
        };
        if begin.map_or(0, |known| known.frames) == index.frames {
            let other = begin.is_some_and(|known| index.frames > 0 && Some(known) != to.cursor.generation);
            return Ok(if other { Err(Lost::OtherContent) } else { Ok(nothing(&to.cursor)) });
        }
        self.read_frames(from, to, index, begin)
    }

    fn images(&self, of: &LogCursor) -> Images {
        Images::new(&self.options.spool_dir, of.page_size)
    }

    /// Reads the frames from `begin` (or the first) to the end of `index`, all of them or nothing.
    fn read_frames(
        &self,
        from: &LogCursor,
        to: &Hold,
        index: &IndexHeader,
        begin: Option<Generation>,
    ) -> Result<Result<Caught, Lost>, SqliteError> {
        let path = sibling(&self.path, "-wal");
        let Ok(mut file) = File::open(&path) else { return Ok(Err(Lost::OtherLog)) };
        let Some(header) = header_of(&file, index.salts) else { return Ok(Err(Lost::OtherLog)) };
        if header.page_size.get() != from.page_size {
            return Ok(Err(Lost::PageSizeChanged));
        }
        self.reach(Step::HeaderRead);
        let place = match begin {
            Some(known) if known.frames > 0 => {
                let [first, second] = known.checksum;
                WalPlace { header, frames: known.frames, checksum: Checksum { first, second } }
            }
            _ => WalPlace::begin(header),
        };
        let mut images = self.images(from);
        images.expect(u64::from(index.frames.saturating_sub(place.frames)));
        let mut frames: Vec<u32> = Vec::new();
        file.seek(SeekFrom::Start(place.offset())).at("read", &path)?;
        let reader = BufReader::with_capacity(LOG_BUFFER, &file);
        let tail = wal::read_on(reader, &place, Some(index.frames), &mut |_, page, bytes| {
            frames.push(page);
            images.push(bytes)
        });
        let tail = match tail {
            Err(WalError::Io(source)) => return Err(SqliteError::Io { op: "read", path, source }),
            Err(_) => return Ok(Err(Lost::OtherLog)),
            Ok(tail) => tail,
        };
        self.reach(Step::FramesRead);
        let reached = (tail.end.frames, tail.end.checksum) == (index.frames, index.checksum);
        if !reached || header_of(&file, index.salts) != Some(header) {
            return Ok(Err(Lost::OtherContent));
        }
        let mut commits = Vec::with_capacity(tail.commits.len());
        for commit in &tail.commits {
            let number = |frame: u32| u64::from(frame - place.frames - 1);
            let span = number(commit.first)..=number(commit.last);
            let written = span.filter_map(|image| Some((*frames.get(usize::try_from(image).ok()?)?, image)));
            let pages: BTreeMap<u32, u64> = written.filter(|(page, _)| *page <= commit.page_count).collect();
            let end = LogCursor {
                page_size: from.page_size,
                page_count: commit.page_count,
                generation: Some(Generation {
                    salts: index.salts.0,
                    frames: commit.last,
                    checksum: [commit.checksum.first, commit.checksum.second],
                }),
            };
            let pages = pages.into_iter().collect();
            commits.push(Commit { page_count: commit.page_count, pages, unwritten: Vec::new(), end });
        }
        self.cover_growth(from.page_count, to, &mut commits, &mut images)?;
        Ok(Ok(Caught { commits, images, end: to.cursor.clone() }))
    }

    /// SQLite does not write a page that a transaction made and freed again. Its content means nothing, but
    /// a commit must say what every page is that it adds: what the state held shows, or zeros where a
    /// later commit wrote it.
    fn cover_growth(
        &self,
        mut before: u32,
        to: &Hold,
        commits: &mut [Commit],
        images: &mut Images,
    ) -> Result<(), SqliteError> {
        let size = u64::from(to.cursor.page_size);
        let lock_page = u32::try_from(LOCK_BYTE / size + 1).unwrap_or(u32::MAX);
        let mut view = None;
        for at in 0..commits.len() {
            let Some((commit, later)) = commits.get_mut(at..).and_then(<[Commit]>::split_first_mut) else { break };
            let grown = before.saturating_add(1)..=commit.page_count;
            before = commit.page_count;
            let there: HashSet<u32> = commit.pages.iter().map(|(page, _)| *page).collect();
            let missing: Vec<u32> = grown.filter(|page| *page != lock_page && !there.contains(page)).collect();
            for page in missing {
                let written_later = later
                    .iter()
                    .any(|l| page > l.page_count || l.pages.binary_search_by_key(&page, |(page, _)| *page).is_ok());
                let mut bytes = vec![0; to.cursor.page_size as usize];
                if !written_later {
                    let view = match &view {
                        Some(view) => view,
                        None => view.insert(self.view_of(to)?),
                    };
                    let database = self.database(to.at)?;
                    view.read(&database.conn, &database.path, u64::from(page - 1) * size, &mut bytes)?;
                }
                commit.pages.push((page, images.len()));
                commit.unwritten.push(page);
                images.push(&bytes).at("spool to", &self.options.spool_dir)?;
            }
            commit.pages.sort_unstable();
        }
        Ok(())
    }

    fn view_of(&self, hold: &Hold) -> Result<View, SqliteError> {
        let path = &self.path;
        let log = match (hold.placement, &hold.index) {
            (Placement::Overlay { .. }, Some(index)) => Some(pinned_log(path, index)?),
            _ => None,
        };
        let page_size = PageSize::try_from(hold.cursor.page_size)
            .map_err(|bad| SqliteError::Malformed { path: path.clone(), reason: bad.to_string() })?;
        Ok(View { page_size, len: page_size.bytes() * u64::from(hold.cursor.page_count), log })
    }
}

impl Drop for Tail {
    /// A lock on a slot that is held instead of a transaction would outlive its connection, as long as this process has others
    /// on the database.
    fn drop(&mut self) {
        for hold in [self.hold.take(), self.next.take()].into_iter().flatten() {
            self.end(&hold);
        }
    }
}

/// The header of the log, if it is of this generation.
fn header_of(file: &File, salts: Salts) -> Option<WalHeader> {
    let mut head = [0; wal::HEADER_LEN];
    file.read_exact_at(&mut head, 0).ok()?;
    WalHeader::parse(&head).ok().filter(|header| header.salts == salts)
}
