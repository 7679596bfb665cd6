//! The loop that follows: looks when something was heard, puts at a pace, and goes on by itself after what passes.
//!
//! Owns when things happen, for any number of sources side by side, and nothing of what happens. A source that cannot
//! go on is left where it stands and told of; the others go on. Told to stop, every source makes durable what there
//! is, or keeps it sealed on the disk when the store does not answer in time.

use super::account::{self, Account, Gap};
use super::pace::{Pace, Pacing};
use super::watch::{Heard, Watch};
use super::{Alarm, Audited, Began, Followed, Ticked, is_passing};
use crate::OpsError;
use crate::catalog::Vault;
use backstay_model::{Clock, Kind, Kinded, Moment, SourceName};
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch as wish};

/// Between two looks while something is being written.
const LOOK_GAP: Duration = Duration::from_millis(10);
/// So long after something was written it is looked at every gap: a checkpoint ends without another write.
const ALERT: Duration = Duration::from_millis(100);
/// How long the last puts may take after being told to stop.
const DRAIN: Duration = Duration::from_secs(20);
/// Between two accounts of what changed, and of what did not.
const SAY_GAP: Duration = Duration::from_secs(1);
const SAY_EVERY: Duration = Duration::from_secs(60);
const METRICS_EVERY: Duration = Duration::from_secs(5);
/// Between two attempts at a database that could not be read.
const PAUSE: Duration = Duration::from_secs(5);

/// One source that is being followed.
pub struct Member<'v> {
    pub source: SourceName,
    pub path: PathBuf,
    pub follower: Followed<'v>,
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
    /// A page of the live database is not what was captured of it; following begins anew.
    AuditFailed {
        page: u32,
    },
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

/// What the loop is given.
pub struct Driving<'d> {
    pub clock: &'d dyn Clock,
    pub stop: wish::Receiver<bool>,
    pub tell: Tell<'d>,
    /// Where metrics are written.
    pub metrics: Option<&'d Path>,
}

/// Follows until told to stop, then drains.
pub async fn drive(members: &mut [Member<'_>], driving: &Driving<'_>) {
    let Some(vault) = members.first().map(|member| member.follower.vault()) else { return };
    let notes: Vec<Arc<Notify>> = members.iter().map(|_| Arc::default()).collect();
    let names: Vec<SourceName> = members.iter().map(|member| member.source.clone()).collect();
    let accounts: Vec<Said> = members.iter().map(|_| Said::default()).collect();
    let watch = begin_watch(members);
    let heard = hear(watch.as_ref(), &notes);
    let metrics = async {
        let Some(path) = driving.metrics else { return std::future::pending::<()>().await };
        loop {
            write_metrics(vault, path, (&names, &accounts), driving.clock);
            tokio::time::sleep(METRICS_EVERY).await;
        }
    };
    let places = notes.iter().zip(&accounts);
    let runs = members.iter_mut().zip(places).map(|(member, (note, account))| run(member, note, account, driving));
    let all = futures::future::join_all(runs);
    tokio::select! {
        biased;
        _ = all => {}
        () = heard => {}
        () = metrics => {}
    }
    if let Some(path) = driving.metrics {
        write_metrics(vault, path, (&names, &accounts), driving.clock);
    }
}

/// The account a member gave last.
type Said = RefCell<Option<Account>>;

/// Best effort: whoever collects notices that its time stands still.
fn write_metrics(vault: &Vault, path: &Path, (names, accounts): (&[SourceName], &[Said]), clock: &dyn Clock) {
    let of = |(name, account): (&SourceName, &Said)| Some((name.clone(), account.borrow().clone()?));
    let said: Vec<(SourceName, Account)> = names.iter().zip(accounts).filter_map(of).collect();
    let _ = account::write_metrics(vault, path, &account::metrics(&said, clock.now()));
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
    unreadable: bool,
    alarm: Option<Alarm>,
    store_away_since: Option<Moment>,
    gaps: u64,
    last_gap: Option<Gap>,
    audited: Option<Audited>,
    audit_wrong: u64,
    /// When the account was written last.
    written: Option<Duration>,
}

impl Stand {
    fn begin(member: &Member<'_>, now: Moment) -> Self {
        let mut stand = Self {
            pacing: Pacing::new(member.pace),
            alert_until: Duration::ZERO,
            unreadable: false,
            alarm: None,
            store_away_since: None,
            gaps: 0,
            last_gap: None,
            audited: None,
            audit_wrong: 0,
            written: None,
        };
        stand.began(member.follower.began(), now);
        stand
    }

    fn began(&mut self, began: &Began, now: Moment) {
        if let Began::Snapshot { reason: Some(reason), .. } = began {
            self.gaps += 1;
            self.last_gap = Some(Gap { at: now, reason: reason.clone() });
        }
    }

    fn account(&self, member: &Member<'_>, now: Moment) -> Account {
        Account {
            interval_millis: u64::try_from(self.pacing.interval().as_millis()).unwrap_or(u64::MAX),
            store_away_since: self.store_away_since,
            gaps: self.gaps,
            last_gap: self.last_gap.clone(),
            audit_wrong: self.audit_wrong,
            objects: member.sum.objects,
            bytes: member.sum.bytes,
            ..Account::new(&member.follower.position(), now)
        }
    }

    /// Says where it stands, when that changed and was not said just now, or after a while.
    fn say(&mut self, member: &Member<'_>, account: &Said, clock: &dyn Clock) {
        let (now, uptime) = (self.account(member, clock.now()), clock.uptime());
        let since = self.written.map(|written| uptime.saturating_sub(written));
        let changed = account.borrow().as_ref().is_none_or(|said| !said.says_the_same(&now));
        if since.is_none_or(|since| since >= SAY_EVERY || (changed && since >= SAY_GAP)) {
            now.write(member.follower.vault(), &member.source);
            self.written = Some(uptime);
            account.replace(Some(now));
        }
    }

    /// How long nothing needs to be done, if nothing is heard.
    fn pause(&self, member: &Member<'_>, now: Duration) -> Duration {
        let poll = member.pace.poll;
        if self.unreadable {
            PAUSE
        } else if now < self.alert_until {
            LOOK_GAP
        } else if member.follower.has_news() {
            self.pacing.next.saturating_sub(now).clamp(LOOK_GAP, poll)
        } else {
            poll
        }
    }
}

/// Says where a source stands that was followed once and is not any longer.
pub fn account_of_once(member: &Member<'_>, clock: &dyn Clock) {
    let now = clock.now();
    let mut stand = Stand::begin(member, now);
    if let Some(began) = &member.sum.began {
        stand.began(began, now);
    }
    let last = Account { stopped: Some(now), ..stand.account(member, now) };
    last.write(member.follower.vault(), &member.source);
}

async fn run(member: &mut Member<'_>, note: &Notify, account: &Said, driving: &Driving<'_>) {
    let (clock, tell, mut stop) = (driving.clock, driving.tell, driving.stop.clone());
    let mut stand = Stand::begin(member, clock.now());
    loop {
        if let Err(error) = step(member, &mut stand, clock, tell).await {
            if error.kind() != Kind::Cancelled {
                tell(member, Told::Ended(&error));
                member.ended = Some(error);
            }
            break;
        }
        stand.say(member, account, clock);
        let pause = stand.pause(member, clock.uptime());
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            () = note.notified() => stand.alert_until = clock.uptime() + ALERT,
            () = tokio::time::sleep(pause) => {}
        }
    }
    if member.ended.is_none() {
        drain(member, tell).await;
    }
    let ended = member.ended.as_ref().map(ToString::to_string);
    let stopped = Some(clock.now()).filter(|_| ended.is_none());
    let last = Account { ended, stopped, ..stand.account(member, clock.now()) };
    last.write(member.follower.vault(), &member.source);
    account.replace(Some(last));
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
                    stand.began(began, clock.now());
                    tell(member, Told::Began(began));
                }
                member.add(ticked);
                if stand.store_away_since.take().is_some() {
                    tell(member, Told::StoreBack);
                }
            }
            Err(error) if is_passing(&error) => {
                stand.pacing.failed(clock.uptime());
                if stand.store_away_since.is_none() {
                    stand.store_away_since = Some(clock.now());
                    tell(member, Told::StoreAway(&error));
                }
            }
            Err(error) => return Err(error),
        }
    }
    match member.follower.roll().await {
        Ok(rolled) => member.add(rolled),
        // What could not be read meanwhile is with the next look.
        Err(error) if is_passing(&error) => {}
        Err(error) => return Err(error),
    }
    let (audit, alarm) = (member.follower.position().audit, member.follower.position().alarm);
    if let Some(Audited { wrong: Some(page), .. }) = audit.filter(|audit| stand.audited != Some(*audit)) {
        stand.audit_wrong += 1;
        tell(member, Told::AuditFailed { page });
    }
    stand.audited = audit;
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
