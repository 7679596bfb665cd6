//! One database with whoever follows it, and the repository beside it.

use crate::{Failed, writer};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const LITESTREAM: &str = "target/bench-venv/bin/litestream";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Alone,
    Ours,
    Litestream,
}

impl Kind {
    pub fn word(self) -> &'static str {
        match self {
            Kind::Alone => "alone",
            Kind::Ours => "ours",
            Kind::Litestream => "Litestream",
        }
    }

    /// The program, in a folder it takes for its own.
    pub fn command(self, dir: &Path) -> Result<Command, Failed> {
        let program = match self {
            Kind::Litestream => std::env::current_dir()?.join(LITESTREAM),
            _ => std::env::current_exe()?.with_file_name("../backstay"),
        };
        if !program.exists() {
            return Err(format!("there is no {}: `cargo xtask bench follow` makes it", program.display()).into());
        }
        let mut command = Command::new(program);
        command.current_dir(dir).env("HOME", dir).env_remove("XDG_STATE_HOME");
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Ok(command)
    }
}

pub struct Site {
    pub kind: Kind,
    dir: PathBuf,
    pub db: PathBuf,
}

impl Site {
    /// A copy of the database that is on the disk before anything is timed.
    pub fn make(kind: Kind, dir: &Path, source: &Path) -> Result<Site, Failed> {
        std::fs::create_dir_all(dir)?;
        let db = dir.join("shop.db");
        std::fs::copy(source, &db)?;
        std::fs::File::open(&db)?.sync_all()?;
        let site = Site { kind, dir: dir.to_owned(), db };
        if kind == Kind::Ours {
            site.call(&["init", "--yes", "--source", "shop=./shop.db", "--repo", "./vault", "--no-backup"])?;
        }
        Ok(site)
    }

    /// Where the other end is.
    pub fn remote(&self) -> PathBuf {
        self.dir.join(if self.kind == Kind::Ours { "vault/data" } else { "replica" })
    }

    /// Where an object appears for what was just committed.
    pub fn log(&self) -> PathBuf {
        self.remote().join(if self.kind == Kind::Ours { "log" } else { "ltx/0" })
    }

    fn url(&self) -> String {
        format!("file://{}", self.remote().display())
    }

    fn call(&self, words: &[&str]) -> Result<(), Failed> {
        let said = self.kind.command(&self.dir)?.args(words).stderr(Stdio::piped()).output()?;
        if said.status.success() {
            return Ok(());
        }
        Err(format!("{} {words:?} failed: {}", self.kind.word(), String::from_utf8_lossy(&said.stderr)).into())
    }

    pub fn sync_once(&self) -> Result<(), Failed> {
        match self.kind {
            Kind::Alone => Ok(()),
            Kind::Ours => self.call(&["follow", "--once"]),
            Kind::Litestream => self.call(&["replicate", "-once", "shop.db", &self.url()]),
        }
    }

    pub fn restore(&self) -> Result<(), Failed> {
        match self.kind {
            Kind::Alone => return Ok(()),
            Kind::Ours => self.call(&["restore", "shop", "--to", "restored.db"])?,
            Kind::Litestream => self.call(&["restore", "-o", "restored.db", &self.url()])?,
        }
        let restored = self.dir.join("restored.db");
        // Whoever has not synced what he wrote does it now.
        std::fs::File::open(&restored)?.sync_all()?;
        Ok(std::fs::remove_file(restored)?)
    }

    /// Starts following, and comes back when a commit was seen to arrive. The log is short then.
    pub fn follow(&self) -> Result<Running, Failed> {
        let conn = writer::open(&self.db, false)?;
        let words = match self.kind {
            Kind::Alone => {
                truncate(&conn);
                return Ok(Running(None));
            }
            Kind::Ours => vec!["follow".to_owned()],
            Kind::Litestream => vec!["replicate".to_owned(), "shop.db".to_owned(), self.url()],
        };
        let said = std::fs::File::create(self.dir.join("said"))?;
        let before = objects_below(&self.log())?;
        let running = Running(Some(self.kind.command(&self.dir)?.args(words).stderr(said).spawn()?));
        let begun = Instant::now();
        for n in 0.. {
            writer::insert(&conn, n)?;
            std::thread::sleep(Duration::from_millis(100));
            // The second one shows that it is not only the beginning.
            if objects_below(&self.log())? > before + 1 {
                break;
            }
            if begun.elapsed() > Duration::from_secs(300) {
                let said = std::fs::read_to_string(self.dir.join("said"))?;
                return Err(format!("{} does not follow: {said}", self.kind.word()).into());
            }
        }
        truncate(&conn);
        Ok(running)
    }
}

/// Tried once: who follows may be looking just now.
fn truncate(conn: &rusqlite::Connection) {
    let _ = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
}

/// A process that follows, stopped at the latest when this goes.
pub struct Running(Option<Child>);

impl Running {
    pub fn of(child: Child) -> Running {
        Running(Some(child))
    }

    pub fn pid(&self) -> u32 {
        self.0.as_ref().map_or(0, Child::id)
    }

    pub fn stop(mut self) -> Result<(), Failed> {
        let Some(child) = self.0.as_mut() else { return Ok(()) };
        Command::new("kill").args(["-INT", &child.id().to_string()]).status()?;
        let begun = Instant::now();
        while child.try_wait()?.is_none() {
            if begun.elapsed() > Duration::from_secs(120) {
                return Err("it does not stop".into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.0 = None;
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Every file below that has its final name; a folder that is not there yet has none.
fn each_below(dir: &Path, visit: &mut dyn FnMut(u64)) -> std::io::Result<()> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if entry.file_type()?.is_dir() {
            each_below(&entry.path(), visit)?;
        } else if !name.contains('#') && !name.ends_with(".tmp") {
            // It may be gone again: retention goes on beside this.
            visit(entry.metadata().map_or(0, |meta| meta.len()));
        }
    }
    Ok(())
}

pub fn bytes_below(dir: &Path) -> std::io::Result<u64> {
    let mut sum = 0;
    each_below(dir, &mut |len| sum += len)?;
    Ok(sum)
}

pub fn objects_below(dir: &Path) -> std::io::Result<u64> {
    let mut sum = 0;
    each_below(dir, &mut |_| sum += 1)?;
    Ok(sum)
}
