//! Reading a snapshot: from the map's root to leaves, and from a leaf to the bytes of a unit.
//!
//! A frame is read with one ranged request and opened with the key its manifest's table leads to; its
//! object's header is never read. Recursion follows levels that only go down, so a damaged map ends.

use super::manifest::{Manifest, Root, SealedBody};
use super::{RepoError, Repository};
use crate::keys;
use crate::seal::{Expected, FrameMemory, FrameOpener, SealError, SealedAs, SealedObject, Sealer, Unsealer};
use crate::seam::Key;
use backstay_format::directory::{self, Holding};
use backstay_format::facts::Stream;
use backstay_format::object::Object;
use backstay_format::table::Reference;
use backstay_format::tree::{self, Leaf, Node, NodeRef};
use backstay_format::{Corrupt, FramePlace, ObjectType, layout};
use backstay_model::{ObjectId, Random, UnitSize};
use bytes::Bytes;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

/// A snapshot opened for reading.
pub struct SnapshotReader {
    repo: Repository,
    manifest: Manifest,
    body: SealedBody,
    openers: HashMap<ObjectId, FrameOpener>,
    /// The node frame read last: neighbouring leaves usually lie in one frame.
    node_frame: Mutex<Option<NodeFrame>>,
    /// Where single pages are wanted: the sealed bytes around the node frame that was fetched last. A map's nodes
    /// are stored one after another, so they are the ones below it.
    around: Option<Mutex<Around>>,
}

/// Sealed bytes of an object, from an offset on.
#[derive(Default)]
struct Around {
    object: Option<ObjectId>,
    start: u64,
    bytes: Bytes,
}

impl Around {
    fn get(&self, object: &ObjectId, place: &FramePlace) -> Option<Bytes> {
        let range = place.range();
        let from = range.start.checked_sub(self.start).filter(|_| self.object == Some(*object))? as usize;
        let to = from + place.stored as usize;
        (to <= self.bytes.len()).then(|| self.bytes.slice(from..to))
    }
}

/// Bytes fetched before a node frame, and behind it, by whoever reads single pages.
const BEFORE: u64 = 256 << 10;
const BEHIND: u64 = 64 << 10;

/// An opened frame of nodes: its object, its place, its bytes.
type NodeFrame = (ObjectId, FramePlace, Arc<Vec<u8>>);

/// What a pack says of itself, frame by frame, its directory not counted.
pub type Directory = Vec<(FramePlace, Holding)>;

/// One leaf of a stream's map and the unit it begins with.
pub struct LeafAt {
    pub first_unit: u64,
    pub leaf: Leaf,
    /// Where the leaf's bytes lie; `None` when it is the root, inside the manifest.
    pub at: Option<NodeRef>,
}

impl SnapshotReader {
    /// Opens the manifest's body and derives the key of every object it refers to.
    pub fn open(repo: Repository, manifest: Manifest, unsealer: &Unsealer) -> Result<Self, RepoError> {
        let body = manifest.unseal(unsealer)?;
        check_sums(&manifest, &body).map_err(|e| RepoError::damaged(&manifest.key(), e))?;
        let mut openers = HashMap::with_capacity(manifest.table.refs().len());
        for reference in manifest.table.refs() {
            let key = object_key(&manifest, reference);
            if reference.kind != ObjectType::Pack {
                let rule = Corrupt::Rule { what: "the refs table", rule: "this build reads frames from packs only" };
                return Err(RepoError::damaged(&manifest.key(), rule));
            }
            let wrap = manifest.table.wrap(reference).expect("a parsed table names only wraps it has");
            let sealed_as = SealedAs { kind: reference.kind, id: reference.object, salt: &reference.salt, wrap };
            let opener = unsealer.open_unread(repo.id(), sealed_as).map_err(|e| RepoError::sealed(&key, e))?;
            openers.insert(reference.object, opener);
        }
        Ok(Self { repo, manifest, body, openers, node_frame: Mutex::new(None), around: None })
    }

    /// For whoever reads single pages far away: more bytes, and fewer requests one after another.
    pub fn around(self) -> Self {
        Self { around: Some(Mutex::default()), ..self }
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    pub fn body(&self) -> &SealedBody {
        &self.body
    }

    pub fn repository(&self) -> &Repository {
        &self.repo
    }

    /// The name in the store of an object this snapshot refers to.
    pub fn object_key(&self, object: &ObjectId) -> Result<Key, RepoError> {
        Ok(object_key(&self.manifest, self.reference(object)?))
    }

    fn reference(&self, object: &ObjectId) -> Result<&Reference, RepoError> {
        self.manifest.table.find(object).ok_or(RepoError::Unlisted { object: *object })
    }

    /// Opens one frame whose sealed bytes were fetched by the caller. Never an object's last frame:
    /// that is its directory.
    pub fn open_frame(&self, object: &ObjectId, place: &FramePlace, sealed: &[u8]) -> Result<Vec<u8>, RepoError> {
        let expected = Expected { frame: place.frame, raw: place.raw, last: false };
        self.opener(object)?.open(expected, sealed).map_err(|e| self.not_opened(object, e))
    }

    /// The same in memory that is kept from frame to frame.
    pub fn open_frame_in<'m>(
        &self,
        memory: &'m mut FrameMemory,
        (object, place): (&ObjectId, &FramePlace),
        sealed: &[u8],
    ) -> Result<&'m [u8], RepoError> {
        let expected = Expected { frame: place.frame, raw: place.raw, last: false };
        self.opener(object)?.open_in(memory, expected, sealed).map_err(|e| self.not_opened(object, e))
    }

    fn opener(&self, object: &ObjectId) -> Result<&FrameOpener, RepoError> {
        self.openers.get(object).ok_or(RepoError::Unlisted { object: *object })
    }

    fn not_opened(&self, object: &ObjectId, error: SealError) -> RepoError {
        match self.object_key(object) {
            Ok(key) => RepoError::sealed(&key, error),
            Err(unlisted) => unlisted,
        }
    }

    /// Fetches and opens one frame: one ranged request.
    pub async fn frame(&self, object: &ObjectId, place: &FramePlace) -> Result<Vec<u8>, RepoError> {
        let key = self.object_key(object)?;
        self.check_inside(object, place)?;
        let sealed = self.repo.store().get_range(&key, place.range()).await?;
        self.open_frame(object, place, &sealed)
    }

    /// A frame must lie inside the object the table describes: a damaged place asks for nothing.
    pub fn check_inside(&self, object: &ObjectId, place: &FramePlace) -> Result<(), RepoError> {
        let reference = self.reference(object)?;
        if place.range().end > reference.stored || place.stored as usize > layout::FRAME_STORED_MAX {
            return Err(RepoError::damaged(
                &object_key(&self.manifest, reference),
                Corrupt::Rule { what: "a map entry", rule: "its frame lies inside its object" },
            ));
        }
        Ok(())
    }

    /// Walks a stream's map: every node before what lies below it, leaves in order.
    pub async fn walk(&self, stream: usize, visit: impl FnMut(Step) -> Result<(), RepoError>) -> Result<(), RepoError> {
        self.walk_where(stream, |_| true, visit).await
    }

    /// The same, without what lies below the places that are not wanted: those are not even read.
    pub async fn walk_where(
        &self,
        stream: usize,
        mut wanted: impl FnMut(&NodeRef) -> bool,
        mut visit: impl FnMut(Step) -> Result<(), RepoError>,
    ) -> Result<(), RepoError> {
        let (facts, unit, units) = self.shape(stream)?;
        let misshapen = |e| RepoError::damaged(&self.manifest.key(), e);
        let whole = Below { first: 0, units, level: facts.levels };
        let mut waiting: Vec<(Below, NodeRef)> = Vec::new();
        match self.body.roots.get(stream) {
            Some(Root::Empty) if units == 0 => {}
            Some(Root::Leaf(leaf)) if facts.levels == 0 => {
                leaf.check_shape(units, unit).map_err(misshapen)?;
                visit(Step::Leaf(LeafAt { first_unit: 0, leaf: leaf.clone(), at: None }))?;
            }
            Some(Root::Node(node)) => {
                node.check_shape(facts.levels, units).map_err(misshapen)?;
                waiting.extend(whole.children(node));
                visit(Step::Node(node.clone()))?;
            }
            _ => return Err(bad_map(facts, "its root fits its length")),
        }
        while let Some((place, child)) = waiting.pop() {
            if !wanted(&child) {
                continue;
            }
            let bytes = self.node_bytes(&child).await?;
            let key = self.object_key(&child.object)?;
            let damaged = |e| RepoError::damaged(&key, e);
            if place.level == 0 {
                let leaf = Leaf::parse(&bytes).map_err(damaged)?;
                leaf.check_shape(place.units, unit).map_err(damaged)?;
                visit(Step::Leaf(LeafAt { first_unit: place.first, leaf, at: Some(child) }))?;
            } else {
                let node = Node::parse(&bytes).map_err(damaged)?;
                node.check_shape(place.level, place.units).map_err(damaged)?;
                waiting.extend(place.children(&node));
                visit(Step::Node(node))?;
            }
        }
        Ok(())
    }

    /// The leaf that maps one unit: at most one request per level.
    pub async fn leaf_of(&self, stream: usize, unit: u64) -> Result<LeafAt, RepoError> {
        let (facts, size, units) = self.shape(stream)?;
        let outside = || bad_map(facts, "it has no such unit");
        let mut place = Below { first: 0, units, level: facts.levels };
        let mut node = match self.body.roots.get(stream) {
            _ if unit >= units => return Err(outside()),
            Some(Root::Leaf(leaf)) => return Ok(LeafAt { first_unit: 0, leaf: leaf.clone(), at: None }),
            Some(Root::Node(node)) => node.clone(),
            _ => return Err(outside()),
        };
        loop {
            node.check_shape(place.level, place.units).map_err(|e| RepoError::damaged(&self.manifest.key(), e))?;
            let at = (unit - place.first) / tree::units_below(place.level);
            let (below, child) = place.child(&node, at as usize).ok_or_else(outside)?;
            let bytes = self.node_bytes(&child).await?;
            let key = self.object_key(&child.object)?;
            let damaged = |e| RepoError::damaged(&key, e);
            if below.level == 0 {
                let leaf = Leaf::parse(&bytes).map_err(damaged)?;
                leaf.check_shape(below.units, size).map_err(damaged)?;
                return Ok(LeafAt { first_unit: below.first, leaf, at: Some(child) });
            }
            node = Node::parse(&bytes).map_err(damaged)?;
            place = below;
        }
    }

    /// Units of a stream that lie elsewhere in another snapshot, in order; `None` when there are more than `most`.
    /// Those that only one of them has are not among them. Nodes that both refer to are not read.
    pub async fn moved(&self, other: &Self, stream: usize, most: u64) -> Result<Option<Vec<u64>>, RepoError> {
        let units = self.shape(stream)?.2.min(other.shape(stream)?.2);
        let mut moved = Vec::new();
        let (ours, theirs) = (self.leaf_refs(stream).await?, other.leaf_refs(stream).await?);
        for first in (0..units).step_by(layout::FAN_OUT) {
            let at = (first / layout::FAN_OUT as u64) as usize;
            let same = ours.get(at).zip(theirs.get(at)).is_some_and(|(a, b)| a == b);
            if same {
                continue;
            }
            let (a, b) = (self.leaf_of(stream, first).await?.leaf, other.leaf_of(stream, first).await?.leaf);
            let place = |leaf: &Leaf, unit| leaf.find(unit).map(|(run, slot)| (run.object, run.place, slot));
            let count = (units - first).min(layout::FAN_OUT as u64) as u16;
            let differs = (0..count).filter(|unit| place(&a, *unit) != place(&b, *unit));
            moved.extend(differs.map(|unit| first + u64::from(unit)));
            if moved.len() as u64 > most {
                return Ok(None);
            }
        }
        Ok(Some(moved))
    }

    /// Where each leaf of a map lies; empty when the root is the only one.
    async fn leaf_refs(&self, stream: usize) -> Result<Vec<NodeRef>, RepoError> {
        let (facts, _, units) = self.shape(stream)?;
        let whole = Below { first: 0, units, level: facts.levels };
        let Some(Root::Node(root)) = self.body.roots.get(stream) else { return Ok(Vec::new()) };
        let mut waiting: Vec<(Below, NodeRef)> = whole.children(root).collect();
        let mut leaves = Vec::new();
        while let Some((place, child)) = waiting.pop() {
            if place.level == 0 {
                leaves.push(child);
                continue;
            }
            let bytes = self.node_bytes(&child).await?;
            let key = self.object_key(&child.object)?;
            let damaged = |e| RepoError::damaged(&key, e);
            let node = Node::parse(&bytes).map_err(damaged)?;
            node.check_shape(place.level, place.units).map_err(damaged)?;
            waiting.extend(place.children(&node));
        }
        Ok(leaves)
    }

    /// The bytes of one unit: a leaf, then a frame.
    pub async fn unit(&self, stream: usize, unit: u64) -> Result<Vec<u8>, RepoError> {
        let facts = self.stream(stream)?;
        let size = unit_size(facts)?;
        let at = self.leaf_of(stream, unit).await?;
        let outside = || bad_map(facts, "it has no such unit");
        let (run, slot) = at.leaf.find((unit - at.first_unit) as u16).ok_or_else(outside)?;
        let frame = self.frame(&run.object, &run.place).await?;
        let len = size.bytes().min(facts.length.get().saturating_sub(unit * size.bytes())) as usize;
        let start = usize::from(slot) * size.get() as usize;
        frame.get(start..start + len).map(<[u8]>::to_vec).ok_or_else(outside)
    }

    /// What a pack holds and the fingerprints of its units: its last frame, found from its end.
    pub async fn directory(&self, object: &ObjectId) -> Result<Directory, RepoError> {
        let reference = self.reference(object)?;
        let key = self.object_key(object)?;
        let bytes = self.repo.store().get(&key).await?;
        if bytes.len() as u64 != reference.stored {
            let found = bytes.len() as u64;
            return Err(RepoError::WrongLength { key: key.to_string(), wanted: reference.stored, found });
        }
        let parsed = Object::parse(&bytes).map_err(|e| RepoError::damaged(&key, e))?;
        self.open_directory(object, &parsed)
    }

    /// Opens the directory of a pack that was read whole.
    pub fn open_directory(&self, object: &ObjectId, parsed: &Object<'_>) -> Result<Directory, RepoError> {
        let key = self.object_key(object)?;
        let damaged = |e| RepoError::damaged(&key, e);
        let last = parsed.frames.last().ok_or(Corrupt::Truncated { what: "a pack" }).map_err(damaged)?;
        let opener = self.openers.get(object).ok_or(RepoError::Unlisted { object: *object })?;
        let expected = Expected { frame: last.frame, raw: last.raw, last: true };
        let sealed = parsed.frame(last).map_err(damaged)?;
        let raw = opener.open(expected, sealed).map_err(|e| RepoError::sealed(&key, e))?;
        let holdings = directory::parse(&raw).map_err(damaged)?;
        if holdings.len() + 1 != parsed.frames.len() {
            let rule = Corrupt::Rule { what: "a pack's directory", rule: "it has one entry per frame before it" };
            return Err(damaged(rule));
        }
        Ok(parsed.frames.iter().copied().zip(holdings).collect())
    }

    /// Seals a pack that was read whole once more, with a fresh id. The place of a unit's frame in it is that of
    /// before, moved by as many bytes.
    pub fn seal_again(
        &self,
        object: &ObjectId,
        bytes: &[u8],
        sealer: &Sealer,
        random: &dyn Random,
    ) -> Result<SealedAgain, RepoError> {
        let key = self.object_key(object)?;
        let damaged = |e| RepoError::damaged(&key, e);
        let pack = Object::parse(bytes).map_err(damaged)?;
        let opener = self.openers.get(object).ok_or(RepoError::Unlisted { object: *object })?;
        let sealed = sealer.seal_again(&pack, opener, self.repo.fresh_id(random), random);
        let sealed = sealed.map_err(|e| RepoError::sealed(&key, e))?;
        let new = Object::parse(&sealed.bytes).map_err(damaged)?;
        let moved = |(old, new): (&FramePlace, &FramePlace)| {
            let by = i64::from(new.offset) - i64::from(old.offset);
            ((old.frame, old.stored, old.raw) == (new.frame, new.stored, new.raw)).then_some(by)
        };
        let mut moves = pack.frames.iter().zip(&new.frames).map(moved);
        let by = moves.next().flatten();
        let same = by.is_some() && moves.all(|other| other == by) && pack.frames.len() == new.frames.len();
        match by.filter(|_| same) {
            Some(moved) => Ok(SealedAgain { moved, object: sealed }),
            None => Err(RepoError::misplaced(&key, "its frames are not what they were when they are sealed again")),
        }
    }

    fn shape(&self, at: usize) -> Result<(&Stream, UnitSize, u64), RepoError> {
        let facts = self.stream(at)?;
        let (unit, units) = facts.shape().map_err(|e| RepoError::damaged(&self.manifest.key(), e))?;
        Ok((facts, unit, units))
    }

    pub fn stream(&self, at: usize) -> Result<&Stream, RepoError> {
        let none = RepoError::BadMap { stream: at.to_string(), rule: "there is no such stream" };
        self.body.facts.streams.get(at).ok_or(none)
    }

    async fn frame_of_nodes(&self, object: &ObjectId, place: &FramePlace) -> Result<Vec<u8>, RepoError> {
        let Some(around) = &self.around else { return self.frame(object, place).await };
        let held = around.lock().expect("no holder of this lock panics").get(object, place);
        if let Some(sealed) = held {
            return self.open_frame(object, place, &sealed);
        }
        self.check_inside(object, place)?;
        let range = place.range();
        let start = range.start.saturating_sub(BEFORE);
        let end = (range.end + BEHIND).min(self.reference(object)?.stored);
        let bytes = self.repo.store().get_range(&self.object_key(object)?, start..end).await?;
        let new = Around { object: Some(*object), start, bytes };
        let sealed = new.get(object, place).ok_or_else(|| RepoError::Unlisted { object: *object })?;
        *around.lock().expect("no holder of this lock panics") = new;
        self.open_frame(object, place, &sealed)
    }

    async fn node_bytes(&self, child: &NodeRef) -> Result<Vec<u8>, RepoError> {
        let cached = {
            let held = self.node_frame.lock().expect("no holder of this lock panics");
            held.as_ref().filter(|(object, frame, _)| (*object, *frame) == (child.object, child.place)).cloned()
        };
        let raw = match cached {
            Some((_, _, raw)) => raw,
            None => {
                let raw = Arc::new(self.frame_of_nodes(&child.object, &child.place).await?);
                let entry = Some((child.object, child.place, raw.clone()));
                *self.node_frame.lock().expect("no holder of this lock panics") = entry;
                raw
            }
        };
        let range = child.at as usize..(child.at as usize).saturating_add(child.len as usize);
        let bytes = raw.get(range).map(<[u8]>::to_vec);
        let rule = Corrupt::Rule { what: "a map node", rule: "it lies inside its frame" };
        bytes.ok_or(RepoError::damaged(&self.object_key(&child.object)?, rule))
    }
}

/// A pack sealed once more.
pub struct SealedAgain {
    pub object: SealedObject,
    /// How many bytes later its frames begin.
    pub moved: i64,
}

/// What a walk over a map meets.
pub enum Step {
    Node(Node),
    Leaf(LeafAt),
}

/// A place in a tree: the units below it and its height above the leaves.
#[derive(Clone, Copy)]
struct Below {
    first: u64,
    units: u64,
    level: u8,
}

impl Below {
    /// The children of the node that lies here, the last one first: a stack gives them back in order.
    fn children(self, node: &Node) -> impl Iterator<Item = (Below, NodeRef)> + '_ {
        (0..node.children.len()).rev().filter_map(move |at| self.child(node, at))
    }

    fn child(self, node: &Node, at: usize) -> Option<(Below, NodeRef)> {
        let child = *node.children.get(at)?;
        let span = tree::units_below(self.level);
        let first = self.first + at as u64 * span;
        let units = span.min((self.first + self.units).checked_sub(first)?);
        Some((Below { first, units, level: self.level.checked_sub(1)? }, child))
    }
}

/// The unit size of a stream, checked.
pub fn unit_size(stream: &Stream) -> Result<UnitSize, RepoError> {
    UnitSize::try_from(stream.unit).map_err(|_| bad_map(stream, "its unit size is not one there can be"))
}

fn bad_map(stream: &Stream, rule: &'static str) -> RepoError {
    RepoError::BadMap { stream: stream.name.clone(), rule }
}

/// The most units one pack can hold: its directory, one frame, has an entry for each.
const UNITS_MAX: u64 = (layout::FRAME_RAW_MAX / layout::unit::LEN) as u64;

/// What the sealed body says of the streams must be what the plain parts say. This bounds what a map can
/// lead to by the objects it stands on: nodes that name one leaf many times cannot make a stream of
/// petabytes out of nothing.
fn check_sums(manifest: &Manifest, body: &SealedBody) -> Result<(), Corrupt> {
    let (mut units, mut length) = (0_u64, 0_u64);
    let broken = |what, rule| Err(Corrupt::Rule { what, rule });
    let names: HashSet<&str> = body.facts.streams.iter().map(|stream| stream.name.as_str()).collect();
    if names.is_empty() || names.len() != body.facts.streams.len() {
        return broken("a manifest", "it has a stream, and none twice");
    }
    for stream in &body.facts.streams {
        units = units.saturating_add(stream.shape()?.1);
        length = length.saturating_add(stream.length.get());
    }
    let refs = manifest.table.refs();
    if length != manifest.front.facts.length.get() {
        return broken("a manifest", "its length is that of its streams together");
    }
    if refs.iter().any(|r| u64::from(r.total_units) > UNITS_MAX) {
        return broken("the refs table", "no object has more units than its directory can name");
    }
    if refs.iter().map(|r| u64::from(r.live_units)).sum::<u64>() != units {
        return broken("the refs table", "as many units live in its objects as the streams have");
    }
    Ok(())
}

fn object_key(manifest: &Manifest, reference: &Reference) -> Key {
    keys::pack(&manifest.front.name.source, &reference.object)
}
