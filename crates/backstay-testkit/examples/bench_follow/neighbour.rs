//! What a writer loses beside somebody else than us: how much of what it loses beside us is the machine's, and SQLite's,
//! and not ours.
//!
//! *Writes*: reads what is appended to the log, and four times a second writes and syncs as much as we put beside it.
//! *Holds*: the least that any follower must do that loses nothing. A mark keeps the log from being begun anew; at the length
//! at which we do it the log is copied back under the writer's lock, and the mark moves on. It reads nothing and ships
//! nothing, and lets a checkpoint through that waits for its mark, as we do. *Follows*: both, and every frame is read before it
//! moves on, and compressed, enciphered and hashed by another thread, which is waited for only once it is 48 MiB behind.

use crate::Failed;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use backstay_sqlite::{Tail, TailOptions};
use backstay_store::os::SystemClock;
use rusqlite::Connection;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};

const FLAG: &str = "--beside";
const LOOK: Duration = Duration::from_millis(10);
const HELD_LOOK: Duration = Duration::from_millis(5);
const PUT: Duration = Duration::from_millis(250);
/// How long the writer's lock is tried for.
const LOCK_PATIENCE: Duration = Duration::from_millis(5);
/// Bytes that are compressed at once, and how many such may wait before who reads has to wait: as much as we have in memory.
const PIECE: usize = 1 << 20;
const PIECES: usize = 48;
/// How long a mark is waited for: somebody may have the log locked whole for a moment.
const PATIENCE: Duration = Duration::from_secs(1);
/// As ours: from here the log is copied back while somebody commits.
const COPY_BACK: u64 = 16 << 20;
const FRAME: u64 = 4096 + 24;
/// Where the wal-index says how many frames there are, and how many of them are copied back.
const FRAMES_AT: u64 = 16;
const COPIED_AT: u64 = 96;
/// Where the locks of writers and of checkpoints are in it.
const WRITERS: u64 = 120;
const CHECKPOINTS: u64 = 121;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Does {
    Writes,
    Holds,
    Follows,
}

impl Does {
    const ALL: [(Does, &str); 3] = [(Does::Writes, "writes"), (Does::Holds, "holds"), (Does::Follows, "follows")];
}

/// The process, ended when this goes.
pub struct Neighbour(Child);

impl Neighbour {
    /// Beside a database, writing so many bytes a second into a folder.
    pub fn begin(does: Does, db: &Path, folder: &Path, bytes: u64) -> Result<Neighbour, Failed> {
        let word = Does::ALL.iter().find(|(known, _)| *known == does).map_or("", |(_, word)| word);
        let mut command = Command::new(std::env::current_exe()?);
        Ok(Neighbour(command.arg(FLAG).arg(word).arg(db).arg(folder).arg(bytes.to_string()).spawn()?))
    }

    /// Beside one that had ended before, a writer was alone.
    pub fn end(mut self) -> Result<(), Failed> {
        match self.0.try_wait()? {
            None => Ok(()),
            Some(ended) => Err(format!("a neighbour did not stay: {ended}").into()),
        }
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What this process was started for, if it was started as a neighbour. It runs until it is killed.
pub fn of_arguments() -> Option<Result<(), Failed>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [flag, word, db, folder, bytes] = args.as_slice() else { return None };
    let (does, _) = Does::ALL.into_iter().find(|(_, known)| known == word)?;
    (flag == FLAG).then(|| live_beside(does, Path::new(db), Path::new(folder), bytes.parse()?))
}

fn live_beside(does: Does, db: &Path, folder: &Path, bytes: u64) -> Result<(), Failed> {
    let mut puts = Puts::begin(folder, bytes)?;
    if does == Does::Writes {
        let mut log = Log::of(db);
        loop {
            std::thread::sleep(LOOK);
            log.read_round()?;
            puts.put()?;
        }
    }
    let mut holder = Holder::begin(db, does == Does::Follows)?;
    loop {
        std::thread::sleep(HELD_LOOK);
        holder.look()?;
        if does == Does::Follows {
            puts.put()?;
        }
    }
}

/// So many bytes a second, in pieces that are synced.
struct Puts {
    folder: PathBuf,
    piece: Vec<u8>,
    last: Instant,
    number: u64,
}

impl Puts {
    fn begin(folder: &Path, bytes: u64) -> Result<Self, Failed> {
        std::fs::create_dir_all(folder)?;
        let piece = vec![0x5a; usize::try_from(bytes / 4)?];
        Ok(Self { folder: folder.to_owned(), piece, last: Instant::now(), number: 0 })
    }

    fn put(&mut self) -> Result<(), Failed> {
        if self.last.elapsed() < PUT {
            return Ok(());
        }
        self.last = Instant::now();
        let path = self.folder.join(self.number.to_string());
        std::fs::write(&path, &self.piece)?;
        File::open(&path)?.sync_all()?;
        File::open(&self.folder)?.sync_all()?;
        if let Some(old) = self.number.checked_sub(8) {
            std::fs::remove_file(self.folder.join(old.to_string()))?;
        }
        self.number += 1;
        Ok(())
    }
}

/// Compresses, enciphers and hashes what it is given, and throws it away: what it comes to is written by [`Puts`].
fn sealing() -> Result<SyncSender<Vec<u8>>, Failed> {
    let (send, pieces) = sync_channel::<Vec<u8>>(PIECES);
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32]).map_err(|_| "no cipher")?);
    let mut compressor = zstd::bulk::Compressor::new(1)?;
    std::thread::spawn(move || {
        for piece in pieces {
            std::hint::black_box(blake3::hash(&piece));
            let mut small = compressor.compress(&piece).expect("compressed");
            let nonce = Nonce::assume_unique_for_key([0; 12]);
            key.seal_in_place_append_tag(nonce, Aad::empty(), &mut small).expect("enciphered");
            std::hint::black_box(small);
        }
    });
    Ok(send)
}

struct Log {
    path: PathBuf,
    at: u64,
    buffer: Vec<u8>,
    /// Who is given what was read.
    seals: Option<SyncSender<Vec<u8>>>,
}

impl Log {
    fn of(db: &Path) -> Self {
        Self { path: format!("{}-wal", db.display()).into(), at: 0, buffer: vec![0; PIECE], seals: None }
    }

    /// Begun anew, it keeps its length: it is read round and round.
    fn read_round(&mut self) -> Result<(), Failed> {
        if let Ok(log) = File::open(&self.path) {
            self.at = if self.at >= log.metadata()?.len() { 0 } else { self.at };
            self.at += log.read_at(&mut self.buffer, self.at)? as u64;
        }
        Ok(())
    }

    /// From where it was read to, up to there.
    fn read_to(&mut self, end: u64) -> Result<(), Failed> {
        self.at = if self.at > end { 0 } else { self.at };
        let log = File::open(&self.path)?;
        while self.at < end {
            let most = usize::try_from(end - self.at)?.min(self.buffer.len());
            match log.read_at(&mut self.buffer[..most], self.at)? {
                0 => break,
                read => {
                    self.at += read as u64;
                    if let Some(seals) = &self.seals {
                        seals.send(self.buffer[..read].to_vec())?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// A mark that is never given up before the next one stands.
struct Holder {
    marks: [Connection; 2],
    at: usize,
    /// For the writer's lock, which a transaction hardly ever gets beside somebody who commits at full speed.
    writer: Tail,
    /// The wal-index, opened once: to close it would give back the locks of this process.
    index: File,
    log: Log,
    reads: bool,
    /// Frames when the mark was set, and at the last look.
    frames: u64,
    seen: u64,
}

impl Holder {
    fn begin(db: &Path, reads: bool) -> Result<Self, Failed> {
        let open = |patience: Duration| -> Result<Connection, Failed> {
            let conn = Connection::open(db)?;
            conn.busy_timeout(patience)?;
            conn.pragma_update(None, "wal_autocheckpoint", 0)?;
            conn.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
            Ok(conn)
        };
        let marks = [open(PATIENCE)?, open(PATIENCE)?];
        let writer = Tail::open(db, TailOptions::in_dir(db.with_extension("aside")), Arc::new(SystemClock))?;
        let index = File::open(format!("{}-shm", db.display()))?;
        let log = Log { seals: reads.then(sealing).transpose()?, ..Log::of(db) };
        let mut holder = Self { marks, at: 0, writer, index, log, reads, frames: 0, seen: 0 };
        holder.mark(0)?;
        Ok(holder)
    }

    fn frames(&self) -> Result<u64, Failed> {
        self.word(FRAMES_AT)
    }

    fn word(&self, at: u64) -> Result<u64, Failed> {
        let mut word = [0; 4];
        self.index.read_exact_at(&mut word, at)?;
        Ok(u32::from_ne_bytes(word).into())
    }

    /// Whether somebody has both locks of a checkpoint that waits, by the kernel's list of locks.
    fn is_waited_for(&self) -> Result<bool, Failed> {
        let (locks, file) = (std::fs::read_to_string("/proc/locks")?, format!(":{}", self.index.metadata()?.ino()));
        let is_taken = |at: u64| {
            locks.lines().any(|line| match line.split_whitespace().collect::<Vec<_>>()[..] {
                [_, "POSIX", _, "WRITE", _, of, first, last] if of.ends_with(&file) => {
                    let bound = |word: &str| word.parse().unwrap_or(u64::MAX);
                    (bound(first)..=bound(last)).contains(&at)
                }
                _ => false,
            })
        };
        Ok(is_taken(WRITERS) && is_taken(CHECKPOINTS))
    }

    /// Nobody can commit, and somebody waits for the mark: he copies back up to its end, and then needs every slot.
    fn make_way(&mut self, frames: u64) -> Result<(), Failed> {
        if self.frames < frames {
            return self.move_on();
        }
        if self.word(COPIED_AT)? >= frames {
            self.move_on()?;
            self.frames = 0;
            return Ok(());
        }
        // It is the very slot of the mark that he waits for.
        self.marks[self.at].execute_batch("COMMIT")?;
        self.mark(self.at)
    }

    fn mark(&mut self, at: usize) -> Result<(), Failed> {
        self.marks[at].execute_batch("BEGIN")?;
        self.marks[at].query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
        (self.at, self.frames) = (at, self.frames()?);
        Ok(())
    }

    /// The next mark, and only then the end of the one before.
    fn move_on(&mut self) -> Result<(), Failed> {
        let before = self.at;
        self.mark(1 - before)?;
        Ok(self.marks[before].execute_batch("COMMIT")?)
    }

    fn look(&mut self) -> Result<(), Failed> {
        let frames = self.frames()?;
        // Slot 0, or a log that was begun anew behind it.
        if self.frames == 0 || frames < self.frames {
            self.move_on()?;
        }
        if self.reads {
            self.log.read_to(frames * FRAME)?;
        }
        if std::mem::replace(&mut self.seen, frames) == frames && self.is_waited_for()? {
            return self.make_way(frames);
        }
        if frames * FRAME < COPY_BACK {
            return Ok(());
        }
        // What is synced now need not be while nobody can commit.
        File::open(&self.log.path)?.sync_data()?;
        if self.reads {
            self.log.read_to(self.frames()? * FRAME)?;
        }
        let done = if self.writer.lock_writers(LOCK_PATIENCE)? { self.copy_back() } else { Ok(()) };
        self.writer.unlock_writers();
        done
    }

    fn copy_back(&mut self) -> Result<(), Failed> {
        if self.reads {
            self.log.read_to(self.frames()? * FRAME)?;
        }
        self.move_on()?;
        self.marks[1 - self.at].query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))?;
        self.move_on()?;
        self.frames = 0;
        Ok(())
    }
}
