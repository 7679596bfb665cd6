//! Sealing: data keys wrapped to the master, object keys with a commitment, frames with a tag.
//!
//! A data key is random, lives in memory for one run, and travels wrapped in every header. Object
//! keys are derived under a fresh salt, so sealed bytes belong to one attempt: they are resent as
//! they are or abandoned, and no key ever seals two different frames of one number. "Wrong key" and
//! "damaged" are different errors, because the commitment is checked before any tag.

use age::secrecy::ExposeSecret;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::{constant_time, hkdf};
use backstay_format::object::{self, Builder, Object, Seal, Signed};
use backstay_format::{Corrupt, FramePlace, Header, ObjectType, layout};
use backstay_model::{Digest, Kind, Kinded, ObjectId, Random, RepoId, seams};
use bytes::Bytes;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::sync::Mutex;
use zstd::zstd_safe::CParameter;

pub mod ssh;
pub mod wrap;

#[derive(Debug, thiserror::Error)]
pub enum SealError {
    #[error("{text:?} is no recipient: {reason}")]
    BadRecipient { text: String, reason: &'static str },
    #[error("this is no identity: {reason}")]
    BadIdentity { reason: &'static str },
    #[error("this key does not open the object: it was sealed to another master")]
    WrongKey,
    #[error("the object's key commitment does not match: its header was put together from others")]
    Commitment,
    #[error("frame {frame} fails its tag: damaged, moved, or not the last one it claims to be")]
    Tag { frame: u32 },
    #[error("frame {frame} does not decompress to the {raw} bytes it should hold")]
    Compression { frame: u32, raw: u32 },
    #[error("the wrapped data key is damaged")]
    Wrap {
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
}

impl Kinded for SealError {
    fn kind(&self) -> Kind {
        match self {
            SealError::WrongKey => Kind::Denied,
            SealError::BadRecipient { .. } | SealError::BadIdentity { .. } => Kind::Config,
            _ => Kind::Corrupt,
        }
    }
}

/// The public half of the master identity: what objects are sealed to.
#[derive(Clone)]
pub struct Master {
    recipient: age::x25519::Recipient,
    text: String,
}

impl Master {
    pub fn parse(text: &str) -> Result<Self, SealError> {
        let recipient = text.parse().map_err(|reason| SealError::BadRecipient { text: text.to_owned(), reason })?;
        Ok(Self { recipient, text: text.to_owned() })
    }

    /// `age1…`
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// The master identity: it opens every object that was sealed to it. A recipient's identity is one of
/// the same kind, which opens the wrap that holds the master's.
#[derive(Clone)]
pub struct MasterIdentity(age::x25519::Identity);

impl MasterIdentity {
    pub fn generate() -> Self {
        Self(age::x25519::Identity::generate())
    }

    pub fn parse(text: &str) -> Result<Self, SealError> {
        text.parse().map(Self).map_err(|reason| SealError::BadIdentity { reason })
    }

    pub fn master(&self) -> Master {
        let recipient = self.0.to_public();
        Master { text: recipient.to_string(), recipient }
    }

    /// The secret itself, for writing a key file and nothing else.
    pub fn secret_text(&self) -> String {
        self.0.to_string().expose_secret().to_owned()
    }
}

type DataSecret = [u8; 32];

/// The key of one object, derived and committed.
struct ObjectKey {
    aead: LessSafeKey,
    commitment: [u8; 32],
}

impl ObjectKey {
    fn derive(secret: &DataSecret, salt: &[u8; 32], header: &Header) -> Self {
        struct Len;
        impl hkdf::KeyType for Len {
            fn len(&self) -> usize {
                64
            }
        }
        let context = object::key_context(header);
        let mut okm = [0; 64];
        let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(secret);
        let parts = [context.as_slice()];
        let filled = prk.expand(&parts, Len).and_then(|okm_source| okm_source.fill(&mut okm));
        filled.expect("64 bytes are within what HKDF-SHA-256 gives");
        let (key, rest) = okm.split_at(32);
        let unbound = UnboundKey::new(&AES_256_GCM, key).expect("the key is 32 bytes");
        let mut commitment = [0; 32];
        commitment.copy_from_slice(rest);
        Self { aead: LessSafeKey::new(unbound), commitment }
    }
}

/// Seals objects under one fresh data key. One per run.
pub struct Sealer {
    repo: RepoId,
    secret: DataSecret,
    wrap: Vec<u8>,
}

impl Sealer {
    pub fn new(repo: RepoId, master: &Master, random: &dyn Random) -> Self {
        let secret = seams::fresh(random);
        let wrap = wrap_key(&secret, master);
        Self { repo, secret, wrap }
    }

    /// The wrapped data key, as every object of this run carries it.
    pub fn wrap(&self) -> &[u8] {
        &self.wrap
    }

    /// The opener for the frames of an object that this run sealed.
    pub fn open(&self, header: &Header) -> Result<FrameOpener, SealError> {
        let seal = header.seal.as_ref().filter(|seal| seal.wrap == self.wrap).ok_or(SealError::WrongKey)?;
        opener(&self.secret, seal, header)
    }

    /// Begins one object with a fresh salt.
    pub fn begin(&self, new: NewObject<'_>, random: &dyn Random) -> SealedBuilder {
        let salt = seams::fresh(random);
        let mut header = Header::new(new.kind, self.repo, new.id);
        let key = ObjectKey::derive(&self.secret, &salt, &header);
        header.seal = Some(Seal { salt, commitment: key.commitment, wrap: self.wrap.clone() });
        header.signed = new.signed;
        SealedBuilder { id: new.id, salt, key: key.aead, inner: Builder::new(header, new.facts, new.table) }
    }
}

impl Sealer {
    /// Seals a pack's frames once more under this run's key, as another object: the same frames in the same
    /// order, each after its tag was verified. They are not decompressed.
    pub fn seal_again(
        &self,
        pack: &Object<'_>,
        opener: &FrameOpener,
        id: ObjectId,
        random: &dyn Random,
    ) -> Result<SealedObject, SealError> {
        let new = NewObject { kind: ObjectType::Pack, id, facts: &[], table: &[], signed: None };
        let mut builder = self.begin(new, random);
        for (at, place) in pack.frames.iter().enumerate() {
            let last = at + 1 == pack.frames.len();
            let sealed = pack.frame(place)?;
            // With room for the tag that is appended again.
            let mut compressed = Vec::with_capacity(sealed.len());
            opener.unseal((place.frame, last), sealed, &mut compressed)?;
            builder.seal(compressed, place.raw as usize, last);
        }
        Ok(builder.close(|_| unreachable!("packs are not signed")))
    }
}

fn opener(secret: &DataSecret, seal: &Seal, header: &Header) -> Result<FrameOpener, SealError> {
    let key = ObjectKey::derive(secret, &seal.salt, header);
    constant_time::verify_slices_are_equal(&key.commitment, &seal.commitment).map_err(|_| SealError::Commitment)?;
    Ok(FrameOpener { key: key.aead, header: object::digest(&header.encode()) })
}

fn wrap_key(secret: &DataSecret, master: &Master) -> Vec<u8> {
    let recipient: &dyn age::Recipient = &master.recipient;
    let encryptor = age::Encryptor::with_recipients(std::iter::once(recipient)).expect("there is one recipient");
    let mut wrap = Vec::with_capacity(256);
    let mut writer = encryptor.wrap_output(&mut wrap).expect("memory takes the header");
    writer.write_all(secret).expect("memory takes the key");
    writer.finish().expect("memory takes the tag");
    wrap
}

/// What an object is to be made of, besides its frames.
pub struct NewObject<'a> {
    pub kind: ObjectType,
    pub id: ObjectId,
    pub facts: &'a [u8],
    pub table: &'a [u8],
    pub signed: Option<Signed>,
}

/// An object being sealed, frame by frame.
pub struct SealedBuilder {
    id: ObjectId,
    salt: [u8; 32],
    key: LessSafeKey,
    inner: Builder,
}

/// A finished object, ready to be put, and what a refs table says of it.
#[derive(Debug, Clone)]
pub struct SealedObject {
    pub id: ObjectId,
    pub salt: [u8; 32],
    pub digest: Digest,
    pub bytes: Bytes,
}

impl SealedBuilder {
    pub fn id(&self) -> ObjectId {
        self.id
    }

    pub fn len(&self) -> usize {
        self.inner.len()
    }

    pub fn is_empty(&self) -> bool {
        self.inner.is_empty()
    }

    /// Seals a frame that is not the last. `compressed` is what `Compressor::compress` gave.
    pub fn push(&mut self, compressed: Vec<u8>, raw: usize) -> FramePlace {
        self.seal(compressed, raw, false)
    }

    fn seal(&mut self, mut bytes: Vec<u8>, raw: usize, last: bool) -> FramePlace {
        assert!(raw <= layout::FRAME_RAW_MAX, "a frame is cut before it is sealed");
        let frame = self.inner.frame_count();
        let nonce = Nonce::assume_unique_for_key(object::frame_nonce(frame));
        let context = object::frame_context(self.inner.header_digest(), frame, last);
        let sealed = self.key.seal_in_place_append_tag(nonce, Aad::from(context), &mut bytes);
        sealed.expect("AES-GCM seals any frame of this size");
        self.inner.push(&bytes, raw as u32)
    }

    /// Seals the last frame and closes the object. `sign` is called for signed types only.
    pub fn finish(mut self, last: &[u8], sign: impl FnOnce(&[u8]) -> [u8; 64]) -> SealedObject {
        let compressed = Compressor::new().compress(last);
        self.seal(compressed, last.len(), true);
        self.close(sign)
    }

    fn close(self, sign: impl FnOnce(&[u8]) -> [u8; 64]) -> SealedObject {
        let bytes = self.inner.finish(sign);
        SealedObject { id: self.id, salt: self.salt, digest: object::digest(&bytes), bytes: Bytes::from(bytes) }
    }
}

/// Compresses frames; holds the compressor's working memory between them.
pub struct Compressor(zstd::bulk::Compressor<'static>);

/// The level: the fastest that still finds most of what pages repeat.
const LEVEL: i32 = 1;
/// Pages repeat long words: looking for matches of seven bytes and not six saves time, and a table
/// twice as large as the level's own finds again what that would lose. Decision 0037 has the figures.
const TUNED: [CParameter; 2] = [CParameter::HashLog(15), CParameter::MinMatch(7)];

impl Default for Compressor {
    fn default() -> Self {
        Self::new()
    }
}

impl Compressor {
    pub fn new() -> Self {
        let mut inner = zstd::bulk::Compressor::new(LEVEL).expect("the level is one the compressor knows");
        for parameter in TUNED {
            inner.set_parameter(parameter).expect("the parameter is within what the compressor takes");
        }
        Self(inner)
    }

    pub fn compress(&mut self, raw: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(zstd::zstd_safe::compress_bound(raw.len()) + AES_256_GCM.tag_len());
        self.0.compress_to_buffer(raw, &mut out).expect("the buffer has the compressor's own worst case");
        out
    }
}

/// Opens objects with the master identities; unwraps each data key once.
pub struct Unsealer {
    identities: Vec<MasterIdentity>,
    opened: Mutex<HashMap<Digest, DataSecret>>,
}

impl Unsealer {
    pub fn new(identity: MasterIdentity) -> Self {
        Self::of(vec![identity])
    }

    /// Tries each of them: what was sealed before a rotation needs an older one.
    pub fn of(identities: Vec<MasterIdentity>) -> Self {
        Self { identities, opened: Mutex::new(HashMap::new()) }
    }

    /// One of its own with the same identities.
    pub fn again(&self) -> Self {
        Self::of(self.identities.clone())
    }

    /// What it opens with, the newest first.
    pub fn identities(&self) -> &[MasterIdentity] {
        &self.identities
    }

    /// The opener for an object's frames, after its commitment was checked.
    pub fn open(&self, header: &Header) -> Result<FrameOpener, SealError> {
        let seal = header.seal.as_ref().ok_or(Corrupt::Rule { what: "the object", rule: "it is sealed" })?;
        opener(&self.secret(&seal.wrap)?, seal, header)
    }

    /// The opener for an object whose header is known from a manifest's table and not read.
    pub fn open_unread(&self, repo: RepoId, object: SealedAs<'_>) -> Result<FrameOpener, SealError> {
        let mut header = Header::new(object.kind, repo, object.id);
        let key = ObjectKey::derive(&self.secret(object.wrap)?, object.salt, &header);
        header.seal = Some(Seal { salt: *object.salt, commitment: key.commitment, wrap: object.wrap.to_vec() });
        Ok(FrameOpener { key: key.aead, header: object::digest(&header.encode()) })
    }

    /// Whether one of the identities opens a wrapped data key.
    pub fn opens(&self, wrap: &[u8]) -> Result<bool, SealError> {
        match self.secret(wrap) {
            Ok(_) => Ok(true),
            Err(SealError::WrongKey) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn secret(&self, wrap: &[u8]) -> Result<DataSecret, SealError> {
        let name = object::digest(wrap);
        if let Some(secret) = self.opened.lock().expect("no holder of this lock panics").get(&name) {
            return Ok(*secret);
        }
        let secret = unwrap_key(wrap, &self.identities)?;
        self.opened.lock().expect("no holder of this lock panics").insert(name, secret);
        Ok(secret)
    }
}

/// What a refs table says of how an object was sealed.
pub struct SealedAs<'a> {
    pub kind: ObjectType,
    pub id: ObjectId,
    pub salt: &'a [u8; 32],
    pub wrap: &'a [u8],
}

fn unwrap_key(wrap: &[u8], identities: &[MasterIdentity]) -> Result<DataSecret, SealError> {
    let damaged = |source| SealError::Wrap { source };
    let decryptor = age::Decryptor::new_buffered(wrap).map_err(|e| damaged(e.into()))?;
    let identities = identities.iter().map(|identity| &identity.0 as &dyn age::Identity);
    let reader = decryptor.decrypt(identities).map_err(|error| match error {
        age::DecryptError::NoMatchingKeys => SealError::WrongKey,
        other => damaged(other.into()),
    })?;
    let mut secret = Vec::with_capacity(33);
    reader.take(33).read_to_end(&mut secret).map_err(|e| damaged(e.into()))?;
    secret.try_into().map_err(|_| damaged("it does not hold 32 bytes".into()))
}

/// Opens the frames of one object.
pub struct FrameOpener {
    key: LessSafeKey,
    header: Digest,
}

/// Which frame is being opened, and what it must turn out to be.
#[derive(Debug, Clone, Copy)]
pub struct Expected {
    pub frame: u32,
    pub raw: u32,
    /// Only the final frame of an object carries the last-frame flag.
    pub last: bool,
}

/// Memory that frames are opened in, kept from one to the next: fresh memory for each would be asked of the system
/// again and again.
#[derive(Default)]
pub struct FrameMemory {
    decompressor: zstd::bulk::Decompressor<'static>,
    compressed: Vec<u8>,
    raw: Vec<u8>,
}

/// At least so many bytes of a buffer that grows and never shrinks.
fn room(buffer: &mut Vec<u8>, len: usize) -> &mut [u8] {
    if buffer.len() < len {
        buffer.resize(len, 0);
    }
    buffer.split_at_mut(len).0
}

impl FrameOpener {
    pub fn open(&self, expected: Expected, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut memory = FrameMemory::default();
        self.open_in(&mut memory, expected, sealed)?;
        Ok(memory.raw)
    }

    /// The same in memory that is kept.
    pub fn open_in<'m>(
        &self,
        memory: &'m mut FrameMemory,
        expected: Expected,
        sealed: &[u8],
    ) -> Result<&'m [u8], SealError> {
        let Expected { frame, raw, last } = expected;
        if raw as usize > layout::FRAME_RAW_MAX {
            let max = layout::FRAME_RAW_MAX as u64;
            return Err(Corrupt::TooLong { what: "a frame", len: u64::from(raw), max }.into());
        }
        let FrameMemory { decompressor, compressed, raw: out } = memory;
        let compressed = self.unseal((frame, last), sealed, compressed)?;
        let out = room(out, raw as usize);
        match decompressor.decompress_to_buffer(compressed, out) {
            Ok(len) if len == out.len() => Ok(out),
            _ => Err(SealError::Compression { frame, raw }),
        }
    }

    /// The frame as it was compressed.
    fn unseal<'m>(
        &self,
        (frame, last): (u32, bool),
        sealed: &[u8],
        into: &'m mut Vec<u8>,
    ) -> Result<&'m [u8], SealError> {
        let damaged = || SealError::Tag { frame };
        let len = sealed.len().checked_sub(AES_256_GCM.tag_len()).ok_or_else(damaged)?;
        let (text, tag) = sealed.split_at(len);
        let nonce = Nonce::assume_unique_for_key(object::frame_nonce(frame));
        let context = object::frame_context(&self.header, frame, last);
        let into = room(into, len);
        self.key.open_separate_gather(nonce, Aad::from(context), text, tag, into).map_err(|_| damaged())?;
        Ok(into)
    }
}

#[cfg(test)]
mod tests;
