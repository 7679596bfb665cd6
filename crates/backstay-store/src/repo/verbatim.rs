//! Objects as the very bytes they are, for whoever hands them on: verified before they are given out.

use super::records::Record;
use super::{RepoError, Repository};
use crate::keys::{self, LogName, Place};
use crate::seam::Key;
use backstay_format::ObjectType;
use backstay_format::facts::{Audit, Branch, Conf, Lease, Prune, Role};
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
        self.verify_conf(key, &bytes, generation)?;
        Ok(bytes)
    }

    fn verify_conf(&self, key: &Key, bytes: &Bytes, generation: u64) -> Result<(), RepoError> {
        let record = Record::<Conf>::parse(key, bytes, ObjectType::Conf)?;
        if record.signer != self.root() {
            return Err(RepoError::OtherRoot { key: key.to_string(), pinned: self.root(), found: record.signer });
        }
        if record.repo != self.id() || record.facts.generation != generation {
            return Err(RepoError::misplaced(key, "its generation is not the one its name says"));
        }
        Ok(())
    }

    /// Whether these bytes are what may lie under this name: signed by somebody enrolled for it, made for this
    /// repository and this name, whole. Of a pack nothing is said, because a manifest alone says what it must
    /// be, nor of a wrap that the newest configuration does not name.
    pub fn verify(&self, key: &Key, bytes: &Bytes) -> Result<(), RepoError> {
        let number = |found: u64, named: u64| match found == named {
            true => Ok(()),
            false => Err(RepoError::misplaced(key, "its number is not the one its name says")),
        };
        match Place::of(key) {
            Place::Conf(generation) => self.verify_conf(key, bytes, generation),
            Place::Wrap => self.verify_wrap(key, bytes),
            Place::Snapshot(name) => self.parse_manifest(&name, bytes.clone()).map(drop),
            Place::Log(stream, slot) => self.parse_log(&LogName::slot(stream, slot), bytes.clone()).map(drop),
            Place::RollUp(name) => self.parse_log(&name, bytes.clone()).map(drop),
            Place::Mark(source, named) | Place::Notice(source, named) => {
                self.parse_mark(&source, (key, bytes), named).map(drop)
            }
            Place::Branch(source, branch) => {
                let record = self.parse_record::<Branch>((key, bytes), ObjectType::Branch, &[Role::Writer])?;
                match (record.facts.source == source, record.facts.branch == branch) {
                    (true, true) => Ok(()),
                    _ => Err(RepoError::misplaced(key, "it is not the branch its name says")),
                }
            }
            Place::Audit(signer, n) => {
                let record = self.parse_record::<Audit>((key, bytes), ObjectType::Audit, &Role::ALL)?;
                match record.signer == signer && record.facts.signer == signer {
                    true => number(record.chain.sequence.get(), n),
                    false => Err(RepoError::misplaced(key, "it is another signer's")),
                }
            }
            Place::Prune(n) => {
                let record = self.parse_record::<Prune>((key, bytes), ObjectType::Prune, &[Role::Keeper])?;
                number(record.chain.sequence.get(), n)
            }
            Place::Lease(n) => {
                let record = self.parse_record::<Lease>((key, bytes), ObjectType::Lease, &[Role::Keeper])?;
                number(record.chain.sequence.get(), n)
            }
            Place::Spare(spare) => match object::digest(bytes) == spare.digest {
                true => Ok(()),
                false => Err(RepoError::misplaced(key, "its bytes are not those its name says")),
            },
            // Nothing rests on a bundle, and whoever reads one looks at each thing in it.
            Place::Pack(..) | Place::Bundle(_) | Place::Unknown => Ok(()),
        }
    }

    fn verify_wrap(&self, key: &Key, bytes: &Bytes) -> Result<(), RepoError> {
        let named = self.conf().recipients.iter().map(|r| &r.wrap).chain(&self.conf().older);
        let mut named = named.filter(|named| keys::wrap(self.master(), &named.id) == *key);
        match named.next() {
            Some(named) if object::digest(bytes) != named.digest => {
                Err(RepoError::misplaced(key, "it is not the wrap the configuration names"))
            }
            _ => Ok(()),
        }
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
