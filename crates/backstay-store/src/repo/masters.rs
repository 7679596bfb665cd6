//! The master identity as it lies in the repository: wrapped to each recipient, and behind it the masters before it.
//!
//! `ctl/master/<master>/<id>.age` are age files and no objects of ours. Which of them count, and with
//! which bytes, is said by the configuration alone: a file that somebody put there is never opened.

use super::{RepoError, Repository};
use crate::keyfile::KeyFile;
use crate::keys;
use crate::seal::ssh::SshIdentity;
use crate::seal::wrap::{self, Lock, Opening};
use crate::seal::{Master, MasterIdentity};
use crate::seam::Key;
use crate::{Entry, StoreError};
use backstay_format::facts::{Recipient, Wrapped};
use backstay_format::object;
use backstay_model::{ObjectId, Random, seams};

/// A wrap to be put.
pub struct NewWrap<'a> {
    pub master: &'a Master,
    pub holds: &'a [MasterIdentity],
    pub to: Lock<'a>,
}

/// The master identities somebody can have, the present one first if it is among them.
pub struct Unlocked {
    pub masters: Vec<MasterIdentity>,
    /// Whether what is sealed from now on can be opened.
    pub present: bool,
}

impl Repository {
    /// Puts a wrap under a name nobody had. Nobody counts on it until a configuration names it.
    pub async fn put_wrap(&self, new: NewWrap<'_>, random: &dyn Random) -> Result<Wrapped, RepoError> {
        let id = ObjectId::from_bytes(seams::fresh(random));
        let bytes = wrap::wrap(new.holds, new.to);
        let wrap = object::digest(&bytes);
        self.put_fresh(&keys::wrap(new.master, &id), bytes).await?;
        Ok(Wrapped { id, digest: wrap })
    }

    /// Everything below `ctl/master/`.
    pub async fn wraps(&self) -> Result<Vec<Entry>, RepoError> {
        self.list(keys::MASTERS_PREFIX).await
    }

    /// Whether the newest configuration counts on this wrap.
    pub fn needs_wrap(&self, key: &Key) -> bool {
        let named = self.conf().recipients.iter().map(|r| &r.wrap).chain(&self.conf().older);
        named.into_iter().any(|wrapped| keys::wrap(self.master(), &wrapped.id) == *key)
    }

    /// Where the identities somebody holds lead: to the master itself, through a wrap for one of them, and
    /// from there to all masters before it. What was held stays in the list: it may open what is old.
    pub async fn unlock(&self, held: Vec<MasterIdentity>) -> Result<Unlocked, RepoError> {
        let is_present = |identity: &&MasterIdentity| identity.master().text() == self.conf().master;
        if let Some(present) = held.iter().find(is_present).cloned() {
            return self.with_older(present, held).await;
        }
        for identity in &held {
            let public = identity.master();
            let mine = |r: &&Recipient| r.recipient.as_deref() == Some(public.text());
            if let Some(recipient) = self.conf().recipients.iter().find(mine) {
                let present = self.open_wrap(recipient, Opening::Identity(identity)).await?;
                return self.with_older(present, held).await;
            }
        }
        Ok(Unlocked { masters: held, present: false })
    }

    /// The same for whatever a key file opens with.
    pub async fn unlock_for(&self, keys: &KeyFile) -> Result<Unlocked, RepoError> {
        match &keys.ssh {
            Some(ssh) => self.unlock_with_ssh(ssh).await,
            None => self.unlock(keys.identities()).await,
        }
    }

    async fn unlock_with_ssh(&self, held: &SshIdentity) -> Result<Unlocked, RepoError> {
        let mine = |r: &&Recipient| r.recipient.as_deref() == Some(held.recipient().text());
        match self.conf().recipients.iter().find(mine) {
            None => Ok(Unlocked { masters: Vec::new(), present: false }),
            Some(recipient) => {
                let present = self.open_wrap(recipient, Opening::Ssh(held)).await?;
                self.with_older(present, Vec::new()).await
            }
        }
    }

    /// The same for a passphrase; `None` when it is none of this repository's.
    pub async fn unlock_with_passphrase(&self, words: &str) -> Result<Option<Unlocked>, RepoError> {
        for recipient in self.conf().recipients.iter().filter(|r| r.recipient.is_none()) {
            match self.open_wrap(recipient, Opening::Passphrase(words)).await {
                Ok(present) => return self.with_older(present, Vec::new()).await.map(Some),
                Err(RepoError::Sealed { source: crate::seal::SealError::WrongKey, .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    async fn open_wrap(&self, recipient: &Recipient, with: Opening<'_>) -> Result<MasterIdentity, RepoError> {
        let (key, mut identities) = self.read_wrap(&recipient.wrap, with).await?;
        let wrong = || RepoError::misplaced(&key, "it does not hold the master identity alone");
        let master = identities.pop().filter(|_| identities.is_empty()).ok_or_else(wrong)?;
        if master.master().text() == self.conf().master { Ok(master) } else { Err(wrong()) }
    }

    /// The masters before the present one. Where they cannot be had, what is newer can be read all the same.
    async fn with_older(&self, present: MasterIdentity, held: Vec<MasterIdentity>) -> Result<Unlocked, RepoError> {
        let older = match &self.conf().older {
            None => Vec::new(),
            Some(wrapped) => match self.read_wrap(wrapped, Opening::Identity(&present)).await {
                Ok((_, older)) => older,
                Err(error) if error.is_outage() => return Err(error),
                Err(_) => Vec::new(),
            },
        };
        let mut masters: Vec<MasterIdentity> = Vec::new();
        for identity in std::iter::once(present).chain(older).chain(held) {
            if masters.iter().all(|known| known.master().text() != identity.master().text()) {
                masters.push(identity);
            }
        }
        Ok(Unlocked { masters, present: true })
    }

    /// Opens a wrap that a configuration names, after comparing it with what was signed.
    async fn read_wrap(&self, wrapped: &Wrapped, with: Opening<'_>) -> Result<(Key, Vec<MasterIdentity>), RepoError> {
        let key = keys::wrap(self.master(), &wrapped.id);
        let bytes = match self.store().get(&key).await {
            Err(StoreError::NotFound { .. }) => return Err(RepoError::NoWrap { key: key.to_string() }),
            other => other?,
        };
        let found = object::digest(&bytes);
        if found != wrapped.digest {
            return Err(RepoError::WrongDigest { key: key.to_string(), wanted: wrapped.digest, found });
        }
        let identities = wrap::open(&bytes, with).map_err(|e| RepoError::sealed(&key, e))?;
        Ok((key, identities))
    }
}
