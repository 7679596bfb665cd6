//! The log of a followed source as a reader sees it: from a snapshot, by name alone, to the end of what is
//! durable; and a restore point inside it.
//!
//! Owns what counts: the prefix without a hole whose spans follow one another. What lies behind a hole, a
//! gap or another snapshot is not reached from here.

mod ahead;
mod apply;
mod link;
mod merge;
mod pages;
mod point;
mod rolled;

pub(crate) use apply::Applying;
pub use apply::{Onto, apply};
pub use link::{Commits, Link};
pub use merge::{IMAGES_MAX, Opens, RECORDS_MAX, is_of, roll};
pub use pages::{Commit, Image, Lies, PageMap, PageMaps};
pub use point::{LogPoint, Next, Resolved, resolve};
pub use rolled::Rolled;

use crate::OpsError;
use crate::prove::with_causes;
use ahead::Ahead;
use backstay_format::facts::{After, Following, Span};
use backstay_model::{BranchNo, Digest, Moment, Sequence, SourceName, StreamId, Tx};
use backstay_store::keys::LogName;
use backstay_store::repo::{Chain, LogFront, ManifestFront, Repository};
use std::collections::BTreeSet;

/// Streams that are followed one after another before it is taken for a circle.
const STREAMS_MAX: u32 = 1 << 16;

/// Roll-ups that one walk is tried without.
const DOUBTED_MAX: usize = 4;

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
    /// Others write, or are about to write, into the stream as well.
    pub is_shared: bool,
    /// Why the end cannot be believed: then nobody knows which numbers were used.
    pub fault: Option<String>,
}

impl LogTip {
    /// Of a run that begins anew in its own stream.
    pub fn of_run(branch: BranchNo, complete: Tx, used: Tx, time: Moment) -> Self {
        Self { stream: StreamId::ZERO, free: Chain::START, branch, complete, used, time, is_shared: false, fault: None }
    }
}

/// Walks from a snapshot's place in a log as far as it goes without a hole: by roll-ups where there are any, else slot
/// by slot. What a roll-up says must fit what is behind it: where it does not, the way is gone again without it.
pub async fn reach(repo: &Repository, front: &ManifestFront, following: &Following) -> Result<Reach, OpsError> {
    let mut without = BTreeSet::new();
    let mut best: Option<Reach> = None;
    loop {
        let mut walk = Walk::begin(repo, front, following, &without).await?;
        while walk.step().await? == Way::GoesOn {}
        let Walk { reach, rolled, .. } = walk;
        let fault = reach.fault.is_some();
        if best.as_ref().is_none_or(|best| reach.tx > best.tx || reach.tx == best.tx && !fault) {
            best = Some(reach);
        }
        match (rolled.filter(|_| fault && without.len() < DOUBTED_MAX), best) {
            (Some(rolled), reach) => {
                without.insert(rolled);
                best = reach;
            }
            (None, Some(reach)) => return Ok(reach),
            (None, None) => unreachable!("there is the best of one walk at least"),
        }
    }
}

/// The first commit behind a snapshot's place in a log, and those it shares an object with.
pub async fn reach_first(repo: &Repository, front: &ManifestFront, following: &Following) -> Result<Reach, OpsError> {
    let without = BTreeSet::new();
    let mut walk = Walk::begin(repo, front, following, &without).await?;
    while walk.reach.tx == following.tx && walk.step().await? == Way::GoesOn {}
    Ok(walk.reach)
}

/// A walk along the commits of one source.
struct Walk<'a> {
    repo: &'a Repository,
    without: &'a BTreeSet<LogName>,
    source: &'a SourceName,
    branch: BranchNo,
    /// The next slot.
    sequence: Sequence,
    previous: Option<Digest>,
    /// What the next span comes after.
    after: After,
    reach: Reach,
    streams: u32,
    ahead: Ahead,
    /// The roll-up that was gone through last.
    rolled: Option<LogName>,
    /// The same, if nothing was found behind it yet.
    unsure: Option<LogFront>,
}

#[derive(PartialEq, Eq)]
enum Way {
    GoesOn,
    Ends,
}

impl<'a> Walk<'a> {
    async fn begin(
        repo: &'a Repository,
        front: &'a ManifestFront,
        following: &Following,
        without: &'a BTreeSet<LogName>,
    ) -> Result<Self, OpsError> {
        let sequence = following.sequence;
        Ok(Self {
            repo,
            without,
            source: &front.facts.source,
            branch: front.facts.branch,
            sequence,
            previous: None,
            after: front.facts.after(front.name.id),
            reach: Reach { links: Vec::new(), tx: following.tx, at: front.facts.taken, fault: None },
            streams: 0,
            ahead: Ahead::of(repo, following.stream, sequence, without).await?,
            rolled: None,
            unsure: None,
        })
    }

    async fn step(&mut self) -> Result<Way, OpsError> {
        let found = match self.ahead.front(self.sequence).await {
            Err(error) if error.is_outage() && !error.is_unreadable() => return Err(error.into()),
            // What cannot be verified ends what can be restored.
            Err(error) => return Ok(self.ends(with_causes(&error))),
            Ok(found) => found,
        };
        let follows = found.as_ref().is_some_and(|found| self.previous.is_none_or(|p| p == found.chain.previous));
        let unsure = self.unsure.take().filter(|_| !follows);
        if let Some(rolled) = unsure
            && !is_of_its_last_slot(self.repo, &rolled).await?
        {
            return Ok(self.ends(format!("{} is not of the slots it stands for", rolled.name.key())));
        }
        let Some(found) = found else { return Ok(Way::Ends) };
        if !follows {
            return Ok(self.ends_before());
        }
        if let Some(next) = found.facts.onward().of(self.source) {
            self.streams += 1;
            if self.streams > STREAMS_MAX {
                return Ok(self.ends_before());
            }
            (self.sequence, self.previous) = (Sequence::FIRST, Some(Digest::ZERO));
            self.ahead = Ahead::of(self.repo, next, self.sequence, self.without).await?;
            return Ok(Way::GoesOn);
        }
        if found.name.is_rolled() {
            self.rolled = Some(found.name);
        }
        if self.take(&found) == Way::Ends {
            return Ok(Way::Ends);
        }
        self.previous = Some(found.end);
        let Some(next) = found.name.last.next() else { return Ok(Way::Ends) };
        self.sequence = next;
        self.unsure = found.name.is_rolled().then_some(found);
        Ok(Way::GoesOn)
    }

    /// Takes what an object has of the source.
    fn take(&mut self, found: &LogFront) -> Way {
        for (at, span) in found.facts.spans.iter().enumerate().filter(|(_, span)| span.source == *self.source) {
            // Following that began anew in the same stream has its own snapshot: this line ends here.
            if matches!(span.after, After::Snapshot(other) if self.after != After::Snapshot(other)) {
                return Way::Ends;
            }
            let reach = &self.reach;
            let goes_on = span.branch == self.branch
                && span.after == self.after
                && Some(span.first) == reach.tx.next().filter(|_| span.first <= span.last)
                || is_next_part(reach.links.last(), span, self.after);
            if !goes_on {
                return self.ends_before();
            }
            self.reach.add(Link { name: found.name, digest: found.digest, span: span.clone() });
            self.after = found.behind(at);
        }
        Way::GoesOn
    }

    fn ends_before(&mut self) -> Way {
        self.ends(format!("log object {} does not follow what is before it", self.sequence))
    }

    fn ends(&mut self, fault: String) -> Way {
        self.reach.fault = Some(fault);
        Way::Ends
    }
}

/// The last two slots of a stream never go: a roll-up behind which nothing follows is believed when its last slot is
/// there and is the object that it names.
async fn is_of_its_last_slot(repo: &Repository, rolled: &LogFront) -> Result<bool, OpsError> {
    match repo.log_front(&rolled.name.stream, rolled.name.last).await {
        Ok(last) => Ok(last.is_some_and(|last| last.digest == rolled.end)),
        Err(error) if error.is_outage() => Err(error.into()),
        Err(_) => Ok(false),
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
}

/// A commit in several parts: the number stays the same until its last part.
fn is_next_part(last: Option<&Link>, span: &Span, after: After) -> bool {
    last.is_some_and(|link| link.span.unfinished && span.first == link.span.last && span.after == after)
}

/// The end of the log that the newest followed snapshot of a source leads to. One that is damaged is said to be, with
/// the slot behind it as the free one: what is put there can follow nothing, and still takes it from everybody else.
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
        is_shared: false,
        fault: None,
    };
    // Its last commits lie behind those of others.
    let mut is_behind = false;
    for _ in 0..STREAMS_MAX {
        let Some(end) = repo.log_end(&tip.stream).await? else {
            tip.free = Chain::START;
            break;
        };
        let found = believed(repo, (&tip.stream, end), &mut tip.fault).await?;
        if found.is_none() && tip.fault.is_some() {
            let sequence = end.next().ok_or(backstay_model::backup::Exhausted)?;
            tip.free = Chain { sequence, previous: Digest::ZERO };
            break;
        }
        let Some(mut last) = found else { continue };
        tip.free = Chain::after(end, last.digest).ok_or(backstay_model::backup::Exhausted)?;
        let (next, stay) = (last.facts.onward().of(source), last.facts.is_left_by_others(source));
        let is_shared = last.facts.shared;
        if next.is_some()
            && let Some(before) = end.get().checked_sub(1).filter(|n| *n > 0).map(Sequence::new)
            && let Some(found) = last_with_commits(repo, (&tip.stream, before), &mut tip.fault).await?
        {
            last = found;
        }
        let is_own = |span: &&Span| span.source == *source;
        is_behind |= !last.facts.spans.is_empty() && !last.facts.spans.iter().any(|span| is_own(&span));
        if let Some(span) = last.facts.spans.iter().rfind(|span| is_own(span) && span.branch == tip.branch)
            && span.last > tip.used
        {
            tip.used = span.last;
            tip.complete = if span.unfinished { Tx::new(span.last.get().saturating_sub(1)) } else { span.last };
            tip.time = span.to;
        }
        let Some(next) = next else {
            tip.is_shared |= is_shared || !last.facts.spans.iter().all(|span| is_own(&span));
            break;
        };
        (tip.stream, tip.is_shared) = (next, stay || is_shared);
    }
    if is_behind || tip.fault.is_some() {
        let reach = reach(repo, front, following).await?;
        let used = reach.links.last().map(|link| link.span.last);
        tip.used = tip.used.max(used.unwrap_or(tip.used));
        (tip.complete, tip.time, tip.fault) = (reach.tx, reach.at, tip.fault.or(reach.fault));
    }
    Ok(Some(tip))
}

/// The last slot of a stream that was taken over, or the roll-up that it was sealed again in and let go for.
async fn last_with_commits(
    repo: &Repository,
    (stream, slot): (&StreamId, Sequence),
    fault: &mut Option<String>,
) -> Result<Option<LogFront>, OpsError> {
    let found = believed(repo, (stream, slot), fault).await?;
    if found.is_some() || fault.is_some() {
        return Ok(found);
    }
    for name in Rolled::of(repo, stream).await?.over(slot).iter().filter(|name| name.last == slot) {
        match repo.log_front_of(name).await {
            Ok(None) => {}
            Err(error) if error.is_outage() && !error.is_unreadable() => return Err(error.into()),
            Err(error) => *fault = Some(with_causes(&error)),
            found => {
                *fault = None;
                return Ok(found?);
            }
        }
    }
    Ok(None)
}

/// What stands in a slot, unless it cannot be verified or had: then that is kept as the fault.
async fn believed(
    repo: &Repository,
    (stream, slot): (&StreamId, Sequence),
    fault: &mut Option<String>,
) -> Result<Option<LogFront>, OpsError> {
    match repo.log_front(stream, slot).await {
        Ok(found) => Ok(found),
        Err(error) if error.is_outage() && !error.is_unreadable() => Err(error.into()),
        Err(error) => {
            *fault = Some(with_causes(&error));
            Ok(None)
        }
    }
}
