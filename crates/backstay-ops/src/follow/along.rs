//! What a follower does that shares a stream: it comes, rides along, and leaves.

use super::carrier::Carrier;
use super::catch::{Piece, UNREAD};
use super::errand::{Came, Lost};
use super::ship::Ride;
use super::turns::Turns;
use super::{Follower, Halves, Shipped, Ticked, ends, keep_safe};
use crate::OpsError;
use crate::env::blocking;
use backstay_format::facts::Log;
use backstay_sqlite::Step;
use backstay_store::repo::RepoError;
use std::sync::Arc;

/// What came of what was handed over.
enum Arrived {
    There,
    /// It must be put by itself.
    Alone,
    Lost(Lost),
}

/// How riding along went.
pub(super) enum Along {
    Shipped(Shipped),
    /// It does not share any more, or never did.
    Alone,
}

impl<'v> Follower<'v> {
    /// Whether it shares a stream with others.
    pub fn rides(&self) -> bool {
        self.halves.shipper.ride().is_some()
    }

    /// Whether it could: what is old must not stay because of it, so it must be able to make snapshots of its log.
    pub fn may_share(&self) -> bool {
        let Halves { catcher, hours, alarm, .. } = &self.halves;
        hours.can_be_made() && alarm.is_none() && !catcher.is_lost()
    }

    /// Comes to the others: its stream ends, and leads to theirs. False where it stays alone.
    pub async fn board(&mut self, carrier: &Arc<Carrier>) -> Result<bool, OpsError> {
        let ticked = &mut Ticked::default();
        if self.rides() || self.has_news() || !self.may_share() {
            return Ok(false);
        }
        // What was put so far is in its snapshots by itself: roll-ups of it end here.
        let Halves { shipper, hours, .. } = &mut self.halves;
        let rest = shipper.whole().into_iter().chain(shipper.rest());
        if let Some(taking) = hours.taking(rest, shipper.sealer()) {
            let (taken, looked) = self.beside(taking, ticked).await;
            self.halves.hours.took(taken);
            looked?;
        }
        if self.has_news() || !blocking(|| self.halves.shipper.boards(carrier)) {
            return Ok(false);
        }
        // That its place is lost finds out who ships next.
        self.come(ticked).await?;
        Ok(true)
    }

    /// Ends the stream it had. Tried again until it is known to have ended.
    async fn come(&mut self, ticked: &mut Ticked) -> Result<Option<Lost>, OpsError> {
        let Some((stream, chain, theirs)) = self.halves.shipper.coming() else { return Ok(None) };
        self.halves.catcher.reach(Step::Putting);
        let facts = Log::boards(stream, theirs);
        match self.meanwhile(ends::put(self.vault, &facts, chain), ticked).await? {
            Ok(()) => {}
            Err(RepoError::LostRace { key }) => {
                // Of an attempt before no answer may have come.
                let there = self.vault.repo.log_front(&stream, chain.sequence).await?;
                if there.as_ref().and_then(|there| there.facts.onward().of(&self.request.source)) != Some(theirs) {
                    return Ok(Some(Lost { key, front: there.map(Arc::new) }));
                }
            }
            Err(error) => return Err(error.into()),
        }
        self.halves.shipper.has_come();
        ticked.objects += 1;
        Ok(None)
    }

    /// Makes durable what was read when it began, together with others.
    pub(super) async fn ship_along(&mut self, ticked: &mut Ticked) -> Result<Along, OpsError> {
        let goal = self.halves.catcher.tx();
        if !self.rides() {
            return Ok(Along::Alone);
        }
        if let Some(lost) = self.come(ticked).await? {
            return self.is_lost(lost).map(Along::Shipped);
        }
        // Who has asked to leave hands over nothing more: it may be gone already.
        if self.halves.shipper.ride().is_some_and(Ride::is_parting) {
            return self.go_alone(ticked).await;
        }
        loop {
            self.halves.take_sealed(false);
            let Halves { catcher, shipper, .. } = &mut self.halves;
            if shipper.fare().is_none() {
                let has_none = shipper.ride().is_none_or(Ride::has_none);
                if shipper.standing().tx >= goal || has_none && catcher.waiting() == 0 {
                    return Ok(Along::Shipped(Shipped::All));
                }
                let more = catcher.next_pieces();
                if !shipper.ride().is_some_and(|ride| ride.takes(&more)) {
                    blocking(|| self.seal_alone(more));
                    return self.go_alone(ticked).await;
                }
                shipper.hand_over(more);
            }
            match self.arrive(ticked).await? {
                Arrived::There => {}
                Arrived::Alone => return self.go_alone(ticked).await,
                Arrived::Lost(lost) => return self.is_lost(lost).map(Along::Shipped),
            }
        }
    }

    async fn go_alone(&mut self, ticked: &mut Ticked) -> Result<Along, OpsError> {
        Ok(self.leave(ticked).await?.map_or(Along::Alone, Along::Shipped))
    }

    /// Waits for what was handed over.
    async fn arrive(&mut self, ticked: &mut Ticked) -> Result<Arrived, OpsError> {
        let Some((fare, tried)) = self.halves.shipper.fare() else { return Ok(Arrived::There) };
        let mut known = *tried;
        let came = self.meanwhile(fare.errand.news(&mut known), ticked).await?;
        self.halves.shipper.has_tried(known);
        match came {
            Came::Done(carried) => {
                let counts = carried.counts;
                let sent = blocking(|| self.halves.shipper.arrived(carried));
                self.halves.catcher.reach(Step::Confirmed);
                ticked.objects += u64::from(counts);
                ticked.shipped += sent.commits;
                ticked.bytes += sent.bytes;
                Ok(Arrived::There)
            }
            // It was taken back meanwhile.
            Came::Back if self.halves.shipper.fare().is_none() => Ok(Arrived::There),
            Came::Back => {
                blocking(|| self.seal_alone(Vec::new()));
                Ok(Arrived::Alone)
            }
            Came::Lost(lost) => {
                // What was kept of it is for a slot that somebody else has.
                if self.halves.shipper.ride().is_some_and(Ride::lies_behind) {
                    blocking(|| self.seal_alone(Vec::new()));
                }
                Ok(Arrived::Lost(lost))
            }
            Came::Tried(error) => Err(OpsError::Shared(error)),
        }
    }

    /// Seals what does not ride along for its own stream.
    fn seal_alone(&mut self, pieces: Vec<Piece>) {
        let Halves { catcher, shipper, alarm, .. } = &mut self.halves;
        if let Some(Err(_)) = shipper.take_sealed(true) {
            catcher.lose(UNREAD);
        }
        shipper.seal(pieces, false);
        keep_safe(shipper, catcher, alarm);
    }

    /// Goes on by itself: what it wrote is durable, and the others go on without it. Something if its place was lost.
    pub(super) async fn leave(&mut self, ticked: &mut Ticked) -> Result<Option<Shipped>, OpsError> {
        if !self.rides() {
            return Ok(None);
        }
        if let Some(lost) = self.come(ticked).await? {
            return self.is_lost(lost).map(Some);
        }
        while self.halves.shipper.fare().is_some() {
            if let Arrived::Lost(lost) = self.arrive(ticked).await? {
                return self.is_lost(lost).map(Some);
            }
        }
        let Some((parting, tried)) = self.halves.shipper.parts() else { return Ok(None) };
        let mut known = *tried;
        let came = self.meanwhile(parting.errand.news(&mut known), ticked).await?;
        self.halves.shipper.has_tried(known);
        match came {
            Came::Lost(lost) => self.is_lost(lost).map(Some),
            Came::Tried(error) => Err(OpsError::Shared(error)),
            Came::Done(()) | Came::Back => self.left(ticked).await.map(|()| None),
        }
    }

    /// Leaves those it shares a stream with, whatever becomes of that stream.
    pub(super) async fn be_alone(&mut self, turns: &Turns, ticked: &mut Ticked) -> Result<(), OpsError> {
        if let Some(Shipped::LeftBehind(lost)) = self.leave(ticked).await? {
            blocking(|| self.halves.take_sealed(true));
            (self.began, self.halves) = self.follow_others(turns).await?.ok_or(lost)?;
        }
        Ok(())
    }

    /// The same, for whoever drives it.
    pub async fn part(&mut self) -> Result<Ticked, OpsError> {
        self.part_in(&Turns::new()).await
    }

    pub(super) async fn part_in(&mut self, turns: &Turns) -> Result<Ticked, OpsError> {
        let mut ticked = Ticked::default();
        self.be_alone(turns, &mut ticked).await?;
        Ok(ticked)
    }

    async fn left(&mut self, ticked: &mut Ticked) -> Result<(), OpsError> {
        let Some(ride) = blocking(|| self.halves.shipper.left()) else { return Ok(()) };
        let whole = ride.carrier().whole_of(&self.request.source);
        if let Some(taking) = self.halves.hours.taking(whole, ride.carrier().sealer()) {
            let (taken, looked) = self.beside(taking, ticked).await;
            self.halves.hours.took(taken);
            looked?;
        }
        Ok(())
    }

    /// Its slot is taken: where others were taken over it goes on behind that, and where it was itself it is over.
    fn is_lost(&self, Lost { key, front }: Lost) -> Result<Shipped, OpsError> {
        let is_left = front.is_none_or(|front| front.facts.is_left_by_others(&self.request.source));
        let lost = RepoError::LostRace { key };
        if is_left { Ok(Shipped::LeftBehind(lost)) } else { Err(lost.into()) }
    }
}
