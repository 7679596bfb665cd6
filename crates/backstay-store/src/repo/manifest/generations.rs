//! Later generations of a manifest: the same snapshot, its content in other objects.
//!
//! Who makes one must be enrolled as keeper *and* reader: a keeper may delete what the first refers to, and only
//! a reader can know that the content is the same. Neither can say anything else of the snapshot: a later generation
//! carries the whole front of the first, with its writer's signature, and must repeat its facts.

use super::super::records::{Chain, Origin, verify_front};
use super::super::{RepoError, Repository};
use super::{Draft, Manifest, ManifestFront, Rewriting, SealedBody};
use crate::keys::{self, SnapshotName};
use crate::seal::Sealer;
use crate::seam::Key;
use crate::signing::SigningKey;
use backstay_format::facts::{self, Rewritten, Role};
use backstay_format::object::Front;
use backstay_format::table::Table;
use backstay_format::{ObjectType, facts::Manifest as Facts};
use backstay_model::{Generation, Random, Sequence, SourceName};
use bytes::Bytes;
use std::collections::VecDeque;

/// The manifests of one snapshot with their lengths, the newest generation first.
pub(super) type Group = Vec<(SnapshotName, u64)>;

/// A source's manifests snapshot by snapshot, newest first, a page of the listing at a time.
pub(super) struct Groups<'a> {
    repo: &'a Repository,
    source: &'a SourceName,
    page: usize,
    after: Option<Key>,
    listed: bool,
    /// The last of them may not be complete while there is more to list.
    waiting: VecDeque<Group>,
}

impl<'a> Groups<'a> {
    /// For the newest `most`: asks for one more, which says where the last of them ends.
    pub fn of(repo: &'a Repository, source: &'a SourceName, most: usize) -> Self {
        let page = most.saturating_add(1).min(super::super::PAGE);
        Self { repo, source, page, after: None, listed: false, waiting: VecDeque::new() }
    }

    pub async fn next(&mut self) -> Result<Option<Group>, RepoError> {
        while self.waiting.len() < 2 && !self.listed {
            let prefix = keys::snapshot_prefix(self.source);
            let page = self.repo.list_page(&prefix, self.after.as_ref(), self.page).await?;
            for entry in &page.entries {
                if let Some(name) = SnapshotName::parse(self.source, &entry.key) {
                    self.add(name, entry.len);
                }
            }
            self.listed = page.next.is_none();
            self.after = page.next;
        }
        Ok(self.waiting.pop_front())
    }

    /// Whether there are snapshots after those that were taken.
    pub fn has_more(&self) -> bool {
        !self.listed || !self.waiting.is_empty()
    }

    fn add(&mut self, name: SnapshotName, len: u64) {
        match self.waiting.back_mut() {
            // Names are listed in order, so a later generation comes after the ones before it.
            Some(group) if group.first().is_some_and(|(first, _)| first.is_of(&name)) => group.insert(0, (name, len)),
            _ => self.waiting.push_back(vec![(name, len)]),
        }
    }
}

/// A later generation about to be sealed and signed.
pub struct Rewrite<'a> {
    /// The manifest it takes the place of.
    pub of: &'a Manifest,
    pub generation: Generation,
    pub table: Table,
    pub body: SealedBody,
    pub signer: &'a SigningKey,
}

impl Rewrite<'_> {
    /// The name it is to have, and its bytes. Sealed once; resent verbatim or abandoned.
    pub fn seal(self, sealer: &Sealer, random: &dyn Random) -> Result<(SnapshotName, Bytes), RepoError> {
        let of = self.of;
        let first = of.first_front()?;
        let name = SnapshotName { generation: self.generation, ..of.front.name.clone() };
        let draft = Draft {
            id: name.id,
            facts: Facts { rewritten: Some(Rewritten::of(&first)), ..of.front.facts.clone() },
            table: self.table,
            body: self.body,
            chain: Chain { sequence: Sequence::new(self.generation.get()), previous: of.front.digest },
            signer: self.signer,
        };
        let (bytes, _) = draft.seal(sealer, random);
        Ok((name, bytes))
    }
}

impl Manifest {
    /// The bytes of the front of the snapshot's first manifest, which any of its generations has.
    fn first_front(&self) -> Result<Vec<u8>, RepoError> {
        let damaged = |e| RepoError::damaged(&self.key(), e);
        let front = Front::parse(&self.bytes).map_err(damaged)?;
        if self.front.rewriting.is_none() {
            return Ok(self.bytes.slice(..front.len).to_vec());
        }
        let facts: Facts = facts::parse("a manifest", front.facts).map_err(damaged)?;
        let none = || RepoError::misplaced(&self.key(), "it does not carry the manifest it stands for");
        facts.rewritten.ok_or_else(none)?.bytes().map_err(damaged)
    }
}

impl Repository {
    /// The generation that comes after all there are of a source.
    pub async fn next_generation(&self, source: &SourceName) -> Result<Generation, RepoError> {
        let newest = self.snapshot_names(source).await?.into_iter().map(|(name, _)| name.generation).max();
        let prefix = keys::snapshot_prefix(source);
        let next = newest.map_or(Some(Generation::new(1)), Generation::next);
        next.ok_or_else(|| RepoError::BrokenChain { key: prefix })
    }

    /// Puts a later generation under its name. One that somebody else was quicker to put is a lost race.
    pub async fn put_generation(&self, name: &SnapshotName, bytes: Bytes) -> Result<(), RepoError> {
        self.put_slot(&name.key(), bytes).await
    }

    /// A later generation: who made it, and what it says, which must be what the first said.
    pub(super) fn verify_rewritten(&self, name: &SnapshotName, front: &Front<'_>) -> Result<ManifestFront, RepoError> {
        let key = name.key();
        let other = |what| RepoError::misplaced(&key, what);
        let signed = verify_front(&key, front, ObjectType::Manifest)?;
        let chain = Chain { sequence: signed.sequence, previous: signed.previous };
        let origin = Origin { repo: front.header.repo, signer: signed.signer, chain, digest: front.digest };
        let of_chain = Key::new(keys::rewritten_chain(&name.source));
        for role in [Role::Keeper, Role::Reader] {
            self.check_origin(&of_chain, &origin, &[role]).map_err(|error| error.about(&key))?;
        }
        if front.header.object != name.id || signed.sequence.get() != name.generation.get() {
            return Err(other("it is not the generation its name says"));
        }
        let mut facts: Facts = facts::parse("a manifest", front.facts).map_err(|e| RepoError::damaged(&key, e))?;
        let carried = facts.rewritten.take().ok_or_else(|| other("it does not carry the manifest it stands for"))?;
        let bytes = carried.bytes().map_err(|e| RepoError::damaged(&key, e))?;
        let first = Front::parse(&bytes).map_err(|e| RepoError::damaged(&key, e))?;
        let first_name = SnapshotName { generation: Generation::FIRST, ..name.clone() };
        let verified = self.verify_first(&first_name, &first).map_err(|error| error.about(&key))?;
        if first.len != bytes.len() || verified.facts != facts || signed.previous != verified.digest {
            return Err(other("it does not say what the manifest it stands for said"));
        }
        let rewriting = Some(Rewriting { signer: signed.signer, digest: front.digest });
        Ok(ManifestFront { name: name.clone(), rewriting, ..verified })
    }
}
