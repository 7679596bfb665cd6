//! The half that writes: commits into log objects, each into the next slot of this run's stream.
//!
//! An object is sealed once, by the [`press`](super::press), and put until it is known to be there, the very same bytes. Where
//! this run stands moves only then. What waits for a store that is slow lies in the [`spool`](super::spool).

mod ride;

pub use ride::Ride;

use super::catch::Piece;
use super::hours;
use super::lasts::Lasts;
use super::memory::{Memory, Pending, Standing};
use super::press::{Body, Head, Made, Press, Sealed};
use super::rolling::{Rolled, Rolling, Whole};
use super::spool::Spool;
use crate::OpsError;
use crate::catalog::Vault;
use crate::disk::PathError;
use backstay_format::facts::{After, Role};
use backstay_model::{BranchNo, Digest, Moment, Sequence, SourceName, StreamId, Tx};
use backstay_store::keys::LogName;
use backstay_store::repo::{LogSigning, RepoError};
use backstay_store::seal::Sealer;
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::Notify;

/// So many objects are written down at once before they are put.
const NOTED_MAX: usize = 64;

/// What became durable with one object.
pub struct Sent {
    pub commits: u64,
    pub bytes: u64,
    pub lasts: Option<Lasts>,
}

/// What must be done before the next object may be put, by whoever has time for it.
pub struct Next {
    vault: Arc<Vault>,
    source: SourceName,
    /// What is to be written down.
    note: Option<Memory>,
    /// Where the object is, and itself if it is in memory.
    at: Option<(StreamId, Sequence, Option<Bytes>)>,
    spool: Spool,
}

/// What may be put now.
pub struct Ready {
    /// `None` when there is none, or when the disk lost it.
    pub object: Option<(StreamId, Sequence, Bytes)>,
    /// Whether what was to be written down is: `None` where nothing was.
    pub noted: Option<bool>,
}

impl Next {
    /// Writes down what must be, and gives the object.
    pub fn ready(self) -> Ready {
        let object = self.at.and_then(|(stream, sequence, bytes)| {
            let bytes = bytes.or_else(|| self.spool.read(&stream, sequence).map(|(_, bytes)| bytes));
            Some((stream, sequence, bytes?))
        });
        // A state folder that takes no more costs the next run a snapshot, and this one nothing.
        let noted = self.note.map(|note| note.write(&self.vault, &self.source).is_ok());
        Ready { object, noted }
    }
}

pub struct Shipper<'v> {
    vault: &'v Vault,
    /// The same, for what is done on other threads.
    shared: Arc<Vault>,
    source: SourceName,
    sealer: Arc<Sealer>,
    /// What was written down last, and whether it was.
    memory: Memory,
    is_noted: bool,
    /// Of what is durable.
    durable: Head,
    press: Press,
    outbox: VecDeque<Sealed>,
    spool: Spool,
    rolling: Rolling,
    /// While it shares a stream with others.
    ride: Option<Ride>,
}

impl<'v> Shipper<'v> {
    /// `memory` is that of the run before, or of the snapshot just taken; the stream is this run's.
    pub fn new(
        vault: &'v Vault,
        source: &SourceName,
        stream: StreamId,
        memory: &Memory,
        after: After,
        standing: Standing,
    ) -> Result<Self, OpsError> {
        let memory = Memory {
            stream,
            slots: 0,
            previous: Digest::ZERO,
            before: 0,
            after,
            standing: Some(standing.clone()),
            putting: Vec::new(),
            aboard: None,
            next: None,
            ..memory.clone()
        };
        let (running, used, previous) = (standing.chain, standing.tx, Digest::ZERO);
        let durable = Head { slots: 0, previous, standing, running, used, after };
        let shared = Arc::new(hours::again(vault));
        let sealer = Arc::new(vault.repo.sealer(vault.env.random.as_ref()));
        let press = Press::new(&shared, source, (&memory, durable.clone()), sealer.clone())?;
        let mut shipper = Self {
            vault,
            shared,
            source: source.clone(),
            sealer,
            memory,
            is_noted: true,
            durable,
            press,
            outbox: VecDeque::new(),
            spool: Spool::of(vault, source)?,
            rolling: Rolling::default(),
            ride: None,
        };
        shipper.remember();
        shipper.spool.clear()?;
        Ok(shipper)
    }

    /// Goes on in a stream this run has put objects into already.
    pub fn go_on_at(&mut self, sequence: Sequence, previous: Digest) {
        self.memory.slots = sequence.get().saturating_sub(1);
        self.memory.before = self.memory.slots;
        self.memory.previous = previous;
        (self.durable.slots, self.durable.previous) = (self.memory.slots, previous);
        self.press.go_on_at(self.memory.stream, &self.durable);
    }

    /// A state folder that takes no more costs the next run a snapshot, and this one nothing.
    pub fn remember(&mut self) {
        self.is_noted = self.memory.write(self.vault, &self.source).is_ok();
    }

    /// Whether what was to be written down is. What is not there is written once more with the next.
    pub fn noted(&mut self, noted: Option<bool>) {
        self.is_noted = noted.unwrap_or(self.is_noted);
    }

    pub fn standing(&self) -> &Standing {
        &self.durable.standing
    }

    pub fn branch(&self) -> BranchNo {
        self.memory.branch
    }

    /// The highest number that was used, also by a commit that is not whole.
    pub fn last_used(&self) -> Tx {
        self.head().used
    }

    /// Whether nothing is on its way.
    pub fn is_clear(&self) -> bool {
        self.outbox.is_empty() && self.press.is_free() && self.ride.as_ref().is_none_or(Ride::is_clear)
    }

    /// The stream nobody but this writes into.
    fn own(&self) -> StreamId {
        self.ride.as_ref().map_or(self.memory.stream, Ride::own)
    }

    /// How many objects are on their way.
    pub fn sealed(&self) -> usize {
        self.outbox.len()
    }

    pub fn waiting(&self) -> u64 {
        if let Some(ride) = &self.ride {
            return ride.waiting().0;
        }
        self.outbox.iter().map(|sealed| sealed.commits).sum::<u64>() + self.press.waiting().0
    }

    pub fn waiting_bytes(&self) -> u64 {
        if let Some(ride) = &self.ride {
            return ride.waiting().1;
        }
        self.outbox.iter().map(|sealed| sealed.len).sum::<u64>() + self.press.waiting().1
    }

    /// When the oldest commit on its way was made.
    pub fn waiting_since(&self) -> Option<Moment> {
        if let Some(ride) = &self.ride {
            return ride.waiting().2;
        }
        self.outbox.front().map(|sealed| sealed.since).or(self.press.waiting().2)
    }

    /// How much of it lies on the disk.
    pub fn spooled_bytes(&self) -> u64 {
        self.outbox.iter().filter(|sealed| matches!(sealed.body, Body::Spooled)).map(|sealed| sealed.len).sum()
    }

    fn head(&self) -> &Head {
        self.outbox.back().map_or(&self.durable, |sealed| &sealed.head)
    }

    /// The next slot, and the digest of the object before it.
    pub fn place(&self) -> (StreamId, Sequence, Digest) {
        let head = self.head();
        (self.own(), Sequence::new(head.slots + 1), head.previous)
    }

    /// Whether something else can be sealed now.
    pub fn is_free(&self) -> bool {
        self.press.is_free()
    }

    /// Begins to seal one object, where nothing is being sealed. `keeps`: it is to outlive this process.
    pub fn seal(&mut self, pieces: Vec<Piece>, keeps: bool) {
        self.ride.iter_mut().for_each(|ride| ride.seals(&pieces));
        self.press.begin(pieces, keeps);
    }

    /// Takes what was sealed meanwhile; `waits` until it is. Says what became of it, and whether it lies on the disk where
    /// it was to.
    pub fn take_sealed(&mut self, waits: bool) -> Option<Result<Result<(), PathError>, OpsError>> {
        let Made { sealed, kept } = self.press.take(waits)?;
        Some(sealed.map(|sealed| {
            self.outbox.push_back(sealed);
            kept
        }))
    }

    /// Tells when something was sealed, if anything is being sealed and nothing else could be put.
    pub fn only_sealing(&self) -> Option<Arc<Notify>> {
        self.press.told().filter(|_| self.outbox.is_empty())
    }

    /// Writes what is on its way to the disk, so that it outlives this process.
    pub fn spool(&mut self) -> Result<(), PathError> {
        let stream = self.own();
        self.outbox.iter_mut().try_for_each(|sealed| sealed.keep(&self.spool, &stream))
    }

    /// The object to put next, which stays until it is known to be there.
    pub fn next(&mut self) -> Next {
        let stream = self.memory.stream;
        let at = self.outbox.front().map(|sealed| {
            let bytes = match &sealed.body {
                Body::Memory(bytes) => Some(bytes.clone()),
                Body::Spooled => None,
            };
            (stream, sealed.sequence, bytes)
        });
        let is_named = self.outbox.front().is_none_or(|sealed| {
            let noted = self.memory.putting_behind(Sequence::new(self.durable.slots));
            noted.is_some_and(|noted| noted.digest == sealed.digest)
        });
        self.next_with(at, !(is_named && self.is_noted))
    }

    /// Where nothing is on its way any more the next run must not have to find many objects.
    pub fn last_note(&mut self) -> Option<Next> {
        (!self.is_noted || self.durable.slots > self.memory.slots + 1).then(|| self.next_with(None, true))
    }

    fn next_with(&mut self, at: Option<(StreamId, Sequence, Option<Bytes>)>, notes: bool) -> Next {
        if notes {
            (self.memory.slots, self.memory.previous) = (self.durable.slots, self.durable.previous);
            self.memory.standing = Some(self.durable.standing.clone());
            let noted = self.outbox.iter().take(NOTED_MAX);
            self.memory.putting = noted.map(|sealed| Pending::of(sealed.digest, &sealed.head.standing)).collect();
        }
        let note = notes.then(|| self.memory.clone());
        Next { vault: self.shared.clone(), source: self.source.clone(), note, at, spool: self.spool.clone() }
    }

    /// Gives up what is on its way: the disk lost some of it.
    pub fn give_up(&mut self) {
        let _ = self.press.take(true);
        self.outbox.clear();
    }

    /// The object to put next is known to be there.
    pub fn confirm(&mut self) -> Sent {
        let Some(sent) = self.outbox.pop_front() else { return Sent { commits: 0, bytes: 0, lasts: None } };
        if matches!(sent.body, Body::Spooled) {
            self.spool.remove(&self.memory.stream, sent.sequence);
        }
        self.durable = sent.head;
        Sent { commits: sent.commits, bytes: sent.len, lasts: sent.lasts }
    }

    /// Keeps an object that is durable, for the next roll-up.
    pub fn keep_to_roll(&mut self, sequence: Sequence, bytes: Bytes, lasts: Option<Lasts>) {
        let name = LogName::slot(self.memory.stream, sequence);
        if let Ok(object) = self.vault.repo.parse_log(&name, bytes) {
            self.rolling.add(Whole { object, lasts }, self.vault.env.clock.uptime());
        }
    }

    pub fn is_roll_up_due(&self) -> bool {
        self.rolling.is_due_at_all(self.vault.env.clock.uptime())
    }

    /// What makes the roll-up to put next, for whoever has time for it: [`Shipper::go_on_rolling`] is to follow.
    pub fn rolling_up(&mut self) -> impl FnOnce() -> (Rolling, Option<(LogName, Bytes)>) + Send + 'static + use<> {
        let (mut rolling, vault) = (std::mem::take(&mut self.rolling), self.shared.clone());
        let (sealer, now) = (self.sealer.clone(), self.vault.env.clock.uptime());
        move || {
            let made = vault.signer(Role::Writer).ok().and_then(|signer| {
                let with = LogSigning { signer, sealer: &sealer, random: vault.env.random.as_ref() };
                rolling.next(now, Rolled { vault: &vault, with })
            });
            (rolling, made)
        }
    }

    pub fn go_on_rolling(&mut self, rolling: Rolling) {
        self.rolling = rolling;
    }

    pub fn sealer(&self) -> Arc<Sealer> {
        self.sealer.clone()
    }

    /// What went through all roll-ups since it was asked last.
    pub fn whole(&mut self) -> VecDeque<Whole> {
        self.rolling.whole()
    }

    /// What still waits for one, if nothing more comes.
    pub fn rest(&mut self) -> Vec<Whole> {
        self.rolling.rest()
    }

    /// What became of it.
    pub fn rolled_up<T>(&mut self, sent: &Result<T, RepoError>) {
        match sent {
            Ok(_) => self.rolling.done(),
            Err(RepoError::LostRace { .. }) => self.rolling.give_up(),
            Err(_) => self.rolling.failed(self.vault.env.clock.uptime()),
        }
    }
}
