//! The log of a followed source as a reader sees it: from a snapshot, by name alone, to the end of what is
//! durable; and a restore point inside it.
//!
//! Owns what counts: the prefix without a hole whose spans follow one another. What lies behind a hole, a
//! gap or another snapshot is not reached from here.

mod ahead;
mod apply;
mod pages;
mod point;

pub use apply::{Onto, apply};
pub use pages::{Image, Lies, PageMap};
pub use point::{LogPoint, Next, Resolved, resolve};

use crate::OpsError;
use crate::prove::with_causes;
use ahead::Ahead;
use backstay_format::facts::{After, Following, Span};
use backstay_model::{BranchNo, Digest, Moment, Sequence, SourceName, StreamId, Tx};
use backstay_store::repo::{Chain, ManifestFront, Repository};

/// Streams that are followed one after another before it is taken for a circle.
const STREAMS_MAX: u32 = 1 << 16;

/// One object of a log, and the states it completes.
#[derive(Debug, Clone)]
pub struct Link {
    pub stream: StreamId,
    pub sequence: Sequence,
    pub digest: Digest,
    pub span: Span,
}

/// How far the log behind a snapshot reaches.
#[derive(Debug, Clone)]
pub struct Reach {
    pub links: Vec<Link>,
    /// The last complete state, and when it was committed. The snapshot's own if nothing follows it.
    pub tx: Tx,
    pub at: Moment,
    /// Why it ends there, if something follows that cannot be believed.
    pub fault: Option<String>,
}

/// The end of the streams a source's log lies in, for whoever takes over.
#[derive(Debug, Clone)]
pub struct LogTip {
    pub stream: StreamId,
    /// The slot nobody has taken yet.
    pub free: Chain,
    pub branch: BranchNo,
    /// The last complete state, and the highest number that was used.
    pub complete: Tx,
    pub used: Tx,
    pub time: Moment,
}

impl LogTip {
    /// Of a run that begins anew in its own stream.
    pub fn of_run(branch: BranchNo, complete: Tx, used: Tx, time: Moment) -> Self {
        Self { stream: StreamId::ZERO, free: Chain::START, branch, complete, used, time }
    }
}

/// Walks from a snapshot's place in a log as far as it goes without a hole.
pub async fn reach(repo: &Repository, front: &ManifestFront, following: &Following) -> Result<Reach, OpsError> {
    let mut reach = Reach { links: Vec::new(), tx: following.tx, at: front.facts.taken, fault: None };
    let (mut stream, mut sequence) = (following.stream, following.sequence);
    let mut previous: Option<Digest> = None;
    let mut after = After::Snapshot(front.name.id);
    let mut streams = 0;
    let mut ahead = Ahead::of(repo, stream, sequence);
    loop {
        let found = match ahead.front(sequence).await {
            Err(error) if error.is_outage() => return Err(error.into()),
            // What cannot be verified ends what can be restored.
            Err(error) => {
                reach.fault = Some(with_causes(&error));
                return Ok(reach);
            }
            Ok(None) => return Ok(reach),
            Ok(Some(found)) => found,
        };
        if previous.is_some_and(|previous| previous != found.chain.previous) {
            return Ok(reach.ending_before(sequence));
        }
        if let Some(next) = found.facts.next {
            streams += 1;
            if streams > STREAMS_MAX {
                return Ok(reach.ending_before(sequence));
            }
            (stream, sequence, previous) = (next, Sequence::FIRST, Some(Digest::ZERO));
            ahead = Ahead::of(repo, stream, sequence);
            continue;
        }
        let source = &front.facts.source;
        if let Some(span) = found.facts.spans.into_iter().find(|span| span.source == *source) {
            // Following that began anew in the same stream has its own snapshot: this line ends here.
            if matches!(span.after, After::Snapshot(other) if after != After::Snapshot(other)) {
                return Ok(reach);
            }
            let goes_on = span.branch == front.facts.branch
                && span.after == after
                && Some(span.first) == reach.tx.next().filter(|_| span.first <= span.last)
                || is_next_part(reach.links.last(), &span, after);
            if !goes_on {
                return Ok(reach.ending_before(sequence));
            }
            reach.add(Link { stream, sequence, digest: found.digest, span });
            after = After::Log { stream, sequence, digest: found.digest };
        }
        previous = Some(found.digest);
        let Some(next) = sequence.next() else { return Ok(reach) };
        sequence = next;
    }
}

impl Reach {
    fn add(&mut self, link: Link) {
        if let Some(complete) = link.span.completes().filter(|complete| *complete > self.tx) {
            self.tx = complete;
            // The time of a commit before an unfinished one is known from the records only.
            self.at = if link.span.unfinished { link.span.from } else { link.span.to };
        }
        self.links.push(link);
    }

    fn ending_before(mut self, sequence: Sequence) -> Self {
        self.fault = Some(format!("log object {sequence} does not follow what is before it"));
        self
    }
}

/// A commit in several parts: the number stays the same until its last part.
fn is_next_part(last: Option<&Link>, span: &Span, after: After) -> bool {
    last.is_some_and(|link| link.span.unfinished && span.first == link.span.last && span.after == after)
}

/// The end of the log that the newest followed snapshot of a source leads to.
pub async fn tip(repo: &Repository, source: &SourceName, fronts: &[ManifestFront]) -> Result<Option<LogTip>, OpsError> {
    let followed = fronts.iter().find_map(|front| Some((front, front.facts.following.as_ref()?)));
    let Some((front, following)) = followed else { return Ok(None) };
    let mut tip = LogTip {
        stream: following.stream,
        free: Chain::START,
        branch: front.facts.branch,
        complete: following.tx,
        used: following.tx,
        time: front.facts.taken,
    };
    for _ in 0..STREAMS_MAX {
        let Some(end) = repo.log_end(&tip.stream).await? else {
            tip.free = Chain::START;
            return Ok(Some(tip));
        };
        let Some(mut last) = repo.log_front(&tip.stream, end).await? else { continue };
        tip.free = Chain::after(end, last.digest).ok_or(backstay_model::backup::Exhausted)?;
        let next = last.facts.next;
        if next.is_some()
            && let Some(before) = end.get().checked_sub(1).filter(|n| *n > 0).map(Sequence::new)
            && let Some(found) = repo.log_front(&tip.stream, before).await?
        {
            last = found;
        }
        if let Some(span) = last.facts.spans.iter().find(|span| span.source == *source && span.branch == tip.branch)
            && span.last > tip.used
        {
            tip.used = span.last;
            tip.complete = if span.unfinished { Tx::new(span.last.get().saturating_sub(1)) } else { span.last };
            tip.time = span.to;
        }
        match next {
            Some(next) => tip.stream = next,
            None => return Ok(Some(tip)),
        }
    }
    Ok(Some(tip))
}
