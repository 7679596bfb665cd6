//! The key grammar: every name in the store is made here, and read back here.
//!
//! Numbers are sixteen hexadecimal digits, so that byte order is numeric order. Snapshot names count
//! down, so that the first page of a listing shows the newest.

use crate::seal::Master;
use crate::seam::Key;
use backstay_model::catalog::MarkKind;
use backstay_model::{BranchNo, Digest, Generation, ObjectId, Sequence, SignerKey, SourceName, StreamId};

pub const CONF_PREFIX: &str = "ctl/conf/";
pub const SOURCES_PREFIX: &str = "data/";
pub const MASTERS_PREFIX: &str = "ctl/master/";
pub const PRUNE_PREFIX: &str = "ctl/prune/";

pub fn conf(generation: u64) -> Key {
    Key::new(format!("{CONF_PREFIX}{generation:016x}"))
}

/// The folder below `data/` that a name lies in, and a key past everything in it that anybody reads.
pub fn folder_of(key: &Key) -> Option<(&str, Key)> {
    let (folder, _) = key.as_str().strip_prefix(SOURCES_PREFIX)?.split_once('/')?;
    Some((folder, Key::new(format!("{SOURCES_PREFIX}{folder}/zz"))))
}

pub fn branch_prefix(source: &SourceName) -> String {
    format!("data/{source}/branch/")
}

pub fn branch(source: &SourceName, branch: BranchNo) -> Key {
    Key::new(format!("{}{:016x}", branch_prefix(source), branch.get()))
}

pub fn snapshot_prefix(source: &SourceName) -> String {
    format!("data/{source}/snap/")
}

pub fn snapshot(source: &SourceName, sequence: Sequence, id: &ObjectId) -> Key {
    Key::new(format!("{}{:016x}-{id}", snapshot_prefix(source), u64::MAX - sequence.get()))
}

pub fn pack_prefix(source: &SourceName) -> String {
    format!("data/{source}/pack/")
}

pub fn pack(source: &SourceName, id: &ObjectId) -> Key {
    Key::new(format!("{}{id}", pack_prefix(source)))
}

pub const LOGS_PREFIX: &str = "data/log/";

pub fn log_prefix(stream: &StreamId) -> String {
    format!("data/log/{stream}/")
}

pub fn log(stream: &StreamId, sequence: Sequence) -> Key {
    Key::new(format!("{}{:016x}", log_prefix(stream), sequence.get()))
}

/// A log object by its name: one slot of a stream, or several of them rolled up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogName {
    pub stream: StreamId,
    pub first: Sequence,
    pub last: Sequence,
    /// Of a roll-up: above the first it was sealed again to a later master.
    pub generation: Generation,
}

impl LogName {
    pub const fn slot(stream: StreamId, slot: Sequence) -> Self {
        Self { stream, first: slot, last: slot, generation: Generation::FIRST }
    }

    pub fn is_rolled(&self) -> bool {
        self.first < self.last || self.is_resealed()
    }

    /// Whether it was made by sealing again what was sealed to a master of before.
    pub fn is_resealed(&self) -> bool {
        self.generation > Generation::FIRST
    }

    /// Whether it has every slot of another.
    pub fn has(&self, other: &Self) -> bool {
        self.stream == other.stream && self.first <= other.first && other.last <= self.last
    }

    pub fn key(&self) -> Key {
        if !self.is_rolled() {
            return log(&self.stream, self.first);
        }
        let slots = format!("{}{:016x}-{:016x}", rolled_prefix(&self.stream), self.first.get(), self.last.get());
        match self.is_resealed() {
            true => Key::new(format!("{slots}.{:016x}", self.generation.get())),
            false => Key::new(slots),
        }
    }

    fn parse(stream: StreamId, rest: &str) -> Option<Self> {
        let Some(rolled) = rest.strip_prefix(ROLLED) else {
            return Some(Self::slot(stream, Sequence::new(parse_number(rest)?)));
        };
        let (slots, generation) = match rolled.split_once('.') {
            Some((slots, generation)) => (slots, Generation::new(parse_number(generation)?)),
            None => (rolled, Generation::FIRST),
        };
        let (first, last) = slots.split_once('-')?;
        let (first, last) = (Sequence::new(parse_number(first)?), Sequence::new(parse_number(last)?));
        let name = Self { stream, first, last, generation };
        (first <= last && name.is_rolled()).then_some(name)
    }
}

const ROLLED: &str = "rolled/";

/// Where the roll-ups of a stream lie.
pub fn rolled_prefix(stream: &StreamId) -> String {
    format!("{}{ROLLED}", log_prefix(stream))
}

pub fn mark_prefix(source: &SourceName) -> String {
    format!("ctl/mark/{source}/")
}

pub fn mark(source: &SourceName, snapshot: &ObjectId, kind: MarkKind, id: &ObjectId) -> Key {
    Key::new(format!("{}{snapshot}/{}-{id}", mark_prefix(source), kind.word()))
}

/// The notices of a source's marks: a `+` is in no source's name.
pub fn notice_prefix(source: &SourceName) -> String {
    format!("{NOTICES_PREFIX}{source}/")
}

const NOTICES_PREFIX: &str = "ctl/mark/+";

/// A mark once more, named by how many were noticed before it, and counting down: the newest is listed first.
pub fn notice(source: &SourceName, height: u64, (snapshot, kind, id): MarkName) -> Key {
    let inverted = u64::MAX - height;
    Key::new(format!("{}{inverted:016x}-{snapshot}-{}-{id}", notice_prefix(source), kind.word()))
}

/// A wrap under its master: that master's identity for one recipient, or the masters before it for that one.
pub fn wrap(master: &Master, id: &ObjectId) -> Key {
    Key::new(format!("{MASTERS_PREFIX}{}/{id}.age", master.text()))
}

pub fn audit_prefix(signer: &SignerKey) -> String {
    format!("ctl/audit/{signer}/")
}

pub fn audit(signer: &SignerKey, number: u64) -> Key {
    Key::new(format!("{}{number:016x}", audit_prefix(signer)))
}

pub fn prune(number: u64) -> Key {
    Key::new(format!("{PRUNE_PREFIX}{number:016x}"))
}

pub fn lease_prefix(scope: Scope) -> String {
    format!("ctl/lease/{}/", scope.word())
}

pub fn lease(scope: Scope, number: u64) -> Key {
    Key::new(format!("{}{number:016x}", lease_prefix(scope)))
}

/// What one keeper at a time may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Prune,
}

impl Scope {
    pub const fn word(self) -> &'static str {
        match self {
            Scope::Prune => "prune",
        }
    }
}

/// The number a dense slot's name ends in.
pub fn slot_number(key: &Key) -> Option<u64> {
    let text = key.as_str().rsplit('/').next()?;
    parse_number(text)
}

/// The chain of a source's rewritten manifests: no name begins like this, but the end of a removed signer's does.
pub fn rewritten_chain(source: &SourceName) -> String {
    format!("data/{source}/rewritten/")
}

/// The chain of a stream's roll-ups that were sealed again, as [`rewritten_chain`].
pub fn resealed_chain(stream: &StreamId) -> String {
    format!("{LOGS_PREFIX}resealed/{stream}/")
}

/// What a manifest's name says: where its snapshot stands, and which of its manifests it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotName {
    pub source: SourceName,
    pub sequence: Sequence,
    pub id: ObjectId,
    pub generation: Generation,
}

impl SnapshotName {
    /// The name of a snapshot's first manifest.
    pub fn first(source: SourceName, sequence: Sequence, id: ObjectId) -> Self {
        Self { source, sequence, id, generation: Generation::FIRST }
    }

    pub fn key(&self) -> Key {
        let first = snapshot(&self.source, self.sequence, &self.id);
        match self.generation {
            Generation::FIRST => first,
            later => Key::new(format!("{first}.{:016x}", later.get())),
        }
    }

    pub fn parse(source: &SourceName, key: &Key) -> Option<Self> {
        let name = key.as_str().strip_prefix(&snapshot_prefix(source))?;
        let (number, rest) = name.split_once('-')?;
        let sequence = Sequence::new(u64::MAX - parse_number(number)?);
        let (id, generation) = match rest.split_once('.') {
            None => (rest, Generation::FIRST),
            // The first has no number in its name.
            Some((id, number)) => (id, Generation::new(parse_number(number).filter(|number| *number > 0)?)),
        };
        Some(Self { source: source.clone(), sequence, id: id.parse().ok()?, generation })
    }

    /// Whether it is a manifest of the same snapshot.
    pub fn is_of(&self, other: &SnapshotName) -> bool {
        (self.sequence, self.id) == (other.sequence, other.id)
    }
}

/// A second place for the bytes of an object below `data/`, while the object itself is being replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spare {
    /// The object they are the bytes of.
    pub of: Key,
    /// Of all the bytes.
    pub digest: Digest,
}

const SPARE: &str = "spare";

impl Spare {
    /// `data/<folder>/spare/<rest of the name, + for />+<digest>`.
    pub fn key(&self) -> Option<Key> {
        let (folder, _) = folder_of(&self.of)?;
        let rest = self.of.as_str().strip_prefix(SOURCES_PREFIX)?.strip_prefix(folder)?.strip_prefix('/')?;
        Key::parse(&format!("{SOURCES_PREFIX}{folder}/{SPARE}/{}+{}", rest.replace('/', "+"), self.digest)).ok()
    }

    pub fn parse(key: &Key) -> Option<Self> {
        let (folder, rest) = key.as_str().strip_prefix(SOURCES_PREFIX)?.split_once('/')?;
        let (name, digest) = rest.strip_prefix(SPARE)?.strip_prefix('/')?.rsplit_once('+')?;
        let of = Key::parse(&format!("{SOURCES_PREFIX}{folder}/{}", name.replace('+', "/"))).ok()?;
        let spare = Self { of, digest: digest.parse().ok()? };
        (spare.key().as_ref() == Some(key)).then_some(spare)
    }
}

/// Where the spares of a folder below `data/` lie.
pub fn spare_prefix(folder: &str) -> String {
    format!("{SOURCES_PREFIX}{folder}/{SPARE}/")
}

/// What a bundle's name says: of which snapshots it has the fronts, and up to where the marks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleName {
    pub source: SourceName,
    pub first: Sequence,
    pub last: Sequence,
    /// Every notice below this height was there when it was made, and those it has not are in the bundles before it.
    pub noticed: u64,
    /// Of all the bytes.
    pub digest: Digest,
}

impl BundleName {
    /// The numbers count down as those of manifests do: the newest is listed first.
    pub fn key(&self) -> Key {
        let Self { source, first, last, noticed, digest } = self;
        let last = u64::MAX - last.get();
        Key::new(format!("{}{last:016x}-{:016x}-{noticed:016x}-{digest}", bundle_prefix(source), first.get()))
    }

    pub fn parse(source: &SourceName, key: &Key) -> Option<Self> {
        let mut parts = key.as_str().strip_prefix(&bundle_prefix(source))?.split('-');
        let mut number = || parse_number(parts.next()?);
        let (last, first, noticed) = (Sequence::new(u64::MAX - number()?), Sequence::new(number()?), number()?);
        let digest = parts.next()?.parse().ok()?;
        let name = Self { source: source.clone(), first, last, noticed, digest };
        (first <= last && name.key() == *key).then_some(name)
    }

    /// Whether it has the place of a snapshot.
    pub fn spans(&self, sequence: Sequence) -> bool {
        (self.first..=self.last).contains(&sequence)
    }
}

/// Where the bundles of a source lie.
pub fn bundle_prefix(source: &SourceName) -> String {
    format!("data/{source}/bundle/")
}

/// What an object is, by its name alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Conf(u64),
    Wrap,
    Lease(u64),
    Audit(SignerKey, u64),
    Mark(SourceName, MarkName),
    /// A mark once more: the bytes are the mark's.
    Notice(SourceName, MarkName),
    Prune(u64),
    Branch(SourceName, BranchNo),
    Snapshot(SnapshotName),
    Pack(SourceName, ObjectId),
    Log(StreamId, Sequence),
    RollUp(LogName),
    Spare(Spare),
    /// Fronts and marks once more: nobody believes it, and nothing is decided by it.
    Bundle(BundleName),
    /// A name this build would not have made.
    Unknown,
}

impl Place {
    pub fn of(key: &Key) -> Self {
        Self::below_ctl(key).or_else(|| Self::below_data(key)).unwrap_or(Self::Unknown)
    }

    fn below_ctl(key: &Key) -> Option<Self> {
        let (area, rest) = key.as_str().strip_prefix("ctl/")?.split_once('/')?;
        let number = slot_number(key);
        let place = match area {
            "conf" => Self::Conf(number?),
            "master" => Self::Wrap,
            "prune" => Self::Prune(number?),
            "lease" => Self::Lease(number?),
            "audit" => Self::Audit(rest.split_once('/')?.0.parse().ok()?, number?),
            "mark" => {
                if let Some(mark) = noticed(key)
                    && let Self::Mark(source, named) = Self::of(&mark)
                {
                    return Some(Self::Notice(source, named));
                }
                let source: SourceName = rest.split_once('/')?.0.parse().ok()?;
                let named = parse_mark(&source, key)?;
                return Some(Self::Mark(source, named));
            }
            _ => return None,
        };
        let slot = match &place {
            Self::Conf(n) => Some(conf(*n)),
            Self::Prune(n) => Some(prune(*n)),
            Self::Lease(n) => Some(lease(Scope::Prune, *n)),
            Self::Audit(signer, n) => Some(audit(signer, *n)),
            _ => None,
        };
        slot.is_none_or(|slot| slot == *key).then_some(place)
    }

    fn below_data(key: &Key) -> Option<Self> {
        if let Some(spare) = Spare::parse(key) {
            return Some(Self::Spare(spare));
        }
        let (folder, rest) = key.as_str().strip_prefix(SOURCES_PREFIX)?.split_once('/')?;
        if folder == "log" {
            let (stream, rest) = rest.split_once('/')?;
            let name = LogName::parse(stream.parse().ok()?, rest).filter(|name| name.key() == *key)?;
            return Some(if name.is_rolled() { Self::RollUp(name) } else { Self::Log(name.stream, name.first) });
        }
        let source: SourceName = folder.parse().ok()?;
        if let Some(id) = parse_pack(&source, key) {
            return Some(Self::Pack(source, id));
        }
        if let Some(name) = SnapshotName::parse(&source, key) {
            return Some(Self::Snapshot(name));
        }
        if let Some(name) = BundleName::parse(&source, key) {
            return Some(Self::Bundle(name));
        }
        let number = BranchNo::new(slot_number(key)?);
        (branch(&source, number) == *key).then_some(Self::Branch(source, number))
    }

    /// The word a person is shown.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Conf(_) => "configuration",
            Self::Wrap => "wrap",
            Self::Lease(_) => "lease",
            Self::Audit(..) => "audit record",
            Self::Mark(..) => "mark",
            Self::Prune(_) => "prune record",
            Self::Branch(..) => "branch record",
            Self::Snapshot(_) => "manifest",
            Self::Pack(..) => "pack",
            Self::Log(..) => "log object",
            Self::RollUp(_) => "roll-up",
            Self::Spare(_) => "spare",
            Self::Bundle(_) => "bundle",
            Self::Notice(..) => "notice",
            Self::Unknown => "unknown name",
        }
    }
}

/// The object id at the end of a pack's name.
pub fn parse_pack(source: &SourceName, key: &Key) -> Option<ObjectId> {
    key.as_str().strip_prefix(&pack_prefix(source))?.parse().ok()
}

/// What a mark is about, what it says, and its own id.
pub type MarkName = (ObjectId, MarkKind, ObjectId);

/// What a mark's name says; its body must agree.
pub fn parse_mark(source: &SourceName, key: &Key) -> Option<MarkName> {
    let (snapshot, rest) = key.as_str().strip_prefix(&mark_prefix(source))?.split_once('/')?;
    mark_name(snapshot, rest)
}

fn mark_name(snapshot: &str, rest: &str) -> Option<MarkName> {
    let (word, id) = rest.rsplit_once('-')?;
    let kind = MarkKind::ALL.into_iter().find(|k| k.word() == word)?;
    Some((snapshot.parse().ok()?, kind, id.parse().ok()?))
}

/// The height of a notice, and the mark it is of.
pub fn parse_notice(source: &SourceName, key: &Key) -> Option<(u64, MarkName)> {
    notice_name(key.as_str().strip_prefix(&notice_prefix(source))?)
}

fn notice_name(name: &str) -> Option<(u64, MarkName)> {
    let (number, rest) = name.split_once('-')?;
    let (snapshot, rest) = rest.split_once('-')?;
    Some((u64::MAX - parse_number(number)?, mark_name(snapshot, rest)?))
}

/// The name of the mark that a notice is of; `None` when the key is of something else.
pub fn noticed(key: &Key) -> Option<Key> {
    let (source, name) = key.as_str().strip_prefix(NOTICES_PREFIX)?.split_once('/')?;
    let (_, (snapshot, kind, id)) = notice_name(name)?;
    Some(mark(&source.parse().ok()?, &snapshot, kind, &id))
}

fn parse_number(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if text.len() == 16 && digits { u64::from_str_radix(text, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shop() -> SourceName {
        "shop".parse().expect("a legal name")
    }

    #[test]
    fn newer_snapshots_sort_first_and_names_round_trip() {
        let id = ObjectId::from_bytes([7; 16]);
        let name = |n| SnapshotName::first(shop(), Sequence::new(n), id);
        assert!(name(10).key() < name(9).key());
        assert_eq!(SnapshotName::parse(&shop(), &name(10).key()), Some(name(10)));
        let later = |generation| SnapshotName { generation: Generation::new(generation), ..name(10) };
        assert_eq!(SnapshotName::parse(&shop(), &later(3).key()), Some(later(3)));
        let sorted = [name(10), later(3), later(0x10), name(9)].map(|name| name.key());
        assert!(sorted.is_sorted(), "the manifests of a snapshot stand together, the newest last");
    }

    #[test]
    fn every_name_says_what_it_is() {
        let (id, signer) = (ObjectId::from_bytes([7; 16]), SignerKey::from_bytes([8; 32]));
        let name = SnapshotName::first(shop(), Sequence::new(3), id);
        let later = SnapshotName { generation: Generation::new(2), ..name.clone() };
        let stream = StreamId::from_bytes([9; 16]);
        let digest = Digest::from_bytes([5; 32]);
        let of_pack = Spare { of: pack(&shop(), &id), digest };
        let of_manifest = Spare { of: name.key(), digest };
        let of_log = Spare { of: log(&stream, Sequence::new(2)), digest };
        let first = Sequence::new(2);
        let rolled = LogName { stream, first, last: Sequence::new(0x1f), generation: Generation::FIRST };
        let resealed = LogName { last: first, generation: Generation::new(3), ..rolled };
        let of_rolled = Spare { of: rolled.key(), digest };
        let spare = |spare: &Spare| spare.key().expect("below data");
        assert_eq!(spare(&of_pack).as_str(), format!("data/shop/spare/pack+{id}+{digest}"));
        let (first, last) = (Sequence::new(17), Sequence::new(32));
        let bundle = BundleName { source: shop(), first, last, noticed: 9, digest };
        let all = [
            (bundle.key(), Place::Bundle(bundle.clone())),
            (conf(2), Place::Conf(2)),
            (prune(2), Place::Prune(2)),
            (lease(Scope::Prune, 4), Place::Lease(4)),
            (audit(&signer, 5), Place::Audit(signer, 5)),
            (mark(&shop(), &id, MarkKind::Proven, &id), Place::Mark(shop(), (id, MarkKind::Proven, id))),
            (branch(&shop(), BranchNo::new(1)), Place::Branch(shop(), BranchNo::new(1))),
            (name.key(), Place::Snapshot(name.clone())),
            (later.key(), Place::Snapshot(later.clone())),
            (pack(&shop(), &id), Place::Pack(shop(), id)),
            (log(&stream, Sequence::new(2)), Place::Log(stream, Sequence::new(2))),
            (spare(&of_pack), Place::Spare(of_pack.clone())),
            (spare(&of_manifest), Place::Spare(of_manifest.clone())),
            (spare(&of_log), Place::Spare(of_log.clone())),
            (rolled.key(), Place::RollUp(rolled)),
            (resealed.key(), Place::RollUp(resealed)),
            (spare(&of_rolled), Place::Spare(of_rolled.clone())),
        ];
        for (key, place) in all {
            assert_eq!(Place::of(&key), place, "{key}");
        }
        for unknown in
            ["x", "ctl/x/y", "ctl/conf/2", "data/shop/x", "data/shop/pack/x", "data/shop/spare/pack+x", "data/log/x/y"]
        {
            assert_eq!(Place::of(&Key::new(unknown.to_owned())), Place::Unknown, "{unknown}");
        }
        let beside = |text: &str| Place::of(&Key::new(format!("{}{text}", rolled_prefix(&stream))));
        for unknown in ["", "2", "0000000000000002-0000000000000002", "0000000000000003-0000000000000002", "2-3"] {
            assert_eq!(beside(unknown), Place::Unknown, "{unknown}");
        }
        let newer = BundleName { first: last, last: Sequence::new(33), ..bundle.clone() };
        assert!(newer.key() < bundle.key() && newer.spans(last) && !newer.spans(first));
        let backwards = BundleName { first: last, last: first, ..bundle };
        assert_eq!(Place::of(&backwards.key()), Place::Unknown, "a bundle spans something");
        assert_eq!(Spare { of: conf(1), digest }.key(), None, "only what a keeper may delete has a spare");
    }

    #[test]
    fn names_that_were_not_made_here_are_not_read() {
        let snap = |text: &str| SnapshotName::parse(&shop(), &Key::new(format!("data/shop/snap/{text}")));
        for bad in
            ["", "x", "ffffffffffffffff", "FFFFFFFFFFFFFFFF-00", "+fffffffffffffff-07070707070707070707070707070707"]
        {
            assert_eq!(snap(bad), None, "{bad}");
        }
        let id = "07070707070707070707070707070707";
        for bad in ["0000000000000000", "1", "00000000000000001", "000000000000000A", ""] {
            assert_eq!(snap(&format!("fffffffffffffff0-{id}.{bad}")), None, "{bad}");
        }
        let (snapshot, id) = (ObjectId::from_bytes([1; 16]), ObjectId::from_bytes([2; 16]));
        let key = mark(&shop(), &snapshot, MarkKind::Proven, &id);
        assert_eq!(parse_mark(&shop(), &key), Some((snapshot, MarkKind::Proven, id)));
        assert_eq!(parse_mark(&shop(), &Key::new("ctl/mark/shop/x/proven-y".into())), None);
    }

    #[test]
    fn newer_notices_sort_first_and_lead_to_their_marks() {
        let (snapshot, id) = (ObjectId::from_bytes([1; 16]), ObjectId::from_bytes([2; 16]));
        let name = (snapshot, MarkKind::Quarantined, id);
        let key = notice(&shop(), 7, name);
        assert!(notice(&shop(), 8, name) < key);
        assert_eq!(parse_notice(&shop(), &key), Some((7, name)));
        assert_eq!(noticed(&key), Some(mark(&shop(), &snapshot, MarkKind::Quarantined, &id)));
        assert_eq!(parse_mark(&shop(), &key), None, "it lies beside the marks, and is none");
        for other in ["ctl/mark/+shop/x", "ctl/mark/+/ffffffffffffffff-0-proven-0", "ctl/mark/shop/x/proven-y"] {
            assert_eq!(noticed(&Key::new(other.into())), None, "{other}");
        }
    }
}
