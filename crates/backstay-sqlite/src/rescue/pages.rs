//! The pages of a database as its files hold them: the log laid over the main file.

use crate::as_is::{AsIs, RawStream};
use crate::error::SqliteError;
use backstay_format::sqlite::guess::{self, Likeness};
use backstay_format::sqlite::wal::{self, Committed};
use backstay_format::sqlite::walk::PageSource;
use backstay_model::{ByteLen, PageNo};
use std::io::{self, Read};
use std::path::Path;

/// The files of one damaged database, read and never changed.
pub struct FilePages {
    files: AsIs,
    log: Option<Committed>,
    pub likeness: Likeness,
    pages: u32,
}

impl FilePages {
    /// Opens the files. An error when nothing in them looks like pages of a database.
    pub fn open(path: &Path) -> Result<Self, SqliteError> {
        let files = crate::capture_as_is(path)?;
        let main = stream(&files, "main").ok_or_else(|| SqliteError::Missing { path: path.to_owned() })?;
        let log = match stream(&files, "wal") {
            None => None,
            // A log whose end cannot be read counts up to there.
            Some(log) => wal::map_committed(Bytes { stream: log, at: 0 }).unwrap_or_default(),
        };
        let mut first = vec![0; usize::try_from(main.len.get()).unwrap_or(usize::MAX).min(guess::SAMPLE)];
        read_what_can_be(main, &mut first);
        let hint = log.as_ref().map(|log| log.header.page_size);
        let likeness = guess::likeness(&first, main.len, hint).ok_or_else(|| SqliteError::Malformed {
            path: path.to_owned(),
            reason: "nothing in it looks like a page of a database".to_owned(),
        })?;
        // The log of another database says nothing about this one.
        let log = log.filter(|log| log.header.page_size == likeness.shape.size);
        let mut pages = Self { files, log, likeness, pages: 0 };
        pages.count(main_len(&pages.files));
        pages.look_again();
        Ok(pages)
    }

    fn count(&mut self, len: ByteLen) {
        let size = self.likeness.shape.size.bytes();
        let held = u32::try_from(len.get().div_ceil(size)).unwrap_or(u32::MAX - 1);
        // A page behind the end of the file is in the log, or it is nowhere.
        let beyond = self.log.as_ref().map_or(0, |log| log.page_count.min(held.saturating_add(log.frames)));
        self.pages = held.max(beyond);
    }

    /// The first page may be in the log, whole.
    fn look_again(&mut self) {
        let mut first = vec![0; self.likeness.shape.size.get() as usize];
        let in_log =
            self.log.as_ref().is_some_and(|log| PageNo::new(1).and_then(|one| log.map.offset_of(one)).is_some());
        if in_log
            && self.read(1, &mut first)
            && let Some(found) =
                guess::likeness(&first, ByteLen::new(first.len() as u64), Some(self.likeness.shape.size))
            && !found.is_guessed
            && found.shape.size == self.likeness.shape.size
        {
            self.likeness = found;
        }
    }

    /// What the database would be long, log included.
    pub fn len(&self) -> ByteLen {
        ByteLen::new(u64::from(self.pages) * self.likeness.shape.size.bytes())
    }

    /// Commits of the log that are laid over the file, in frames.
    pub fn log_frames(&self) -> u32 {
        self.log.as_ref().map_or(0, |log| log.frames)
    }

    /// Whether a journal lies beside it that a program would roll back first.
    pub fn has_journal(&self) -> bool {
        stream(&self.files, "journal").is_some_and(|journal| journal.len.get() > 0)
    }

    /// Names of files that changed while they were read.
    pub fn changed(&self) -> Vec<&'static str> {
        self.files.finish().changed
    }
}

impl PageSource for FilePages {
    fn pages(&self) -> u32 {
        self.pages
    }

    fn read(&self, page: u32, out: &mut [u8]) -> bool {
        let Some(number) = PageNo::new(page) else { return false };
        let logged = self.log.as_ref().and_then(|log| log.map.offset_of(number));
        let (name, at) = match logged {
            Some(at) => ("wal", at),
            None => ("main", u64::from(page - 1) * self.likeness.shape.size.bytes()),
        };
        stream(&self.files, name).is_some_and(|stream| at < stream.len.get() && stream.read_at(at, out).is_ok())
    }
}

fn stream<'a>(files: &'a AsIs, name: &str) -> Option<&'a RawStream> {
    files.streams.iter().find(|stream| stream.name == name)
}

fn main_len(files: &AsIs) -> ByteLen {
    stream(files, "main").map_or(ByteLen::new(0), |main| main.len)
}

/// A sector that cannot be read is zeros here: what is around it still tells how long pages are.
fn read_what_can_be(stream: &RawStream, out: &mut [u8]) {
    for (at, piece) in out.chunks_mut(4096).enumerate() {
        if stream.read_at(at as u64 * 4096, piece).is_err() {
            piece.fill(0);
        }
    }
}

/// A stream from its beginning.
struct Bytes<'a> {
    stream: &'a RawStream,
    at: u64,
}

impl Read for Bytes<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let left = self.stream.len.get().saturating_sub(self.at);
        let take = usize::try_from(left).unwrap_or(usize::MAX).min(out.len());
        let Some(out) = out.get_mut(..take) else { return Ok(0) };
        self.stream.read_at(self.at, out).map_err(io::Error::other)?;
        self.at += take as u64;
        Ok(take)
    }
}
