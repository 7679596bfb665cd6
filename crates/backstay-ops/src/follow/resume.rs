//! Where a run begins: behind what the run before made durable, if the log can still prove it, else with a snapshot.
//!
//! Whichever way, the next slot of the stream the log ends in is taken first, so that nothing can come into it any more.
//! Where others write into that stream, their logs go on in a stream that nobody is in yet, and only this source's goes
//! where this run says: they follow, see [`Follower::tick`](super::Follower::tick), and lose nothing.

use super::audit::Audit;
use super::begin::{Anew, begin_anew, open_tail};
use super::catch::Catcher;
use super::ends::{close, fresh, onward};
use super::hours::{self, Hours};
use super::memory::{Durable, Memory, Standing};
use super::ship::Shipper;
use super::turns::Turns;
use super::{Began, FollowRequest, Halves, key_of};
use crate::OpsError;
use crate::backup::gather;
use crate::catalog::Vault;
use crate::env::blocking;
use crate::log::{self, LogTip};
use backstay_format::facts::After;
use backstay_model::backup::Exhausted;
use backstay_model::{Sequence, SourceName, StreamId};
use backstay_sqlite::{SqliteError, Step, Tail};
use backstay_store::repo::{Chain, ManifestFront, RepoError};

/// How often a lost race for a stream's end is run again.
const ATTEMPTS: u32 = 4;
const ATTEMPTS_SHARED: u32 = 128;

/// Both halves of a run, in a stream of its own.
pub async fn begin<'v>(
    vault: &'v Vault,
    request: &FollowRequest,
    turns: &Turns,
) -> Result<(Began, Halves<'v>), OpsError> {
    let (stream, mut tail) = (fresh(vault), open_tail(vault, request)?);
    match resume((vault, turns), request, &mut tail, stream).await? {
        Ok(resumed) => resumed.goes_on(vault, request, (tail, stream)),
        Err(why) => anew(vault, request, turns, (tail, stream, why.reason)).await,
    }
}

/// The same of a run whose stream ended for others, in the same stream, `next`, however often it is tried; `None` if its own
/// source was taken over as well.
pub async fn go_on<'v>(
    vault: &'v Vault,
    request: &FollowRequest,
    turns: &Turns,
    next: &mut Option<StreamId>,
) -> Result<Option<(Began, Halves<'v>)>, OpsError> {
    // Should no answer come, it is known again.
    let (stream, mut tail) = (*next.get_or_insert_with(|| fresh(vault)), open_tail(vault, request)?);
    match resume((vault, turns), request, &mut tail, stream).await? {
        Ok(resumed) => resumed.goes_on(vault, request, (tail, stream)).map(Some),
        Err(why) if why.is_taken => Ok(None),
        Err(why) => {
            // Its log may lead there since an attempt before: what ends that stream must not lead into it.
            *next = None;
            anew(vault, request, turns, (tail, fresh(vault), why.reason)).await.map(Some)
        }
    }
}

/// Behind a gap.
async fn anew<'v>(
    vault: &'v Vault,
    request: &FollowRequest,
    turns: &Turns,
    (mut tail, stream, mut reason): (Tail, StreamId, String),
) -> Result<(Began, Halves<'v>), OpsError> {
    tail.release();
    let _turn = turns.snapshot(&request.path).await;
    let tip = fence(vault, &request.source, stream).await?;
    if let Some(fault) = tip.as_ref().and_then(|tip| tip.fault.as_ref()) {
        reason = format!("{reason}, and the end of its log cannot be read: {fault}");
    }
    let place = Anew { stream, sequence: Sequence::FIRST, previous: None, tip, reason };
    let (began, catcher, shipper, hours) = begin_anew(vault, request, tail, place).await?;
    Ok((began, Halves::new(catcher, shipper, hours)))
}

struct Resumed {
    memory: Memory,
    standing: Standing,
    caught: backstay_sqlite::Caught,
    after: After,
    /// The newest snapshot: the one that following began with, or one made of its log.
    newest: ManifestFront,
}

impl Resumed {
    fn goes_on<'v>(
        self,
        vault: &'v Vault,
        request: &FollowRequest,
        (tail, stream): (Tail, StreamId),
    ) -> Result<(Began, Halves<'v>), OpsError> {
        let Self { memory, standing, caught, after, newest } = self;
        let key = key_of(&memory.fingerprint);
        let ours = (memory.snapshot, memory.branch);
        let place = hours::place_of(ours, key, (stream, Sequence::FIRST, after), &standing);
        let hours = Hours::resume(vault, request, (&newest, place))?;
        let shipper = Shipper::new(vault, &request.source, stream, &memory, after, standing.clone())?;
        let audit = Audit::begin(&key_of(&memory.fingerprint), &standing.cursor, None);
        let mut catcher = Catcher::new(tail, &standing, request.limits, audit, vault.env.clock.clone());
        catcher.take(caught)?;
        Ok((Began::Continued { tx: standing.tx }, Halves::new(catcher, shipper, hours)))
    }
}

/// Why it cannot be gone on.
struct Why {
    reason: String,
    /// Somebody else has the source since.
    is_taken: bool,
}

/// Looks whether everything that proves continuity is there; if not, says what is missing.
async fn resume(
    (vault, turns): (&Vault, &Turns),
    request: &FollowRequest,
    tail: &mut Tail,
    next: StreamId,
) -> Result<Result<Resumed, Why>, OpsError> {
    let say = |why: &str| Ok(Err(Why { reason: why.to_owned(), is_taken: false }));
    let taken = |why: &str| Ok(Err(Why { reason: why.to_owned(), is_taken: true }));
    let Some(mut memory) = Memory::recall(vault, &request.source)? else {
        return say("this host remembers nothing of following it");
    };
    // After a crash all that shared it end it, one after another.
    let _alone = if memory.aboard.is_some() { turns.end(&memory.stream).await } else { None };
    // What the run before kept on the disk comes first: it is of the file that was followed then.
    let durable = memory.durable(vault, (&request.source, next)).await?;
    if memory.file != tail.identity().into() {
        return say("another file stands at its path");
    }
    let seen = vault.state.seen(&request.source)?;
    let (fronts, _) = vault.repo.newest_fronts(&request.source, gather::LOOK_BACK).await?;
    let tip = fronts.iter().find(|front| !front.facts.imported);
    if !gather::tip_is_ours(vault, &seen, tip) || tip.is_none_or(|tip| tip.facts.branch != memory.branch) {
        return taken("the newest snapshot is not one this host took of it");
    }
    // Of a snapshot that is not the newest a prune may decide that it is no longer needed. One made of the log leads to
    // the same log.
    let began = |front: &ManifestFront| front.facts.made().map_or(front.name.id, |made| made.began);
    let Some(newest) = tip.filter(|front| began(front) == memory.snapshot).cloned() else {
        return taken("another snapshot was taken since");
    };
    let Some(durable) = durable else { return taken("its log goes on beyond what this host remembers") };
    tail.reach(Step::Recalled);
    let caught = match blocking(|| tail.advance(&durable.standing.cursor)) {
        Ok(Ok(caught)) => caught,
        Ok(Err(lost)) => return say(&lost.to_string()),
        Err(SqliteError::NotWal { path }) => return Err(SqliteError::NotWal { path }.into()),
        Err(error) => return Err(error.into()),
    };
    tail.reach(Step::Resumed);
    // Killed behind the end of that stream, the next run knows whose it is. What cannot be written costs it a snapshot.
    memory = memory.stands_at(&durable, next);
    let _ = memory.write(vault, &request.source);
    match take_over(vault, (&request.source, &memory), durable, next).await? {
        Some(Durable { standing, after, .. }) => Ok(Ok(Resumed { memory, standing, caught, after, newest })),
        None => taken("its log was taken over"),
    }
}

/// Ends the stream the run before wrote into, or the one it goes on in since others were taken over; `None` if this
/// source was.
async fn take_over(
    vault: &Vault,
    (source, memory): (&SourceName, &Memory),
    mut at: Durable,
    next: StreamId,
) -> Result<Option<Durable>, OpsError> {
    // Each of those that share a stream may come first.
    let attempts = if at.is_shared { ATTEMPTS_SHARED } else { ATTEMPTS };
    for _ in 0..attempts {
        if at.is_ended {
            return Ok(Some(at));
        }
        let chain = Chain { sequence: at.sequence.next().ok_or(Exhausted)?, previous: at.digest };
        match close(vault, at.stream, chain, onward(vault, source, next, at.is_shared)).await {
            Ok(()) => return Ok(Some(at)),
            Err(RepoError::LostRace { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        match memory.durable(vault, (source, next)).await? {
            Some(later) if later.standing == at.standing => at = later,
            _ => return Ok(None),
        }
    }
    Ok(None)
}

/// Ends whatever stream the newest followed snapshot leads to, and says how far its log reached.
async fn fence(vault: &Vault, source: &SourceName, next: StreamId) -> Result<Option<LogTip>, OpsError> {
    let (mut fronts, _) = vault.repo.newest_fronts(source, gather::LOOK_BACK).await?;
    if fronts.len() >= gather::LOOK_BACK && fronts.iter().all(|front| front.facts.following.is_none()) {
        // It may have been followed long ago: numbers are never used again.
        fronts = vault.catalog(source).await?.fronts.into_values().collect();
        fronts.sort_by_key(|front| std::cmp::Reverse(front.chain.sequence));
    }
    let mut attempts = ATTEMPTS;
    loop {
        attempts -= 1;
        let Some(tip) = log::tip(&vault.repo, source, &fronts).await? else { return Ok(None) };
        match close(vault, tip.stream, tip.free, onward(vault, source, next, tip.is_shared)).await {
            Ok(()) => return Ok(Some(tip)),
            Err(RepoError::LostRace { .. }) if attempts > 0 => {}
            Err(error) => return Err(error.into()),
        }
    }
}
