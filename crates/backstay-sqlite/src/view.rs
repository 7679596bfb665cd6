//! One state of a database as bytes: the main file, overlaid by pages of the log, the lock-byte page
//! as zeros.
//!
//! Owns the addressing. What makes the state consistent (a transaction, a medium that nobody writes)
//! is the business of whoever made the view; a view alone takes no lock.

use crate::error::{At, SqliteError};
use crate::ffi;
use backstay_format::sqlite::{FrameMap, LOCK_BYTE, Salts, WalHeader};
use backstay_model::{PageNo, PageSize};
use rusqlite::Connection;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// The log of a view, through our own descriptor: no lock ever lies on a `-wal`.
pub(crate) struct Log {
    pub path: PathBuf,
    pub file: File,
    pub map: FrameMap,
    pub salts: Salts,
    pub frames: u32,
}

impl Log {
    /// Whether the log still begins with the generation the map was made from. SQLite writes a new
    /// header before the first frame of a new generation, so frames read before this was true are ours.
    pub(crate) fn is_same_generation(&self) -> io::Result<bool> {
        let mut head = [0; backstay_format::sqlite::wal::HEADER_LEN];
        match self.file.read_exact_at(&mut head, 0) {
            Ok(()) => Ok(WalHeader::parse(&head).is_ok_and(|header| header.salts == self.salts)),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(e) => Err(e),
        }
    }
}

/// What to read, and how much of it there is.
pub(crate) struct View {
    pub page_size: PageSize,
    pub len: u64,
    pub log: Option<Log>,
}

impl View {
    /// Fills `buf` with the bytes from `offset`; what lies past the end is zeros.
    pub(crate) fn read(
        &self,
        main: &Mutex<Connection>,
        path: &Path,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<(), SqliteError> {
        self.read_main(main, path, offset, buf)?;
        if let Some(log) = &self.log {
            let body = self.within(offset, buf);
            self.overlay(log, offset, body)?;
            self.blank_lock_page(offset, body);
        }
        Ok(())
    }

    /// The same of the main file alone.
    pub(crate) fn read_main(
        &self,
        main: &Mutex<Connection>,
        path: &Path,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<(), SqliteError> {
        let within = self.within(offset, buf).len();
        let (body, past) = buf.split_at_mut(within);
        past.fill(0);
        if body.is_empty() {
            return Ok(());
        }
        let conn = main.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        ffi::read_main(&conn, offset, body).at("read", path)?;
        drop(conn);
        self.blank_lock_page(offset, body);
        Ok(())
    }

    /// The part of a buffer that lies before the end.
    fn within<'b>(&self, offset: u64, buf: &'b mut [u8]) -> &'b mut [u8] {
        let within = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX).min(buf.len());
        &mut buf[..within]
    }

    /// Puts the log's version of each page that `body` touches over the main file's.
    fn overlay(&self, log: &Log, offset: u64, body: &mut [u8]) -> Result<(), SqliteError> {
        let size = self.page_size.bytes();
        let mut at = 0;
        while let Some(rest) = body.get_mut(at..).filter(|rest| !rest.is_empty()) {
            let position = offset + at as u64;
            let inside = position % size;
            let take = rest.len().min((size - inside) as usize);
            let page = u32::try_from(position / size + 1).ok().and_then(PageNo::new);
            if let (Some(frame), Some(out)) = (page.and_then(|page| log.map.offset_of(page)), rest.get_mut(..take)) {
                log.file.read_exact_at(out, frame + inside).at("read", &log.path)?;
            }
            at += take;
        }
        Ok(())
    }

    /// SQLite never stores data in the page that holds the lock bytes; whatever lies there is not
    /// part of the database.
    pub(crate) fn blank_lock_page(&self, offset: u64, body: &mut [u8]) {
        let end = offset + body.len() as u64;
        let from = LOCK_BYTE.max(offset);
        let to = (LOCK_BYTE + self.page_size.bytes()).min(end);
        if from < to
            && let Some(lock_page) = body.get_mut((from - offset) as usize..(to - offset) as usize)
        {
            lock_page.fill(0);
        }
    }
}
