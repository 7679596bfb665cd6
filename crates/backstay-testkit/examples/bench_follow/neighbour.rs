//! A neutral neighbour of a writer: reads what is appended to its log, and four times a second writes and syncs as much as
//! we put beside it. What a writer loses by that is the machine's own limit, and not what following does to it.

use crate::Failed;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

const FLAG: &str = "--beside";
const LOOK: Duration = Duration::from_millis(10);
const PUT: Duration = Duration::from_millis(250);

/// The process, ended when this goes.
pub struct Neighbour(Child);

impl Neighbour {
    /// Beside a database, writing so many bytes a second into a folder.
    pub fn begin(db: &Path, folder: &Path, bytes: u64) -> Result<Neighbour, Failed> {
        let mut command = Command::new(std::env::current_exe()?);
        Ok(Neighbour(command.arg(FLAG).arg(db).arg(folder).arg(bytes.to_string()).spawn()?))
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
    let [flag, db, folder, bytes] = args.as_slice() else { return None };
    let log = PathBuf::from(format!("{db}-wal"));
    (flag == FLAG).then(|| live_beside(&log, Path::new(folder), bytes.parse()?))
}

fn live_beside(log: &Path, folder: &Path, bytes: u64) -> Result<(), Failed> {
    std::fs::create_dir_all(folder)?;
    let piece = vec![0x5a; usize::try_from(bytes / 4)?];
    let (mut put, mut number, mut at, mut buffer) = (Instant::now(), 0_u64, 0_u64, vec![0; 1 << 20]);
    loop {
        std::thread::sleep(LOOK);
        if let Ok(log) = File::open(log) {
            // Begun anew, it keeps its length: it is read round and round.
            at = if at >= log.metadata()?.len() { 0 } else { at };
            at += log.read_at(&mut buffer, at)? as u64;
        }
        if put.elapsed() >= PUT {
            put = Instant::now();
            let path = folder.join(number.to_string());
            std::fs::write(&path, &piece)?;
            File::open(&path)?.sync_all()?;
            File::open(folder)?.sync_all()?;
            if let Some(old) = number.checked_sub(8) {
                std::fs::remove_file(folder.join(old.to_string()))?;
            }
            number += 1;
        }
    }
}
