//! Frames on their way here, and those that are here: fetched once, verified, kept within a bound.
//!
//! A frame is known by its object and its place in it, and neither ever changes: what is kept is right for every
//! moment that refers to it. Frames that lie side by side come with one request. Nothing unverified is kept: a
//! frame whose tag is wrong is a fault of whoever needs it, and of nobody else.
//!
//! Locks: one, never held while something is waited for or unpacked.

use super::pages::fault;
use super::stop::Stop;
use crate::log::PageMaps;
use backstay_format::FramePlace;
use backstay_model::{ByteLen, Kind, ObjectId};
use backstay_sqlite::lazy::PageFault;
use backstay_store::repo::{LogIndex, RepoError, SnapshotReader};
use backstay_store::{Key, Store};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

/// Stored bytes brought by one request when frames lie side by side.
const FETCH: u64 = 1 << 20;
/// Unneeded bytes between two frames that are cheaper read than asked for apart.
const GAP: u64 = 64 << 10;
/// How often somebody who waits looks whether to stop.
const LOOK: Duration = Duration::from_millis(50);

/// A frame, by where it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct FrameAt {
    pub object: ObjectId,
    pub place: FramePlace,
}

/// Whose frames they are, and who can open them.
#[derive(Clone)]
pub(super) enum Holder {
    Snapshot(Arc<SnapshotReader>),
    Log(Arc<dyn Store>, Arc<PageMaps>),
}

impl Holder {
    fn log_object<'a>(maps: &'a PageMaps, at: &FrameAt) -> Result<&'a LogIndex, RepoError> {
        maps.object(&at.object).ok_or(RepoError::Unlisted { object: at.object })
    }

    /// Where in the store the frames of an object lie. A place outside of it asks for nothing.
    fn key_of(&self, frames: &[FrameAt]) -> Result<Key, RepoError> {
        let none = RepoError::Unlisted { object: ObjectId::from_bytes([0; 16]) };
        let first = frames.first().ok_or(none)?;
        match self {
            Holder::Snapshot(reader) => {
                frames.iter().try_for_each(|at| reader.check_inside(&at.object, &at.place))?;
                reader.object_key(&first.object)
            }
            // Its places were read from its own index.
            Holder::Log(_, maps) => Ok(Self::log_object(maps, first)?.key().clone()),
        }
    }

    fn store(&self) -> &Arc<dyn Store> {
        match self {
            Holder::Snapshot(reader) => reader.repository().store(),
            Holder::Log(store, _) => store,
        }
    }

    fn open(&self, at: &FrameAt, sealed: &[u8]) -> Result<Vec<u8>, RepoError> {
        match self {
            Holder::Snapshot(reader) => reader.open_frame(&at.object, &at.place, sealed),
            Holder::Log(_, maps) => Self::log_object(maps, at)?.open_frame(&at.place, sealed),
        }
    }
}

/// What was asked of the store for frames.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct FramesRead {
    pub requests: u64,
    pub bytes: u64,
    pub frames: u64,
}

pub(super) struct Frames {
    handle: Handle,
    limit: u64,
    stop: Stop,
    shared: Arc<Shared>,
    tasks: Mutex<JoinSet<()>>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

type Frame = Arc<Vec<u8>>;

#[derive(Default)]
struct State {
    held: HashMap<FrameAt, (u64, Frame)>,
    bytes: u64,
    tick: u64,
    coming: HashSet<FrameAt>,
    failed: HashMap<FrameAt, PageFault>,
    /// How many wait for it: it is not dropped before they have it.
    wanted: HashMap<FrameAt, usize>,
    read: FramesRead,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn arrived(&self, at: FrameAt, frame: Result<Frame, PageFault>, limit: u64) {
        let mut state = self.lock();
        state.coming.remove(&at);
        match frame {
            Ok(frame) => state.keep(at, frame, limit),
            // Only who waits for it is told; the next who asks is answered anew.
            Err(fault) if state.wanted.contains_key(&at) => {
                state.failed.insert(at, fault);
            }
            Err(_) => {}
        }
        drop(state);
        self.changed.notify_all();
    }
}

impl State {
    fn get(&mut self, at: &FrameAt) -> Option<Frame> {
        self.tick += 1;
        let (used, frame) = self.held.get_mut(at)?;
        *used = self.tick;
        Some(frame.clone())
    }

    fn keep(&mut self, at: FrameAt, frame: Frame, limit: u64) {
        self.tick += 1;
        self.read.frames += 1;
        self.bytes += frame.len() as u64;
        if let Some((_, before)) = self.held.insert(at, (self.tick, frame)) {
            self.bytes -= before.len() as u64;
        }
        while self.bytes > limit {
            let free = self.held.iter().filter(|(at, _)| !self.wanted.contains_key(at));
            let Some(oldest) = free.min_by_key(|(_, (used, _))| *used).map(|(at, _)| *at) else { break };
            if let Some((_, frame)) = self.held.remove(&oldest) {
                self.bytes -= frame.len() as u64;
            }
        }
    }
}

/// One request and the frames it brings, in the order they lie in.
struct Fetch {
    object: ObjectId,
    start: u64,
    end: u64,
    frames: Vec<FrameAt>,
}

impl Frames {
    pub(super) fn new(handle: Handle, limit: ByteLen, stop: Stop) -> Self {
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new() });
        Self { handle, limit: limit.get(), stop, shared, tasks: Mutex::new(JoinSet::new()) }
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    pub(super) fn read(&self) -> FramesRead {
        self.shared.lock().read
    }

    pub(super) fn at_hand(&self, at: &FrameAt) -> Option<Frame> {
        self.shared.lock().get(at)
    }

    /// A frame, waited for if it must be.
    pub(super) fn frame(&self, holder: &Holder, at: FrameAt) -> Result<Frame, PageFault> {
        if let Some(frame) = self.at_hand(&at) {
            return Ok(frame);
        }
        *self.shared.lock().wanted.entry(at).or_default() += 1;
        let outcome = self.wait(holder, at);
        let mut state = self.shared.lock();
        if let Some(count) = state.wanted.get_mut(&at) {
            *count -= 1;
            if *count == 0 {
                state.wanted.remove(&at);
                state.failed.remove(&at);
            }
        }
        outcome
    }

    fn wait(&self, holder: &Holder, at: FrameAt) -> Result<Frame, PageFault> {
        let mut asked_alone = false;
        loop {
            let mut state = self.shared.lock();
            if let Some(frame) = state.get(&at) {
                return Ok(frame);
            }
            match state.failed.get(&at).cloned() {
                // It may have failed with a neighbour it came with.
                Some(fault) if asked_alone => return Err(fault),
                Some(_) => {
                    state.failed.remove(&at);
                }
                None => {}
            }
            if state.coming.contains(&at) {
                let (state, _) = self.shared.changed.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner);
                drop(state);
                self.stop.reason().map_or(Ok(()), Err)?;
                continue;
            }
            drop(state);
            asked_alone = true;
            self.ahead(holder, vec![at]);
        }
    }

    /// Has frames fetched that are neither here nor on their way. Returns at once.
    pub(super) fn ahead(&self, holder: &Holder, wanted: Vec<FrameAt>) {
        let missing: Vec<FrameAt> = {
            let mut state = self.shared.lock();
            let state = &mut *state;
            let (held, coming) = (&state.held, &mut state.coming);
            wanted.into_iter().filter(|at| !held.contains_key(at) && coming.insert(*at)).collect()
        };
        if missing.is_empty() {
            return;
        }
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        for fetch in grouped(missing) {
            tasks.spawn_on(bring(self.shared.clone(), holder.clone(), fetch, self.limit), &self.handle);
        }
    }

    /// The result of some work of the store, unless it is time to stop before.
    pub(super) fn wait_for<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, PageFault> {
        let (give, take) = mpsc::sync_channel(1);
        let task = async move {
            // Whoever waited may be gone.
            let _ = give.send(work.await);
        };
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).spawn_on(task, &self.handle);
        loop {
            match take.recv_timeout(LOOK) {
                Ok(result) => return Ok(result),
                Err(mpsc::RecvTimeoutError::Timeout) => self.stop.reason().map_or(Ok(()), Err)?,
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    let what = "the work of the store ended without an answer".to_owned();
                    return Err(PageFault { kind: Kind::Internal, what });
                }
            }
        }
    }
}

/// Neighbours in one request, in the order they were wanted otherwise.
fn grouped(wanted: Vec<FrameAt>) -> Vec<Fetch> {
    let mut order: HashMap<FrameAt, usize> = HashMap::new();
    for (at, frame) in wanted.iter().enumerate() {
        order.insert(*frame, at);
    }
    let mut sorted = wanted;
    sorted.sort_by_key(|at| (at.object, at.place.offset));
    let mut fetches: Vec<Fetch> = Vec::new();
    for at in sorted {
        let range = at.place.range();
        match fetches.last_mut() {
            Some(fetch)
                if fetch.object == at.object
                    && range.start >= fetch.end
                    && range.start - fetch.end <= GAP
                    && range.end - fetch.start <= FETCH =>
            {
                fetch.end = range.end;
                fetch.frames.push(at);
            }
            _ => fetches.push(Fetch { object: at.object, start: range.start, end: range.end, frames: vec![at] }),
        }
    }
    fetches.sort_by_key(|fetch| fetch.frames.iter().filter_map(|at| order.get(at)).min().copied());
    fetches
}

/// Fetches, opens, and hands over frame by frame.
async fn bring(shared: Arc<Shared>, holder: Holder, fetch: Fetch, limit: u64) {
    let mut coming = Coming { shared: &shared, frames: fetch.frames.iter().rev().copied().collect(), limit };
    let sealed = sealed(&shared, &holder, &fetch).await;
    while let Some(at) = coming.frames.pop() {
        let frame = sealed.as_ref().map_err(fault).and_then(|sealed| {
            let from = (at.place.range().start - fetch.start) as usize;
            let bytes = sealed.get(from..from + at.place.stored as usize).unwrap_or_default();
            holder.open(&at, bytes).map(Arc::new).map_err(|error| fault(&error))
        });
        shared.arrived(at, frame, limit);
    }
}

/// Frames that are on their way for as long as this lives, and no longer: work that was dropped in the middle
/// must not leave anyone waiting. The one that is handed over next is the last.
struct Coming<'a> {
    shared: &'a Shared,
    frames: Vec<FrameAt>,
    limit: u64,
}

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        for at in self.frames.drain(..) {
            let what = "the work of the store ended without an answer".to_owned();
            self.shared.arrived(at, Err(PageFault { kind: Kind::Internal, what }), self.limit);
        }
    }
}

async fn sealed(shared: &Shared, holder: &Holder, fetch: &Fetch) -> Result<bytes::Bytes, RepoError> {
    let key = holder.key_of(&fetch.frames)?;
    {
        let mut state = shared.lock();
        state.read.requests += 1;
        state.read.bytes += fetch.end - fetch.start;
    }
    Ok(holder.store().get_range(&key, fetch.start..fetch.end).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_two_objects_at_one_place_are_kept_apart() {
        let at = |object, offset| FrameAt {
            object: ObjectId::from_bytes([object; 16]),
            place: FramePlace { frame: 0, offset, stored: 10, raw: 1 },
        };
        let all = [at(1, 0), at(2, 0), at(1, 10), at(2, 10)];
        let mut state = State::default();
        for (kept, (at, raw)) in all.iter().zip(1u8..).enumerate() {
            assert_eq!(state.get(at), None, "it is not here because {kept} others are");
            state.keep(*at, Arc::new(vec![raw]), 100);
        }
        for (at, raw) in all.iter().zip(1u8..) {
            assert_eq!(state.get(at), Some(Arc::new(vec![raw])), "{at:?}");
        }
    }
}
