//! Manifests: reading their front for a list, the whole for a restore, and committing one.
//!
//! A snapshot may have several manifests, its generations. The newest that can be verified speaks for it; what it
//! says of the snapshot is what the writer of the first signed, whose front every later one carries.

mod generations;

pub use generations::Rewrite;

use super::marks::side_by_side;
use super::records::{Chain, Origin, verify_front};
use super::{RepoError, Repository};
use crate::keys::{self, SnapshotName};
use crate::seal::{Compressor, Expected, NewObject, Sealer, Unsealer};
use crate::seam::Key;
use crate::signing::SigningKey;
use backstay_format::facts::{self, Role, SealedManifest};
use backstay_format::object::{Front, Object, Signed};
use backstay_format::table::Table;
use backstay_format::tree::{Leaf, Node};
use backstay_format::{Header, ObjectType, layout};
use backstay_model::{Digest, Generation, ObjectId, Random, SourceName};
use bytes::Bytes;
use futures::stream::{self, StreamExt};
use generations::{Group, Groups};

/// How much of a manifest is read to get its front in one request, nearly always.
const FRONT_GUESS: u64 = 8 << 10;
/// Fronts read at once for a listing.
const FRONTS_AT_ONCE: usize = 16;
/// Fronts whose bytes are held at once.
const BATCH: usize = 1024;

/// What a manifest says of itself, verified.
#[derive(Debug, Clone)]
pub struct ManifestFront {
    pub name: SnapshotName,
    pub facts: facts::Manifest,
    pub chain: Chain,
    pub signer: backstay_model::SignerKey,
    pub digest: Digest,
    /// Who made this generation, if it is not the first; everything else here is said by the first.
    pub rewriting: Option<Rewriting>,
}

/// Who put a later generation in the place of the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rewriting {
    pub signer: backstay_model::SignerKey,
    /// Of the front of this generation itself.
    pub digest: Digest,
}

/// Fronts as a listing gave them.
pub struct Fronts {
    /// One that can be verified for each snapshot, and beside it those above it that cannot.
    pub read: Vec<Read>,
    /// There are older ones that were not asked for.
    pub older: bool,
}

/// Snapshots by the names of their manifests, newest first.
pub struct Listed {
    groups: Vec<Group>,
    pub older: bool,
}

impl Listed {
    /// The manifest that is to speak for each of them.
    pub fn newest(&self) -> impl Iterator<Item = &SnapshotName> {
        self.groups.iter().filter_map(|group| Some(&group.first()?.0))
    }
}

/// A manifest's name, and its front or why there is none.
pub type Read = (SnapshotName, Result<ManifestFront, RepoError>);

/// A whole manifest, verified; its body still sealed.
#[derive(Debug, Clone)]
pub struct Manifest {
    pub front: ManifestFront,
    pub table: Table,
    bytes: Bytes,
}

/// The root of a stream's map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Root {
    Leaf(Leaf),
    Node(Node),
    /// A stream without units.
    Empty,
}

/// What only a holder of the identity sees.
#[derive(Debug, Clone)]
pub struct SealedBody {
    pub facts: SealedManifest,
    /// One per stream, in order.
    pub roots: Vec<Root>,
}

/// A manifest about to be sealed and signed.
pub struct Draft<'a> {
    pub id: ObjectId,
    pub facts: facts::Manifest,
    pub table: Table,
    pub body: SealedBody,
    pub chain: Chain,
    pub signer: &'a SigningKey,
}

impl Draft<'_> {
    /// The manifest's bytes and its front digest. Sealed once; resent verbatim or abandoned.
    pub fn seal(self, sealer: &Sealer, random: &dyn Random) -> (Bytes, Digest) {
        let (facts, table) = (facts::encode(&self.facts), self.table.encode());
        let signed =
            Signed { signer: self.signer.public(), sequence: self.chain.sequence, previous: self.chain.previous };
        let new =
            NewObject { kind: ObjectType::Manifest, id: self.id, facts: &facts, table: &table, signed: Some(signed) };
        let mut frames = vec![facts::encode(&self.body.facts)];
        frames.extend(self.body.roots.iter().map(Root::encode));
        let last = frames.pop().expect("there is at least the facts frame");
        let mut builder = sealer.begin(new, random);
        for raw in &frames {
            builder.push(Compressor::new().compress(raw), raw.len());
        }
        let object = builder.finish(&last, |message| self.signer.sign(message));
        let front = Front::parse(&object.bytes).expect("it was built a moment ago");
        (object.bytes.clone(), front.digest)
    }
}

impl Root {
    fn encode(&self) -> Vec<u8> {
        match self {
            Root::Leaf(leaf) => leaf.encode(),
            Root::Node(node) => node.encode(),
            Root::Empty => Vec::new(),
        }
    }

    fn parse(levels: u8, empty: bool, bytes: &[u8]) -> Result<Self, backstay_format::Corrupt> {
        match (empty, levels) {
            (true, _) if bytes.is_empty() => Ok(Root::Empty),
            (_, 0) => Leaf::parse(bytes).map(Root::Leaf),
            _ => Node::parse(bytes).map(Root::Node),
        }
    }
}

impl Manifest {
    pub fn key(&self) -> Key {
        self.front.name.key()
    }

    pub fn id(&self) -> ObjectId {
        self.front.name.id
    }

    /// The whole object, as it is stored.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    pub fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The wrapped data key it is sealed with.
    pub fn wrap(&self) -> Result<Vec<u8>, RepoError> {
        let header = Header::parse(&self.bytes).map_err(|e| RepoError::damaged(&self.key(), e))?;
        Ok(header.seal.map(|seal| seal.wrap).unwrap_or_default())
    }

    /// Opens the body with the identity.
    pub fn unseal(&self, unsealer: &Unsealer) -> Result<SealedBody, RepoError> {
        let key = self.key();
        let damaged = |e| RepoError::damaged(&key, e);
        let object = Object::parse(&self.bytes).map_err(damaged)?;
        let opener = unsealer.open(&object.front.header).map_err(|e| RepoError::sealed(&key, e))?;
        let mut frames = Vec::with_capacity(object.frames.len());
        for (at, place) in object.frames.iter().enumerate() {
            let expected = Expected { frame: place.frame, raw: place.raw, last: at + 1 == object.frames.len() };
            let sealed = object.frame(place).map_err(damaged)?;
            frames.push(opener.open(expected, sealed).map_err(|e| RepoError::sealed(&key, e))?);
        }
        let (first, roots) = frames.split_first().ok_or_else(|| RepoError::misplaced(&key, "it has no body"))?;
        let facts: SealedManifest = facts::parse("a manifest's sealed facts", first).map_err(damaged)?;
        if facts.streams.len() != roots.len() || facts.streams.iter().any(|s| s.levels > layout::LEVELS_MAX) {
            return Err(RepoError::misplaced(&key, "it does not have one root per stream"));
        }
        let pairs = facts.streams.iter().zip(roots);
        let roots = pairs.map(|(s, bytes)| Root::parse(s.levels, s.length.get() == 0, bytes));
        let roots = roots.collect::<Result<_, _>>().map_err(damaged)?;
        Ok(SealedBody { facts, roots })
    }
}

impl Repository {
    /// The names of a source's snapshots, newest first, with their lengths. Names that a later version
    /// or a stranger made are not read, and must not hide the others.
    pub async fn snapshot_names(&self, source: &SourceName) -> Result<Vec<(SnapshotName, u64)>, RepoError> {
        let entries = self.list(&keys::snapshot_prefix(source)).await?;
        Ok(entries.iter().filter_map(|entry| Some((SnapshotName::parse(source, &entry.key)?, entry.len))).collect())
    }

    /// The newest snapshots of a source by the names of their newest manifests: one listing request, or more
    /// where other names lie between.
    pub async fn newest_names(&self, source: &SourceName, most: usize) -> Result<Vec<SnapshotName>, RepoError> {
        let mut groups = Groups::of(self, source, most);
        let mut names = Vec::new();
        while names.len() < most
            && let Some(group) = groups.next().await?
        {
            names.extend(group.into_iter().next().map(|(name, _)| name));
        }
        Ok(names)
    }

    /// The newest `most` manifests whose front can be verified, one for each snapshot, and the names of those
    /// that cannot and lie among or above them. Rubbish at the top must not hide what is below it.
    pub async fn newest_fronts(
        &self,
        source: &SourceName,
        most: usize,
    ) -> Result<(Vec<ManifestFront>, Vec<SnapshotName>), RepoError> {
        let (mut fronts, mut unverified) = (Vec::new(), Vec::new());
        let mut groups = Groups::of(self, source, most);
        while fronts.len() < most
            && let Some(group) = groups.next().await?
        {
            for (name, front) in self.newest_of(group).await {
                match front {
                    Ok(front) => fronts.push(front),
                    Err(error) if error.is_outage() => return Err(error),
                    Err(_) => unverified.push(name),
                }
            }
        }
        Ok((fronts, unverified))
    }

    /// The verified fronts of all snapshots, newest first; each that cannot be verified as its error.
    pub async fn fronts(&self, source: &SourceName) -> Result<Vec<Read>, RepoError> {
        Ok(self.newest_listed(source, None).await?.read)
    }

    /// The verified fronts of the newest snapshots, or of all, newest first, and whether there are older ones. One
    /// that cannot be verified is returned as its error beside the others: one bad manifest must not hide the
    /// good ones.
    pub async fn newest_listed(&self, source: &SourceName, newest: Option<usize>) -> Result<Fronts, RepoError> {
        let listed = self.list_newest(source, newest).await?;
        let older = listed.older;
        Ok(Fronts { read: self.fronts_of(listed).await, older })
    }

    /// The names of them alone.
    pub async fn list_newest(&self, source: &SourceName, newest: Option<usize>) -> Result<Listed, RepoError> {
        let most = newest.unwrap_or(usize::MAX);
        let mut groups = Groups::of(self, source, most);
        let mut listed = Vec::new();
        while listed.len() < most
            && let Some(group) = groups.next().await?
        {
            listed.push(group);
        }
        Ok(Listed { groups: listed, older: groups.has_more() })
    }

    /// The verified fronts of snapshots that were listed, in their order; each that cannot be verified as its error.
    pub async fn fronts_of(&self, listed: Listed) -> Vec<Read> {
        let reads = listed.groups.into_iter().filter_map(|group| {
            let mut group = group.into_iter();
            let newest = group.next()?;
            Some(async move { (self.front_bytes(&newest.0, newest.1).await, newest.0, group) })
        });
        let mut batches = stream::iter(reads).buffered(FRONTS_AT_ONCE).chunks(BATCH);
        let mut read = Vec::new();
        while let Some(batch) = batches.next().await {
            let verified = side_by_side(batch, |(bytes, name, group)| {
                let front = bytes.and_then(|bytes| self.parse_front(&name, &bytes));
                (name, front, group)
            });
            for (name, front, group) in verified {
                let found = front.is_ok();
                read.push((name, front));
                if !found {
                    read.extend(self.newest_of(group.collect()).await);
                }
            }
        }
        read
    }

    /// The newest manifest of a snapshot that can be verified, and before it those that cannot.
    async fn newest_of(&self, group: Group) -> Vec<Read> {
        let mut read = Vec::new();
        for (name, len) in group {
            let front = self.front(&name, len).await;
            let found = front.is_ok();
            read.push((name, front));
            if found {
                break;
            }
        }
        read
    }

    /// Every manifest of a source by itself, whichever generation it is.
    pub async fn all_fronts(&self, source: &SourceName) -> Result<Vec<Read>, RepoError> {
        let names = self.snapshot_names(source).await?;
        let reads = names.into_iter().map(|(name, len)| async move {
            let front = self.front(&name, len).await;
            (name, front)
        });
        Ok(stream::iter(reads).buffered(FRONTS_AT_ONCE).collect().await)
    }

    /// Whether a later generation of a snapshot than this one can be verified.
    pub async fn is_superseded(&self, name: &SnapshotName) -> Result<bool, RepoError> {
        let prefix = keys::snapshot(&name.source, name.sequence, &name.id).to_string();
        for entry in self.list(&prefix).await? {
            let later = SnapshotName::parse(&name.source, &entry.key)
                .filter(|other| other.is_of(name) && other.generation > name.generation);
            let Some(later) = later else { continue };
            match self.front(&later, entry.len).await {
                Ok(_) => return Ok(true),
                Err(error) if error.is_outage() => return Err(error),
                Err(_) => {}
            }
        }
        Ok(false)
    }

    /// Reads and verifies one manifest's front. `len` is the object's length by the listing.
    pub async fn front(&self, name: &SnapshotName, len: u64) -> Result<ManifestFront, RepoError> {
        self.parse_front(name, &self.front_bytes(name, len).await?)
    }

    async fn front_bytes(&self, name: &SnapshotName, len: u64) -> Result<Bytes, RepoError> {
        let key = name.key();
        let guess = self.store().get_range(&key, 0..len.min(FRONT_GUESS)).await?;
        let header = Header::parse(&guess).map_err(|e| RepoError::damaged(&key, e))?;
        let wanted = header.front_len() as u64;
        if wanted <= guess.len() as u64 {
            return Ok(guess);
        }
        Ok(self.store().get_range(&key, 0..wanted.min(len)).await?)
    }

    pub(super) fn parse_front(&self, name: &SnapshotName, bytes: &[u8]) -> Result<ManifestFront, RepoError> {
        let front = Front::parse(bytes).map_err(|e| RepoError::damaged(&name.key(), e))?;
        self.verify_manifest_front(name, &front)
    }

    /// Reads and verifies one whole manifest.
    pub async fn manifest(&self, name: &SnapshotName) -> Result<Manifest, RepoError> {
        let key = name.key();
        let bytes = self.store().get(&key).await?;
        self.parse_manifest(name, bytes)
    }

    /// Verifies the bytes of a whole manifest, as `manifest` does with those it reads.
    pub fn parse_manifest(&self, name: &SnapshotName, bytes: Bytes) -> Result<Manifest, RepoError> {
        let key = name.key();
        let object = Object::parse(&bytes).map_err(|e| RepoError::damaged(&key, e))?;
        let front = self.verify_manifest_front(name, &object.front)?;
        let table = Table::parse(object.table).map_err(|e| RepoError::damaged(&key, e))?;
        Ok(Manifest { front, table, bytes })
    }

    fn verify_manifest_front(&self, name: &SnapshotName, front: &Front<'_>) -> Result<ManifestFront, RepoError> {
        if name.generation == Generation::FIRST {
            self.verify_first(name, front)
        } else {
            self.verify_rewritten(name, front)
        }
    }

    fn verify_first(&self, name: &SnapshotName, front: &Front<'_>) -> Result<ManifestFront, RepoError> {
        let key = name.key();
        let signed = verify_front(&key, front, ObjectType::Manifest)?;
        let chain = Chain { sequence: signed.sequence, previous: signed.previous };
        let origin = Origin { repo: front.header.repo, signer: signed.signer, chain, digest: front.digest };
        self.check_origin(&key, &origin, &[Role::Writer])?;
        let facts: facts::Manifest =
            facts::parse("a manifest", front.facts).map_err(|e| RepoError::damaged(&key, e))?;
        let named = front.header.object == name.id && signed.sequence == name.sequence;
        if !named || facts.source != name.source || facts.rewritten.is_some() {
            return Err(RepoError::misplaced(&key, "it is not the snapshot its name says"));
        }
        let (signer, digest) = (signed.signer, front.digest);
        Ok(ManifestFront { name: name.clone(), facts, chain, signer, digest, rewriting: None })
    }
}
