//! Where a copy reads on, and what it finds there: decisions, without reading anything.

use super::memory::Spot;
use crate::log::Link;
use backstay_format::facts::{After, Log};
use backstay_model::{Digest, Sequence, SourceName, StreamId};
use backstay_store::repo::{LogFront, ManifestFront};
use serde::{Deserialize, Serialize};

/// The slot that is read next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub stream: StreamId,
    pub sequence: Sequence,
    /// The digest of the object before it, if that is known.
    pub previous: Option<Digest>,
}

/// What the object in a slot says to a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Says {
    /// Commits right after the copy's state, in this span.
    Commits(usize),
    /// Nothing for it.
    Nothing,
    /// The stream ends; this one goes on.
    Over(StreamId),
    /// Following the source began anew: what comes next is not for this state.
    Anew,
    /// It does not follow what is before it.
    Broken,
}

impl Place {
    /// Behind an object that has it.
    pub fn behind(self, front: &LogFront) -> Option<Self> {
        Some(Self { sequence: front.name.last.next()?, previous: Some(front.end), ..self })
    }

    /// Behind what was gone through to get to a state.
    pub fn behind_link(link: &Link) -> Option<Self> {
        let place = Self { stream: link.name.stream, sequence: link.name.first, previous: None };
        if link.span.unfinished {
            // The beginning of a commit in parts is read again.
            return Some(place);
        }
        // The last slot of a roll-up has a digest of its own.
        let previous = (!link.name.is_rolled()).then_some(link.digest);
        Some(Self { sequence: link.name.last.next()?, previous, ..place })
    }

    pub fn first_of(stream: StreamId) -> Self {
        Self { stream, sequence: Sequence::FIRST, previous: Some(Digest::ZERO) }
    }

    pub fn says(&self, spot: &Spot, source: &SourceName, front: &LogFront) -> Says {
        let begins_here = front.name.first == self.sequence;
        if self.previous.is_some_and(|previous| begins_here && previous != front.chain.previous) {
            return Says::Broken;
        }
        if let Some(next) = front.facts.onward().of(source) {
            return Says::Over(next);
        }
        spot_says(spot, source, &front.facts)
    }
}

/// That the records follow one another is proven by their digests, later.
fn spot_says(spot: &Spot, source: &SourceName, facts: &Log) -> Says {
    let Some(tx) = spot.tx else { return Says::Anew };
    let of_source = facts.spans.iter().enumerate().filter(|(_, span)| span.source == *source);
    for (at, span) in of_source {
        let is_other = matches!(span.after, After::Snapshot(other) if other != spot.snapshot);
        if is_other || span.branch != spot.branch {
            return Says::Anew;
        }
        // A part of the next commit, or what was read before a stop.
        if span.last <= tx {
            continue;
        }
        let goes_on = tx.next().is_some_and(|next| (span.first..=span.last).contains(&next));
        return if goes_on { Says::Commits(at) } else { Says::Broken };
    }
    Says::Nothing
}

/// What to do about the newest snapshot of the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    Stay,
    /// It is newer, and the log may still lead there.
    Wait,
    Jump,
}

/// `place`: where it is read next. `lost`: nothing more will come of the log. `waited`: this snapshot was there a while
/// ago already.
pub fn turn(spot: &Spot, place: Option<&Place>, newest: &ManifestFront, (lost, waited): (bool, bool)) -> Turn {
    let following = newest.facts.following.as_ref();
    let has_it = following
        .is_some_and(|following| newest.facts.branch == spot.branch && spot.tx.is_some_and(|tx| following.tx <= tx));
    // All that comes before it in its stream was read, and did not lead to it.
    let is_passed = following
        .zip(place)
        .is_some_and(|(following, place)| following.stream == place.stream && following.sequence <= place.sequence);
    if newest.name.id == spot.snapshot || newest.name.sequence <= spot.sequence || has_it {
        Turn::Stay
    } else if lost || waited || is_passed || place.is_none() {
        Turn::Jump
    } else {
        Turn::Wait
    }
}
