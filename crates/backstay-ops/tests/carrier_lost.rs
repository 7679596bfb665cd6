//! Sources that share a stream where something is lost, full, away or late: nothing is skipped, and nobody waits for ever.

mod riders;
mod world;

use async_trait::async_trait;
use backstay_model::{Kind, Kinded, Sequence, Tx};
use backstay_ops::disk::{Disk, DiskFile, OsDisk};
use backstay_ops::follow::carrier::{Carrier, Timetable};
use backstay_ops::follow::{Alarm, Began, FollowRequest, Follower, Limits, Mode};
use backstay_store::keys::LogName;
use backstay_store::local::{LocalStore, OpenMode};
use backstay_store::{Key, Page, Store, StoreError};
use riders::{
    Away, Home, TIMES, all_follow, all_keep, all_went_on, beside, board_all, carried, homes, request, stream_of,
    takes_over, tick_all,
};
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;
use tokio::sync::Notify;
use world::{Hands, World};

/// Nothing here takes so long, unless it waits for ever.
const FOR_EVER: Duration = Duration::from_secs(60);

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(FOR_EVER, work).await.expect("nobody waits for ever")
}

/// Commits, and has it read: the number it gets.
fn commits(home: &mut Home, follower: &mut Follower<'_>, bytes: u32) -> Tx {
    home.commit(bytes);
    assert_eq!(follower.catch().expect("read"), 1);
    let position = follower.position();
    let tx = Tx::new(position.tx.get() + position.waiting);
    home.keep_as(tx);
    tx
}

/// What was handed over is lost with the stream, before its source hears of it, also if it was kept as it was on its way. What
/// came behind it is sealed with it, and the application's log needs neither.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_lost_with_the_stream_is_sealed_again_with_what_came_behind_it() {
    for (is_kept, dies) in [(false, true), (true, true), (true, false)] {
        lost_with_the_stream(is_kept, dies).await;
    }
}

async fn lost_with_the_stream(is_kept: bool, dies: bool) {
    let (world, store) = Away::world(false).await;
    let (vault, mut homes) = (&world.vault, homes(world.dir()));
    let mut followers = all_follow(&homes, vault).await;
    let carrier = Arc::new(Carrier::new(vault, TIMES));
    let mut run = pin!(carrier.run(&|now| now, &|_| {}));
    beside(run.as_mut(), async {
        board_all(&carrier, &mut followers).await.expect("board");
        homes.iter().for_each(|home| home.commit(200));
        tick_all(&mut followers).await.expect("tick");
        all_keep(&mut homes, &followers);
        store.is_away.store(true, Ordering::SeqCst);
        for (home, follower) in homes.iter_mut().zip(&mut followers).take(2) {
            commits(home, follower, 300);
        }
        assert!(tick_all(&mut followers[..2]).await.is_err(), "the store is away");
    })
    .await;
    let mut last = Tx::new(2);
    if is_kept {
        homes[0].copies_back(&mut followers[0]);
        last = commits(&mut homes[0], &mut followers[0], 50);
        assert_eq!((followers[0].keep(), followers[0].position().alarm), (2, None));
    }
    // While it stands still the slot becomes somebody else's.
    store.is_away.store(false, Ordering::SeqCst);
    drop(followers.pop().expect("the third"));
    let other = takes_over(&homes[2], vault).await;
    beside(run.as_mut(), in_time(followers[1].tick())).await.expect("goes on by itself");
    assert!(!followers[1].rides() && followers[1].position().waiting == 0);
    // The first has not heard of it.
    if dies {
        commits(&mut homes[0], &mut followers[0], 40);
        followers[0].keep();
        homes[0].copies_back(&mut followers[0]);
        last = commits(&mut homes[0], &mut followers[0], 50);
        assert_eq!((followers[0].keep(), followers[0].position().alarm), (if is_kept { 4 } else { 3 }, None));
        drop(followers);
        followers = all_follow(&homes[..2], vault).await;
    } else {
        in_time(followers[0].tick()).await.expect("hears of it, and goes on");
    }
    drop(other);
    all_went_on(&followers);
    assert_eq!(followers[0].position().tx, last);
    homes.iter().for_each(|home| home.commit(60));
    tick_all(&mut followers).await.expect("tick");
    all_keep(&mut homes[..2], &followers);
    for home in &homes[..2] {
        home.comes_back(vault, "what was lost with the stream").await;
        assert_eq!(home.snapshots(vault).await, 1, "no gap of {}, kept: {is_kept}, died: {dies}", home.name);
    }
}

/// Killed while the store was away: one kept what was on its way, and needs no log for it any more. The others did not, and come
/// first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_has_kept_of_a_stream_is_put_by_whoever_comes_first() {
    for silent in [false, true] {
        let (world, store) = Away::world(false).await;
        let (vault, mut homes) = (&world.vault, homes(world.dir()));
        let mut followers = all_follow(&homes, vault).await;
        let carrier = Arc::new(Carrier::new(vault, TIMES));
        let last = carried(&carrier, async {
            board_all(&carrier, &mut followers).await.expect("board");
            homes.iter().for_each(|home| home.commit(200));
            tick_all(&mut followers).await.expect("tick");
            all_keep(&mut homes, &followers);
            store.is_away.store(true, Ordering::SeqCst);
            homes[1..].iter().filter(|_| !silent).for_each(|home| home.commit(30));
            commits(&mut homes[0], &mut followers[0], 40);
            assert!(tick_all(&mut followers).await.is_err(), "the store is away");
            homes[0].copies_back(&mut followers[0]);
            let last = commits(&mut homes[0], &mut followers[0], 50);
            followers[0].keep();
            last
        })
        .await;
        drop(followers);
        store.is_away.store(false, Ordering::SeqCst);
        let mut followers = Vec::new();
        for home in homes.iter().rev() {
            followers.insert(0, home.follow(vault).await);
        }
        all_went_on(&followers);
        assert_eq!(followers[0].position().tx, last);
        homes.iter().for_each(|home| home.commit(60));
        tick_all(&mut followers).await.expect("tick");
        all_keep(&mut homes, &followers);
        for home in &homes {
            home.comes_back(vault, "kept by one").await;
            assert_eq!(home.snapshots(vault).await, 1, "no gap of {}, silent: {silent}", home.name);
        }
    }
}

/// A store where one object comes between two looks: the one that finds nothing there, and the listing.
struct Between {
    inner: LocalStore,
    hidden: Mutex<Option<Key>>,
}

impl Between {
    fn hides(&self, key: &Key) -> bool {
        self.hidden.lock().expect("alone").as_ref() == Some(key)
    }
}

#[async_trait]
impl Store for Between {
    async fn head(&self, key: &Key) -> Result<Option<u64>, StoreError> {
        if self.hides(key) { Ok(None) } else { self.inner.head(key).await }
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, StoreError> {
        self.hidden.lock().expect("alone").take_if(|key| key.as_str().starts_with(prefix) && prefix.contains("log"));
        self.inner.list(prefix, after, limit).await
    }

    backstay_testkit::forward!(inner: put_new get get_range delete describe);
}

/// What others put just now is no hole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_between_two_looks_is_gone_past() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let inner = LocalStore::open(&folder.path().join("vault"), OpenMode::Create).expect("a store");
    let store = Arc::new(Between { inner, hidden: Mutex::new(None) });
    let world = World::over(folder, store.clone(), Arc::new(OsDisk)).await;
    let (vault, mut homes) = (&world.vault, homes(world.dir()));
    let mut followers = all_follow(&homes, vault).await;
    let carrier = Arc::new(Carrier::new(vault, TIMES));
    carried(&carrier, async {
        board_all(&carrier, &mut followers).await.expect("board");
        homes.iter().for_each(|home| home.commit(200));
        tick_all(&mut followers).await.expect("tick");
        homes[1].commit(20);
        followers[1].tick().await.expect("tick");
        all_keep(&mut homes, &followers);
    })
    .await;
    drop(followers);
    let (stream, _) = stream_of(vault, &homes[0]).expect("noted");
    let end = vault.repo.log_end(&stream).await.expect("listed").expect("objects");
    *store.hidden.lock().expect("alone") = Some(LogName::slot(stream, end).key());
    let mut followers = all_follow(&homes, vault).await;
    assert!(store.hidden.lock().expect("alone").is_none(), "it was listed");
    all_went_on(&followers);
    homes.iter().for_each(|home| home.commit(60));
    tick_all(&mut followers).await.expect("tick");
    all_keep(&mut homes, &followers);
    for home in &homes {
        home.comes_back(vault, "beside what others put").await;
        assert_eq!(home.snapshots(vault).await, 1, "no gap of {}", home.name);
    }
}

/// Many that ask at once whether there is room are not more than there is: after a crash each ends the stream in turn.
#[tokio::test]
async fn no_more_come_than_there_is_room_for() {
    let world = World::new().await;
    let carrier = Carrier::new(&world.vault, TIMES);
    let came = (0..1000).filter(|n| {
        let source = format!("s{n}").parse().expect("a name");
        carrier.seat(&source).is_some()
    });
    assert_eq!((came.count(), carrier.has_seats()), (64, false));
}

/// What waits behind a store that is away for long does not ride along any more once it is much, and is all there in the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_became_much_while_the_store_was_away_goes_by_itself() {
    let (world, store) = Away::world(false).await;
    let (vault, mut homes) = (&world.vault, homes(world.dir()));
    let mut followers = all_follow(&homes, vault).await;
    let carrier = Arc::new(Carrier::new(vault, TIMES));
    carried(&carrier, async {
        board_all(&carrier, &mut followers).await.expect("board");
        homes.iter().for_each(|home| home.commit(200));
        tick_all(&mut followers).await.expect("tick");
        store.is_away.store(true, Ordering::SeqCst);
        homes.iter().for_each(|home| home.commit(30));
        assert!(tick_all(&mut followers).await.is_err(), "the store is away");
        for round in 1..=6 {
            commits(&mut homes[0], &mut followers[0], 60_000);
            assert_eq!(followers[0].keep(), 1 + round);
            let position = followers[0].position();
            assert!((position.waiting, position.alarm) == (1 + round, None) && position.waiting_bytes > round * 60_000);
            assert!(position.waiting_since.is_some());
        }
        store.is_away.store(false, Ordering::SeqCst);
        homes[0].commit(10);
        while followers.iter().any(Follower::has_news) {
            let _ = in_time(tick_all(&mut followers)).await;
        }
        assert_eq!(followers.iter().map(Follower::rides).collect::<Vec<_>>(), [false, true, true]);
        all_keep(&mut homes, &followers);
    })
    .await;
    for home in &homes {
        home.comes_back(vault, "once the store was back").await;
        assert_eq!(home.snapshots(vault).await, 1, "no gap of {}", home.name);
    }
}

/// Retention lets go the slots that roll-ups have. Who was silent as long finds the slot behind its last one free, and it is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_silent_does_not_end_the_stream_where_slots_were_let_go_for_a_roll_up() {
    let (mut world, clock) = (World::new().await, Arc::new(Hands::default()));
    world.vault.env.clock = clock.clone();
    let (vault, mut homes) = (&world.vault, homes(world.dir()));
    let mut followers = all_follow(&homes, vault).await;
    let carrier = Arc::new(Carrier::new(vault, TIMES));
    carried(&carrier, async {
        board_all(&carrier, &mut followers).await.expect("board");
        homes.iter().for_each(|home| home.commit(200));
        tick_all(&mut followers).await.expect("tick");
        all_keep(&mut homes, &followers);
        for _ in 0..12 {
            homes[1..].iter().for_each(|home| home.commit(40));
            tick_all(&mut followers[1..]).await.expect("tick");
            clock.pass(20);
            all_keep(&mut homes[1..], &followers[1..]);
        }
    })
    .await;
    drop(followers);
    let (stream, _) = stream_of(vault, &homes[0]).expect("noted");
    let end = vault.repo.log_end(&stream).await.expect("listed").expect("objects");
    let rolled = vault.repo.roll_ups(&stream).await.expect("listed");
    let mut gone = 0;
    for slot in
        (1..end.get()).filter(|slot| rolled.iter().any(|name| (name.first.get()..=name.last.get()).contains(slot)))
    {
        let key = LogName::slot(stream, Sequence::new(slot)).key();
        std::fs::remove_file(world.dir().join("vault").join(key.as_str())).expect("let go");
        gone += 1;
    }
    assert!(gone > 4, "{gone} of {end} slots are let go");
    let silent = homes[0].follow(vault).await;
    let Began::Snapshot { reason: Some(_), .. } = silent.began() else { panic!("a gap is told: {:?}", silent.began()) };
    drop(silent);
    let mut followers = all_follow(&homes, vault).await;
    all_went_on(&followers);
    homes.iter().for_each(|home| home.commit(60));
    tick_all(&mut followers).await.expect("tick");
    all_keep(&mut homes, &followers);
    for (home, snapshots) in homes.iter().zip([2, 1, 1]) {
        home.comes_back(vault, "behind what was let go").await;
        assert_eq!(home.snapshots(vault).await, snapshots, "of {}", home.name);
    }
}

/// Nobody is left who would carry it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_carrier_that_has_ended_takes_nothing_more() {
    let world = World::new().await;
    let (vault, homes) = (&world.vault, homes(world.dir()));
    let mut followers = all_follow(&homes, vault).await;
    let carrier = Arc::new(Carrier::new(vault, TIMES));
    carrier.retire();
    in_time(carrier.run(&|now| now, &|_| {})).await;
    for (home, follower) in homes.iter().zip(&mut followers) {
        assert!(!follower.board(&carrier).await.expect("stays alone") && !follower.rides());
        home.commit(30);
        assert_eq!(in_time(follower.tick()).await.expect("tick").shipped, 1);
    }
}

/// The stream was lost, one has heard of it, and the carrier was told to end: the other hears of it when it asks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_a_carrier_that_has_lost_the_stream_and_ended_is_told() {
    for leaves in [false, true] {
        let world = World::new().await;
        let (vault, mut homes) = (&world.vault, homes(world.dir()));
        let mut followers = all_follow(&homes, vault).await;
        let carrier = Arc::new(Carrier::new(vault, TIMES));
        let mut run = pin!(carrier.run(&|now| now, &|_| {}));
        beside(run.as_mut(), async {
            board_all(&carrier, &mut followers).await.expect("board");
            homes.iter().for_each(|home| home.commit(200));
            tick_all(&mut followers).await.expect("tick");
            drop(followers.pop().expect("the third"));
            drop(takes_over(&homes[2], vault).await);
            homes[0].commit(20);
            followers[0].tick().await.expect("goes on");
            assert!(!followers[0].rides());
        })
        .await;
        carrier.retire();
        in_time(run).await;
        if leaves {
            in_time(followers[1].part()).await.expect("leaves");
        }
        homes[1].commit(20);
        in_time(followers[1].tick()).await.expect("goes on");
        assert!(!followers[1].rides() && followers[1].position().waiting == 0);
        all_keep(&mut homes[..2], &followers);
        for home in &homes[..2] {
            home.comes_back(vault, "beside one that was taken over").await;
            assert_eq!(home.snapshots(vault).await, 1, "no gap of {}", home.name);
        }
    }
}

/// A turn that comes in an hour.
async fn late(carrier: &Carrier) {
    carrier.run(&|now| now + Duration::from_secs(3600), &|_| {}).await;
}

const SELDOM: Timetable = Timetable { interval: Duration::from_secs(3600), ..TIMES };

/// An hour, a run that is to end, and somebody who waits for it wait for no turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_waits_for_waits_for_no_turn() {
    for always in [false, true] {
        let world = World::new().await;
        let (vault, mut homes) = (&world.vault, homes(world.dir()));
        let mut followers = all_follow(&homes, vault).await;
        let carrier = Arc::new(Carrier::new(vault, SELDOM));
        beside(pin!(late(&carrier)), async {
            board_all(&carrier, &mut followers).await.expect("board");
            if always {
                carrier.hasten();
            }
            let hurries = async {
                // One object serves who waits by then.
                loop {
                    if !always {
                        carrier.hurry();
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            let rounds = async {
                for _ in 0..3 {
                    homes.iter().for_each(|home| home.commit(30));
                    in_time(tick_all(&mut followers)).await.expect("tick");
                    all_keep(&mut homes, &followers);
                }
            };
            tokio::select! {
                () = rounds => {}
                () = hurries => {}
            }
            assert!(followers.iter().all(Follower::rides), "and went along");
        })
        .await;
        for home in &homes {
            home.comes_back(vault, "without a turn").await;
        }
    }
}

/// So does an application whose checkpoint must wait until everything is durable.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_that_waits_for_what_is_held_waits_for_no_turn() {
    let world = World::new().await;
    let (vault, homes) = (&world.vault, homes(world.dir()));
    let limits = Limits { mode: Mode::Hold, look: Duration::from_millis(5), ..request("shop", &homes[0].db).limits };
    let mut followers = Vec::new();
    for home in &homes {
        let request = FollowRequest { limits, ..request(home.name.as_str(), &home.db) };
        followers.push(Follower::start(vault, request).await.expect("follow"));
    }
    let carrier = Arc::new(Carrier::new(vault, SELDOM));
    beside(pin!(late(&carrier)), async {
        board_all(&carrier, &mut followers).await.expect("board");
        homes[0].commit(30);
        // What was read is held, and nothing behind it.
        for read in [1, 0] {
            assert_eq!(followers[0].catch().expect("read"), read);
        }
        let checkpoint = async {
            while !homes[0].truncates() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            ticked = in_time(followers[0].tick()) => assert_eq!(ticked.expect("tick").shipped, 1),
            () = checkpoint => {}
        }
        assert!(followers[0].rides());
    })
    .await;
}

/// A disk that writes down where following stands, but waits with the next of one source until it may.
#[derive(Default)]
struct Waiting(Arc<Gate>);

#[derive(Default)]
struct Gate {
    /// Whether the next waits; whose waits.
    shut: Mutex<(bool, Option<PathBuf>)>,
    opened: Condvar,
    waits: Notify,
    was_opened: Mutex<Option<bool>>,
}

impl Disk for Waiting {
    fn create(&self, path: &Path, mode: u32) -> io::Result<Box<dyn DiskFile>> {
        OsDisk.create(path, mode)
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        OsDisk.create_dir(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut shut = self.0.shut.lock().expect("alone");
        if to.ends_with("follow.json") && shut.0 && shut.1.is_none() {
            shut.1 = Some(to.to_owned());
            self.0.waits.notify_one();
            let (shut, waited) = self.0.opened.wait_timeout_while(shut, FOR_EVER, |shut| shut.0).expect("alone");
            *self.0.was_opened.lock().expect("alone") = Some(!waited.timed_out());
            drop(shut);
        }
        OsDisk.rename(from, to)
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        OsDisk.link(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        OsDisk.remove(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        OsDisk.sync_dir(path)
    }
}

/// What is sealed is known to all at once: whose application waits keeps it, while the notes of others are still written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_must_be_safe_waits_for_no_note_of_others() {
    let gate = Arc::new(Gate::default());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = LocalStore::open(&folder.path().join("vault"), OpenMode::Create).expect("a store");
    let world = World::over(folder, Arc::new(store), Arc::new(Waiting(gate.clone()))).await;
    let (vault, mut homes) = (&world.vault, homes(world.dir()));
    homes.truncate(2);
    let mut followers = all_follow(&homes, vault).await;
    let carrier = Arc::new(Carrier::new(vault, TIMES));
    let mut run = pin!(carrier.run(&|now| now, &|_| {}));
    beside(run.as_mut(), async {
        board_all(&carrier, &mut followers).await.expect("board");
        homes.iter().for_each(|home| home.commit(200));
        tick_all(&mut followers).await.expect("tick");
    })
    .await;
    homes.iter().for_each(|home| home.commit(30));
    let puts = carrier.puts();
    gate.shut.lock().expect("alone").0 = true;
    tokio::select! {
        biased;
        // Both hand over before anything is sealed.
        _ = tick_all(&mut followers) => panic!("its note is not written"),
        () = run.as_mut() => unreachable!("it carries without an end"),
        () = gate.waits.notified() => {}
    }
    let whose = gate.shut.lock().expect("alone").1.clone().expect("one waits");
    let other = usize::from(whose.parent().is_some_and(|folder| folder.ends_with("shop")));
    assert_eq!((followers[other].keep(), followers[other].position().alarm), (1, None));
    gate.shut.lock().expect("alone").0 = false;
    gate.opened.notify_all();
    beside(run.as_mut(), tick_all(&mut followers)).await.expect("tick");
    assert_eq!(*gate.was_opened.lock().expect("alone"), Some(true), "the other was kept while one waited");
    assert_eq!(carrier.puts(), puts + 1, "both were in one object");
    all_keep(&mut homes, &followers);
    for home in &homes {
        home.comes_back(vault, "beside a slow disk").await;
    }
}

/// A disk with room for so many bytes in the spool of each source.
struct Small(Arc<AtomicU64>);

struct SmallFile {
    file: Box<dyn DiskFile>,
    spool: PathBuf,
    room: Arc<AtomicU64>,
}

impl DiskFile for SmallFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let files = std::fs::read_dir(&self.spool)?.flatten();
        let used: u64 = files.map(|file| file.metadata().expect("a file").len()).sum();
        if used + bytes.len() as u64 > self.room.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file.write_at(offset, bytes)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }
    fn give_owner_of(&self, from: &Path) -> io::Result<()> {
        self.file.give_owner_of(from)
    }
    fn is_at(&self, path: &Path) -> io::Result<bool> {
        self.file.is_at(path)
    }
    fn lock(&self) -> io::Result<()> {
        self.file.lock()
    }
}

impl Disk for Small {
    fn create(&self, path: &Path, mode: u32) -> io::Result<Box<dyn DiskFile>> {
        let file = OsDisk.create(path, mode)?;
        match path.parent().filter(|folder| folder.ends_with("spool")) {
            Some(spool) => Ok(Box::new(SmallFile { file, spool: spool.to_owned(), room: self.0.clone() })),
            None => Ok(file),
        }
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        OsDisk.create_dir(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        OsDisk.rename(from, to)
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        OsDisk.link(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        OsDisk.remove(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        OsDisk.sync_dir(path)
    }
}

/// On a full disk there is room once what was sealed in its place has gone, or later: it is known that it is not kept until it is,
/// and from then on it outlives the process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_on_its_way_is_kept_as_soon_as_the_disk_has_room() {
    for (first, room) in [(None, 150_000), (Some(Alarm::SpoolRefused), 10)] {
        let (mut world, store) = Away::world(false).await;
        let space = Arc::new(AtomicU64::new(u64::MAX));
        world.vault.env.disk = Arc::new(Small(space.clone()));
        let (vault, mut homes) = (&world.vault, homes(world.dir()));
        let mut followers = all_follow(&homes, vault).await;
        let carrier = Arc::new(Carrier::new(vault, TIMES));
        let last = carried(&carrier, async {
            board_all(&carrier, &mut followers).await.expect("board");
            homes.iter().for_each(|home| home.commit(200));
            tick_all(&mut followers).await.expect("tick");
            all_keep(&mut homes, &followers);
            commits(&mut homes[0], &mut followers[0], 100_000);
            assert_eq!((followers[0].keep(), followers[0].position().alarm), (1, None), "for its own stream");
            homes[1].commit(30);
            store.is_away.store(true, Ordering::SeqCst);
            let away = tick_all(&mut followers).await.expect_err("the store is away");
            assert_eq!(away.kind(), Kind::Unavailable);
            // It is on its way now, and what was sealed of it is still there.
            space.store(room, Ordering::SeqCst);
            for _ in 0..2 {
                assert_eq!((followers[0].keep(), followers[0].position().alarm), (1, first), "with room for {room}");
            }
            space.store(u64::MAX, Ordering::SeqCst);
            assert_eq!((followers[0].keep(), followers[0].position().alarm), (1, None), "there is room");
            homes[0].copies_back(&mut followers[0]);
            let last = commits(&mut homes[0], &mut followers[0], 50);
            assert_eq!((followers[0].keep(), followers[0].position().alarm), (2, None));
            last
        })
        .await;
        drop(followers);
        store.is_away.store(false, Ordering::SeqCst);
        let mut followers = all_follow(&homes, vault).await;
        all_went_on(&followers);
        assert_eq!(followers[0].position().tx, last);
        homes.iter().for_each(|home| home.commit(60));
        tick_all(&mut followers).await.expect("tick");
        all_keep(&mut homes, &followers);
        for home in &homes {
            home.comes_back(vault, "kept on a disk that was full").await;
        }
    }
}
