//! Restoring into a database that is in use.
//!
//! The restored file lies beside it under a private name. Under the writer's lock every page that differs changes
//! places: the restored one goes into the transaction, the old one into the private file, which so becomes the old
//! state. It is durable under its new name before the transaction commits.
//!
//! A crash before the commit leaves the database as it was, and perhaps a copy of that beside it; one after it leaves
//! the restored state, and the old one under its name. A commit that fails without saying whether it happened leaves
//! that name too.

use super::swap::{Kept, free_name, mark};
use super::{Staged, StagedStream};
use crate::OpsError;
use crate::catalog::Vault;
use crate::disk::{self, At};
use backstay_sqlite::{Exchange, Exchanged, Pages};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

pub(super) fn exchange(
    vault: &Vault,
    staged: &Staged<'_>,
    to: &Path,
    busy: Duration,
) -> Result<(Exchanged, Vec<Kept>), OpsError> {
    let [main] = staged.streams.as_slice() else {
        let problem = "a capture with a log of its own is restored to a new file only".into();
        return Err(OpsError::Unsound { problem });
    };
    let to = to.canonicalize().at("find", to)?;
    let mut pages = StagedPages::open(vault, main)?;
    let exchange = Exchange::begin(&to, busy)?;
    let done = exchange.write(&mut pages)?;
    if done.changed == 0 {
        return Ok((done, Vec::new()));
    }
    // From here on the private file holds the state the live one still has.
    main.file.set_len(u64::from(done.before) * u64::from(done.page_size)).at("set the length of", &main.path)?;
    main.file.give_owner_of(&to).at("give the owner and mode to", &main.path)?;
    main.file.sync().at("sync", &main.path)?;
    main.still_there()?;
    let (disk, now) = (vault.env.disk.as_ref(), free_name(&to, &mark(vault)));
    disk.link(&main.path, &now).at("keep the old state as", &now)?;
    disk.sync_dir(disk::folder_of(&to)).at("sync folder of", &to)?;
    match exchange.commit(busy) {
        Ok(()) => Ok((done, vec![Kept { was: to, now }])),
        Err(source) if source.leaves_doubt() => Err(OpsError::Unsettled { kept: now, source }),
        Err(error) => {
            // Nothing was exchanged: the copy would only be taken for something.
            let _ = disk.remove(&now);
            Err(error.into())
        }
    }
}

/// The restored file, which takes the old pages in.
struct StagedPages<'a> {
    vault: &'a Vault,
    stream: &'a StagedStream,
    file: File,
    page_size: u64,
    count: u32,
}

impl<'a> StagedPages<'a> {
    fn open(vault: &'a Vault, stream: &'a StagedStream) -> Result<Self, OpsError> {
        let file = File::open(&stream.path).at("open", &stream.path)?;
        let mut size = [0; 2];
        file.read_exact_at(&mut size, 16).at("read", &stream.path)?;
        let page_size = match u16::from_be_bytes(size) {
            1 => 65_536,
            size => u64::from(size),
        };
        let length = file.metadata().at("look at", &stream.path)?.len();
        let count = length.checked_div(page_size).and_then(|count| u32::try_from(count).ok());
        let problem = || OpsError::Unsound { problem: "its length is no whole number of pages".into() };
        Ok(Self { vault, stream, file, page_size, count: count.ok_or_else(problem)? })
    }

    fn place(&self, page: u32) -> u64 {
        u64::from(page.saturating_sub(1)) * self.page_size
    }
}

impl Pages for StagedPages<'_> {
    fn count(&self) -> u32 {
        self.count
    }

    fn read(&mut self, page: u32, bytes: &mut [u8]) -> io::Result<()> {
        if bytes.len() as u64 != self.page_size {
            // Another page size: what is read of the first page says so.
            bytes.fill(0);
            let most = bytes.len().min(512);
            return bytes.get_mut(..most).map_or(Ok(()), |first| self.file.read_exact_at(first, 0));
        }
        if page.is_multiple_of(4096) {
            self.vault.env.cancel.check().map_err(io::Error::other)?;
        }
        self.file.read_exact_at(bytes, self.place(page))
    }

    fn keep(&mut self, page: u32, old: &[u8]) -> io::Result<()> {
        self.stream.file.write_at(self.place(page), old)
    }
}
