//! One object for the commits of many: sources that are written to steadily share a stream, and a put.
//!
//! Owns that stream: where it stands, what is on its way, its roll-ups. A source comes by ending its own stream with a word
//! that leads here, hands over what it read as a [`Fare`] and waits until that is durable; it leaves by the end of this one, which
//! leads all others to the next. Only what is small and whole is taken. Whatever else happens to a source happens in a
//! stream of its own, see [`Ride`](super::ship::Ride): here is no spool and no snapshot.
//!
//! A crash leaves what is in the slots. Each source wrote down what it was about to have there before that was put, so each finds
//! its own way. Who finds a slot taken has lost the stream: every source is told, and begins as after a start.

use super::aside::Aside;
use super::catch::Piece;
use super::errand::{Errand, Lost};
use super::memory::{Boards, Memory, Pending};
use super::press::{Head, Object, span_of};
use super::rolling::{Rolled, Rolling};
use super::{ends, key_of};
use crate::OpsError;
use crate::catalog::Vault;
use crate::env::blocking;
use backstay_format::facts::{After, Log, Role};
use backstay_model::backup::Exhausted;
use backstay_model::{Digest, Onward, Sequence, SourceName, StreamId};
use backstay_store::keys::LogName;
use backstay_store::repo::{Chain, LogObject, LogSigning, RepoError};
use backstay_store::seal::Sealer;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// What one source may have in an object: who has more puts it by itself.
const FARE_MAX: u64 = 256 << 10;
const PIECES_MAX: usize = 64;
/// What all have in one object.
const LOAD_MAX: u64 = 4 << 20;
/// How much longer than the first the pauses of a store that is away become.
const RETRY_MOST: u32 = 16;
/// So many share a stream: after a crash each of them ends it for itself, one after another.
const SEATS: usize = 64;
/// So long a stream takes in who comes.
const OPEN_FOR: Duration = Duration::from_secs(3600);
/// So long who leaves waits for others that leave.
const TOGETHER: Duration = Duration::from_millis(20);
/// Between two looks whether a roll-up is due.
const ROLL_EVERY: Duration = Duration::from_secs(1);
/// The same where nobody is.
const IDLE: Duration = Duration::from_secs(3600);

/// How often a stream of several is put to.
#[derive(Debug, Clone, Copy)]
pub struct Timetable {
    pub interval: Duration,
    /// Between two attempts at a store that is away.
    pub retry: Duration,
}

/// Where an object is that a source has commits in.
#[derive(Clone)]
pub struct Carried {
    pub stream: StreamId,
    pub sequence: Sequence,
    pub digest: Digest,
    pub bytes: Bytes,
    /// Of the source, once it is durable.
    pub head: Head,
    pub commits: u64,
    /// The first in its object counts it.
    pub counts: bool,
}

/// What a source hands over.
pub struct Fare {
    pub source: SourceName,
    pub pieces: Vec<Piece>,
    pub bytes: u64,
    memory: Memory,
    head: Head,
    epoch: u64,
    /// Whether it was written down before it was put.
    noted: AtomicBool,
    pub errand: Errand<Carried>,
}

impl Fare {
    pub fn new((source, memory): (SourceName, Memory), head: Head, (epoch, pieces): (u64, Vec<Piece>)) -> Arc<Self> {
        let bytes = pieces.iter().map(weight_of).sum();
        Arc::new(Self {
            source,
            pieces,
            bytes,
            memory,
            head,
            epoch,
            noted: AtomicBool::new(false),
            errand: Errand::new(),
        })
    }

    pub fn is_noted(&self) -> bool {
        self.noted.load(Ordering::SeqCst)
    }
}

/// A source that wants to go on by itself.
pub struct Parting {
    pub source: SourceName,
    pub own: StreamId,
    pub epoch: u64,
    pub errand: Errand<()>,
}

/// Whether it is small enough to share an object, and whole.
pub fn fits<'a>(pieces: impl IntoIterator<Item = &'a Piece>) -> bool {
    let (mut count, mut bytes) = (0, 0);
    for piece in pieces {
        (count, bytes) = (count + 1, bytes + weight_of(piece));
        if !(piece.part.begins() && piece.part.completes()) || count > PIECES_MAX || bytes > FARE_MAX {
            return false;
        }
    }
    true
}

/// Bytes of images.
pub fn weight_of(piece: &Piece) -> u64 {
    piece.pages.len() as u64 * u64::from(piece.end.page_size)
}

/// A place among those who share.
pub struct Seat {
    pub at: Boards,
    pub epoch: u64,
}

/// What there is to do.
enum Waits {
    Nobody,
    Fares,
    Leavers,
}

/// Whether somebody waits for what was handed over.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hurry {
    Not,
    /// For what is handed over by now.
    Once,
    /// It is to end.
    Always,
}

struct State {
    is_retired: bool,
    hurry: Hurry,
    /// Goes up when a stream is lost.
    epoch: u64,
    at: Boards,
    fares: VecDeque<Arc<Fare>>,
    leavers: Vec<Arc<Parting>>,
    /// Who shares, with how many of `whole` each has had.
    riders: BTreeMap<SourceName, u64>,
    candidates: BTreeSet<SourceName>,
    /// Who left since it came last.
    left: BTreeSet<SourceName>,
    /// When the first object of the stream was put.
    begun: Option<Duration>,
    rolling: Rolling,
    whole: VecDeque<LogObject>,
    /// How many were let go.
    before: u64,
    /// Objects put.
    puts: u64,
}

/// Carries the commits of many.
pub struct Carrier {
    vault: Arc<Vault>,
    /// Made for the first who asks: most runs share nothing.
    sealer: OnceLock<Arc<Sealer>>,
    times: Timetable,
    state: Mutex<State>,
    wake: Notify,
}

impl Carrier {
    pub fn new(vault: &Vault, times: Timetable) -> Self {
        let vault = Arc::new(super::hours::again(vault));
        let state = State {
            is_retired: false,
            hurry: Hurry::Not,
            epoch: 0,
            at: nowhere(ends::fresh(&vault)),
            fares: VecDeque::new(),
            leavers: Vec::new(),
            riders: BTreeMap::new(),
            candidates: BTreeSet::new(),
            left: BTreeSet::new(),
            begun: None,
            rolling: Rolling::default(),
            whole: VecDeque::new(),
            before: 0,
            puts: 0,
        };
        Self { vault, sealer: OnceLock::new(), times, state: Mutex::new(state), wake: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn sealer(&self) -> Arc<Sealer> {
        let seal = || Arc::new(self.vault.repo.sealer(self.vault.env.random.as_ref()));
        self.sealer.get_or_init(seal).clone()
    }

    /// A source puts steadily, or does so no more. Says whether sharing is worth it, which it is for two.
    pub fn puts_steadily(&self, source: &SourceName, does: bool) -> bool {
        let mut state = self.state();
        let _ = if does { state.candidates.insert(source.clone()) } else { state.candidates.remove(source) };
        let others = state.candidates.iter().chain(state.riders.keys()).any(|other| other != source);
        does && others && !state.is_retired
    }

    /// Whether one more may come. Its own stream leads to the first slot of this one, and keeps all that lies before it came: so
    /// not for long.
    pub fn has_seats(&self) -> bool {
        self.state().has_seats(self.vault.env.clock.uptime())
    }

    /// A place behind what is there now, for one that comes.
    pub fn seat(&self, source: &SourceName) -> Option<Seat> {
        let mut state = self.state();
        // Many may have asked at once.
        if state.is_retired || !state.has_seats(self.vault.env.clock.uptime()) {
            return None;
        }
        state.left.remove(source);
        let had = state.before + state.whole.len() as u64;
        state.riders.insert(source.clone(), had);
        self.wake.notify_one();
        Some(Seat { at: state.at, epoch: state.epoch })
    }

    /// Nobody of this source is here any more.
    pub fn gone(&self, source: &SourceName) {
        let mut state = self.state();
        state.riders.remove(source);
        state.candidates.remove(source);
        state.let_go();
        drop(state);
        self.wake.notify_one();
    }

    fn is_empty(&self) -> bool {
        self.state().riders.is_empty()
    }

    /// How many objects were put so far.
    pub fn puts(&self) -> u64 {
        self.state().puts
    }

    /// Takes what a source hands over.
    pub fn take(&self, fare: Arc<Fare>) {
        let mut state = self.state();
        match fare.epoch == state.epoch {
            true => state.fares.push_back(fare),
            // Nobody may be left who would say so.
            false => fare.errand.is_lost(lost_to(state.at.stream)),
        }
        drop(state);
        self.wake.notify_one();
    }

    /// Ends the stream for a source that goes on by itself. Nothing of it may be on its way.
    pub fn part(&self, parting: Arc<Parting>) {
        let mut state = self.state();
        match parting.epoch == state.epoch {
            true => state.leavers.push(parting),
            false => parting.errand.is_lost(lost_to(state.at.stream)),
        }
        drop(state);
        self.wake.notify_one();
    }

    /// What went through all levels of roll-ups since a source asked last.
    pub fn whole_of(&self, source: &SourceName) -> Vec<LogObject> {
        let mut state = self.state();
        let (before, end) = (state.before, state.before + state.whole.len() as u64);
        let Some(had) = state.riders.get_mut(source) else { return Vec::new() };
        let skip = usize::try_from(had.saturating_sub(before)).unwrap_or(usize::MAX);
        *had = end;
        let found = state.whole.iter().skip(skip).cloned().collect();
        state.let_go();
        found
    }

    /// Nobody comes any more: it ends when the last has left.
    pub fn retire(&self) {
        self.state().is_retired = true;
        self.wake.notify_one();
    }

    /// Carries until it is dropped, or retired and empty. `allowed` says when the next object may be put.
    /// `charge` is told how many were put without that.
    pub async fn run(&self, allowed: &(dyn Fn(Duration) -> Duration + Sync), charge: &(dyn Fn(u64) + Sync)) {
        let (mut not_before, clock) = (Duration::ZERO, self.vault.env.clock.clone());
        let mut paid = 0;
        while !self.is_over() {
            let puts = self.puts();
            charge(puts.saturating_sub(paid));
            paid = puts;
            self.roll().await;
            match self.waits() {
                Waits::Nobody => self.pause(if self.is_empty() { IDLE } else { ROLL_EVERY }).await,
                Waits::Leavers => {
                    // Who leaves at the same time leaves with the same object.
                    tokio::time::sleep(TOGETHER).await;
                    self.carry().await;
                    self.see_off().await;
                }
                Waits::Fares => {
                    let due = not_before.max(allowed(clock.uptime()));
                    paid += 1;
                    while clock.uptime() < due && !self.takes_hurry() && !matches!(self.waits(), Waits::Leavers) {
                        self.pause(due.saturating_sub(clock.uptime())).await;
                    }
                    self.carry().await;
                    not_before = clock.uptime() + self.times.interval;
                }
            }
        }
    }

    /// Somebody waits for what is handed over: the next object waits for no turn.
    pub fn hurry(&self) {
        let mut state = self.state();
        if state.hurry == Hurry::Not {
            state.hurry = Hurry::Once;
        }
        drop(state);
        self.wake.notify_one();
    }

    /// Everybody waits from now on: it is to end.
    pub fn hasten(&self) {
        self.state().hurry = Hurry::Always;
        self.wake.notify_one();
    }

    /// Whether the next object waits for no turn. Who waits once is served by one.
    fn takes_hurry(&self) -> bool {
        let mut state = self.state();
        let hurry = state.hurry;
        if hurry == Hurry::Once {
            state.hurry = Hurry::Not;
        }
        hurry != Hurry::Not || state.is_retired
    }

    fn is_over(&self) -> bool {
        let state = self.state();
        state.is_retired && state.riders.is_empty() && state.fares.is_empty() && state.leavers.is_empty()
    }

    fn waits(&self) -> Waits {
        let state = self.state();
        match (state.leavers.is_empty(), state.fares.is_empty()) {
            (false, _) => Waits::Leavers,
            (true, false) => Waits::Fares,
            (true, true) => Waits::Nobody,
        }
    }

    async fn pause(&self, most: Duration) {
        tokio::select! {
            () = self.wake.notified() => {}
            () = tokio::time::sleep(most) => {}
        }
    }

    /// Seals what waits into the next slot, and puts it until it is known to be there.
    async fn carry(&self) {
        let (epoch, at, fares) = self.next_fares();
        if fares.is_empty() {
            return;
        }
        let (vault, sealer, inside) = (self.vault.clone(), self.sealer(), fares.clone());
        let work = Aside::begin(move || load(&vault, &sealer, at, &inside));
        work.told().notified().await;
        let Some(load) = blocking(|| work.wait()) else { return };
        let tell = |error: &Arc<RepoError>| fares.iter().for_each(|fare| fare.errand.failed(error));
        if let Err(lost) = self.put((at.stream, load.sequence), &load.bytes, &tell).await {
            return self.lose(&lost, fares.iter().map(|fare| &fare.errand), &[]);
        }
        let object = blocking(|| self.vault.repo.parse_log(&LogName::slot(at.stream, load.sequence), load.bytes).ok());
        let mut state = self.state();
        if state.epoch == epoch {
            state.at = Boards { stream: at.stream, slots: load.sequence, previous: load.digest };
            state.puts += 1;
            let now = self.vault.env.clock.uptime();
            state.begun.get_or_insert(now);
            if let Some(object) = object {
                state.rolling.add(object.into(), now);
            }
        }
        drop(state);
        fares.iter().for_each(|fare| fare.errand.is_done());
    }

    /// As many as go into one object, one of each source.
    fn next_fares(&self) -> (u64, Boards, Vec<Arc<Fare>>) {
        let mut state = self.state();
        let (mut fares, mut load, mut held) = (Vec::<Arc<Fare>>::new(), 0, BTreeSet::new());
        while let Some(fare) = state.fares.pop_front() {
            if load + fare.bytes > LOAD_MAX && !fares.is_empty() || held.contains(&fare.source) {
                state.fares.push_front(fare);
                break;
            }
            if fare.epoch != state.epoch {
                fare.errand.is_lost(lost_to(state.at.stream));
            } else if state.left.contains(&fare.source) {
                fare.errand.goes_back();
            } else if fare.errand.begin() {
                load += fare.bytes;
                held.insert(fare.source.clone());
                fares.push(fare);
            }
        }
        (state.epoch, state.at, fares)
    }

    /// Ends the stream for those who leave; the others go on in the next.
    async fn see_off(&self) {
        let (epoch, at, leavers) = {
            let mut state = self.state();
            let leavers = std::mem::take(&mut state.leavers);
            state.left.extend(leavers.iter().map(|leaver| leaver.source.clone()));
            (state.epoch, state.at, leavers)
        };
        let (leavers, late): (Vec<_>, Vec<_>) = leavers.into_iter().partition(|leaver| leaver.epoch == epoch);
        late.iter().for_each(|leaver| leaver.errand.is_lost(lost_to(at.stream)));
        if leavers.is_empty() {
            return;
        }
        let next = ends::fresh(&self.vault);
        let leaves = leavers.iter().map(|leaver| (leaver.source.clone(), leaver.own)).collect();
        let facts = Log::end_of(at.stream, Onward { leaves, ..next.into() });
        let made = blocking(|| {
            let chain = Chain::after(at.slots, at.previous).ok_or(Exhausted)?;
            let (bytes, _) = Object::begin(&self.vault, &self.sealer(), &facts, chain)?.finish();
            Ok::<_, OpsError>((chain.sequence, bytes))
        });
        let Ok((sequence, bytes)) = made else {
            return leavers.iter().for_each(|leaver| leaver.errand.is_lost(lost_to(at.stream)));
        };
        leavers.iter().for_each(|leaver| leaver.errand.is_away(()));
        let tell = |error: &Arc<RepoError>| leavers.iter().for_each(|leaver| leaver.errand.failed(error));
        if let Err(lost) = self.put((at.stream, sequence), &bytes, &tell).await {
            return self.lose(&lost, std::iter::empty(), &leavers);
        }
        let mut state = self.state();
        if state.epoch == epoch {
            // Nothing more comes that could be rolled up with these.
            let (rest, whole) = (state.rolling.rest(), state.rolling.whole());
            state.whole.extend(whole.into_iter().chain(rest).map(|whole| whole.object));
            (state.rolling, state.at, state.begun) = (Rolling::default(), nowhere(next), None);
            state.puts += 1;
        }
        drop(state);
        leavers.iter().for_each(|leaver| leaver.errand.is_done());
    }

    /// Puts an object until it is known to be there. The very same: what no answer came of may be there.
    async fn put(
        &self,
        (stream, sequence): (StreamId, Sequence),
        bytes: &Bytes,
        tell: &(dyn Fn(&Arc<RepoError>) + Sync),
    ) -> Result<(), Lost> {
        let mut pause = self.times.retry;
        loop {
            match self.vault.repo.put_log(&stream, sequence, bytes.clone()).await {
                Ok(()) => return Ok(()),
                Err(RepoError::LostRace { key }) => {
                    let front = self.vault.repo.log_front(&stream, sequence).await.ok().flatten().map(Arc::new);
                    return Err(Lost { key, front });
                }
                Err(error) => {
                    let (error, state) = (Arc::new(error), self.state());
                    tell(&error);
                    // And who waits behind it.
                    state.fares.iter().for_each(|fare| fare.errand.failed(&error));
                    state.leavers.iter().for_each(|leaver| leaver.errand.failed(&error));
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(self.times.retry * RETRY_MOST);
        }
    }

    /// Somebody else has the slot: all who were here begin again, and who comes next finds a stream of its own.
    fn lose<'a>(&self, lost: &Lost, fares: impl Iterator<Item = &'a Errand<Carried>>, leavers: &[Arc<Parting>]) {
        let mut state = self.state();
        state.epoch += 1;
        (state.at, state.begun) = (nowhere(ends::fresh(&self.vault)), None);
        (state.rolling, state.whole) = (Rolling::default(), VecDeque::new());
        state.riders.clear();
        let (waiting, parting) = (std::mem::take(&mut state.fares), std::mem::take(&mut state.leavers));
        drop(state);
        fares.for_each(|errand| errand.is_lost(lost.clone()));
        waiting.iter().for_each(|fare| fare.errand.is_lost(lost.clone()));
        parting.iter().chain(leavers).for_each(|leaver| leaver.errand.is_lost(lost.clone()));
    }

    /// Puts a roll-up, if one is due. What the store does not take is tried again or given up.
    async fn roll(&self) {
        let now = self.vault.env.clock.uptime();
        let (epoch, stream, mut rolling) = {
            let mut state = self.state();
            if !state.rolling.is_due_at_all(now) {
                return;
            }
            (state.epoch, state.at.stream, std::mem::take(&mut state.rolling))
        };
        let (vault, sealer) = (self.vault.clone(), self.sealer());
        let work = Aside::begin(move || {
            let made = vault.signer(Role::Writer).ok().and_then(|signer| {
                let with = LogSigning { signer, sealer: &sealer, random: vault.env.random.as_ref() };
                rolling.next(now, Rolled { vault: &vault, with })
            });
            (rolling, made)
        });
        work.told().notified().await;
        let (mut rolling, made) = blocking(|| work.wait());
        if let Some((name, bytes)) = made {
            match self.vault.repo.put_roll_up(&name, bytes).await {
                Ok(()) => {
                    rolling.done();
                    self.state().puts += 1;
                }
                Err(RepoError::LostRace { .. }) => rolling.give_up(),
                Err(_) => rolling.failed(self.vault.env.clock.uptime()),
            }
        }
        let mut state = self.state();
        if (state.epoch, state.at.stream) == (epoch, stream) {
            let whole = rolling.whole();
            state.whole.extend(whole.into_iter().map(|whole| whole.object));
            state.rolling = rolling;
            state.let_go();
        }
    }
}

impl State {
    fn has_seats(&self, now: Duration) -> bool {
        let is_young = self.begun.is_none_or(|begun| now.saturating_sub(begun) < OPEN_FOR);
        self.riders.len() < SEATS && is_young
    }

    /// What every source has had, and what nobody takes.
    fn let_go(&mut self) {
        let had = self.riders.values().min().copied().unwrap_or(self.before + self.whole.len() as u64);
        while self.before < had && self.whole.pop_front().is_some() {
            self.before += 1;
        }
    }
}

/// A stream that has nothing yet.
fn nowhere(stream: StreamId) -> Boards {
    Boards { stream, slots: Sequence::new(0), previous: Digest::ZERO }
}

fn lost_to(stream: StreamId) -> Lost {
    Lost { key: LogName::slot(stream, Sequence::FIRST).key().to_string(), front: None }
}

/// An object that is ready to be put.
struct Load {
    sequence: Sequence,
    digest: Digest,
    bytes: Bytes,
}

/// Seals what some sources hand over, and writes down for each where that is to be. What cannot be sealed goes back to all: whose
/// pages cannot be read learns that by itself.
fn load(vault: &Vault, sealer: &Sealer, at: Boards, fares: &[Arc<Fare>]) -> Option<Load> {
    let Ok((load, heads)) = seal(vault, sealer, at, fares) else {
        fares.iter().for_each(|fare| fare.errand.goes_back());
        return None;
    };
    // First of all: whoever must have it safe waits for no disk of others.
    let mut notes = Vec::new();
    for (nth, (fare, (mut head, commits))) in fares.iter().zip(heads).enumerate() {
        head.after = After::Log { stream: at.stream, sequence: load.sequence, digest: load.digest };
        let putting = vec![Pending::of(load.digest, &head.standing)];
        notes.push((fare, Memory { putting, ..fare.memory.clone() }));
        fare.errand.is_away(Carried {
            stream: at.stream,
            sequence: load.sequence,
            digest: load.digest,
            bytes: load.bytes.clone(),
            head,
            commits,
            counts: nth == 0,
        });
    }
    for (fare, memory) in notes {
        fare.noted.store(memory.write(vault, &fare.source).is_ok(), Ordering::SeqCst);
    }
    Some(load)
}

type Heads = Vec<(Head, u64)>;

fn seal(vault: &Vault, sealer: &Sealer, at: Boards, fares: &[Arc<Fare>]) -> Result<(Load, Heads), OpsError> {
    let spans = fares.iter().map(|fare| span_of((&fare.source, fare.memory.branch), fare.head.after, &fare.pieces));
    let spans = spans.collect::<Result<Vec<_>, _>>()?;
    let facts = Log { stream: at.stream, spans, next: None, leaves: Vec::new(), shared: true };
    let chain = Chain::after(at.slots, at.previous).ok_or(Exhausted)?;
    let (mut object, mut heads) = (Object::begin(vault, sealer, &facts, chain)?, Vec::new());
    for (span, fare) in (0..).zip(fares) {
        let mut head = fare.head.clone();
        let hasher = key_of(&fare.memory.fingerprint).commits();
        let commits = object.add(span, &hasher, &mut head, &fare.pieces)?;
        heads.push((head, commits));
    }
    let (bytes, digest) = object.finish();
    Ok((Load { sequence: chain.sequence, digest, bytes }, heads))
}
