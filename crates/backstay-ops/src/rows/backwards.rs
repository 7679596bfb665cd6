//! Statements that are handed out in the opposite order of how they came, for undoing: what was done last is undone
//! first, so that every state on the way back is one that was there on the way forth.
//!
//! Owns a bound on memory: what is more than a batch waits in a file without a name. A crash leaves nothing of it, or
//! an empty file if it comes between the two calls that make it.

use super::bring::BATCH;
use crate::Env;
use crate::disk::DiskFile;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

pub(super) struct Backwards<'a> {
    env: &'a Env,
    /// Where the file is made.
    path: PathBuf,
    waiting: Vec<String>,
    held: usize,
    spilled: Option<Spilled>,
}

struct Spilled {
    write: Box<dyn DiskFile>,
    read: File,
    /// Where each batch lies, in the order they came.
    batches: Vec<Range<u64>>,
}

impl<'a> Backwards<'a> {
    pub fn new(env: &'a Env, path: PathBuf) -> Self {
        Self { env, path, waiting: Vec::new(), held: 0, spilled: None }
    }

    pub fn push(&mut self, sql: &str) -> io::Result<()> {
        self.held += sql.len();
        self.waiting.push(sql.to_owned());
        if self.held >= BATCH { self.spill() } else { Ok(()) }
    }

    /// Those that wait, the last first.
    fn batch(&mut self) -> String {
        self.held = 0;
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.reverse();
        waiting.join("\n")
    }

    fn spill(&mut self) -> io::Result<()> {
        let text = self.batch();
        if self.spilled.is_none() {
            let write = self.env.disk.create(&self.path, 0o600)?;
            let read = File::open(&self.path);
            self.env.disk.remove(&self.path)?;
            self.spilled = Some(Spilled { write, read: read?, batches: Vec::new() });
        }
        let Some(spilled) = &mut self.spilled else { return Ok(()) };
        let from = spilled.batches.last().map_or(0, |last| last.end);
        spilled.write.write_at(from, text.as_bytes())?;
        spilled.batches.push(from..from + text.len() as u64);
        Ok(())
    }

    /// All of them, the last first, a batch at a time.
    pub fn each(&mut self, each: &mut dyn FnMut(&str) -> io::Result<()>) -> io::Result<()> {
        if !self.waiting.is_empty() {
            each(&self.batch())?;
        }
        let Some(spilled) = &mut self.spilled else { return Ok(()) };
        for range in spilled.batches.drain(..).rev() {
            let mut bytes = vec![0; usize::try_from(range.end - range.start).unwrap_or(usize::MAX)];
            spilled.read.read_exact_at(&mut bytes, range.start)?;
            each(std::str::from_utf8(&bytes).map_err(io::Error::other)?)?;
        }
        Ok(())
    }
}
