//! Objects as the very bytes they are, for whoever hands them on: verified before they are given out.

use super::records::Record;
use super::{RepoError, Repository};
use crate::keys;
use crate::seam::Key;
use backstay_format::ObjectType;
use backstay_format::facts::Conf;
use backstay_format::object::{self, Object};
use bytes::Bytes;

impl Repository {
    /// Every configuration, oldest first, with its name. One that is not this repository's, signed by its
    /// root, is its error. The newest is the one this repository was opened with, wherever it came from.
    pub async fn confs(&self) -> Result<Vec<(Key, Result<Bytes, RepoError>)>, RepoError> {
        let newest = self.seen().generation;
        let mut confs = Vec::new();
        for entry in self.list(keys::CONF_PREFIX).await? {
            match keys::slot_number(&entry.key) {
                Some(generation) if generation < newest => {
                    let bytes = self.older_conf(&entry.key, generation).await;
                    confs.push((entry.key, bytes));
                }
                _ => {}
            }
        }
        confs.push((keys::conf(newest), Ok(self.conf_bytes().clone())));
        Ok(confs)
    }

    async fn older_conf(&self, key: &Key, generation: u64) -> Result<Bytes, RepoError> {
        let bytes = self.store().get(key).await?;
        let record = Record::<Conf>::parse(key, &bytes, ObjectType::Conf)?;
        if record.signer != self.root() {
            return Err(RepoError::OtherRoot { key: key.to_string(), pinned: self.root(), found: record.signer });
        }
        if record.repo != self.id() || record.facts.generation != generation {
            return Err(RepoError::misplaced(key, "its generation is not the one its name says"));
        }
        Ok(bytes)
    }

    /// The bytes of a record that was verified before: those, and no others that stand there by now.
    pub async fn record_bytes<F>(&self, key: &Key, record: &Record<F>) -> Result<Bytes, RepoError> {
        let bytes = self.store().get(key).await?;
        let object = Object::parse(&bytes).map_err(|e| RepoError::damaged(key, e))?;
        if object.front.digest == record.digest {
            return Ok(bytes);
        }
        Err(RepoError::misplaced(key, "it is not what was read there a moment ago"))
    }

    /// The wraps that the newest configuration counts on, each compared with the digest it names.
    pub async fn needed_wraps(&self) -> Vec<(Key, Result<Bytes, RepoError>)> {
        let mut wraps = Vec::new();
        for named in self.conf().recipients.iter().map(|r| &r.wrap).chain(&self.conf().older) {
            let key = keys::wrap(self.master(), &named.id);
            let bytes = match self.store().get(&key).await {
                Ok(bytes) if object::digest(&bytes) == named.digest => Ok(bytes),
                Ok(_) => Err(RepoError::misplaced(&key, "it is not the wrap the configuration names")),
                Err(error) => Err(error.into()),
            };
            wraps.push((key, bytes));
        }
        wraps
    }
}
