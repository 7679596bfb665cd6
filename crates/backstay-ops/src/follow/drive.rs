//! The loop that follows: any number of sources side by side, each on a task of its own.
//!
//! Owns what they share: who hears of writes, turns for what costs memory, the metrics file. What one source does
//! is in [`member`](super::member). No source waits for another: neither for its first snapshot, nor for a store that
//! does not answer it, nor because it cannot go on. Told to stop, every source makes durable what there is, or keeps
//! it sealed on the disk when the store does not answer in time.

use super::account::{self, Account};
use super::carrier::{Carrier, Timetable};
use super::member;
use super::turns::Turns;
use super::watch::Watch;
use super::{Alarm, Began, FollowRequest, MEMORY_MAX, Pace, Position, Ticked};
use crate::OpsError;
use crate::catalog::Vault;
use backstay_model::{Allowance, ByteLen, Need, SourceName};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch as wish};
use tokio::task::JoinSet;

/// How long the last puts may take after being told to stop.
pub const DRAIN: Duration = Duration::from_secs(20);
/// Between two rounds of what was heard: what is written meanwhile is read together.
const HEAR_GAP: Duration = Duration::from_millis(5);
/// How old the configuration may be when something is sealed by it, and a data key.
pub const CONF_EVERY: Duration = Duration::from_secs(60);
const DATA_KEY_MAX: Duration = Duration::from_secs(24 * 3600);
const METRICS_EVERY: Duration = Duration::from_secs(5);
/// Between two times memory is given back, if somebody uses less of it.
const GIVE_BACK_EVERY: Duration = Duration::from_secs(30);
/// Streams that sources may share, each by as many as have a seat there.
const CARRIERS: usize = 16;
/// Between two looks for new sources, if nothing is heard.
const LOOK_FOR_MORE: Duration = Duration::from_secs(10);
/// What all sources together may have read and not sealed to the disk.
const MEMORY_ALL: u64 = 256 << 20;
const MEMORY_LEAST: u64 = 1 << 20;

/// A source that is to be followed.
pub struct Order {
    pub request: FollowRequest,
    pub pace: Pace,
    /// Between two snapshots of a database that keeps no log.
    pub snapshot_interval: Duration,
    pub patience: Patience,
    /// After how long without a commit it gives up its handles until there is one; `None` is never.
    pub rest_after: Option<Duration>,
    /// That its file goes is the end of it, and no trouble.
    pub may_vanish: bool,
}

/// A folder in which sources may appear.
#[derive(Clone)]
pub struct Nursery {
    pub folder: PathBuf,
    /// What is to be followed there now.
    pub find: Arc<dyn Fn() -> Vec<Order> + Send + Sync>,
}

/// What is waited for before a source can be followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// The store alone: a database that is not there is an error.
    Store,
    /// A database that is not there yet as well.
    Missing,
    /// And one that does not keep a log yet: an application is about to make it.
    Log,
}

/// What became of a source, once nobody follows it any more.
#[derive(Debug)]
pub struct Outcome {
    pub source: SourceName,
    /// How following began last; `None` if it never did.
    pub began: Option<Began>,
    pub position: Option<Position>,
    pub sum: Ticked,
    /// Why it could not go on, or never began.
    pub ended: Option<OpsError>,
    /// Its file is gone.
    pub vanished: bool,
}

/// What happened to a source, for whoever shows it.
pub enum Told<'a> {
    /// Following began.
    Started(&'a Began),
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
    /// Nothing was committed for a while: its handles were given up until there is.
    Rests,
    /// Its file is gone, and with it the source.
    Vanished,
    /// It cannot go on.
    Ended(&'a OpsError),
    /// It was told to stop and the store did not answer: so many commits wait on the disk for the next run.
    Kept(u64),
}

/// What sources tell.
pub type Tell = Arc<dyn Fn(&SourceName, Told<'_>) + Send + Sync>;

/// What the loop is given.
pub struct Driving {
    pub stop: wish::Receiver<bool>,
    pub tell: Tell,
    /// Where metrics are written.
    pub metrics: Option<PathBuf>,
    pub drain: Drain,
    /// Where more sources may appear while it runs.
    pub nurseries: Vec<Nursery>,
    /// Between two looks whether the keys were changed: [`CONF_EVERY`], but for tests.
    pub conf_every: Duration,
    /// How many log objects and roll-ups all sources together may put in a day.
    pub puts_per_day: Option<NonZeroU32>,
    /// When sources share an object; `None` is never.
    pub share: Option<Share>,
}

/// When sources that are written to steadily put their commits into one object.
#[derive(Debug, Clone, Copy)]
pub struct Share {
    /// Who has put without a pause for so long.
    pub busy_for: Duration,
    /// Who had nothing for so long leaves.
    pub quiet_for: Duration,
    pub times: Timetable,
}

impl Share {
    /// At the pace that each of them would put by itself.
    pub fn after(busy_for: Duration, interval: Duration) -> Self {
        let quiet_for = Duration::from_secs(60);
        Self { busy_for, quiet_for, times: Timetable { interval, retry: Pace::STANDARD.retry } }
    }
}

/// How a source ends after being told to stop.
pub struct Drain {
    pub within: Duration,
    /// Whether a store that is away is tried again until then, not only once.
    pub insists: bool,
    /// The wish not to wait any longer.
    pub hurry: wish::Receiver<bool>,
}

impl Drain {
    /// One attempt, for so long at most.
    pub fn once(within: Duration) -> Self {
        // Nobody is left to wish anything.
        let (_, hurry) = wish::channel(false);
        Self { within, insists: false, hurry }
    }
}

/// What the tasks share.
pub(super) struct Shared {
    /// As it was opened first: clock and state are of every one after it.
    pub vault: Arc<Vault>,
    /// With the newest configuration that is known.
    pub newest: wish::Sender<Arc<Vault>>,
    /// Somebody was told that the keys were changed.
    pub outdated: Notify,
    pub driving: Driving,
    pub turns: Turns,
    watch: Option<Watch>,
    allowance: Option<Mutex<Allowance>>,
    /// Who carries what sources share: the next where the one before has no room.
    pub carriers: wish::Sender<Vec<Arc<Carrier>>>,
    /// A source has begun or gone to rest since memory was given back, and uses less of it now.
    pub spares: AtomicBool,
    accounts: Mutex<BTreeMap<SourceName, Account>>,
}

impl Shared {
    /// Where nothing can be heard it is looked at a slow pace.
    pub fn hear_of(&self, path: &Path, note: &Arc<Notify>) {
        if let Some(watch) = &self.watch {
            let _ = watch.add(path, note);
        }
    }

    /// Best effort: a database that is heard too often is only slower to write to.
    pub fn hush(&self, path: &Path, is_hushed: bool) {
        if let Some(watch) = &self.watch {
            let _ = watch.hush(path, is_hushed);
        }
    }

    pub fn tell(&self, source: &SourceName, told: Told<'_>) {
        (self.driving.tell)(source, told);
    }

    /// A source goes, and is nobody to share with any more, also where it only waited for a second.
    pub fn puts_no_more(&self, source: &SourceName) {
        self.carriers.borrow().iter().for_each(|carrier| {
            carrier.puts_steadily(source, false);
        });
    }

    pub fn is_stopping(&self) -> bool {
        *self.driving.stop.borrow()
    }

    /// Takes a turn in what all sources may put in a day, and says when it has come.
    pub fn allowed_at(&self, now: Duration, need: Need) -> Duration {
        let Some(allowance) = &self.allowance else { return now };
        allowance.lock().unwrap_or_else(PoisonError::into_inner).turn(now, need)
    }

    /// Counts what was put without a turn.
    pub fn charge(&self, now: Duration, puts: u64) {
        let puts = u32::try_from(puts).unwrap_or(u32::MAX);
        if let Some(allowance) = self.allowance.as_ref().filter(|_| puts > 0) {
            allowance.lock().unwrap_or_else(PoisonError::into_inner).charge(now, puts);
        }
    }

    /// Resolves when nobody waits any longer for what is not durable yet.
    pub async fn is_over(&self) {
        let (mut stop, mut hurry) = (self.driving.stop.clone(), self.driving.drain.hurry.clone());
        let _ = stop.wait_for(|stop| *stop).await;
        tokio::select! {
            Ok(_) = hurry.wait_for(|hurry| *hurry) => {}
            () = tokio::time::sleep(self.driving.drain.within) => {}
        }
    }

    /// Has the repository opened anew for a source that was told that its keys were changed. False when nobody waits.
    pub async fn is_renewed(&self, renewed: &mut wish::Receiver<Arc<Vault>>, over: impl Future<Output = ()>) -> bool {
        self.outdated.notify_one();
        tokio::select! {
            changed = renewed.changed() => changed.is_ok(),
            () = over => false,
        }
    }

    /// The account a source gave last.
    pub fn said(&self, source: &SourceName, account: Account) {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner).insert(source.clone(), account);
    }

    /// Best effort: whoever collects notices that its time stands still.
    fn write_metrics(&self, path: &Path) {
        let accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let said: Vec<(SourceName, Account)> = accounts.into_iter().collect();
        let _ = account::write_metrics(&self.vault, path, &account::metrics(&said, self.vault.env.clock.now()));
    }
}

/// Follows until told to stop, then drains. Says what became of each source, in the order they were given.
pub async fn drive(vault: Arc<Vault>, orders: Vec<Order>, driving: Driving) -> Vec<Outcome> {
    let (turns, watch) = (Turns::new(), Watch::begin().ok());
    let (newest, outdated) = (wish::Sender::new(vault.clone()), Notify::new());
    let allowance = driving.puts_per_day.map(|per_day| Mutex::new(Allowance::new(per_day)));
    let (spares, accounts, carriers) = (AtomicBool::new(false), Mutex::default(), wish::Sender::new(Vec::new()));
    let shared = Shared { vault, newest, outdated, driving, turns, watch, allowance, carriers, spares, accounts };
    let shared = Arc::new(shared);
    let memory = ByteLen::new((MEMORY_ALL / orders.len().max(1) as u64).clamp(MEMORY_LEAST, MEMORY_MAX));
    let mut running = Running { shared: shared.clone(), memory, tasks: JoinSet::new(), known: BTreeMap::new() };
    orders.into_iter().for_each(|order| running.add(order));
    tokio::select! {
        biased;
        () = running.all() => {}
        () = hear(shared.watch.as_ref()) => {}
        () = measure(&shared) => {}
        () = renew(&shared) => {}
        () = carry(&shared) => {}
        () = give_back(&shared) => {}
    }
    if let Some(path) = &shared.driving.metrics {
        shared.write_metrics(path);
    }
    let mut outcomes: Vec<(usize, Outcome)> = running.known.into_values().filter_map(|known| known.outcome).collect();
    outcomes.sort_by_key(|(at, _)| *at);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

/// The tasks, and what became of those that ended.
struct Running {
    shared: Arc<Shared>,
    memory: ByteLen,
    tasks: JoinSet<Outcome>,
    known: BTreeMap<SourceName, Known>,
}

struct Known {
    at: usize,
    /// Once it has ended.
    outcome: Option<(usize, Outcome)>,
}

impl Running {
    /// Follows a source on a task of its own, unless that was tried already.
    fn add(&mut self, mut order: Order) {
        let source = order.request.source.clone();
        let next = self.known.len();
        let known = self.known.entry(source).or_insert(Known { at: next, outcome: None });
        // One that could not go on stays as it is; one whose file had gone is back.
        let is_back = known.outcome.take_if(|(_, outcome)| outcome.vanished).is_some();
        if known.at != next && !is_back {
            return;
        }
        order.request.limits.memory = self.memory;
        let shared = self.shared.clone();
        self.tasks.spawn(async move { member::follow(&shared, order).await });
    }

    fn look_for_more(&mut self) {
        let nurseries = self.shared.driving.nurseries.clone();
        let found = crate::env::blocking(|| nurseries.iter().flat_map(|nursery| (nursery.find)()).collect::<Vec<_>>());
        found.into_iter().for_each(|order| self.add(order));
    }

    /// Until all have ended, and no more can appear. One task that panicked takes the others with it, as a panic
    /// anywhere does.
    async fn all(&mut self) {
        let note = Arc::new(Notify::new());
        for nursery in &self.shared.driving.nurseries {
            self.shared.watch.iter().for_each(|watch| drop(watch.add_folder(&nursery.folder, &note)));
        }
        let mut stop = self.shared.driving.stop.clone();
        loop {
            let more = !self.shared.driving.nurseries.is_empty() && !self.shared.is_stopping();
            if self.tasks.is_empty() && !more {
                return;
            }
            tokio::select! {
                biased;
                Some(joined) = self.tasks.join_next() => match joined {
                    Ok(outcome) => {
                        if let Some(known) = self.known.get_mut(&outcome.source) {
                            known.outcome = Some((known.at, outcome));
                        }
                    }
                    Err(error) => {
                        if let Ok(panic) = error.try_into_panic() {
                            std::panic::resume_unwind(panic);
                        }
                    }
                },
                _ = stop.wait_for(|stop| *stop), if more => {}
                () = note.notified(), if more => self.look_for_more(),
                () = tokio::time::sleep(LOOK_FOR_MORE), if more => self.look_for_more(),
            }
        }
    }
}

/// Passes on what is heard. Never ends.
async fn hear(watch: Option<&Watch>) {
    if let Some(watch) = watch {
        while watch.tell_next().await.is_ok() {
            tokio::time::sleep(HEAR_GAP).await;
        }
    }
    std::future::pending::<()>().await;
}

/// Opens the repository anew when its keys were changed, and before a data key grows too old. Nothing is asked while
/// nothing is put. Never ends.
async fn renew(shared: &Shared) {
    let clock = shared.vault.env.clock.as_ref();
    let (mut given, mut since, mut told) = (shared.turns.given(), clock.uptime(), false);
    loop {
        tokio::select! {
            () = shared.outdated.notified() => told = true,
            () = tokio::time::sleep(shared.driving.conf_every) => {}
        }
        let newest = shared.newest.borrow().clone();
        let (puts, is_old) = (shared.turns.given(), clock.uptime().saturating_sub(since) >= DATA_KEY_MAX);
        // A store that does not answer is asked again: what is put meanwhile waits for it as well.
        let outdated = told || puts != given && (is_old || matches!(newest.repo.is_outdated().await, Ok(true)));
        given = puts;
        if outdated && let Ok(renewed) = newest.renewed().await {
            shared.newest.send_replace(Arc::new(renewed));
            (since, told) = (clock.uptime(), false);
        }
    }
}

/// Carries what sources share. Who carried with keys of before goes on until the last has left. Never ends.
async fn carry(shared: &Shared) {
    let Some(share) = shared.driving.share else { return std::future::pending().await };
    let allowed = |now| {
        shared.turns.count();
        shared.allowed_at(now, Need::Steady)
    };
    let charge = |puts| shared.charge(shared.vault.env.clock.uptime(), puts);
    let (mut newest, mut running) = (shared.newest.subscribe(), FuturesUnordered::new());
    let mut stop = shared.driving.stop.clone();
    loop {
        let vault = newest.borrow_and_update().clone();
        let carriers: Vec<_> = (0..CARRIERS).map(|_| Arc::new(Carrier::new(&vault, share.times))).collect();
        let (allowed, charge, run) = (&allowed, &charge, carriers.clone());
        running.extend(run.into_iter().map(|carrier| async move { carrier.run(allowed, charge).await }));
        let mut is_told = false;
        shared.carriers.send_replace(carriers).iter().for_each(|before| before.retire());
        loop {
            tokio::select! {
                () = is_told_to(&mut stop), if !is_told => {
                    is_told = true;
                    shared.carriers.borrow().iter().for_each(|carrier| carrier.hasten());
                }
                changed = newest.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => std::future::pending::<()>().await,
                },
                Some(()) = running.next() => {}
            }
        }
    }
}

async fn is_told_to(stop: &mut wish::Receiver<bool>) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        std::future::pending().await
    }
}

/// Gives back the memory of those that rest, and of beginnings: a thousand that did something once need not cost it for
/// ever. Never ends.
async fn give_back(shared: &Shared) {
    loop {
        tokio::time::sleep(GIVE_BACK_EVERY).await;
        if shared.spares.swap(false, Ordering::Relaxed) {
            crate::env::blocking(backstay_sqlite::give_back_memory);
        }
    }
}

/// Writes metrics now and then. Never ends.
async fn measure(shared: &Shared) {
    let Some(path) = &shared.driving.metrics else { return std::future::pending().await };
    loop {
        shared.write_metrics(path);
        tokio::time::sleep(METRICS_EVERY).await;
    }
}
