//! Units taken a second time: kept in memory while they are few, in an unlinked file beyond that.
//!
//! Owns that file. It has no name from the moment it exists, so nothing remains of it, whatever ends
//! the process.

use crate::error::{At, SqliteError};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Above this the units go to a file.
const MEMORY_MAX: usize = 16 * 1024 * 1024;
/// Number and length before each unit in the file.
const RECORD_HEADER: usize = 12;

enum Store {
    Memory { units: Vec<(u64, Vec<u8>)>, bytes: usize },
    File(File),
}

/// Collects units in ascending order, then gives them back in that order.
pub(crate) struct Spool {
    dir: PathBuf,
    store: Store,
    count: u64,
}

impl Spool {
    pub(crate) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), store: Store::Memory { units: Vec::new(), bytes: 0 }, count: 0 }
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn push(&mut self, unit: u64, bytes: &[u8]) -> Result<(), SqliteError> {
        self.count += 1;
        match &mut self.store {
            Store::Memory { units, bytes: held } => {
                units.push((unit, bytes.to_vec()));
                *held += bytes.len();
                if *held > MEMORY_MAX { self.spill() } else { Ok(()) }
            }
            Store::File(file) => append(file, unit, bytes).at("spool to", &self.dir),
        }
    }

    fn spill(&mut self) -> Result<(), SqliteError> {
        let Store::Memory { units, .. } = &self.store else { return Ok(()) };
        let mut file = tempfile::tempfile_in(&self.dir).at("spool to", &self.dir)?;
        for (unit, bytes) in units {
            append(&mut file, *unit, bytes).at("spool to", &self.dir)?;
        }
        self.store = Store::File(file);
        Ok(())
    }

    pub(crate) fn into_units(self) -> Result<ChangedUnits, SqliteError> {
        let dir = self.dir;
        let rest = match self.store {
            Store::Memory { units, .. } => Rest::Memory(units.into_iter()),
            Store::File(mut file) => {
                file.seek(SeekFrom::Start(0)).at("read back the spool in", &dir)?;
                Rest::File(BufReader::new(file))
            }
        };
        Ok(ChangedUnits { dir, rest, left: self.count })
    }
}

fn append(file: &mut File, unit: u64, bytes: &[u8]) -> std::io::Result<()> {
    let len = u32::try_from(bytes.len()).map_err(|_| std::io::ErrorKind::InvalidInput)?;
    let mut record = Vec::with_capacity(RECORD_HEADER + bytes.len());
    record.extend(unit.to_le_bytes());
    record.extend(len.to_le_bytes());
    record.extend(bytes);
    file.write_all(&record)
}

enum Rest {
    Memory(std::vec::IntoIter<(u64, Vec<u8>)>),
    File(BufReader<File>),
}

/// The units that are not what the first pass saw, ascending.
pub struct ChangedUnits {
    dir: PathBuf,
    rest: Rest,
    left: u64,
}

impl ChangedUnits {
    /// How many are still to come.
    pub fn len(&self) -> u64 {
        self.left
    }

    pub fn is_empty(&self) -> bool {
        self.left == 0
    }

    /// The next unit and its bytes; `None` after the last.
    #[expect(clippy::should_implement_trait, reason = "an iterator of results invites collecting what may not fit")]
    pub fn next(&mut self) -> Result<Option<(u64, Vec<u8>)>, SqliteError> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        match &mut self.rest {
            Rest::Memory(units) => Ok(units.next()),
            Rest::File(file) => read_record(file).map(Some).at("read back the spool in", &self.dir),
        }
    }
}

fn read_record(file: &mut impl Read) -> std::io::Result<(u64, Vec<u8>)> {
    let (mut unit, mut len) = ([0; 8], [0; 4]);
    file.read_exact(&mut unit)?;
    file.read_exact(&mut len)?;
    let mut bytes = vec![0; u32::from_le_bytes(len) as usize];
    file.read_exact(&mut bytes)?;
    Ok((u64::from_le_bytes(unit), bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_come_back_in_order_from_memory_and_from_a_file() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for count in [3_u64, 400] {
            let mut spool = Spool::new(dir.path());
            for unit in 0..count {
                spool.push(unit * 2, &vec![unit as u8; 65_536]).expect("room");
            }
            assert_eq!(matches!(spool.store, Store::File(_)), count == 400);
            let mut units = spool.into_units().expect("readable");
            for unit in 0..count {
                assert_eq!(units.next().expect("readable"), Some((unit * 2, vec![unit as u8; 65_536])));
            }
            assert_eq!(units.next().expect("readable"), None);
        }
        assert_eq!(std::fs::read_dir(dir.path()).expect("readable").count(), 0, "the spool has no name");
    }
}
