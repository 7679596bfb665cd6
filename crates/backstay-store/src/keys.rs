//! The key grammar: every name in the store is made here, and read back here.
//!
//! Numbers are sixteen hexadecimal digits, so that byte order is numeric order. Snapshot names count
//! down, so that the first page of a listing shows the newest.

use crate::seal::Master;
use crate::seam::Key;
use backstay_model::catalog::MarkKind;
use backstay_model::{BranchNo, ObjectId, Sequence, SignerKey, SourceName, StreamId};

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

pub fn mark_prefix(source: &SourceName) -> String {
    format!("ctl/mark/{source}/")
}

pub fn mark(source: &SourceName, snapshot: &ObjectId, kind: MarkKind, id: &ObjectId) -> Key {
    Key::new(format!("{}{snapshot}/{}-{id}", mark_prefix(source), kind.word()))
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

/// What a snapshot's name says: where it stands and which manifest it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotName {
    pub source: SourceName,
    pub sequence: Sequence,
    pub id: ObjectId,
}

impl SnapshotName {
    pub fn key(&self) -> Key {
        snapshot(&self.source, self.sequence, &self.id)
    }

    pub fn parse(source: &SourceName, key: &Key) -> Option<Self> {
        let name = key.as_str().strip_prefix(&snapshot_prefix(source))?;
        let (number, id) = name.split_once('-')?;
        let sequence = Sequence::new(u64::MAX - parse_number(number)?);
        Some(Self { source: source.clone(), sequence, id: id.parse().ok()? })
    }
}

/// The object id at the end of a pack's name.
pub fn parse_pack(source: &SourceName, key: &Key) -> Option<ObjectId> {
    key.as_str().strip_prefix(&pack_prefix(source))?.parse().ok()
}

/// What a mark's name says; its body must agree.
pub fn parse_mark(source: &SourceName, key: &Key) -> Option<(ObjectId, MarkKind, ObjectId)> {
    let (snapshot, rest) = key.as_str().strip_prefix(&mark_prefix(source))?.split_once('/')?;
    let (word, id) = rest.rsplit_once('-')?;
    let kind = MarkKind::ALL.into_iter().find(|k| k.word() == word)?;
    Some((snapshot.parse().ok()?, kind, id.parse().ok()?))
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
        let name = |n| SnapshotName { source: shop(), sequence: Sequence::new(n), id };
        assert!(name(10).key() < name(9).key());
        assert_eq!(SnapshotName::parse(&shop(), &name(10).key()), Some(name(10)));
    }

    #[test]
    fn names_that_were_not_made_here_are_not_read() {
        let snap = |text: &str| SnapshotName::parse(&shop(), &Key::new(format!("data/shop/snap/{text}")));
        for bad in
            ["", "x", "ffffffffffffffff", "FFFFFFFFFFFFFFFF-00", "+fffffffffffffff-07070707070707070707070707070707"]
        {
            assert_eq!(snap(bad), None, "{bad}");
        }
        let (snapshot, id) = (ObjectId::from_bytes([1; 16]), ObjectId::from_bytes([2; 16]));
        let key = mark(&shop(), &snapshot, MarkKind::Proven, &id);
        assert_eq!(parse_mark(&shop(), &key), Some((snapshot, MarkKind::Proven, id)));
        assert_eq!(parse_mark(&shop(), &Key::new("ctl/mark/shop/x/proven-y".into())), None);
    }
}
