//! Signed records: plain facts with a signer, a dense sequence and the digest of the one before.

use super::{RepoError, Repository};
use crate::keys;
use crate::seam::Key;
use crate::signing::{self, SigningKey};
use backstay_format::facts::{self, Audit, Branch, BranchReason, Role};
use backstay_format::object::{Builder, Front, Object, Signed};
use backstay_format::{Header, ObjectType};
use backstay_model::{BranchNo, Digest, ObjectId, RepoId, Sequence, SignerKey, SourceName};
use bytes::Bytes;
use serde::de::DeserializeOwned;

/// A place in a chain of signed objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Chain {
    pub sequence: Sequence,
    pub previous: Digest,
}

impl Chain {
    pub const START: Chain = Chain { sequence: Sequence::FIRST, previous: Digest::ZERO };

    /// The place after an object.
    pub fn after(sequence: Sequence, digest: Digest) -> Option<Self> {
        Some(Self { sequence: sequence.next()?, previous: digest })
    }
}

/// The branches of a source, as far as the next snapshot needs to know them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewestBranches {
    /// How many slots are taken.
    pub taken: u64,
    pub living: Option<BranchNo>,
    pub imported: Option<BranchNo>,
}

/// A verified record.
#[derive(Debug, Clone)]
pub struct Record<F> {
    pub repo: RepoId,
    pub object: ObjectId,
    pub signer: SignerKey,
    pub chain: Chain,
    /// The front digest, which the next one in the chain names.
    pub digest: Digest,
    /// Features of its header that only writers must know.
    pub(super) read_compatible: u32,
    pub facts: F,
}

impl<F: DeserializeOwned> Record<F> {
    /// Parses a record and checks that its signature is its signer's. Whether that signer may say
    /// such a thing is the caller's question.
    pub(super) fn parse(key: &Key, bytes: &[u8], kind: ObjectType) -> Result<Self, RepoError> {
        let object = Object::parse(bytes).map_err(|e| RepoError::damaged(key, e))?;
        let front = object.front;
        let signed = verify_front(key, &front, kind)?;
        Ok(Self {
            repo: front.header.repo,
            object: front.header.object,
            signer: signed.signer,
            chain: Chain { sequence: signed.sequence, previous: signed.previous },
            digest: front.digest,
            read_compatible: front.header.read_compatible,
            facts: facts::parse(kind.word(), front.facts).map_err(|e| RepoError::damaged(key, e))?,
        })
    }
}

/// Checks type and signature of an object's front.
pub(super) fn verify_front(key: &Key, front: &Front<'_>, kind: ObjectType) -> Result<Signed, RepoError> {
    let header = front.header.clone().expect(kind).map_err(|e| RepoError::damaged(key, e))?;
    let unsigned = || RepoError::BadSignature { key: key.to_string() };
    let signed = header.signed.ok_or_else(unsigned)?;
    let (message, signature) = front.signed_message().ok_or_else(unsigned)?;
    if !signing::verify(&signed.signer, &message, signature) {
        return Err(unsigned());
    }
    Ok(signed)
}

/// In a dense chain each record comes right after the one before it.
fn follows<F>(key: &Key, last: Option<&Record<F>>, record: &Record<F>) -> Result<(), RepoError> {
    let wanted = match last {
        None => Some(Chain::START),
        Some(last) => Chain::after(last.chain.sequence, last.digest),
    };
    if Some(record.chain) == wanted { Ok(()) } else { Err(RepoError::BrokenChain { key: key.to_string() }) }
}

/// Where a signed object comes from: what decides whether it is believed.
pub(super) struct Origin {
    pub repo: RepoId,
    pub signer: SignerKey,
    pub chain: Chain,
    pub digest: Digest,
}

/// A record about to be signed.
pub(super) struct Draft {
    pub kind: ObjectType,
    pub repo: RepoId,
    pub object: ObjectId,
    pub chain: Chain,
    pub facts: Vec<u8>,
}

impl Draft {
    pub fn sign(self, key: &SigningKey) -> Bytes {
        let mut header = Header::new(self.kind, self.repo, self.object);
        let Chain { sequence, previous } = self.chain;
        header.signed = Some(Signed { signer: key.public(), sequence, previous });
        Builder::new(header, &self.facts, &[]).finish(|message| key.sign(message)).into()
    }
}

impl Repository {
    /// Reads and verifies one record of this repository, signed by someone enrolled for one of `roles`.
    pub(super) async fn record<F: DeserializeOwned>(
        &self,
        key: &Key,
        kind: ObjectType,
        roles: &[Role],
    ) -> Result<Record<F>, RepoError> {
        let bytes = self.store().get(key).await?;
        self.parse_record((key, &bytes), kind, roles)
    }

    pub(super) fn parse_record<F: DeserializeOwned>(
        &self,
        (key, bytes): (&Key, &Bytes),
        kind: ObjectType,
        roles: &[Role],
    ) -> Result<Record<F>, RepoError> {
        let record = Record::<F>::parse(key, bytes, kind)?;
        let origin = Origin { repo: record.repo, signer: record.signer, chain: record.chain, digest: record.digest };
        self.check_origin(key, &origin, roles)?;
        Ok(record)
    }

    pub(super) fn check_origin(&self, key: &Key, origin: &Origin, roles: &[Role]) -> Result<(), RepoError> {
        let Origin { repo, signer, chain, digest } = *origin;
        if repo != self.id() {
            return Err(RepoError::Foreign { key: key.to_string() });
        }
        if !self.conf().accepts(&signer, roles, (key.as_str(), chain.sequence, digest)) {
            return Err(RepoError::Stranger { key: key.to_string(), signer });
        }
        Ok(())
    }

    /// The branches of a source, oldest first; dense, each naming the one before.
    pub async fn branches(&self, source: &SourceName) -> Result<Vec<Record<Branch>>, RepoError> {
        let mut branches: Vec<Record<Branch>> = Vec::new();
        for entry in self.list(&keys::branch_prefix(source)).await? {
            let Some(number) = keys::slot_number(&entry.key) else { continue };
            let record = self.record::<Branch>(&entry.key, ObjectType::Branch, &[Role::Writer]).await?;
            if record.facts.branch.get() != number || record.facts.source != *source {
                return Err(RepoError::misplaced(&entry.key, "it is not the branch its name says"));
            }
            if number != branches.len() as u64 {
                return Err(RepoError::BrokenChain { key: entry.key.to_string() });
            }
            follows(&entry.key, branches.last(), &record)?;
            branches.push(record);
        }
        Ok(branches)
    }

    /// How many branch slots are taken, and where the record of the next one stands in their chain. One
    /// that cannot be verified is passed over: it must not stop every backup to come.
    pub async fn next_branch(&self, source: &SourceName) -> Result<(u64, Chain), RepoError> {
        let entries = self.list(&keys::branch_prefix(source)).await?;
        let mut slots: Vec<(u64, &Key)> =
            entries.iter().filter_map(|e| Some((keys::slot_number(&e.key)?, &e.key))).collect();
        slots.sort_unstable();
        let taken = slots.last().map_or(0, |(number, _)| number.saturating_add(1));
        let mut previous = Digest::ZERO;
        for (_, key) in slots.iter().rev() {
            match self.record::<Branch>(key, ObjectType::Branch, &[Role::Writer]).await {
                Ok(record) => {
                    previous = record.digest;
                    break;
                }
                Err(RepoError::Store(error)) => return Err(error.into()),
                Err(_) => {}
            }
        }
        Ok((taken, Chain { sequence: Sequence::new(taken.saturating_add(1)), previous }))
    }

    /// The newest branch of the living history and the newest that holds old copies, looked for from the top
    /// down to the first of the living ones. One that cannot be verified counts as living, as before there
    /// was a difference.
    pub async fn newest_branches(&self, source: &SourceName) -> Result<NewestBranches, RepoError> {
        let entries = self.list(&keys::branch_prefix(source)).await?;
        let mut slots: Vec<(u64, &Key)> =
            entries.iter().filter_map(|e| Some((keys::slot_number(&e.key)?, &e.key))).collect();
        slots.sort_unstable();
        let taken = slots.last().map_or(0, |(number, _)| number.saturating_add(1));
        let mut found = NewestBranches { taken, living: None, imported: None };
        for (number, key) in slots.iter().rev() {
            let branch = Some(BranchNo::new(*number));
            match self.record::<Branch>(key, ObjectType::Branch, &[Role::Writer]).await {
                Ok(record) if record.facts.reason == BranchReason::Imported => {
                    found.imported = found.imported.or(branch);
                }
                Err(RepoError::Store(error)) => return Err(error.into()),
                _ => {
                    found.living = branch;
                    break;
                }
            }
        }
        Ok(found)
    }

    /// Opens a branch in its dense slot; loses the race to another writer rather than share it.
    pub async fn put_branch(&self, facts: Branch, chain: Chain, new: Signing<'_>) -> Result<(), RepoError> {
        let key = keys::branch(&facts.source, facts.branch);
        self.put_slot(&key, self.sign(ObjectType::Branch, facts::encode(&facts), chain, new)).await
    }

    /// What one signer wrote into the audit, oldest first; of one that was removed, until then.
    pub async fn audit(&self, signer: &SignerKey) -> Result<Vec<Record<Audit>>, RepoError> {
        let mut records: Vec<Record<Audit>> = Vec::new();
        let prefix = keys::audit_prefix(signer);
        let last = self.conf().last_of(signer, &prefix);
        for entry in self.list(&prefix).await? {
            let Some(number) = keys::slot_number(&entry.key).filter(|number| last.is_none_or(|last| *number <= last))
            else {
                continue;
            };
            let record = self.record::<Audit>(&entry.key, ObjectType::Audit, &Role::ALL).await?;
            let named = record.signer == *signer && record.facts.signer == *signer;
            if !named || record.chain.sequence.get() != number {
                return Err(RepoError::misplaced(&entry.key, "it is not the audit record its name says"));
            }
            follows(&entry.key, records.last(), &record)?;
            records.push(record);
        }
        Ok(records)
    }

    pub async fn put_audit(&self, facts: Audit, chain: Chain, new: Signing<'_>) -> Result<(), RepoError> {
        let key = keys::audit(&facts.signer, chain.sequence.get());
        self.put_slot(&key, self.sign(ObjectType::Audit, facts::encode(&facts), chain, new)).await
    }

    pub(super) fn sign(&self, kind: ObjectType, facts: Vec<u8>, chain: Chain, new: Signing<'_>) -> Bytes {
        Draft { kind, repo: self.id(), object: new.id, chain, facts }.sign(new.key)
    }
}

/// Who signs, and the fresh id of what is signed.
#[derive(Clone, Copy)]
pub struct Signing<'a> {
    pub key: &'a SigningKey,
    pub id: ObjectId,
}
