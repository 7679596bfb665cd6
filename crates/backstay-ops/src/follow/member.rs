//! One source being followed: looks when something was heard, puts at a pace, and goes on by itself after what passes.
//!
//! Owns when things happen, and nothing of what happens. What cannot be begun yet is tried again; what cannot go on is
//! left where it stands and told of.

use super::account::{Account, Gap};
use super::drive::{Order, Outcome, Patience, Shared, Told};
use super::pace::{Hearing, Pace, Pacing};
use super::{Alarm, Audited, Began, Followed, Mode, Ticked, is_passing};
use crate::OpsError;
use crate::catalog::Vault;
use backstay_model::{Clock, Kind, Kinded, Moment, SourceName};
use backstay_sqlite::SqliteError;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// So long a snapshot of everything may take before somebody with other keys goes on.
const LAST_HOUR: Duration = Duration::from_secs(10);
/// Between two looks while something is being written.
const LOOK_GAP: Duration = Duration::from_millis(10);
/// The same where nothing is listened for, as often as it would be heard.
const HUSHED_GAP: Duration = Duration::from_millis(5);
/// So long after something was written it is looked at every gap: a checkpoint ends without another write.
const ALERT: Duration = Duration::from_millis(100);
/// Between two accounts of what changed, and of what did not.
const SAY_GAP: Duration = Duration::from_secs(1);
const SAY_EVERY: Duration = Duration::from_secs(60);
/// Between two attempts at a database that could not be read.
const PAUSE: Duration = Duration::from_secs(5);
/// Between two looks at one that rests, or is quiet, if nothing is heard of it.
const REST_POLL: Duration = Duration::from_secs(10);
/// It is quiet when there was nothing for so long.
const QUIET: Duration = Duration::from_secs(60);
/// How long none is left to rest again once that has cost a snapshot; twice as long each time.
const RESTLESS: Duration = Duration::from_secs(3600);
/// The same at one that is not there yet, if nothing is heard of it.
const LOOK_FOR: Duration = Duration::from_millis(500);

/// Tells of a newer configuration.
type Renewed = watch::Receiver<Arc<Vault>>;

struct Member<'s> {
    shared: &'s Shared,
    source: SourceName,
    path: PathBuf,
    note: Arc<Notify>,
    renewed: Renewed,
    follower: Followed<'s>,
    pace: Pace,
    sum: Ticked,
    rest_after: Option<Duration>,
    /// A file that goes is the end of it, and no trouble.
    may_vanish: bool,
    /// Why it cannot go on, once it cannot.
    ended: Option<OpsError>,
    vanished: bool,
    /// What it follows with is not what it should follow with from now on.
    begins_again: bool,
    stand: Stand,
}

/// How the loop stands.
struct Stand {
    pacing: Pacing,
    /// Until then it is looked at every gap.
    alert_until: Duration,
    unreadable: bool,
    /// When commits became durable last.
    put_at: Duration,
    /// When there was something last, and until when it is not left to rest.
    busy_at: Duration,
    restless_until: Duration,
    restless_for: Duration,
    /// Something was heard of it.
    heard: bool,
    /// The last commits were found without having been heard.
    is_deaf: bool,
    hearing: Hearing,
    alarm: Option<Alarm>,
    store_away_since: Option<Moment>,
    gaps: u64,
    last_gap: Option<Gap>,
    audited: Option<Audited>,
    audit_wrong: u64,
    /// What was said last, and when.
    said: Option<(Duration, Account)>,
}

/// Follows a source until told to stop, or until it cannot go on.
pub(super) async fn follow(shared: &Shared, order: Order) -> Outcome {
    let (source, note) = (order.request.source.clone(), Arc::new(Notify::new()));
    let mut over = std::pin::pin!(shared.is_over());
    shared.hear_of(&order.request.path, &note);
    let (mut renewed, mut sum) = (shared.newest.subscribe(), Ticked::default());
    let ended = loop {
        let vault = renewed.borrow_and_update().clone();
        match begin((shared, &vault), &order, &note, &mut over).await {
            Ok(Some(follower)) => {
                // What a symbolic link leads to is known now.
                shared.hear_of(&order.request.path, &note);
                let mut member = Box::new(Member::new(shared, &order, follower, (note.clone(), renewed.clone())));
                member.add(std::mem::take(&mut sum));
                let done = member.run(&mut over).await;
                shared.puts_no_more(&source);
                match done {
                    Ok(outcome) => return outcome,
                    Err(done) => sum = done,
                }
            }
            Ok(None) => break None,
            // Between the look at the keys and the first word they were changed.
            Err(OpsError::KeysChanged) if shared.is_renewed(&mut renewed, &mut over).await => {}
            Err(error) => break Some(error),
        }
    };
    if let Some(error) = ended.as_ref().filter(|error| error.kind() != Kind::Cancelled) {
        shared.tell(&source, Told::Ended(error));
    }
    let vanished = order.may_vanish && matches!(ended, Some(OpsError::Sqlite(SqliteError::Missing { .. })));
    let ended = ended.filter(|_| !vanished);
    Outcome { source, began: None, position: None, sum: Ticked::default(), ended, vanished }
}

/// When nobody waits any longer.
trait Over: Future<Output = ()> + Unpin {}
impl<F: Future<Output = ()> + Unpin> Over for F {}

/// Begins to follow, however often it takes. `None` when there never was anything to follow.
async fn begin<'s>(
    (shared, vault): (&'s Shared, &'s Vault),
    order: &Order,
    note: &Notify,
    mut over: impl Over,
) -> Result<Option<Followed<'s>>, OpsError> {
    let (mut pacing, mut told, mut stop) = (Pacing::new(order.pace), false, shared.driving.stop.clone());
    loop {
        let error = tokio::select! {
            biased;
            started = start((shared, vault), order) => match started {
                Ok(follower) => return Ok(Some(follower)),
                Err(error) => error,
            },
            () = &mut over => return Err(OpsError::Cancelled),
        };
        let (early, stopping) = (is_early(&error, order.patience), shared.is_stopping());
        let missing = matches!(error, OpsError::Sqlite(SqliteError::Missing { .. }));
        match (early, missing) {
            // Who never made a database leaves nothing to make durable.
            (true, true) if stopping => return Ok(None),
            (true, _) if !stopping => {}
            (false, false) if is_passing(&error) && (!stopping || shared.driving.drain.insists) => {}
            // What keeps no log when everything has ended will not get one.
            _ => return Err(error),
        }
        if !std::mem::replace(&mut told, true) {
            let is_away = matches!(error.kind(), Kind::Unavailable | Kind::NoSpace);
            let told = if is_away { Told::StoreAway(&error) } else { Told::Unreadable(&error) };
            shared.tell(&order.request.source, told);
        }
        let now = shared.vault.env.clock.uptime();
        pacing.failed(now);
        let pause = if early { LOOK_FOR } else { pacing.next.saturating_sub(now) };
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop), if !stopping => {}
            () = &mut over => return Err(error),
            () = note.notified(), if early => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn start<'s>((shared, vault): (&'s Shared, &'s Vault), order: &Order) -> Result<Followed<'s>, OpsError> {
    let path = &order.request.path;
    if order.patience != Patience::Store && !path.exists() {
        return Err(SqliteError::Missing { path: path.clone() }.into());
    }
    Followed::start_in(vault, order.request.clone(), order.patience == Patience::Log, &shared.turns).await
}

/// A database that is not yet what can be followed.
fn is_early(error: &OpsError, patience: Patience) -> bool {
    match error {
        OpsError::Sqlite(SqliteError::Missing { .. }) => patience != Patience::Store,
        OpsError::Sqlite(SqliteError::NotWal { .. }) => patience == Patience::Log,
        _ => false,
    }
}

impl<'s> Member<'s> {
    fn new(shared: &'s Shared, order: &Order, follower: Followed<'s>, (note, renewed): (Arc<Notify>, Renewed)) -> Self {
        let pace = match follower.position().mode {
            Mode::Snapshots => {
                Pace { interval: order.snapshot_interval, steady: order.snapshot_interval, ..order.pace }
            }
            _ => order.pace,
        };
        let stand = Stand::begin(pace, shared.vault.env.clock.uptime());
        let (source, sum) = (order.request.source.clone(), Ticked::default());
        let (rest_after, may_vanish) = (order.rest_after, order.may_vanish);
        let (ended, vanished) = (None, false);
        Self {
            shared,
            source,
            path: order.request.path.clone(),
            note,
            renewed,
            follower,
            pace,
            sum,
            rest_after,
            may_vanish,
            ended,
            vanished,
            begins_again: false,
            stand,
        }
    }

    fn clock(&self) -> &'s dyn Clock {
        self.shared.vault.env.clock.as_ref()
    }

    fn tell(&self, told: Told<'_>) {
        self.shared.tell(&self.source, told);
    }

    /// What was done until then, when it must be begun again.
    async fn run(mut self: Box<Self>, mut over: impl Over) -> Result<Outcome, Ticked> {
        self.stand.began(self.follower.began(), self.clock().now());
        self.shared.spares.store(true, Ordering::Relaxed);
        self.tell(Told::Started(self.follower.began()));
        if self.go_on(&mut over).await {
            self.drain(&mut over).await;
        } else if self.begins_again {
            return Err(self.sum);
        }
        let position = self.follower.position();
        let lost =
            position.lost.as_ref().map(|why| format!("a gap, because {why}, and it ended before a snapshot was there"));
        let ended = self.ended.as_ref().map(ToString::to_string).or(lost);
        let now = self.clock().now();
        let stopped = Some(now).filter(|_| ended.is_none());
        let last = Account { ended, stopped, ..self.account(now) };
        last.write(&self.shared.vault, &self.source);
        self.shared.said(&self.source, last);
        Ok(Outcome {
            began: Some(self.follower.began().clone()),
            position: Some(position),
            source: self.source,
            sum: self.sum,
            ended: self.ended,
            vanished: self.vanished,
        })
    }

    /// Until told to stop. Says whether there is anything left to do.
    async fn go_on(&mut self, mut over: impl Over) -> bool {
        let mut stop = self.shared.driving.stop.clone();
        while !self.shared.is_stopping() {
            if self.is_renewed() {
                // Everything that was read is sealed to the keys of before, and goes first.
                self.settle(&mut over).await;
                self.follower.keep();
                self.begins_again = true;
                return false;
            }
            let stepped = tokio::select! {
                biased;
                stepped = self.step() => stepped,
                () = &mut over => {
                    self.keep();
                    return false;
                }
            };
            match stepped {
                Ok(()) => {}
                Err(OpsError::KeysChanged) if self.shared.is_renewed(&mut self.renewed, &mut over).await => {
                    self.begins_again = true;
                    return false;
                }
                Err(error) => {
                    self.end(error);
                    break;
                }
            }
            if self.follower.is_outgrown() {
                self.begins_again = true;
                return false;
            }
            self.say();
            let pause = self.pause();
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break,
                () = self.note.notified() => {
                    self.stand.alert_until = self.clock().uptime() + ALERT;
                    self.stand.heard = true;
                }
                () = tokio::time::sleep(pause) => {}
            }
        }
        self.ended.is_none() && !self.vanished
    }

    fn is_renewed(&self) -> bool {
        self.renewed.has_changed().unwrap_or(false)
    }

    /// It cannot go on. That somebody wants it to stop is no reason.
    fn end(&mut self, error: OpsError) {
        if self.may_vanish && matches!(error, OpsError::Sqlite(SqliteError::Missing { .. })) {
            self.tell(Told::Vanished);
            self.vanished = true;
        } else if error.kind() != Kind::Cancelled {
            self.tell(Told::Ended(&error));
            self.ended = Some(error);
        }
    }

    /// One look, and a put where one is due.
    async fn step(&mut self) -> Result<(), OpsError> {
        let heard = std::mem::take(&mut self.stand.heard);
        // What was heard may be our own close: the files say whether somebody was at it.
        if self.follower.rests() && !self.follower.is_stirred() {
            return Ok(());
        }
        let looked = if self.follower.rests() { self.wake() } else { self.follower.catch() };
        let now = self.clock().uptime();
        match looked {
            Ok(count) => {
                self.sum.caught += count;
                self.stand.unreadable = false;
                if count > 0 {
                    let listens = !self.stand.hearing.is_hushed() && now >= self.stand.alert_until;
                    self.stand.is_deaf = listens && !heard;
                }
                if count > 0 || heard || self.follower.has_news() {
                    self.stand.busy_at = now;
                }
                self.listen(count > 0, now);
            }
            Err(error) if self.passes(&error) => {
                if !std::mem::replace(&mut self.stand.unreadable, true) {
                    self.tell(Told::Unreadable(&error));
                }
            }
            Err(error) => return Err(error),
        }
        if self.follower.has_news() && self.is_due(now) {
            match self.follower.tick_in(&self.shared.turns).await {
                Ok(ticked) => {
                    if ticked.caught > 0 {
                        self.listen(true, self.clock().uptime());
                    }
                    self.put(ticked, now);
                }
                Err(error) if self.passes(&error) => self.failed(&error),
                Err(error) => return Err(error),
            }
        }
        match self.follower.roll().await {
            Ok(rolled) => {
                self.shared.charge(now, rolled.objects);
                self.add(rolled);
            }
            // What could not be read meanwhile is with the next look.
            Err(error) if is_passing(&error) => {}
            Err(error) => return Err(error),
        }
        self.notice();
        self.share(now).await?;
        self.rest(now)
    }

    /// Shares a stream with others while it is written to steadily, as they are.
    async fn share(&mut self, now: Duration) -> Result<(), OpsError> {
        let Some(share) = self.shared.driving.share else { return Ok(()) };
        let may = self.follower.may_share();
        let done = if self.follower.rides() {
            let is_quiet = now.saturating_sub(self.stand.put_at) >= share.quiet_for;
            match is_quiet || !may {
                true => self.follower.part_in(&self.shared.turns).await.map(|ticked| self.add(ticked)),
                false => return Ok(()),
            }
        } else {
            let is_busy = may && self.stand.pacing.busy_for() >= share.busy_for;
            let recent = now.saturating_sub(self.stand.put_at) < share.quiet_for;
            let carriers = self.shared.carriers.borrow().clone();
            let Some(at) = carriers.iter().position(|carrier| carrier.has_seats()) else { return Ok(()) };
            let (full, rest) = carriers.split_at(at);
            let Some(carrier) = rest.first() else { return Ok(()) };
            full.iter().for_each(|full| {
                full.puts_steadily(&self.source, false);
            });
            match carrier.puts_steadily(&self.source, is_busy && recent) && !self.follower.has_news() {
                true => self.follower.board(carrier).await.map(|came| self.shared.charge(now, u64::from(came))),
                false => return Ok(()),
            }
        };
        match done {
            // It is with the next that is to be put.
            Err(error) if self.passes(&error) => Ok(()),
            done => done,
        }
    }

    /// Whether what there is may be put now. What would cost more than a request if it waited waits for no turn.
    fn is_due(&mut self, now: Duration) -> bool {
        let (pacing, shared) = (&mut self.stand.pacing, self.shared);
        // Who shares waits with the others.
        if self.follower.rides() {
            return now >= pacing.again();
        }
        let due = match self.follower.is_pressing() {
            true => pacing.next,
            false => pacing.due(now, |need| shared.allowed_at(now, need)),
        };
        now >= due
    }

    /// Whether to go on listening, after a look.
    fn listen(&mut self, found: bool, now: Duration) {
        if let Some(is_hushed) = self.stand.hearing.looked(found, now) {
            self.shared.hush(&self.path, is_hushed);
            // What was written just before it is heard again is found by a look.
            self.stand.alert_until = now + ALERT;
        }
    }

    fn passes(&self, error: &OpsError) -> bool {
        is_passing(error) && !(self.may_vanish && matches!(error, OpsError::Sqlite(SqliteError::Missing { .. })))
    }

    /// Of one that rests, what was committed and not heard of yet. What cannot be read now is with the next run.
    fn rouse(&mut self) -> Result<(), OpsError> {
        if !self.follower.rests() || !self.follower.is_stirred() {
            return Ok(());
        }
        match self.wake() {
            Ok(count) => self.sum.caught += count,
            Err(error) if self.passes(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Goes on after a rest. Whoever has the source in the meantime, for a backup, is waited for.
    fn wake(&mut self) -> Result<u64, OpsError> {
        match self.follower.wake() {
            Err(OpsError::Busy { .. }) => {
                self.stand.heard = true;
                Ok(0)
            }
            Ok(count) => {
                let now = self.clock().uptime();
                if !self.follower.rests() && self.follower.has_news() && count == 0 {
                    // It has cost a snapshot: whoever writes like that is watched for a while.
                    self.stand.restless_until = now + self.stand.restless_for;
                    self.stand.restless_for *= 2;
                }
                Ok(count)
            }
            other => other,
        }
    }

    /// Gives up every handle where nothing has happened for a while.
    fn rest(&mut self, now: Duration) -> Result<(), OpsError> {
        let Some(after) = self.rest_after.filter(|_| !self.follower.rests() && !self.stand.unreadable) else {
            return Ok(());
        };
        let idle = now.saturating_sub(self.stand.busy_at) >= after && now >= self.stand.restless_until;
        if idle && !self.follower.has_news() && self.follower.rest()? {
            self.shared.spares.store(true, Ordering::Relaxed);
            self.tell(Told::Rests);
        }
        Ok(())
    }

    fn put(&mut self, ticked: Ticked, now: Duration) {
        let used = self.stand.pacing.put(now);
        if ticked.shipped > 0 {
            self.stand.put_at = now;
        }
        if !self.follower.is_by_snapshots() && !self.follower.rides() {
            self.shared.charge(now, ticked.objects.saturating_sub(u64::from(used)));
        }
        if let Some(began) = &ticked.began {
            self.stand.pacing.began(now, self.follower.position().mode);
            self.stand.began(began, self.clock().now());
            self.tell(Told::Began(began));
        }
        self.add(ticked);
        if self.stand.store_away_since.take().is_some() {
            self.tell(Told::StoreBack);
        }
    }

    fn add(&mut self, ticked: Ticked) {
        self.sum.caught += ticked.caught;
        self.sum.shipped += ticked.shipped;
        self.sum.objects += ticked.objects;
        self.sum.bytes += ticked.bytes;
        if ticked.began.is_some() {
            self.sum.began = ticked.began;
        }
    }

    fn failed(&mut self, error: &OpsError) {
        self.stand.pacing.failed(self.clock().uptime());
        if self.stand.store_away_since.is_none() {
            self.stand.store_away_since = Some(self.clock().now());
            self.tell(Told::StoreAway(error));
        }
    }

    /// Tells of what began or ended to be wrong.
    fn notice(&mut self) {
        let position = self.follower.position();
        let audit = position.audit.filter(|audit| self.stand.audited != Some(*audit));
        if let Some(Audited { wrong: Some(page), .. }) = audit {
            self.stand.audit_wrong += 1;
            self.tell(Told::AuditFailed { page });
        }
        self.stand.audited = position.audit;
        if self.stand.alarm != position.alarm {
            self.stand.alarm = position.alarm;
            self.tell(position.alarm.map_or(Told::AlarmEnded, Told::Alarmed));
        }
    }

    /// Makes durable what there is, or keeps it for the next run.
    async fn drain(&mut self, mut over: impl Over) {
        let (shared, insists) = (self.shared, self.shared.driving.drain.insists);
        if let Err(error) = self.rouse() {
            return self.end(error);
        }
        let mut has_hours = false;
        loop {
            let ticked = tokio::select! {
                biased;
                ticked = self.follower.tick_in(&shared.turns) => ticked,
                () = &mut over => break,
            };
            match ticked {
                Ok(ticked) => {
                    if let Some(began) = &ticked.began {
                        self.stand.began(began, self.clock().now());
                        self.tell(Told::Began(began));
                    }
                    self.add(ticked);
                    if !(insists && self.follower.has_news()) {
                        // Once: an application that goes on committing must not have one for each commit.
                        if !std::mem::replace(&mut has_hours, true) {
                            self.finish(&mut over).await;
                        }
                        // Committed meanwhile.
                        match (self.follower.position().waiting, insists) {
                            (0, _) => return,
                            (_, true) => {}
                            (_, false) => break,
                        }
                    }
                }
                Err(error) if is_passing(&error) && insists => {
                    self.failed(&error);
                    tokio::select! {
                        biased;
                        () = &mut over => break,
                        () = tokio::time::sleep(self.pace.retry) => {}
                    }
                }
                Err(error) if is_passing(&error) || error.kind() == Kind::Cancelled => break,
                Err(error) => return self.end(error),
            }
        }
        self.keep();
    }

    /// Leaves those it shares with, and makes the last snapshot. What cannot be done is with the next run.
    async fn finish(&mut self, mut over: impl Over) {
        let turns = &self.shared.turns;
        let work = async {
            let _ = self.follower.part_in(turns).await;
            self.follower.last_hour().await;
        };
        tokio::select! {
            biased;
            () = work => {}
            () = &mut over => {}
        }
    }

    /// Makes durable what there is, and a snapshot of it: the next run does not know what this one wrote.
    async fn settle(&mut self, mut over: impl Over) {
        let shared = self.shared;
        let work = async {
            if let Ok(ticked) = self.follower.tick_in(&shared.turns).await {
                self.add(ticked);
                let _ = self.follower.part_in(&shared.turns).await;
                let _ = tokio::time::timeout(LAST_HOUR, self.follower.last_hour()).await;
            }
        };
        tokio::select! {
            biased;
            () = work => {}
            () = &mut over => {}
        }
    }

    fn keep(&mut self) {
        let kept = self.follower.keep();
        self.tell(Told::Kept(kept));
    }

    fn account(&self, now: Moment) -> Account {
        let stand = &self.stand;
        Account {
            interval_millis: u64::try_from(stand.pacing.interval().as_millis()).unwrap_or(u64::MAX),
            store_away_since: stand.store_away_since,
            gaps: stand.gaps,
            last_gap: stand.last_gap.clone(),
            audit_wrong: stand.audit_wrong,
            objects: self.sum.objects,
            bytes: self.sum.bytes,
            rests: self.follower.rests(),
            ..Account::new(&self.follower.position(), now)
        }
    }

    /// Says where it stands, when that changed and was not said just now, or after a while.
    fn say(&mut self) {
        let (now, uptime) = (self.account(self.clock().now()), self.clock().uptime());
        let due = self.stand.said.as_ref().is_none_or(|(when, said)| {
            let since = uptime.saturating_sub(*when);
            since >= SAY_EVERY || (since >= SAY_GAP && !said.says_the_same(&now))
        });
        if due {
            now.write(&self.shared.vault, &self.source);
            self.shared.said(&self.source, now.clone());
            self.stand.said = Some((uptime, now));
        }
    }

    /// How long nothing needs to be done, if nothing is heard.
    fn pause(&self) -> Duration {
        let (now, poll, stand) = (self.clock().uptime(), self.pace.poll, &self.stand);
        if self.follower.rests() {
            if stand.heard { poll } else { REST_POLL.max(poll) }
        } else if stand.unreadable {
            PAUSE
        } else if stand.hearing.is_hushed() {
            HUSHED_GAP.min(self.follower.gap())
        } else if now < stand.alert_until {
            LOOK_GAP
        } else if self.follower.has_news() {
            stand.pacing.waits_until().saturating_sub(now).clamp(LOOK_GAP, poll)
        } else if !stand.is_deaf && now.saturating_sub(stand.busy_at) >= QUIET {
            REST_POLL.max(poll)
        } else {
            poll
        }
    }
}

impl Stand {
    fn begin(pace: Pace, now: Duration) -> Self {
        Self {
            pacing: Pacing::new(pace),
            alert_until: Duration::ZERO,
            unreadable: false,
            put_at: Duration::ZERO,
            busy_at: now,
            restless_until: Duration::ZERO,
            restless_for: RESTLESS,
            heard: false,
            is_deaf: false,
            hearing: Hearing::default(),
            alarm: None,
            store_away_since: None,
            gaps: 0,
            last_gap: None,
            audited: None,
            audit_wrong: 0,
            said: None,
        }
    }

    fn began(&mut self, began: &Began, now: Moment) {
        if let Began::Snapshot { reason: Some(reason), .. } = began {
            self.gaps += 1;
            self.last_gap = Some(Gap { at: now, reason: reason.clone() });
        }
    }
}
