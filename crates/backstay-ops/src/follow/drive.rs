//! The loop that follows: looks when something was heard, puts at a pace, and goes on by itself after what passes.
//!
//! Owns when things happen, for any number of sources side by side, and nothing of what happens. A source that cannot
//! go on is left where it stands and told of; the others go on. Told to stop, every source makes durable what there
//! is, or keeps it sealed on the disk when the store does not answer in time.

use super::pace::{Pace, Pacing};
use super::watch::{Heard, Watch};
use super::{Alarm, Began, Follower, Ticked, is_passing};
use crate::OpsError;
use backstay_model::{Clock, Kind, Kinded, SourceName};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch as wish};

/// Between two looks while something is being written.
const LOOK_GAP: Duration = Duration::from_millis(10);
/// So long after something was written it is looked at every gap: a checkpoint ends without another write.
const ALERT: Duration = Duration::from_millis(100);
/// How long the last puts may take after being told to stop.
const DRAIN: Duration = Duration::from_secs(20);
/// Between two attempts at a database that could not be read.
const PAUSE: Duration = Duration::from_secs(5);

/// One source that is being followed.
pub struct Member<'v> {
    pub source: SourceName,
    pub path: PathBuf,
    pub follower: Follower<'v>,
    pub pace: Pace,
    pub sum: Ticked,
    /// Why it cannot go on, once it cannot.
    pub ended: Option<OpsError>,
}

/// What happened to a source, for whoever shows it.
pub enum Told<'a> {
    /// Following began anew, with a gap.
    Began(&'a Began),
    /// The store does not take it; it is tried again.
    StoreAway(&'a OpsError),
    StoreBack,
    /// The database could not be read; it is tried again.
    Unreadable(&'a OpsError),
    Alarmed(Alarm),
    AlarmEnded,
    /// It cannot go on.
    Ended(&'a OpsError),
    /// It was told to stop and the store did not answer: so many commits wait on the disk for the next run.
    Kept(u64),
}

/// What members tell.
pub type Tell<'t> = &'t dyn Fn(&Member<'_>, Told<'_>);

impl Member<'_> {
    fn add(&mut self, ticked: Ticked) {
        self.sum.caught += ticked.caught;
        self.sum.shipped += ticked.shipped;
        self.sum.objects += ticked.objects;
        self.sum.bytes += ticked.bytes;
        if ticked.began.is_some() {
            self.sum.began = ticked.began;
        }
    }
}

/// Follows until `stop` says so, then drains.
pub async fn drive(members: &mut [Member<'_>], clock: &dyn Clock, stop: wish::Receiver<bool>, tell: Tell<'_>) {
    let notes: Vec<Arc<Notify>> = members.iter().map(|_| Arc::default()).collect();
    let watch = begin_watch(members);
    let heard = hear(watch.as_ref(), &notes);
    let runs = members.iter_mut().zip(&notes).map(|(member, note)| run(member, note, clock, stop.clone(), tell));
    let all = futures::future::join_all(runs);
    tokio::select! {
        biased;
        _ = all => {}
        () = heard => {}
    }
}

/// Where nothing can be heard it is looked at a slow pace.
fn begin_watch(members: &[Member<'_>]) -> Option<Watch> {
    let mut watch = Watch::begin().ok()?;
    for (at, member) in members.iter().enumerate() {
        let _ = watch.add(&member.path, at);
    }
    Some(watch)
}

/// Passes on what is heard. Never ends.
async fn hear(watch: Option<&Watch>, notes: &[Arc<Notify>]) {
    if let Some(watch) = watch {
        while let Ok(Heard { members, everything }) = watch.next().await {
            let told = notes.iter().enumerate().filter(|(at, _)| everything || members.contains(at));
            told.for_each(|(_, note)| note.notify_one());
            // What is written meanwhile is read together.
            tokio::time::sleep(LOOK_GAP / 2).await;
        }
    }
    std::future::pending::<()>().await;
}

/// How one member's loop stands.
struct Stand {
    pacing: Pacing,
    /// Until then it is looked at every gap.
    alert_until: Duration,
    store_away: bool,
    unreadable: bool,
    alarm: Option<Alarm>,
}

async fn run(
    member: &mut Member<'_>,
    note: &Notify,
    clock: &dyn Clock,
    mut stop: wish::Receiver<bool>,
    tell: Tell<'_>,
) {
    let pacing = Pacing::new(member.pace);
    let mut stand = Stand { pacing, alert_until: Duration::ZERO, store_away: false, unreadable: false, alarm: None };
    loop {
        if let Err(error) = step(member, &mut stand, clock, tell).await {
            if error.kind() == Kind::Cancelled {
                break;
            }
            tell(member, Told::Ended(&error));
            member.ended = Some(error);
            return;
        }
        let (now, pace) = (clock.uptime(), member.pace);
        let pause = if stand.unreadable {
            PAUSE
        } else if now < stand.alert_until {
            LOOK_GAP
        } else if member.follower.has_news() {
            stand.pacing.next.saturating_sub(now).clamp(LOOK_GAP, pace.poll)
        } else {
            pace.poll
        };
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            () = note.notified() => stand.alert_until = clock.uptime() + ALERT,
            () = tokio::time::sleep(pause) => {}
        }
    }
    drain(member, tell).await;
}

/// One look, and a put where one is due.
async fn step(member: &mut Member<'_>, stand: &mut Stand, clock: &dyn Clock, tell: Tell<'_>) -> Result<(), OpsError> {
    match member.follower.catch() {
        Ok(count) => {
            member.sum.caught += count;
            stand.unreadable = false;
        }
        Err(error) if is_passing(&error) => {
            if !std::mem::replace(&mut stand.unreadable, true) {
                tell(member, Told::Unreadable(&error));
            }
        }
        Err(error) => return Err(error),
    }
    let now = clock.uptime();
    if member.follower.has_news() && now >= stand.pacing.next {
        match member.follower.tick().await {
            Ok(ticked) => {
                stand.pacing.put(now);
                if let Some(began) = &ticked.began {
                    stand.pacing.began(now, member.follower.position().mode);
                    tell(member, Told::Began(began));
                }
                member.add(ticked);
                if std::mem::take(&mut stand.store_away) {
                    tell(member, Told::StoreBack);
                }
            }
            Err(error) if is_passing(&error) => {
                stand.pacing.failed(clock.uptime());
                if !std::mem::replace(&mut stand.store_away, true) {
                    tell(member, Told::StoreAway(&error));
                }
            }
            Err(error) => return Err(error),
        }
    }
    let alarm = member.follower.position().alarm;
    if stand.alarm != alarm {
        stand.alarm = alarm;
        tell(member, alarm.map_or(Told::AlarmEnded, Told::Alarmed));
    }
    Ok(())
}

/// Makes durable what there is, or keeps it for the next run.
async fn drain(member: &mut Member<'_>, tell: Tell<'_>) {
    let failed = match tokio::time::timeout(DRAIN, member.follower.tick()).await {
        Ok(Ok(ticked)) => {
            member.add(ticked);
            return;
        }
        Ok(Err(error)) => Some(error),
        Err(_) => None,
    };
    match failed {
        Some(error) if !is_passing(&error) && error.kind() != Kind::Cancelled => {
            tell(member, Told::Ended(&error));
            member.ended = Some(error);
        }
        _ => {
            let kept = member.follower.keep();
            tell(member, Told::Kept(kept));
        }
    }
}
