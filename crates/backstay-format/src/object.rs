//! The one container of the repository: plain header, plain facts, signature, table, sealed frames,
//! index, trailer.
//!
//! An object is built in memory and written once. Parsing proves structure only: lengths add up,
//! nothing is left over, digests match what the signature block says. Whether the signature is right
//! and whom it belongs to, and what the frames say, is for the holder of keys to find out.

use crate::Corrupt;
use crate::cursor::{Cursor, Writer};
use crate::layout::{self, header, index, signature, trailer};
use backstay_model::{ObjectId, RepoId, Sequence, SignerKey};
use std::ops::Range;

pub use backstay_model::Digest;

/// What an object is. The type fixes whether it is sealed and signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum ObjectType {
    Conf = 1,
    Branch = 2,
    Manifest = 3,
    Pack = 4,
    Log = 5,
    Mark = 6,
    Prune = 7,
    Lease = 8,
    Audit = 9,
    Wal = 10,
    RollUp = 11,
}

impl ObjectType {
    pub const ALL: [ObjectType; 11] = [
        Self::Conf,
        Self::Branch,
        Self::Manifest,
        Self::Pack,
        Self::Log,
        Self::Mark,
        Self::Prune,
        Self::Lease,
        Self::Audit,
        Self::Wal,
        Self::RollUp,
    ];

    pub const fn word(self) -> &'static str {
        match self {
            Self::Conf => "a configuration",
            Self::Branch => "a branch record",
            Self::Manifest => "a manifest",
            Self::Pack => "a pack",
            Self::Log => "a log object",
            Self::Mark => "a mark",
            Self::Prune => "a prune record",
            Self::Lease => "a lease",
            Self::Audit => "an audit record",
            Self::Wal => "a WAL object",
            Self::RollUp => "a roll-up",
        }
    }

    pub const fn flags(self) -> u8 {
        match self {
            Self::Pack | Self::Wal => layout::FLAG_SEALED,
            Self::Manifest | Self::Log | Self::RollUp => layout::FLAG_SEALED | layout::FLAG_SIGNED,
            _ => layout::FLAG_SIGNED,
        }
    }

    pub(crate) fn parse(found: u8) -> Result<Self, Corrupt> {
        Self::ALL.into_iter().find(|t| *t as u8 == found).ok_or(Corrupt::Type { found })
    }
}

/// How an object is sealed. Belongs to one attempt: sealed bytes are resent verbatim or abandoned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seal {
    pub salt: [u8; 32],
    pub commitment: [u8; 32],
    /// The data key, wrapped to the master: an age file.
    pub wrap: Vec<u8>,
}

/// Who signed an object, and where it stands in the signer's chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    pub signer: SignerKey,
    pub sequence: Sequence,
    /// The front digest of the object before it in its chain; zero for the first.
    pub previous: Digest,
}

/// The plain header. What is optional follows from the type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub kind: ObjectType,
    pub repo: RepoId,
    pub object: ObjectId,
    pub seal: Option<Seal>,
    pub signed: Option<Signed>,
    facts_len: u32,
    table_len: u32,
    /// Features a reader may ignore; kept, because the header's digest covers them.
    compatible: u32,
    /// Features only those who write must know. In a configuration alone: it speaks for the repository.
    pub read_compatible: u32,
}

impl Header {
    pub fn new(kind: ObjectType, repo: RepoId, object: ObjectId) -> Self {
        let (seal, signed) = (None, None);
        Self { kind, repo, object, seal, signed, facts_len: 0, table_len: 0, compatible: 0, read_compatible: 0 }
    }

    /// The header's bytes, wrap included.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(header::LEN + 512);
        let wrap = self.seal.as_ref().map_or(&[][..], |seal| &seal.wrap);
        let mut w = Writer::begin(&mut out, header::LEN);
        w.put(header::MAGIC, &layout::MAGIC).u16(header::VERSION, layout::VERSION);
        w.u8(header::TYPE, self.kind as u8).u8(header::FLAGS, self.kind.flags());
        w.u32(header::COMPATIBLE, self.compatible).u32(header::READ_COMPATIBLE, self.read_compatible);
        w.put(header::REPOSITORY, self.repo.as_bytes()).put(header::OBJECT, self.object.as_bytes());
        if let Some(seal) = &self.seal {
            w.put(header::SALT, &seal.salt).put(header::COMMITMENT, &seal.commitment);
        }
        if let Some(signed) = &self.signed {
            w.put(header::SIGNER, signed.signer.as_bytes()).u64(header::SEQUENCE, signed.sequence.get());
            w.put(header::PREVIOUS, signed.previous.as_bytes());
        }
        w.u32(header::WRAP_LEN, wrap.len() as u32);
        w.u32(header::FACTS_LEN, self.facts_len).u32(header::TABLE_LEN, self.table_len);
        let check = header_check(&out, wrap);
        out.splice(header::CHECK, check);
        out.extend_from_slice(wrap);
        out
    }

    /// Parses the header at the front of `bytes`; more may follow it.
    pub fn parse(bytes: &[u8]) -> Result<Self, Corrupt> {
        const WHAT: &str = "the object's header";
        let mut cursor = Cursor::new(WHAT, bytes);
        let plain = cursor.take(header::LEN)?;
        let fixed = Cursor::new(WHAT, plain).fixed(header::LEN)?;
        if fixed.array(header::MAGIC)? != layout::MAGIC {
            return Err(Corrupt::Magic);
        }
        let version = fixed.u16(header::VERSION)?;
        if version != layout::VERSION {
            return Err(Corrupt::Version { found: version });
        }
        let wrap_len = bounded(WHAT, u64::from(fixed.u32(header::WRAP_LEN)?), layout::WRAP_MAX)?;
        let wrap = cursor.take(wrap_len)?;
        if fixed.array(header::CHECK)? != header_check(plain, wrap) {
            return Err(Corrupt::HeaderCheck);
        }
        let bits = fixed.u32(header::INCOMPATIBLE)?;
        if bits != 0 {
            return Err(Corrupt::Features { bits });
        }
        let kind = ObjectType::parse(fixed.u8(header::TYPE)?)?;
        let read_compatible = fixed.u32(header::READ_COMPATIBLE)?;
        if read_compatible != 0 && kind != ObjectType::Conf {
            return Err(Corrupt::Features { bits: read_compatible });
        }
        let flags = fixed.u8(header::FLAGS)?;
        if flags != kind.flags() {
            return Err(Corrupt::Flags { found: flags });
        }
        fixed.zero(header::ZERO)?;
        let facts_len = bounded("the facts", u64::from(fixed.u32(header::FACTS_LEN)?), layout::FACTS_MAX)?;
        let table_len = bounded("the table", u64::from(fixed.u32(header::TABLE_LEN)?), layout::TABLE_MAX)?;
        Ok(Self {
            kind,
            repo: RepoId::from_bytes(fixed.array(header::REPOSITORY)?),
            object: ObjectId::from_bytes(fixed.array(header::OBJECT)?),
            seal: parse_seal(&fixed, flags, wrap)?,
            signed: parse_signed(&fixed, flags)?,
            facts_len: facts_len as u32,
            table_len: table_len as u32,
            compatible: fixed.u32(header::COMPATIBLE)?,
            read_compatible,
        })
    }

    pub fn expect(self, wanted: ObjectType) -> Result<Self, Corrupt> {
        if self.kind == wanted {
            return Ok(self);
        }
        Err(Corrupt::WrongType { wanted: wanted.word(), found: self.kind.word() })
    }

    fn encoded_len(&self) -> usize {
        header::LEN + self.seal.as_ref().map_or(0, |seal| seal.wrap.len())
    }

    /// How many bytes from the front hold header, facts and signature: what a listing needs.
    pub fn front_len(&self) -> usize {
        let signature = if self.signed.is_some() { signature::LEN } else { 0 };
        self.encoded_len() + self.facts_len as usize + signature
    }
}

fn parse_seal(fixed: &crate::cursor::Fixed<'_>, flags: u8, wrap: &[u8]) -> Result<Option<Seal>, Corrupt> {
    if flags & layout::FLAG_SEALED == 0 {
        fixed.zero(header::SALT)?;
        fixed.zero(header::COMMITMENT)?;
        fixed.zero(header::WRAP_LEN)?;
        return Ok(None);
    }
    if wrap.is_empty() {
        return Err(Corrupt::Rule { what: "the object's header", rule: "a sealed object carries its wrapped key" });
    }
    let (salt, commitment) = (fixed.array(header::SALT)?, fixed.array(header::COMMITMENT)?);
    Ok(Some(Seal { salt, commitment, wrap: wrap.to_vec() }))
}

fn parse_signed(fixed: &crate::cursor::Fixed<'_>, flags: u8) -> Result<Option<Signed>, Corrupt> {
    if flags & layout::FLAG_SIGNED == 0 {
        fixed.zero(header::SIGNER)?;
        fixed.zero(header::SEQUENCE)?;
        fixed.zero(header::PREVIOUS)?;
        // Nothing would vouch for them, and a reader rebuilds this header from a row of the refs table.
        fixed.zero(header::FACTS_LEN)?;
        fixed.zero(header::TABLE_LEN)?;
        fixed.zero(header::COMPATIBLE)?;
        return Ok(None);
    }
    Ok(Some(Signed {
        signer: SignerKey::from_bytes(fixed.array(header::SIGNER)?),
        sequence: Sequence::new(fixed.u64(header::SEQUENCE)?),
        previous: Digest::from_bytes(fixed.array(header::PREVIOUS)?),
    }))
}

fn header_check(plain: &[u8], wrap: &[u8]) -> [u8; 16] {
    let (checked, _) = plain.split_at(header::CHECK.start);
    let digest = blake3::Hasher::new().update(checked).update(wrap).finalize();
    let mut check = [0; 16];
    check.copy_from_slice(digest.as_bytes().split_at(16).0);
    check
}

fn bounded(what: &'static str, len: u64, max: usize) -> Result<usize, Corrupt> {
    if len > max as u64 { Err(Corrupt::TooLong { what, len, max: max as u64 }) } else { Ok(len as usize) }
}

/// BLAKE3 over some bytes.
pub fn digest(bytes: &[u8]) -> Digest {
    Digest::from_bytes(*blake3::hash(bytes).as_bytes())
}

/// The associated data of a frame: it ties the frame to its header, its place and its being last.
pub fn frame_context(header: &Digest, frame: u32, last: bool) -> [u8; 37] {
    let mut context = [0; 37];
    let (head, rest) = context.split_at_mut(32);
    head.copy_from_slice(header.as_bytes());
    let (number, flag) = rest.split_at_mut(4);
    number.copy_from_slice(&frame.to_le_bytes());
    flag.fill(u8::from(last));
    context
}

/// The nonce of a frame: its number. A key belongs to one object, so no number meets a key twice.
pub fn frame_nonce(frame: u32) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce.split_at_mut(4).0.copy_from_slice(&frame.to_le_bytes());
    nonce
}

/// What HKDF is told about an object, so that a frame key fits one object of one repository only.
pub fn key_context(header: &Header) -> Vec<u8> {
    let mut context = b"backstay v1 object".to_vec();
    context.extend_from_slice(header.repo.as_bytes());
    context.push(header.kind as u8);
    context.extend_from_slice(header.object.as_bytes());
    context
}

/// The message an Ed25519 signature is made over.
fn signing_message(header: &Digest, facts: &Digest, table: &Digest, body: &Digest) -> Vec<u8> {
    let mut message = b"backstay v1 signature\n".to_vec();
    for part in [header, facts, table, body] {
        message.extend_from_slice(part.as_bytes());
    }
    message
}

/// Where one frame lies in its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FramePlace {
    pub frame: u32,
    pub offset: u32,
    pub stored: u32,
    pub raw: u32,
}

impl FramePlace {
    pub fn range(&self) -> Range<u64> {
        u64::from(self.offset)..u64::from(self.offset) + u64::from(self.stored)
    }
}

/// Builds one object in memory, front to back.
pub struct Builder {
    bytes: Vec<u8>,
    header_digest: Digest,
    facts_digest: Digest,
    table_digest: Digest,
    signature_at: Option<usize>,
    frames_at: usize,
    index: Vec<u8>,
}

impl Builder {
    pub fn new(mut header: Header, facts: &[u8], table: &[u8]) -> Self {
        let flags = header.kind.flags();
        assert_eq!(header.seal.is_some(), flags & layout::FLAG_SEALED != 0, "the type says whether it is sealed");
        assert_eq!(header.signed.is_some(), flags & layout::FLAG_SIGNED != 0, "the type says whether it is signed");
        assert!(facts.len() <= layout::FACTS_MAX && table.len() <= layout::TABLE_MAX, "a reader would refuse it");
        header.facts_len = facts.len() as u32;
        header.table_len = table.len() as u32;
        let mut bytes = header.encode();
        let header_digest = digest(&bytes);
        bytes.extend_from_slice(facts);
        let signature_at = header.signed.is_some().then_some(bytes.len());
        if signature_at.is_some() {
            bytes.resize(bytes.len() + signature::LEN, 0);
        }
        bytes.extend_from_slice(table);
        let frames_at = bytes.len();
        Self {
            bytes,
            header_digest,
            facts_digest: digest(facts),
            table_digest: digest(table),
            signature_at,
            frames_at,
            index: Vec::new(),
        }
    }

    pub fn header_digest(&self) -> &Digest {
        &self.header_digest
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    pub fn frame_count(&self) -> u32 {
        (self.index.len() / index::LEN) as u32
    }

    /// Appends one sealed frame.
    pub fn push(&mut self, sealed: &[u8], raw: u32) -> FramePlace {
        assert!(
            raw as usize <= layout::FRAME_RAW_MAX && sealed.len() <= layout::FRAME_STORED_MAX,
            "a frame is too long"
        );
        assert!(self.bytes.len() + sealed.len() <= layout::OBJECT_MAX, "an object is too long");
        let place =
            FramePlace { frame: self.frame_count(), offset: self.bytes.len() as u32, stored: sealed.len() as u32, raw };
        self.bytes.extend_from_slice(sealed);
        Writer::begin(&mut self.index, index::LEN).u32(index::STORED, place.stored).u32(index::RAW, raw);
        place
    }

    /// Closes the object. `sign` is called for signed types only.
    pub fn finish(mut self, sign: impl FnOnce(&[u8]) -> [u8; 64]) -> Vec<u8> {
        let frames_len = (self.bytes.len() - self.frames_at) as u64;
        let frame_count = self.frame_count();
        self.bytes.extend_from_slice(&self.index);
        if let Some(at) = self.signature_at {
            let body = digest(self.bytes.split_at(self.frames_at).1);
            let message = signing_message(&self.header_digest, &self.facts_digest, &self.table_digest, &body);
            let mut block = Vec::with_capacity(signature::LEN);
            let mut w = Writer::begin(&mut block, signature::LEN);
            w.put(signature::TABLE_DIGEST, self.table_digest.as_bytes()).put(signature::BODY_DIGEST, body.as_bytes());
            w.put(signature::SIGNATURE, &sign(&message));
            self.bytes.splice(at..at + signature::LEN, block);
        }
        let mut w = Writer::begin(&mut self.bytes, trailer::LEN);
        w.u64(trailer::FRAMES_LEN, frames_len).u32(trailer::FRAME_COUNT, frame_count);
        w.put(trailer::MAGIC, &layout::END_MAGIC);
        self.bytes
    }
}

/// The signature block: what was signed, and the signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignatureBlock {
    pub table_digest: Digest,
    pub body_digest: Digest,
    pub signature: [u8; 64],
}

/// Header, facts and signature: enough to know what an object says of itself, and who said it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Front<'a> {
    pub header: Header,
    pub header_digest: Digest,
    pub facts: &'a [u8],
    pub signature: Option<SignatureBlock>,
    /// BLAKE3 of the front's bytes. Through the signature block it stands for the whole object, so a
    /// chain is followed and a head remembered without reading bodies.
    pub digest: Digest,
    /// How many bytes the front takes.
    pub len: usize,
}

impl<'a> Front<'a> {
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Corrupt> {
        let header = Header::parse(bytes)?;
        let mut cursor = Cursor::new("the object's front", bytes);
        let header_digest = digest(cursor.take(header.encoded_len())?);
        let facts = cursor.take(header.facts_len as usize)?;
        let signature = match header.signed {
            None => None,
            Some(_) => {
                let block = cursor.fixed(signature::LEN)?;
                Some(SignatureBlock {
                    table_digest: Digest::from_bytes(block.array(signature::TABLE_DIGEST)?),
                    body_digest: Digest::from_bytes(block.array(signature::BODY_DIGEST)?),
                    signature: block.array(signature::SIGNATURE)?,
                })
            }
        };
        let len = bytes.len() - cursor.rest();
        let (front, _) = bytes.split_at(len);
        Ok(Self { header, header_digest, facts, signature, digest: digest(front), len })
    }

    /// What the signature must have been made over; `None` for types that carry none.
    pub fn signed_message(&self) -> Option<(Vec<u8>, &[u8; 64])> {
        let block = self.signature.as_ref()?;
        let facts = digest(self.facts);
        Some((signing_message(&self.header_digest, &facts, &block.table_digest, &block.body_digest), &block.signature))
    }
}

/// What the last bytes of an object say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// Where its frames lie.
    Frames(Vec<FramePlace>),
    /// Nothing yet: so many of them are needed.
    Longer(u64),
}

impl Front<'_> {
    /// For whoever has the front of an object and its last bytes, and not what lies between. Nothing vouches for the
    /// places but the tags of the frames that are found there.
    pub fn ending(&self, len: u64, end: &[u8]) -> Result<Ending, Corrupt> {
        const WHAT: &str = "the object";
        let whole = bounded(WHAT, len, layout::OBJECT_MAX)?;
        let split = end.len().checked_sub(trailer::LEN).ok_or(Corrupt::Truncated { what: WHAT })?;
        let (before, tail) = end.split_at(split);
        let tail = Cursor::new("the object's trailer", tail).fixed(trailer::LEN)?;
        if tail.array(trailer::MAGIC)? != layout::END_MAGIC {
            return Err(Corrupt::EndMagic);
        }
        tail.zero(trailer::ZERO)?;
        let (frames_len, count) = (tail.u64(trailer::FRAMES_LEN)?, tail.u32(trailer::FRAME_COUNT)?);
        let index_len = u64::from(count) * index::LEN as u64;
        let frames_at = (self.len + self.header.table_len as usize) as u64;
        let sum = frames_len.checked_add(frames_at + index_len + trailer::LEN as u64);
        if sum != Some(whole as u64) {
            return Err(Corrupt::Length { what: "the frame index" });
        }
        match before.len().checked_sub(index_len as usize) {
            None => Ok(Ending::Longer(index_len + trailer::LEN as u64)),
            Some(at) => {
                let cursor = Cursor::new("the frame index", before.split_at(at).1);
                parse_places(cursor, (frames_at, frames_len), count).map(Ending::Frames)
            }
        }
    }
}

/// A whole object whose parts add up and match the digests in its signature block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object<'a> {
    pub front: Front<'a>,
    pub table: &'a [u8],
    pub frames: Vec<FramePlace>,
    bytes: &'a [u8],
}

impl<'a> Object<'a> {
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Corrupt> {
        const WHAT: &str = "the object";
        bounded(WHAT, bytes.len() as u64, layout::OBJECT_MAX)?;
        let front = Front::parse(bytes)?;
        let end = bytes.len().checked_sub(trailer::LEN).ok_or(Corrupt::Truncated { what: WHAT })?;
        let (before, tail) = bytes.split_at(end);
        let tail = Cursor::new("the object's trailer", tail).fixed(trailer::LEN)?;
        if tail.array(trailer::MAGIC)? != layout::END_MAGIC {
            return Err(Corrupt::EndMagic);
        }
        tail.zero(trailer::ZERO)?;
        let mut cursor = Cursor::new(WHAT, before);
        cursor.take(front.len)?;
        let table = cursor.take(front.header.table_len as usize)?;
        let frames_at = before.len() - cursor.rest();
        let (_, body) = before.split_at(frames_at);
        let frames_len = tail.u64(trailer::FRAMES_LEN)?;
        let frame_count = tail.u32(trailer::FRAME_COUNT)?;
        let frames = parse_index(body, frames_at, frames_len, frame_count)?;
        if front.header.seal.is_some() == frames.is_empty() {
            return Err(Corrupt::Rule { what: WHAT, rule: "sealed objects have frames, others have none" });
        }
        if let Some(block) = &front.signature {
            if digest(table) != block.table_digest {
                return Err(Corrupt::Digest { what: "the table" });
            }
            if digest(body) != block.body_digest {
                return Err(Corrupt::Digest { what: "the sealed body" });
            }
        }
        Ok(Self { front, table, frames, bytes })
    }

    /// The sealed bytes of one frame.
    pub fn frame(&self, place: &FramePlace) -> Result<&'a [u8], Corrupt> {
        let range = place.offset as usize..(place.offset as usize).saturating_add(place.stored as usize);
        self.bytes.get(range).ok_or(Corrupt::Truncated { what: "a frame" })
    }
}

fn parse_index(body: &[u8], frames_at: usize, frames_len: u64, count: u32) -> Result<Vec<FramePlace>, Corrupt> {
    const WHAT: &str = "the frame index";
    let index_len = u64::from(count) * index::LEN as u64;
    if frames_len.checked_add(index_len) != Some(body.len() as u64) {
        return Err(Corrupt::Length { what: WHAT });
    }
    let mut cursor = Cursor::new(WHAT, body);
    cursor.take(frames_len as usize)?;
    parse_places(cursor, (frames_at as u64, frames_len), count)
}

fn parse_places(
    mut cursor: Cursor<'_>,
    (frames_at, frames_len): (u64, u64),
    count: u32,
) -> Result<Vec<FramePlace>, Corrupt> {
    const WHAT: &str = "the frame index";
    let mut frames = Vec::with_capacity(count as usize);
    let mut offset = frames_at;
    for frame in 0..count {
        let row = cursor.fixed(index::LEN)?;
        let place =
            FramePlace { frame, offset: offset as u32, stored: row.u32(index::STORED)?, raw: row.u32(index::RAW)? };
        bounded("a frame", u64::from(place.raw), layout::FRAME_RAW_MAX)?;
        bounded("a frame", u64::from(place.stored), layout::FRAME_STORED_MAX)?;
        offset += u64::from(place.stored);
        if offset > frames_at + frames_len {
            break;
        }
        frames.push(place);
    }
    if offset != frames_at + frames_len {
        return Err(Corrupt::Length { what: WHAT });
    }
    Ok(frames)
}

#[cfg(test)]
mod tests;
