//! A source that shares a stream with others: small steady commits ride along, everything else is its own.
//!
//! Owns the two places such a source has: the stream of all, where what it hands over becomes durable, and a stream of its own
//! where nobody is yet. What must be safe before that is sealed for its own stream, right behind what is durable or on its
//! way, and lies in the spool; once it has come along with the others that is let go. So a crash, a store that is away and a burst
//! are what they are for a source alone: it leaves, and goes on in its own stream with what lies there.

use super::super::carrier::{Carried, Carrier, Fare, Parting, Seat, fits, weight_of};
use super::super::catch::Piece;
use super::super::ends;
use super::super::errand::{Errand, Secured};
use super::super::memory::Aboard;
use super::super::press::{Body, Head};
use super::{Sent, Shipper};
use crate::disk::PathError;
use backstay_model::{Digest, Moment, Sequence, SourceName, StreamId};
use backstay_store::repo::Chain;
use std::sync::Arc;

/// What is sealed, and waits to ride along. Where that is more than fits none of it does, and nothing of it is kept in memory:
/// a store may be away for long.
#[derive(Default)]
struct Waiting {
    pieces: Vec<Piece>,
    is_much: bool,
    commits: u64,
    bytes: u64,
    since: Option<Moment>,
}

impl Waiting {
    fn of(pieces: &[Piece]) -> Self {
        let mut waiting = Self::default();
        waiting.add(pieces);
        waiting
    }

    fn add(&mut self, pieces: &[Piece]) {
        let (commits, bytes, since) = sum_of(pieces);
        (self.commits, self.bytes) = (self.commits + commits, self.bytes + bytes);
        self.since = self.since.or(since);
        self.pieces.extend_from_slice(pieces);
        self.is_much |= !fits(&self.pieces);
        if self.is_much {
            self.pieces = Vec::new();
        }
    }

    fn is_empty(&self) -> bool {
        self.pieces.is_empty() && !self.is_much
    }
}

/// Commits and bytes of images, and when the first of them was made.
fn sum_of(pieces: &[Piece]) -> (u64, u64, Option<Moment>) {
    let commits = pieces.iter().filter(|piece| piece.part.completes()).count() as u64;
    (commits, pieces.iter().map(weight_of).sum(), pieces.first().map(|piece| piece.time))
}

pub struct Ride {
    source: SourceName,
    carrier: Arc<Carrier>,
    seat: Seat,
    /// Where it goes on when it leaves.
    own: StreamId,
    /// Until it is known to have come: the stream it had, and the slot there in which it ends.
    coming: Option<(StreamId, Chain)>,
    /// What is sealed for its own stream already, and is still to ride along.
    pending: Waiting,
    fare: Option<Arc<Fare>>,
    /// Attempts at it that are known to have failed.
    tried: u64,
    /// How many pieces of the fare are sealed for its own stream as well.
    sealed: usize,
    /// What is sealed for its own stream comes behind the fare.
    is_behind: bool,
    /// The fare lies in the spool as it is on its way.
    is_kept: bool,
    parting: Option<Arc<Parting>>,
}

impl Drop for Ride {
    fn drop(&mut self) {
        // What nobody waits for any more is not put.
        self.fare.iter().for_each(|fare| drop(fare.errand.secure()));
        self.carrier.gone(&self.source);
    }
}

impl Ride {
    pub fn carrier(&self) -> &Arc<Carrier> {
        &self.carrier
    }

    pub fn own(&self) -> StreamId {
        self.own
    }

    pub fn is_parting(&self) -> bool {
        self.parting.is_some()
    }

    /// Whether what was handed over was to be kept as it is on its way: nothing holds the log for it.
    pub fn lies_behind(&self) -> bool {
        self.is_behind
    }

    pub fn is_clear(&self) -> bool {
        self.fare.is_none() && self.pending.is_empty()
    }

    /// Commits and bytes of images, and when the first of them was made.
    pub fn waiting(&self) -> (u64, u64, Option<Moment>) {
        let (commits, bytes, since) = self.fare.as_ref().map(|fare| sum_of(&fare.pieces)).unwrap_or_default();
        let behind = &self.pending;
        (commits + behind.commits, bytes + behind.bytes, since.or(behind.since))
    }

    /// Whether nothing waits to be handed over.
    pub fn has_none(&self) -> bool {
        self.pending.is_empty()
    }

    /// Whether more fits besides.
    pub fn takes(&self, more: &[Piece]) -> bool {
        !self.pending.is_much && fits(self.pending.pieces.iter().chain(more))
    }

    /// Adds what is being sealed for its own stream.
    pub fn seals(&mut self, pieces: &[Piece]) {
        self.pending.add(pieces);
    }
}

impl Shipper<'_> {
    pub fn ride(&self) -> Option<&Ride> {
        self.ride.as_ref()
    }

    /// Takes a place among those who share, behind what this has put; only where nothing is on its way. It has come once
    /// its stream is ended: [`Shipper::coming`]. False where that cannot be written down.
    pub fn boards(&mut self, carrier: &Arc<Carrier>) -> bool {
        let ends = Chain::after(Sequence::new(self.durable.slots), self.durable.previous);
        let (Some(ends), true) = (ends, self.is_clear() && self.ride.is_none()) else { return false };
        let Some(seat) = carrier.seat(&self.source) else { return false };
        let own = ends::fresh(self.vault);
        (self.memory.slots, self.memory.previous) = (self.durable.slots, self.durable.previous);
        self.memory.standing = Some(self.durable.standing.clone());
        self.memory.putting.clear();
        self.memory.aboard = Some(Aboard { own, boards: Some(seat.at) });
        self.remember();
        if !self.is_noted {
            self.memory.aboard = None;
            carrier.gone(&self.source);
            return false;
        }
        let (source, coming) = (self.source.clone(), Some((self.memory.stream, ends)));
        (self.durable.slots, self.durable.previous) = (0, Digest::ZERO);
        self.press.go_on_at(own, &self.durable);
        let (carrier, pending) = (carrier.clone(), Waiting::default());
        self.ride = Some(Ride {
            source,
            carrier,
            seat,
            own,
            coming,
            pending,
            fare: None,
            tried: 0,
            sealed: 0,
            is_behind: false,
            is_kept: false,
            parting: None,
        });
        true
    }

    /// The slot in which the stream it had must end, and where that leads.
    pub fn coming(&self) -> Option<(StreamId, Chain, StreamId)> {
        let ride = self.ride.as_ref()?;
        ride.coming.map(|(stream, chain)| (stream, chain, ride.seat.at.stream))
    }

    /// It has come: the stream it had leads to the others.
    pub fn has_come(&mut self) {
        let Some(ride) = &mut self.ride else { return };
        let (at, memory) = (ride.seat.at, &mut self.memory);
        ride.coming = None;
        (memory.stream, memory.previous) = (at.stream, at.previous);
        (memory.slots, memory.before) = (at.slots.get(), at.slots.get());
        memory.after = self.durable.after;
        memory.aboard = Some(Aboard { own: ride.own, boards: None });
    }

    /// Hands over what waits, and `more`.
    pub fn hand_over(&mut self, more: Vec<Piece>) {
        let Some(ride) = self.ride.as_mut().filter(|ride| ride.fare.is_none()) else { return };
        let mut pieces = std::mem::take(&mut ride.pending).pieces;
        ride.sealed = pieces.len();
        pieces.extend(more);
        let (who, head) = ((self.source.clone(), self.memory.clone()), self.durable.clone());
        let fare = Fare::new(who, head, (ride.seat.epoch, pieces));
        ride.carrier.take(fare.clone());
        (ride.fare, ride.tried) = (Some(fare), 0);
        (ride.is_behind, ride.is_kept) = (false, false);
    }

    /// What was handed over, and how many failed attempts are known.
    pub fn fare(&mut self) -> Option<(Arc<Fare>, &mut u64)> {
        let ride = self.ride.as_mut()?;
        Some((ride.fare.clone()?, &mut ride.tried))
    }

    /// Makes safe what was handed over: it is taken back and sealed for its own stream, or lies in the spool as it is on its way.
    pub fn hold_on(&mut self) -> Result<(), PathError> {
        let Some(ride) = &mut self.ride else { return Ok(()) };
        let Some(fare) = ride.fare.clone() else { return Ok(()) };
        match fare.errand.secure() {
            // What was lost is nowhere else: it is with what it goes on with by itself.
            Secured::Back | Secured::Lost if !ride.is_behind => {
                ride.fare = None;
                let (mut pieces, sealed) = (fare.pieces.clone(), ride.sealed);
                pieces.append(&mut ride.pending.pieces);
                ride.pending = Waiting::of(&pieces);
                // The first of them are sealed already, and may be all that is left of them.
                let rest = pieces.split_off(sealed.min(pieces.len()));
                if let Some(made) = self.press.take(true) {
                    match made.sealed {
                        Ok(sealed) => self.outbox.push_back(sealed),
                        Err(_) => return self.seal_again([pieces, rest].concat()),
                    }
                }
                self.press.begin(rest, true);
                Ok(())
            }
            // What comes behind it follows nothing any more. Where that is much it is found in the log, or is a gap.
            Secured::Lost if !ride.pending.is_much => {
                let pieces = [fare.pieces.as_slice(), &ride.pending.pieces].concat();
                (ride.fare, ride.is_behind, ride.pending) = (None, false, Waiting::of(&pieces));
                self.seal_again(pieces)
            }
            Secured::Away(carried) if !ride.is_kept => self.keep_away(&carried),
            Secured::Back | Secured::Away(_) | Secured::Lost => Ok(()),
        }
    }

    /// Keeps it in the spool as it is on its way; what comes after it is sealed behind it.
    fn keep_away(&mut self, carried: &Carried) -> Result<(), PathError> {
        let Carried { stream, sequence, digest, bytes, head, .. } = carried;
        let write = |shipper: &Self| shipper.spool.write(stream, (*sequence, *digest), &head.standing, bytes);
        // Before what was sealed in its place goes.
        let mut kept = write(self);
        let is_behind = self.ride.as_mut().is_some_and(|ride| std::mem::replace(&mut ride.is_behind, true));
        if !is_behind {
            self.drop_sealed();
            let own = self.own();
            self.press.go_on_at(own, head);
            // On a full disk there is room where that was.
            kept = kept.or_else(|_| write(self));
        }
        self.ride.iter_mut().for_each(|ride| ride.is_kept = kept.is_ok());
        kept
    }

    /// Seals all of it for its own stream, whatever was sealed of it.
    fn seal_again(&mut self, pieces: Vec<Piece>) -> Result<(), PathError> {
        let durable = self.durable.clone();
        self.drop_sealed();
        let own = self.own();
        self.press.go_on_at(own, &durable);
        self.press.begin(pieces, true);
        Ok(())
    }

    /// Lets go what is sealed for its own stream.
    fn drop_sealed(&mut self) {
        let _ = self.press.take(true);
        let own = self.own();
        for sealed in std::mem::take(&mut self.outbox) {
            if matches!(sealed.body, Body::Spooled) {
                self.spool.remove(&own, sealed.sequence);
            }
        }
    }

    /// What was handed over is durable.
    pub fn arrived(&mut self, carried: Carried) -> Sent {
        let Carried { stream, sequence, digest, bytes, head, commits, counts } = carried;
        let noted = self.ride.as_ref().and_then(|ride| ride.fare.as_ref()).is_some_and(|fare| fare.is_noted());
        let is_behind = self.ride.as_ref().is_some_and(|ride| ride.is_behind);
        self.durable = Head { slots: 0, previous: Digest::ZERO, ..head };
        let memory = &mut self.memory;
        (memory.stream, memory.slots, memory.previous) = (stream, sequence.get(), digest);
        memory.before = memory.before.min(sequence.get() - 1);
        memory.standing = Some(self.durable.standing.clone());
        self.is_noted = noted;
        if !is_behind {
            // It came along.
            self.drop_sealed();
            let own = self.own();
            self.press.go_on_at(own, &self.durable);
        }
        self.spool.remove(&stream, sequence);
        if let Some(ride) = &mut self.ride {
            (ride.fare, ride.is_behind) = (None, false);
        }
        Sent { commits, bytes: if counts { bytes.len() as u64 } else { 0 }, lasts: None }
    }

    /// Asks to leave, once.
    pub fn parts(&mut self) -> Option<(Arc<Parting>, &mut u64)> {
        let ride = self.ride.as_mut()?;
        let parting = ride.parting.get_or_insert_with(|| {
            let (source, own, epoch) = (ride.source.clone(), ride.own, ride.seat.epoch);
            let parting = Arc::new(Parting { source, own, epoch, errand: Errand::new() });
            ride.carrier.part(parting.clone());
            ride.tried = 0;
            parting
        });
        Some((parting.clone(), &mut ride.tried))
    }

    /// So many attempts are known to have failed.
    pub fn has_tried(&mut self, tried: u64) {
        self.ride.iter_mut().for_each(|ride| ride.tried = tried);
    }

    /// The stream of all has ended for it: it goes on in its own.
    pub fn left(&mut self) -> Option<Ride> {
        let ride = self.ride.take()?;
        let memory = &mut self.memory;
        (memory.stream, memory.slots, memory.before) = (ride.own, 0, 0);
        (memory.previous, memory.after) = (Digest::ZERO, self.durable.after);
        memory.standing = Some(self.durable.standing.clone());
        memory.putting.clear();
        memory.aboard = None;
        self.remember();
        Some(ride)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use backstay_format::log::Part;
    use backstay_model::Tx;
    use backstay_sqlite::{Tail, TailOptions};
    use backstay_store::os::SystemClock;

    /// Some commits, as they are read.
    fn read(count: u32) -> Vec<Piece> {
        let dir = tempfile::tempdir().expect("a folder");
        let db = dir.path().join("shop.db");
        let conn = rusqlite::Connection::open(&db).expect("open");
        conn.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(x BLOB)").expect("made");
        let mut tail =
            Tail::open(&db, TailOptions::in_dir(dir.path().to_owned()), Arc::new(SystemClock)).expect("opens");
        let from = tail.hold().expect("held");
        for _ in 0..count {
            conn.execute_batch("INSERT INTO t VALUES (randomblob(60000))").expect("sql");
        }
        let caught = tail.advance(&from).expect("read").expect("proven");
        let images = Arc::new(caught.images);
        let piece = |(tx, commit): (u64, backstay_sqlite::Commit)| Piece {
            part: Part::Whole,
            tx: Tx::new(tx),
            time: Moment::from_millis(7).expect("a time"),
            page_count: commit.page_count,
            pages: commit.pages,
            images: images.clone(),
            end: commit.end,
        };
        (1..).zip(caught.commits).map(piece).collect()
    }

    #[test]
    fn what_is_more_than_fits_is_counted_and_leaves_memory() {
        let pieces = read(7);
        let images = Arc::downgrade(&pieces.first().expect("a commit").images);
        let all = sum_of(&pieces);
        let mut waiting = Waiting::default();
        let mut pieces = pieces.into_iter();
        for piece in pieces.by_ref().take(3) {
            waiting.add(&[piece]);
        }
        assert!(!waiting.is_much && waiting.pieces.len() == 3);
        pieces.for_each(|piece| waiting.add(&[piece]));
        assert!(waiting.is_much && !waiting.is_empty());
        assert_eq!((waiting.commits, waiting.bytes, waiting.since), all);
        assert!(images.upgrade().is_none(), "nobody keeps the images");
    }
}
