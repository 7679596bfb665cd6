//! Import: old copies of a database become snapshots of the time they are from.
//!
//! Owns what makes them harmless. They stand on a branch of their own, so that `latest` is never one of
//! them and the next backup goes on where the last one left off; their numbers are dense with all others,
//! so that nothing can be slipped in between. The copies are read the way a live database is, and a
//! packed one is unpacked to a private file, which a crash leaves to the next run to remove. The order of
//! writes is that of a backup, and so is what a crash leaves of it.
//!
//! Locks: the source's lock on this host for the whole run.

use crate::backup::{self, BackupReport, BackupRequest, Purpose, gather};
use crate::catalog::Vault;
use crate::disk::{self, At, DiskFile, PathError};
use crate::env::blocking;
use crate::leftovers;
use crate::{Event, OpsError};
use backstay_format::facts::Role;
use backstay_format::sqlite::DatabaseHeader;
use backstay_model::{ByteLen, Digest, Moment, ObjectId, UnitSize};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// What a person asked for.
#[derive(Debug, Clone)]
pub struct ImportRequest {
    /// As for a backup; its path is the old copy.
    pub copy: BackupRequest,
    /// When that was the newest state.
    pub taken: Moment,
    /// The most a packed copy may become.
    pub size_max: ByteLen,
    /// A folder for what is unpacked.
    pub folder: PathBuf,
}

/// What came of one copy.
#[derive(Debug, Clone, serde::Serialize)]
#[serde(tag = "import", rename_all = "kebab-case")]
pub enum Imported {
    Stored(Box<BackupReport>),
    /// These very pages are in the repository already: nothing was done.
    Known {
        snapshot: ObjectId,
        taken: Moment,
    },
}

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const PIECE: usize = 1 << 20;

/// Imports one old copy.
pub async fn import(vault: &Vault, request: &ImportRequest) -> Result<Imported, OpsError> {
    vault.signer(Role::Writer)?;
    let _lock = vault.state.lock(&request.copy.source)?;
    let of = std::path::absolute(&request.copy.path).at("find", &request.copy.path)?;
    let unpacked = match starts_with(&of, &GZIP_MAGIC)? {
        true => Some(blocking(|| Unpacked::of(vault, request, &of))?),
        false => None,
    };
    let path = unpacked.as_ref().map_or(of.as_path(), |unpacked| unpacked.path.as_path());
    let journal = crate::restore::beside(path, "-journal");
    if journal.metadata().is_ok_and(|found| found.len() > 0) {
        // To read it would be to roll it back, and an old copy is not to be changed.
        return Err(OpsError::Unfinished { path: of });
    }
    let copy = BackupRequest { path: path.to_owned(), ..request.copy.clone() };
    let purpose = Purpose::Import { taken: request.taken, of: &of };
    if let Some(known) = known(vault, &copy, purpose).await? {
        return Ok(known);
    }
    let report = backup::take(vault, &copy, purpose).await?;
    Ok(Imported::Stored(Box::new(report)))
}

fn starts_with(path: &Path, magic: &[u8]) -> Result<bool, PathError> {
    let mut first = Vec::new();
    let file = File::open(path).at("open", path)?;
    file.take(magic.len() as u64).read_to_end(&mut first).at("read", path)?;
    Ok(first == magic)
}

/// A snapshot of exactly these pages. A copy with a log is not looked for: what it holds is not in one file.
async fn known(vault: &Vault, copy: &BackupRequest, purpose: Purpose<'_>) -> Result<Option<Imported>, OpsError> {
    let log = crate::restore::beside(&copy.path, "-wal");
    let gathered = gather::gather(vault, copy, purpose).await?;
    let Some(base) = gathered.base.filter(|_| !log.metadata().is_ok_and(|found| found.len() > 0)) else {
        return Ok(None);
    };
    let Some(root) = blocking(|| root_of(&copy.path, &base.key()))? else { return Ok(None) };
    let catalog = vault.catalog(&copy.source).await?;
    let same = catalog.snapshots.iter().find(|snapshot| snapshot.root == root && !snapshot.is_quarantined());
    Ok(same.map(|snapshot| Imported::Known { snapshot: snapshot.id, taken: snapshot.taken }))
}

/// The root digest a snapshot of the file would have; `None` for what is no database.
fn root_of(path: &Path, key: &backstay_format::FingerprintKey) -> Result<Option<Digest>, PathError> {
    let mut file = File::open(path).at("open", path)?;
    let len = ByteLen::new(file.metadata().at("look at", path)?.len());
    let mut batch = vec![0; PIECE];
    let (hasher, mut root, mut unit) = (key.units(), key.root(), None);
    let mut left = len.get();
    while left > 0 {
        let take = usize::try_from(left).unwrap_or(usize::MAX).min(batch.len());
        let (bytes, _) = batch.split_at_mut(take);
        file.read_exact(bytes).at("read", path)?;
        let size = match unit {
            Some(size) => size,
            None => {
                let Ok(header) = DatabaseHeader::parse(bytes, len) else { return Ok(None) };
                let size = UnitSize::for_pages(header.page_size);
                root.begin_stream("main", size, len);
                *unit.insert(size)
            }
        };
        let fingerprints: Vec<_> = bytes.chunks(size.get() as usize).map(|unit| hasher.fingerprint(unit)).collect();
        root.units(&fingerprints);
        left -= take as u64;
    }
    Ok(unit.map(|_| root.finish()))
}

/// A packed copy, unpacked under a private name that goes away with this value.
struct Unpacked<'a> {
    vault: &'a Vault,
    path: PathBuf,
    file: Box<dyn DiskFile>,
}

impl<'a> Unpacked<'a> {
    fn of(vault: &'a Vault, request: &ImportRequest, packed: &Path) -> Result<Self, OpsError> {
        let disk = vault.env.disk.as_ref();
        disk::create_dirs(disk, &request.folder)?;
        leftovers::sweep(disk, &request.folder);
        let tag = vault.repo.fresh_id(vault.env.random.as_ref());
        let path = request.folder.join(leftovers::proof_name(&tag.short(), &tag));
        let file = leftovers::create(disk, &path)?;
        let unpacked = Self { vault, path, file };
        unpacked.fill(request, packed)?;
        Ok(unpacked)
    }

    /// Lets the stock program unpack it, for no longer than the bound and the disk allow.
    fn fill(&self, request: &ImportRequest, packed: &Path) -> Result<(), OpsError> {
        let input = File::open(packed).at("open", packed)?;
        let failed = |problem: String| OpsError::Unpack { path: packed.to_owned(), problem };
        let mut command = Command::new("gzip");
        command.arg("-dc").stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = Running(command.spawn().map_err(|error| failed(error.to_string()))?);
        let source = request.copy.source.clone();
        self.vault.env.tell(Event::Began { source, what: "unpacking", bytes: None });
        let written = self.copy(request, packed, &mut child.0);
        self.vault.env.tell(Event::Ended);
        written?;
        let mut said = String::new();
        if let Some(stderr) = child.0.stderr.take() {
            let _ = stderr.take(4096).read_to_string(&mut said);
        }
        let status = child.0.wait().map_err(|error| failed(error.to_string()))?;
        if status.success() { Ok(()) } else { Err(failed(said.trim().to_owned())) }
    }

    fn copy(&self, request: &ImportRequest, packed: &Path, child: &mut Child) -> Result<(), OpsError> {
        let mut output = child.stdout.take().ok_or(io::Error::from(io::ErrorKind::BrokenPipe)).at("read", packed)?;
        let free = disk::free_bytes(&request.folder)?;
        let mut piece = Vec::with_capacity(PIECE);
        let mut at = 0_u64;
        loop {
            self.vault.env.cancel.check()?;
            piece.clear();
            // A pipe gives what it has: whole pieces make the writes the same each time.
            let got = output.by_ref().take(PIECE as u64).read_to_end(&mut piece).at("read", packed)?;
            if got == 0 {
                return Ok(());
            }
            let end = at + got as u64;
            if end > request.size_max.get() {
                return Err(OpsError::TooLong { path: packed.to_owned(), limit: request.size_max });
            }
            if end > free {
                let (needed, free) = (ByteLen::new(end), ByteLen::new(free));
                return Err(OpsError::NoRoom { path: request.folder.clone(), needed, free });
            }
            self.file.write_at(at, &piece).at("write", &self.path)?;
            at = end;
            self.vault.env.tell(Event::Advanced { bytes: got as u64 });
        }
    }
}

impl Drop for Unpacked<'_> {
    fn drop(&mut self) {
        let _ = self.vault.env.disk.remove(&self.path);
    }
}

/// A program that does not outlive the wish for it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
