//! Builds a snapshot's map from the base's and the units that were placed anew.
//!
//! A leaf nothing was placed in is referred to where it already lies, and so is an inner node whose
//! children all are: ten changed pages cost a few leaves, not the map. What was placed later wins,
//! so a unit taken again replaces what the first pass stored of it.

use crate::OpsError;
use crate::base::MapParts;
use crate::packer::{Packer, Placed};
use backstay_format::layout::{FAN_OUT, FRAME_TARGET};
use backstay_format::table::{Reference, Table};
use backstay_format::tree::{Leaf, Node, NodeRef, Run};
use backstay_format::{Corrupt, FramePlace};
use backstay_model::{Digest, ObjectId};
use backstay_store::repo::{RepoError, Root};
use std::collections::{HashMap, HashSet};

/// How much of an object the new snapshot uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Live {
    pub units: u64,
    pub nodes: u32,
}

pub struct NewMap {
    pub parts: MapParts,
    pub root: Root,
    pub levels: u8,
    pub live: HashMap<ObjectId, Live>,
}

/// What a map is built from.
pub struct MapInput<'a> {
    pub base: Option<&'a MapParts>,
    /// Units of the new stream.
    pub units: u64,
    /// In the order they were placed.
    pub placed: Vec<Placed>,
    /// Objects nothing of the new snapshot may lie in.
    pub leaving: &'a HashSet<ObjectId>,
    /// Nodes of other snapshots that may be referred to where they lie.
    pub known: Option<&'a KnownNodes>,
}

/// Where nodes lie, by the digest of their bytes.
#[derive(Default)]
pub struct KnownNodes(HashMap<Digest, NodeRef>);

impl KnownNodes {
    /// Every node of a map but its root, which lies in the manifest.
    pub fn of(maps: &[MapParts]) -> Self {
        let mut known = Self::default();
        for parts in maps {
            for (at, leaf) in parts.leaves.iter().enumerate() {
                known.add(leaf, parts.leaf_ref(at));
            }
            for (below, nodes) in parts.nodes.iter().enumerate() {
                for (at, node) in nodes.iter().enumerate() {
                    known.add(&node.encode(), parts.node_ref(below + 1, at));
                }
            }
        }
        known
    }

    fn add(&mut self, bytes: &[u8], place: Option<&NodeRef>) {
        if let Some(place) = place {
            self.0.insert(digest(bytes), *place);
        }
    }

    fn get(&self, bytes: &[u8]) -> Option<NodeRef> {
        self.0.get(&digest(bytes)).copied()
    }
}

fn digest(bytes: &[u8]) -> Digest {
    Digest::from_bytes(*blake3::hash(bytes).as_bytes())
}

/// The refs table of what maps lead to. Whoever made or knew an object says what it is, and its wrapped data key.
pub fn table<'t>(
    live: &HashMap<ObjectId, Live>,
    find: impl Fn(&ObjectId) -> Option<(&'t Reference, &'t [u8])>,
) -> Result<Table, OpsError> {
    let mut wraps: Vec<Vec<u8>> = Vec::new();
    let mut index: HashMap<Vec<u8>, u16> = HashMap::new();
    let mut refs = Vec::with_capacity(live.len());
    for (object, live) in live {
        let (reference, wrap) = find(object).ok_or(RepoError::Unlisted { object: *object })?;
        let wrap = *index.entry(wrap.to_vec()).or_insert_with(|| {
            wraps.push(wrap.to_vec());
            (wraps.len() - 1) as u16
        });
        refs.push(Reference { wrap, live_units: live.units as u32, live_nodes: live.nodes, ..reference.clone() });
    }
    Ok(Table::new(refs, wraps)?)
}

pub fn build(input: MapInput<'_>, packer: &mut Packer<'_>) -> Result<NewMap, OpsError> {
    let count = input.units.div_ceil(FAN_OUT as u64) as usize;
    let mut runs = split_by_leaf(&input.placed);
    runs.sort_by_key(|(leaf, _)| *leaf);
    let mut runs = runs.as_slice();
    let mut parts = MapParts::default();
    let mut live = HashMap::new();
    let mut unchanged = Vec::with_capacity(count);
    for at in 0..count {
        let here = runs.partition_point(|(leaf, _)| *leaf <= at as u64);
        let (new, rest) = runs.split_at(here);
        runs = rest;
        let units = (input.units - (at * FAN_OUT) as u64).min(FAN_OUT as u64) as u16;
        let old = input.base.map(|base| base.leaf(at)).transpose()?.flatten();
        let same = new.is_empty() && old.as_ref().is_some_and(|leaf| leaf.units() == units);
        let leaf = match old {
            Some(leaf) if same => leaf,
            old => merge(old, new, units)?,
        };
        count_units(&mut live, &leaf);
        let kept = input.base.filter(|_| same).and_then(|base| base.leaf_ref(at));
        unchanged.push(kept.filter(|at| !input.leaving.contains(&at.object)).copied());
        parts.leaves.push(leaf.encode());
    }
    let root = match parts.leaves.as_slice() {
        [] => Root::Empty,
        [one] => Root::Leaf(Leaf::parse(one)?),
        _ => Root::Node(raise(&mut parts, unchanged, &input, packer)?),
    };
    let levels = parts.nodes.len() as u8;
    let children = parts.nodes.iter().flatten().flat_map(|node| &node.children);
    children.for_each(|child| live.entry(child.object).or_default().nodes += 1);
    Ok(NewMap { parts, root, levels, live })
}

/// Places what is new of each level and raises the next above it, until one node is left.
fn raise(
    parts: &mut MapParts,
    leaves: Vec<Option<NodeRef>>,
    input: &MapInput<'_>,
    packer: &mut Packer<'_>,
) -> Result<Node, OpsError> {
    let encoded: Vec<&[u8]> = parts.leaves.iter().map(Vec::as_slice).collect();
    let mut refs = place_all(&encoded, (leaves, input.known), packer)?;
    loop {
        let level = parts.nodes.len() as u8 + 1;
        let nodes: Vec<Node> =
            refs.chunks(FAN_OUT).map(|children| Node { level, children: children.to_vec() }).collect();
        parts.nodes.push(nodes.clone());
        if let [root] = nodes.as_slice() {
            return Ok(root.clone());
        }
        let old = input.base.and_then(|base| base.nodes.get(usize::from(level) - 1));
        let unchanged = nodes.iter().enumerate().map(|(at, node)| {
            let same = old.and_then(|nodes| nodes.get(at)) == Some(node);
            let kept = input.base.filter(|_| same).and_then(|base| base.node_ref(usize::from(level), at));
            kept.filter(|at| !input.leaving.contains(&at.object)).copied()
        });
        let unchanged = unchanged.collect();
        let encoded: Vec<Vec<u8>> = nodes.iter().map(Node::encode).collect();
        let encoded: Vec<&[u8]> = encoded.iter().map(Vec::as_slice).collect();
        refs = place_all(&encoded, (unchanged, input.known), packer)?;
    }
}

/// Stores the nodes that have no place yet, many to a frame.
fn place_all(
    nodes: &[&[u8]],
    (places, known): (Vec<Option<NodeRef>>, Option<&KnownNodes>),
    packer: &mut Packer<'_>,
) -> Result<Vec<NodeRef>, OpsError> {
    let mut refs: Vec<NodeRef> = Vec::with_capacity(nodes.len());
    let mut frame: Vec<u8> = Vec::new();
    let mut waiting: Vec<usize> = Vec::new();
    for (at, (bytes, place)) in nodes.iter().zip(places).enumerate() {
        if let Some(place) = place.or_else(|| known?.get(bytes)) {
            refs.push(place);
            continue;
        }
        if !frame.is_empty() && frame.len() + bytes.len() > FRAME_TARGET {
            store_frame(&mut frame, &mut waiting, &mut refs, packer)?;
        }
        let place = FramePlace { frame: 0, offset: 0, stored: 0, raw: 0 };
        let len = bytes.len() as u32;
        refs.push(NodeRef { object: ObjectId::ZERO, place, at: frame.len() as u32, len });
        waiting.push(at);
        frame.extend_from_slice(bytes);
    }
    store_frame(&mut frame, &mut waiting, &mut refs, packer)?;
    Ok(refs)
}

fn store_frame(
    frame: &mut Vec<u8>,
    waiting: &mut Vec<usize>,
    refs: &mut [NodeRef],
    packer: &mut Packer<'_>,
) -> Result<(), OpsError> {
    if frame.is_empty() {
        return Ok(());
    }
    let (object, place) = packer.nodes(frame)?;
    frame.clear();
    for at in waiting.drain(..) {
        let node = refs.get_mut(at).expect("every waiting node has its entry");
        (node.object, node.place) = (object, place);
    }
    Ok(())
}

/// Cuts runs at leaf boundaries.
fn split_by_leaf(placed: &[Placed]) -> Vec<(u64, Run)> {
    let mut out = Vec::with_capacity(placed.len());
    for run in placed {
        let (mut first, mut count, mut slot) = (run.first, run.count, run.slot);
        while count > 0 {
            let within = (first % FAN_OUT as u64) as u16;
            let take = count.min(FAN_OUT as u16 - within);
            let piece = Run { first: within, count: take, object: run.object, slot, place: run.place };
            out.push((first / FAN_OUT as u64, piece));
            first += u64::from(take);
            slot += take;
            count -= take;
        }
    }
    out
}

/// Lays the new runs over the old leaf, unit by unit, the later over the earlier.
fn merge(old: Option<Leaf>, new: &[(u64, Run)], units: u16) -> Result<Leaf, OpsError> {
    let mut places: Vec<Option<Run>> = vec![None; usize::from(units)];
    let old = old.iter().flat_map(Leaf::runs);
    for run in old.chain(new.iter().map(|(_, run)| run)) {
        for k in 0..run.count {
            let unit = run.first + k;
            // The old leaf may be longer than the new one: the stream shrank.
            if let Some(place) = places.get_mut(usize::from(unit)) {
                *place = Some(Run { first: unit, count: 1, slot: run.slot + k, ..*run });
            }
        }
    }
    let rule = Corrupt::Rule { what: "a new map leaf", rule: "every unit was placed" };
    let places: Option<Vec<Run>> = places.into_iter().collect();
    Ok(Leaf::new(places.ok_or(rule)?)?)
}

fn count_units(live: &mut HashMap<ObjectId, Live>, leaf: &Leaf) {
    for run in leaf.runs() {
        live.entry(run.object).or_default().units += u64::from(run.count);
    }
}
