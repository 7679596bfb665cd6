//! Databases near a place: what `init` proposes.
//!
//! Owns a bounded walk that recognises databases by their first bytes. Follows no link, enters no
//! folder that tools fill (hidden ones, `node_modules`, `target`), gives up quietly on what it may not
//! read. Takes no lock, and reads each file through SQLite's handle so that it drops none.

use crate::facts::JournalMode;
use crate::open::read_start;
use backstay_format::sqlite::{DatabaseHeader, WriteFormat};
use backstay_model::{ByteLen, PageSize};
use rusqlite::{Connection, OpenFlags};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};

/// How far to look.
#[derive(Debug, Clone, Copy)]
pub struct DetectLimits {
    /// Folders below the first; 0 looks into the first alone.
    pub depth: u32,
    /// Files and folders looked at in all.
    pub entries: u32,
}

impl DetectLimits {
    pub const USUAL: Self = Self { depth: 4, entries: 10_000 };
}

/// One database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub path: PathBuf,
    pub page_size: PageSize,
    pub len: ByteLen,
    /// What its header says.
    pub journal: JournalMode,
}

const SKIPPED_FOLDERS: [&str; 2] = ["node_modules", "target"];
const SKIPPED_SUFFIXES: [&str; 3] = ["-wal", "-shm", "-journal"];
/// The smallest database has one page of the smallest size.
const LEN_MIN: u64 = 512;

/// Finds databases under `dir`, nearest first, then by name.
pub fn detect(dir: &Path, limits: DetectLimits) -> Vec<Found> {
    let mut found = Vec::new();
    let mut left = limits.entries;
    let mut folders = VecDeque::from([(dir.to_owned(), 0)]);
    while let Some((folder, depth)) = folders.pop_front() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        let mut entries: Vec<_> = entries.flatten().take(left as usize).collect();
        left = left.saturating_sub(u32::try_from(entries.len()).unwrap_or(u32::MAX));
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let Ok(kind) = entry.file_type() else { continue };
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if kind.is_dir() {
                let skipped = name.starts_with('.') || SKIPPED_FOLDERS.contains(&name.as_ref());
                if depth < limits.depth && !skipped {
                    folders.push_back((entry.path(), depth + 1));
                }
            } else if kind.is_file() && !SKIPPED_SUFFIXES.iter().any(|suffix| name.ends_with(suffix)) {
                found.extend(recognise(entry.path()));
            }
        }
    }
    found
}

fn recognise(path: PathBuf) -> Option<Found> {
    if std::fs::symlink_metadata(&path).ok()?.len() < LEN_MIN {
        return None;
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    // A name that begins with "file:" would be read as more than a name.
    let conn = Connection::open_with_flags(std::path::absolute(&path).ok()?, flags).ok()?;
    let (first, len) = read_start(&conn).ok()?;
    let header = DatabaseHeader::parse(&first, len).ok()?;
    let journal = match header.format {
        WriteFormat::Wal => JournalMode::Wal,
        WriteFormat::Rollback => JournalMode::Rollback,
    };
    Some(Found { path, page_size: header.page_size, len, journal })
}
