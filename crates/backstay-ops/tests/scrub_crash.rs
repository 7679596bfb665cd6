//! Healing stopped at every effect: at each instant the repository itself holds good bytes of all that it had good
//! bytes of, and the next scrub finishes what this one began, without the copy where a replacement was under way.

mod rig;
mod world;

use async_trait::async_trait;
use backstay_format::facts::AuditAct;
use backstay_model::retention::RetentionPolicy;
use backstay_model::{Clock, ObjectId, Verdict};
use backstay_ops::catalog::Vault;
use backstay_ops::check::Depth;
use backstay_ops::copy::{Act, CopyRequest, Destination, Reread, copy};
use backstay_ops::disk::OsDisk;
use backstay_ops::journal;
use backstay_ops::scrub::{ScrubRequest, scrub, unfinished};
use backstay_ops::{OpsError, State};
use backstay_store::keys::{Place, Spare};
use backstay_store::local::{LocalStore, OpenMode};
use backstay_store::os::SystemClock;
use backstay_store::repo::Repository;
use backstay_store::{Key, Store, StoreError};
use backstay_testkit::effects::Effects;
use jiff::tz::TimeZone;
use rig::{Before, Ended, Making, Process, Run, crash_anything};
use std::collections::BTreeMap;
use std::fs;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, UNIX_EPOCH};
use world::{Hands, source};

const CHANGE: &str = "UPDATE t SET x = printf('%0300d', id) WHERE id % 50 = 3; DELETE FROM t WHERE id % 97 = 5";

async fn sent(process: &Process) {
    let store = LocalStore::open(&process.dir().join("usb"), OpenMode::Create).expect("a store");
    let to = Destination { store: Arc::new(store), state_root: process.dir().join("state-of-sender") };
    let request = CopyRequest {
        act: Act::Copy,
        reread: Reread::Nothing,
        policy: RetentionPolicy::default(),
        zone: TimeZone::UTC,
        in_flight: NonZeroU32::MIN,
    };
    assert_eq!(copy(&process.vault, &to, &request).await.expect("copied").verdict, Verdict::Pass);
}

/// Everything below `data/`, by name.
fn data(vault: &Path) -> BTreeMap<Key, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut folders = vec![vault.join("data")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder").flatten() {
            match entry.file_type().expect("a type").is_dir() {
                true => folders.push(entry.path()),
                false => {
                    let path = entry.path();
                    let name = path.strip_prefix(vault).expect("below").to_str().expect("text");
                    // What was being put when the process died.
                    if let Ok(key) = Key::parse(name) {
                        all.insert(key, fs::read(&path).expect("read"));
                    }
                }
            }
        }
    }
    all
}

/// A pack and an old manifest are damaged, another pack is gone; the copy has everything.
async fn hurt() -> (Before, BTreeMap<Key, Vec<u8>>, [Key; 2]) {
    let making = Making::database("WAL").repository().await.backed_up().await;
    making.sql(CHANGE);
    let making = making.backed_up().await.having(sent).await;
    let vault = making.dir().join("vault");
    let good = data(&vault);
    let packs: Vec<&Key> = good.keys().filter(|key| matches!(Place::of(key), Place::Pack(..))).collect();
    let oldest = good.keys().filter(|key| matches!(Place::of(key), Place::Snapshot(_))).max().expect("a manifest");
    let damaged = [packs[0].clone(), oldest.clone()];
    for key in &damaged {
        let mut bytes = good[key].clone();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(vault.join(key.as_str()), bytes).expect("write");
    }
    assert!(packs.len() > 1, "one to damage and one to lose");
    fs::remove_file(vault.join(packs[1].as_str())).expect("remove");
    (making.done(), good, damaged)
}

/// Makes the store say that it got what it holds under such names two days ago.
fn age(vault: &Path, what: &str) {
    let mut folders = vec![vault.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.display().to_string().contains(what) {
                let then =
                    UNIX_EPOCH + Duration::from_millis(SystemClock.now().as_millis().cast_unsigned() - 2 * 86_400_000);
                fs::File::options().write(true).open(&path).expect("open").set_modified(then).expect("set");
            }
        }
    }
}

/// How often the audit says of an object that it was replaced.
async fn recorded(process: &Process, object: &Key) -> usize {
    let said = journal::read(&process.vault).await.expect("the audit").records;
    let healed = |act: &AuditAct| matches!(act, AuditAct::ObjectHealed { object: of, .. } if *of == object.to_string());
    said.iter().filter(|entry| healed(&entry.act)).count()
}

async fn open(run: &Run, effects: Option<&Effects>) -> Result<Process, OpsError> {
    let disk = effects.map_or_else(|| run.next(&Effects::unstopped()), |effects| run.next(effects));
    Process::open(run.dir(), disk, effects).await
}

async fn heal(process: &Process) -> Result<backstay_ops::scrub::ScrubReport, OpsError> {
    let store = LocalStore::open(&process.dir().join("usb"), OpenMode::Existing).expect("the copy");
    let repo = Repository::open(Arc::new(store), process.vault.repo.root(), None).await.expect("the copy");
    let state = State::open(Arc::new(OsDisk), &process.dir().join("state-of-usb"), repo.id()).expect("state");
    let copy = Vault { repo, state, signer: None, unsealer: None, env: process.vault.env.clone() };
    scrub(&process.vault, &ScrubRequest { depth: Depth::Authentic, from: Some(&copy) }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn healing_stopped_anywhere() {
    let (before, good, damaged) = hurt().await;
    let act = async |run: &Run, effects: Effects| heal(&open(run, Some(&effects)).await?).await.map(drop);
    let sweep = crash_anything("healing from a copy", &before, act, async |run: &Run, ended: &Ended| {
        let vault = run.dir().join("vault");
        let there = data(&vault);
        let spares: Vec<Spare> = there.keys().filter_map(Spare::parse).collect();
        for (key, bytes) in there.iter().filter(|(key, _)| Spare::parse(key).is_none()) {
            let original = good.get(key).expect("nothing is made up");
            let kept = || spares.iter().any(|spare| spare.of == *key && there[&spare.key().expect("one")] == *original);
            assert!(bytes == original || is_as_hurt(original, bytes) || kept(), "{key} is neither old nor new");
        }
        // What was deleted to be replaced is in its spare, whole: nothing depends on the copy any more.
        for spare in &spares {
            assert!(there[&spare.key().expect("one")] == good[&spare.of], "the spare of {} is whole", spare.of);
        }
        let deleted: Vec<&Key> = good.keys().filter(|key| !there.contains_key(*key)).collect();
        let begun: Vec<&Key> = spares.iter().map(|spare| &spare.of).collect();
        assert!(deleted.iter().filter(|key| !begun.contains(*key)).count() <= 1, "the pack that was lost before");

        let process = open(run, None).await.expect("open");
        let named = unfinished(&process.vault, &[source().as_str()]).await.expect("a look");
        assert_eq!(named.len(), spares.len(), "what is under way is said");
        // Without the copy: what is under way is finished.
        scrub(&process.vault, &ScrubRequest { depth: Depth::Authentic, from: None }).await.expect("the next scrub");
        let after = data(&vault);
        for spare in &spares {
            assert!(after.get(&spare.of) == Some(&good[&spare.of]), "{} is finished without the copy", spare.of);
        }
        // With it: everything. What another run left is kept for a day, and not for longer.
        let kept = data(&vault).keys().filter(|key| Spare::parse(key).is_some()).count();
        assert_eq!(kept, spares.len(), "whoever put them may only be asleep");
        age(&vault, "/spare/");
        let healed = heal(&process).await.expect("and the next with the copy");
        assert_eq!(healed.verdict, Verdict::Pass, "{healed:?}");
        let after = data(&vault);
        assert!(after == good, "byte for byte, and no spare is left");
        for key in &damaged {
            assert_eq!(recorded(&process, key).await, 1, "{key} was replaced, and that is said once");
        }
        if ended.done {
            assert!(healed.healed.is_empty(), "what was told is so: {healed:?}");
        }
        let catalog = process.vault.catalog(&source()).await.expect("catalog");
        assert!(catalog.snapshots.iter().all(|s| !s.is_quarantined()), "nothing is left in quarantine");
        for known in &before.known {
            let id: ObjectId = known.id;
            assert!(process.restored(id).await == known.bytes, "snapshot {id} restores byte for byte");
        }
    })
    .await;
    sweep.assert_stopped_at(&["store get", "store list", "store put, not applied", "store put, applied"]);
    sweep.assert_stopped_at(&["store delete, not applied", "store delete, applied"]);
}

fn is_as_hurt(original: &[u8], bytes: &[u8]) -> bool {
    original.len() == bytes.len() && original.iter().zip(bytes).filter(|(a, b)| a != b).count() == 1
}

/// A store in which whoever deletes a pack first has slept for two hours before that, and another host has healed meanwhile.
struct Asleep {
    inner: Arc<dyn Store>,
    clock: Arc<Hands>,
    dir: PathBuf,
    slept: AtomicBool,
    /// The process is killed as soon as it has deleted.
    dies: bool,
}

#[async_trait]
impl Store for Asleep {
    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        let is_pack = matches!(Place::of(key), Place::Pack(..));
        if !is_pack || self.slept.swap(true, Ordering::SeqCst) {
            return self.inner.delete(key).await;
        }
        self.clock.pass(2 * 3600);
        age(&self.dir.join("vault"), "/lease/");
        let handle = tokio::runtime::Handle::current();
        let another = || handle.block_on(heal_elsewhere(&self.dir));
        let healed = tokio::task::block_in_place(|| {
            std::thread::scope(|scope| scope.spawn(another).join().expect("another heals"))
        });
        assert!(healed.contains(&key.to_string()), "{healed:?}");
        self.inner.delete(key).await?;
        if self.dies {
            return Err(StoreError::Unknown { op: "delete", key: key.to_string(), source: "killed".into() });
        }
        Ok(())
    }

    backstay_testkit::forward!(inner: put_new get get_range head list describe);
}

/// Another host heals. What it has healed.
async fn heal_elsewhere(dir: &Path) -> Vec<String> {
    let mut other = Process::open(dir, Arc::new(OsDisk), None).await.expect("open");
    let state = State::open(Arc::new(OsDisk), &dir.join("state-of-another"), other.vault.repo.id());
    other.vault.state = state.expect("state");
    let healed = heal(&other).await.expect("another heals").healed;
    healed.into_iter().map(|healed| healed.object).collect()
}

/// What it deletes when it wakes up is the good object that another has put: nothing depends on the copy then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_slept_before_the_delete_loses_nothing_that_another_has_healed() {
    for dies in [false, true] {
        let (before, good, _) = hurt().await;
        let dir = before.dir();
        let (inner, clock) = (Process::plain_store(dir), Arc::new(Hands::default()));
        let asleep = Asleep { inner, clock: clock.clone(), dir: dir.to_owned(), slept: AtomicBool::new(false), dies };
        let mut process = Process::over(dir, Arc::new(OsDisk), Arc::new(asleep)).await.expect("open");
        process.vault.env.clock = clock;
        let ended = heal(&process).await.expect_err("its turn is over");
        assert!(dies || matches!(ended, OpsError::LeaseOver), "{ended}");
        drop(process);
        // The copy is gone; whoever comes next finds everything here.
        fs::remove_dir_all(dir.join("usb")).expect("removed");
        let mut next = Process::open(dir, Arc::new(OsDisk), None).await.expect("open");
        let state = State::open(Arc::new(OsDisk), &dir.join("state-of-another"), next.vault.repo.id());
        next.vault.state = state.expect("state");
        age(&dir.join("vault"), "/lease/");
        scrub(&next.vault, &ScrubRequest { depth: Depth::Authentic, from: None }).await.expect("the next scrub");
        let after = data(&dir.join("vault"));
        for (key, bytes) in &good {
            assert!(after.get(key) == Some(bytes), "{key}, and it dies: {dies}");
        }
    }
}
