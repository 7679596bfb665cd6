//! Objects as an attacker would make them: taken apart, changed, and signed or sealed again.

use super::{Golden, after, shop};
use backstay_format::ObjectType;
use backstay_format::facts::{self, SealedManifest};
use backstay_format::layout::header;
use backstay_format::object::{Builder, Header, Object, Signed};
use backstay_model::{ObjectId, Random, Sequence};
use backstay_store::Key;
use backstay_store::keys::{self, SnapshotName};
use backstay_store::memory::Contents;
use backstay_store::os::OsRandom;
use backstay_store::repo::{Chain, Root};
use backstay_store::seal::{Compressor, NewObject, Sealer};
use backstay_store::signing::SigningKey;
use bytes::Bytes;

/// An object in pieces; its frames stay sealed.
pub struct Parts {
    pub header: Header,
    pub facts: Vec<u8>,
    pub table: Vec<u8>,
    pub frames: Vec<(Vec<u8>, u32)>,
}

impl Parts {
    pub fn of(bytes: &[u8]) -> Self {
        let object = Object::parse(bytes).expect("a real object");
        let frame = |place| (object.frame(place).expect("a frame").to_vec(), place.raw);
        Self {
            header: object.front.header.clone(),
            facts: object.front.facts.to_vec(),
            table: object.table.to_vec(),
            frames: object.frames.iter().map(frame).collect(),
        }
    }

    pub fn chain(mut self, chain: Chain) -> Self {
        let signed = self.header.signed.as_mut().expect("a signed object");
        (signed.sequence, signed.previous) = (chain.sequence, chain.previous);
        self
    }

    pub fn sign(mut self, key: &SigningKey) -> Vec<u8> {
        self.header.signed.as_mut().expect("a signed object").signer = key.public();
        let mut builder = Builder::new(self.header, &self.facts, &self.table);
        self.frames.iter().for_each(|(sealed, raw)| {
            builder.push(sealed, *raw);
        });
        builder.finish(|message| key.sign(message))
    }
}

/// Exchanges bytes of a header and makes its checksum right again.
pub fn patch_header(bytes: &[u8], at: usize, new: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at..at + new.len()].copy_from_slice(new);
    let wrap_len = u32::from_le_bytes(bytes[header::WRAP_LEN].try_into().expect("4 bytes")) as usize;
    let wrap = bytes.get(header::LEN..header::LEN.saturating_add(wrap_len)).unwrap_or_default().to_vec();
    let check = blake3::Hasher::new().update(&bytes[..header::CHECK.start]).update(&wrap).finalize();
    bytes[header::CHECK].copy_from_slice(&check.as_bytes()[..16]);
    bytes
}

pub fn fresh_id() -> ObjectId {
    let mut id = [0; 16];
    OsRandom.fill(&mut id);
    ObjectId::from_bytes(id)
}

/// A manifest that an enrolled writer is about to seal and sign, whatever it says.
pub struct EvilManifest {
    pub facts: facts::Manifest,
    pub sealed: SealedManifest,
    pub sealed_bytes: Option<Vec<u8>>,
    pub table: Vec<u8>,
    /// The encoded root of each stream.
    pub roots: Vec<Vec<u8>>,
    /// Objects put beside it.
    pub packs: Vec<(ObjectId, Bytes)>,
    pub sealer: Sealer,
    /// The bytes that the honest snapshot restores to.
    pub content: Vec<u8>,
}

impl EvilManifest {
    /// Begins as an honest snapshot of what the newest one of `shop` holds.
    pub async fn of(golden: &Golden) -> (Self, SnapshotName) {
        let vault = golden.open_blank(golden.contents.clone()).await.expect("open");
        let name = vault.repo.newest_names(&shop(), 1).await.expect("names").remove(0);
        let manifest = vault.repo.manifest(&name).await.expect("manifest");
        let body = manifest.unseal(vault.unsealer().expect("identity")).expect("body");
        let roots = body.roots.iter().map(|root| match root {
            Root::Leaf(leaf) => leaf.encode(),
            Root::Node(node) => node.encode(),
            Root::Empty => Vec::new(),
        });
        let mut facts = manifest.front.facts.clone();
        facts.position = facts.position.next().expect("numbers are left");
        let evil = Self {
            facts,
            roots: roots.collect(),
            sealed: body.facts,
            sealed_bytes: None,
            table: manifest.table.encode(),
            packs: Vec::new(),
            sealer: vault.repo.sealer(&OsRandom),
            content: golden.of(&shop()).last().expect("a snapshot").bytes.clone(),
        };
        (evil, name)
    }

    /// Seals it as the snapshot after the newest one.
    pub fn commit(self, golden: &Golden, newest: &SnapshotName) -> Committed {
        let chain = after(&golden.contents[&newest.key()]);
        let id = fresh_id();
        let signer = golden.signer();
        let signed = Signed { signer: signer.public(), sequence: chain.sequence, previous: chain.previous };
        let facts = facts::encode(&self.facts);
        let new = NewObject { kind: ObjectType::Manifest, id, facts: &facts, table: &self.table, signed: Some(signed) };
        let mut frames = vec![self.sealed_bytes.unwrap_or_else(|| facts::encode(&self.sealed))];
        frames.extend(self.roots);
        let last = frames.pop().expect("there is at least one");
        let mut builder = self.sealer.begin(new, &OsRandom);
        for raw in &frames {
            builder.push(Compressor::new().compress(raw), raw.len());
        }
        let object = builder.finish(&last, |message| signer.sign(message));
        let key = keys::snapshot(&shop(), chain.sequence, &id);
        let mut contents = golden.with(&key, object.bytes);
        contents.extend(self.packs.into_iter().map(|(id, bytes)| (keys::pack(&shop(), &id), bytes)));
        Committed { key, id, sequence: chain.sequence, contents }
    }
}

pub struct Committed {
    pub key: Key,
    pub id: ObjectId,
    pub sequence: Sequence,
    pub contents: Contents,
}
