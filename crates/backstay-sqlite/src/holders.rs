//! Who has a database open, as far as this process can see.
//!
//! Owns the search through `/proc` and the question to SQLite's locks. Looks without opening anything:
//! the link of a descriptor is followed by `stat` alone. What could not be seen is said, never left
//! out. Takes SHARED for an instant, and in WAL mode nothing else.

use crate::facts::FileIdentity;
use crate::open::{Database, sibling};
use std::path::Path;
use std::time::Duration;

/// A process that has one of the database's files open.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Holder {
    pub pid: u32,
    pub command: String,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (pid {})", self.command, self.pid)
    }
}

/// What SQLite's locks say at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LockState {
    /// It could be read at once.
    Readable,
    /// A writer, or a program in exclusive locking mode, keeps readers out.
    Exclusive,
    /// SQLite could not be asked.
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Holders {
    pub processes: Vec<Holder>,
    /// What was not looked at, as sentences.
    pub blind_spots: Vec<String>,
    pub locked: LockState,
}

/// Looks for the processes that have the database, its log or its wal-index open. This process is
/// left out.
pub fn holders(path: &Path) -> Holders {
    let mut found = processes(path);
    found.locked = lock_state(path);
    found
}

/// The part that asks only `/proc`.
pub(crate) fn processes(path: &Path) -> Holders {
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let names = [path.clone(), sibling(&path, "-wal"), sibling(&path, "-shm"), sibling(&path, "-journal")];
    let wanted: Vec<FileIdentity> =
        names.iter().filter_map(|name| std::fs::metadata(name).ok()).map(|m| FileIdentity::of_metadata(&m)).collect();
    let mut out = Holders { processes: Vec::new(), blind_spots: Vec::new(), locked: LockState::Unknown };
    let Ok(entries) = std::fs::read_dir("/proc") else {
        out.blind_spots.push(String::from("/proc cannot be read, so no process could be looked into"));
        return out;
    };
    let own = std::process::id();
    let mut closed = 0_u32;
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if pid == own {
            continue;
        }
        match has_open(&entry.path(), &wanted) {
            Ok(true) => out.processes.push(Holder { pid, command: command_of(&entry.path()) }),
            Ok(false) => {}
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => closed += 1,
            // It ended while we looked.
            Err(_) => {}
        }
    }
    out.processes.sort_by_key(|holder| holder.pid);
    if closed > 0 {
        let plural = if closed == 1 { "process of another user" } else { "processes of other users" };
        out.blind_spots.push(format!("{closed} {plural} could not be looked into"));
    }
    if !sees_every_process() {
        out.blind_spots.push(String::from("processes outside this container or namespace are not visible"));
    }
    out
}

fn has_open(process: &Path, wanted: &[FileIdentity]) -> std::io::Result<bool> {
    for entry in std::fs::read_dir(process.join("fd"))? {
        let Ok(entry) = entry else { continue };
        let Ok(found) = std::fs::metadata(entry.path()) else { continue };
        if wanted.contains(&FileIdentity::of_metadata(&found)) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn command_of(process: &Path) -> String {
    let name = std::fs::read_to_string(process.join("comm")).unwrap_or_default();
    let name: String = name.trim().chars().filter(|c| !c.is_control()).take(64).collect();
    if name.is_empty() { String::from("a process") } else { name }
}

/// The first process namespace of a machine has a fixed number.
fn sees_every_process() -> bool {
    const INITIAL: &str = "pid:[4026531836]";
    std::fs::read_link("/proc/self/ns/pid").is_ok_and(|link| link.as_os_str() == INITIAL)
}

fn lock_state(path: &Path) -> LockState {
    let Ok(database) = Database::open(path, None, Duration::ZERO) else { return LockState::Unknown };
    let asked = database.try_read();
    match asked {
        Ok(()) => LockState::Readable,
        Err(crate::SqliteError::Locked { .. }) => LockState::Exclusive,
        Err(_) => LockState::Unknown,
    }
}
