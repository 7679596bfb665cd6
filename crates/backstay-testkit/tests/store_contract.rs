//! The store contract over memory, the local folder, every decorator, and all of them together.

use backstay_store::Store;
use backstay_store::limit::{Bounds, Limit, Rates};
use backstay_store::local::{LocalStore, OpenMode};
use backstay_store::memory::MemoryStore;
use backstay_store::meter::Meter;
use backstay_store::os::OsRandom;
use backstay_store::retry::{Patience, Retry};
use backstay_testkit::effects::Effects;
use backstay_testkit::fault_store::{Fault, FaultKind, FaultStore};
use backstay_testkit::store_contract::contract;
use std::cell::RefCell;
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;
use std::time::Duration;

/// Runs the contract over a local folder, dressed by `dress`; the folders live until the end.
async fn local_contract(dress: impl Fn(Arc<dyn Store>) -> Arc<dyn Store>) {
    let folders = RefCell::new(Vec::new());
    contract(async || {
        let folder = tempfile::tempdir().expect("temporary folder");
        let store = LocalStore::open(&folder.path().join("vault"), OpenMode::Create).expect("open");
        folders.borrow_mut().push(folder);
        dress(Arc::new(store))
    })
    .await;
}

async fn memory_contract(dress: impl Fn(Arc<dyn Store>) -> Arc<dyn Store>) {
    contract(async || dress(Arc::new(MemoryStore::new()))).await;
}

fn retry(inner: Arc<dyn Store>) -> Arc<dyn Store> {
    Arc::new(Retry::new(inner, Arc::new(OsRandom), Patience::STANDARD))
}

fn limit(inner: Arc<dyn Store>) -> Arc<dyn Store> {
    // Three at a time makes the racing writers queue; the rate is counted but never waited for.
    let rates = Rates { upload: Some(NonZeroU64::MAX), download: Some(NonZeroU64::MAX) };
    let bounds = Bounds { in_flight: NonZeroU32::MIN.saturating_add(2), rates };
    Arc::new(Limit::new(inner, bounds))
}

fn meter(inner: Arc<dyn Store>) -> Arc<dyn Store> {
    Arc::new(Meter::new(inner))
}

fn faultless(inner: Arc<dyn Store>) -> Arc<dyn Store> {
    Arc::new(FaultStore::new(inner).with_effects(Effects::unstopped()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn memory_keeps_the_contract() {
    memory_contract(|store| store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_local_folder_keeps_the_contract() {
    local_contract(|store| store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_decorator_keeps_the_contract() {
    for dress in [retry, limit, meter, faultless] {
        memory_contract(dress).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_whole_stack_keeps_the_contract() {
    local_contract(|store| meter(retry(limit(faultless(store))))).await;
    memory_contract(|store| limit(meter(faultless(retry(store))))).await;
}

/// Lost requests are healed by trying again; only an answer that was lost after a put was applied
/// can be told from success, and that is the caller's to resolve, so it is not among these.
#[tokio::test(start_paused = true)]
async fn a_stack_over_an_unreliable_store_keeps_the_contract() {
    for seed in 0..4 {
        let faults = vec![
            Fault { verb: None, per_thousand: 150, kind: FaultKind::Unapplied },
            Fault { verb: None, per_thousand: 100, kind: FaultKind::Slow(Duration::from_secs(3)) },
            Fault { verb: None, per_thousand: 50, kind: FaultKind::Slow(Duration::from_secs(3600)) },
        ];
        memory_contract(|store| {
            let unreliable = Arc::new(FaultStore::new(store).with_faults(seed, faults.clone()));
            let patience = Patience { deadline: Duration::from_secs(86_400), ..Patience::STANDARD };
            meter(Arc::new(Retry::new(limit(unreliable), Arc::new(OsRandom), patience)))
        })
        .await;
    }
}

/// Every answer the fault store gave wrongly must fail the contract, or the contract cannot fail.
#[test]
fn a_store_that_lies_does_not_keep_the_contract() {
    for kind in [FaultKind::ShortListing, FaultKind::StaleListing, FaultKind::Unapplied, FaultKind::Denied] {
        let faults = vec![Fault { verb: None, per_thousand: 200, kind }];
        let lying = || Arc::new(FaultStore::new(Arc::new(MemoryStore::new())).with_faults(5, faults.clone()));
        let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
            runtime.block_on(contract(async || lying() as Arc<dyn Store>));
        }));
        assert!(run.is_err(), "{kind:?} went unnoticed");
    }
}
