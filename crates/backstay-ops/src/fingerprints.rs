//! Fingerprints of a whole stream in a file that has no name: 0.4 % of a database may be more than
//! memory should hold. A crash leaves nothing.

use crate::disk::{At, PathError};
use backstay_format::Fingerprint;
use backstay_format::fingerprint::RootHasher;
use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// Fingerprints by unit number.
pub struct FingerprintFile {
    file: File,
    /// Where the first fingerprint lies.
    base: u64,
}

/// Fingerprints handled at a time: one leaf's worth several times over.
const BATCH: usize = 8192;

/// Taken names that are passed over.
const NAMES: u32 = 1000;

impl FingerprintFile {
    /// A fresh one in `dir`, which may be a folder that somebody else writes to: it has no name there
    /// from the beginning, or where that cannot be had, one that nobody had.
    pub fn fresh(dir: &Path, name: &str) -> Result<Self, PathError> {
        Ok(Self { file: Self::nameless(dir, name)?, base: 0 })
    }

    /// A file of our own in `dir`, to write to and read from, that is gone with the process.
    pub(crate) fn nameless(dir: &Path, name: &str) -> Result<File, PathError> {
        use rustix::fs::{Mode, OFlags};
        let flags = OFlags::TMPFILE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
        match rustix::fs::open(dir, flags, Mode::RUSR | Mode::WUSR) {
            Ok(nameless) => Ok(nameless.into()),
            // Not every file system has files without a name.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR | rustix::io::Errno::INVAL) => {
                Self::unlinked(dir, name)
            }
            Err(other) => Err(std::io::Error::from(other)).at("create a file in", dir),
        }
    }

    /// Creates a file that nobody else has, and takes its name away. The number of a process is not
    /// its own where containers share a folder, so a name that is taken is left alone.
    fn unlinked(dir: &Path, name: &str) -> Result<File, PathError> {
        let mut attempt = 0;
        loop {
            let path = dir.join(format!(".{name}-{}-{attempt}.tmp", std::process::id()));
            let mut options = std::fs::OpenOptions::new();
            match options.read(true).write(true).create_new(true).mode(0o600).open(&path) {
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists && attempt < NAMES => attempt += 1,
                Err(e) => return Err(e).at("create", &path),
                Ok(file) => {
                    std::fs::remove_file(&path).at("unlink", &path)?;
                    return Ok(file);
                }
            }
        }
    }

    /// Those that lie in a file from `base` on.
    pub fn within(file: File, base: u64) -> Self {
        Self { file, base }
    }

    pub fn write(&self, first_unit: u64, fingerprints: &[Fingerprint]) -> std::io::Result<()> {
        let bytes: Vec<u8> = fingerprints.iter().flat_map(|f| f.0).collect();
        self.file.write_all_at(&bytes, self.base + first_unit * Fingerprint::LEN as u64)
    }

    pub fn read(&self, first_unit: u64, out: &mut [Fingerprint]) -> std::io::Result<()> {
        let mut bytes = vec![0; out.len() * Fingerprint::LEN];
        self.file.read_exact_at(&mut bytes, self.base + first_unit * Fingerprint::LEN as u64)?;
        for (fingerprint, bytes) in out.iter_mut().zip(bytes.chunks_exact(Fingerprint::LEN)) {
            fingerprint.0.copy_from_slice(bytes);
        }
        Ok(())
    }

    /// Feeds the first `units` to `visit` in order, a batch at a time.
    pub fn each(&self, units: u64, mut visit: impl FnMut(&[Fingerprint])) -> std::io::Result<()> {
        let mut batch = vec![Fingerprint::default(); BATCH];
        let mut at = 0;
        while at < units {
            let count = (units - at).min(BATCH as u64) as usize;
            let (batch, _) = batch.split_at_mut(count);
            self.read(at, batch)?;
            visit(batch);
            at += count as u64;
        }
        Ok(())
    }

    /// Adds the first `units` to a root digest.
    pub fn add_to_root(&self, root: &mut RootHasher, units: u64) -> std::io::Result<()> {
        self.each(units, |batch| root.units(batch))
    }
}

impl backstay_sqlite::SeenUnits for &FingerprintFile {
    fn read(&mut self, first_unit: u64, out: &mut [Fingerprint]) -> std::io::Result<()> {
        FingerprintFile::read(self, first_unit, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, symlink};

    /// The name was known beforehand and its link followed: whoever may write to the folder chose which
    /// file root emptied.
    #[test]
    fn a_name_that_is_taken_is_neither_followed_nor_used() {
        let dir = tempfile::tempdir().expect("a folder");
        let victim = dir.path().join("victim");
        std::fs::write(&victim, "kept").expect("write");
        let names = ["", "-0"].map(|n| dir.path().join(format!(".seen-{}{n}.tmp", std::process::id())));
        names.iter().for_each(|name| symlink(&victim, name).expect("link"));
        for file in
            [FingerprintFile::unlinked(dir.path(), "seen"), FingerprintFile::fresh(dir.path(), "seen").map(|f| f.file)]
        {
            let found = file.expect("a file").metadata().expect("metadata");
            assert_eq!((found.nlink(), found.mode() & 0o777), (0, 0o600));
        }
        assert_eq!(std::fs::read_to_string(&victim).expect("there"), "kept");
        assert!(names.iter().all(|name| name.is_symlink()));
        assert_eq!(std::fs::read_dir(dir.path()).expect("read folder").count(), 3);
    }
}
