//! A database in the making: written under a private name, questioned, and only then given the one that was asked for.
//!
//! Nothing is overwritten: who has the name keeps it. A crash leaves a private file, readable by its owner alone,
//! which the next run into that folder removes.

use crate::disk::{self, At};
use crate::env::blocking;
use crate::leftovers;
use crate::restore::siblings;
use crate::{Env, OpsError};
use backstay_model::{ByteLen, ObjectId, seams};
use backstay_sqlite::{Answers, ForeignKeys, Integrity, Questions};
use std::io;
use std::path::{Path, PathBuf};

/// A database in the making, under a private name that goes away with this value.
pub struct Private<'a> {
    env: &'a Env,
    pub path: PathBuf,
    file: Box<dyn disk::DiskFile>,
}

impl<'a> Private<'a> {
    pub fn create(env: &'a Env, to: &Path, len: ByteLen) -> Result<Self, OpsError> {
        for taken in std::iter::once(to.to_owned()).chain(siblings(to)) {
            if taken.symlink_metadata().is_ok() {
                return Err(OpsError::TargetExists { path: taken });
            }
        }
        let folder = disk::folder_of(to);
        leftovers::sweep(env.disk.as_ref(), folder);
        let free = disk::free_bytes(folder)?;
        if free < len.get() {
            return Err(OpsError::NoRoom { path: folder.to_owned(), needed: len, free: ByteLen::new(free) });
        }
        let tag = ObjectId::from_bytes(seams::fresh(env.random.as_ref())).short();
        let name = to.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let path = to.with_file_name(leftovers::staged_name(&name, &tag));
        let file = leftovers::create(env.disk.as_ref(), &path)?;
        Ok(Self { env, path, file })
    }

    /// To write to it without SQLite, which must not have it open then.
    pub fn file(&self) -> &dyn disk::DiskFile {
        self.file.as_ref()
    }

    pub fn question(&self) -> Result<Answers, OpsError> {
        let questions = Questions {
            integrity: Integrity::Full,
            foreign_keys: ForeignKeys::Report,
            smoke: Vec::new(),
            limit: Questions::USUAL_LIMIT,
        };
        self.env.question(&self.path, &questions)
    }

    /// Gives it the name that was asked for, durably and only if nobody has taken it.
    pub fn name(&self, to: &Path) -> Result<(), OpsError> {
        blocking(|| self.file.sync()).at("sync", &self.path)?;
        match self.env.disk.link(&self.path, to) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                return Err(OpsError::TargetExists { path: to.to_owned() });
            }
            other => other.at("name", to)?,
        }
        let folder = disk::folder_of(to);
        Ok(self.env.disk.sync_dir(folder).at("sync folder of", to)?)
    }
}

impl Drop for Private<'_> {
    fn drop(&mut self) {
        let _ = self.env.disk.remove(&self.path);
    }
}
