use super::*;
use crate::effects::stop_at_every_effect;
use crate::store_contract::key;
use backstay_store::memory::MemoryStore;

fn faulty(faults: Vec<Fault>, seed: u64) -> (Arc<MemoryStore>, FaultStore) {
    let memory = Arc::new(MemoryStore::new());
    (memory.clone(), FaultStore::new(memory).with_faults(seed, faults))
}

fn always(verb: Option<Verb>, kind: FaultKind) -> Vec<Fault> {
    vec![Fault { verb, per_thousand: 1000, kind }]
}

async fn every_verb(store: &dyn Store) -> [Result<(), StoreError>; 6] {
    let key = key("a/b");
    [
        store.put_new(&key, Bytes::from_static(b"x")).await.map(drop),
        store.get(&key).await.map(drop),
        store.get_range(&key, 0..1).await.map(drop),
        store.head(&key).await.map(drop),
        store.list("a/", None, 10).await.map(drop),
        store.delete(&key).await,
    ]
}

#[tokio::test]
async fn every_verb_is_a_stop_point_and_changes_are_two() {
    let sweep = stop_at_every_effect("every verb", 100, async |effects| {
        let memory = Arc::new(MemoryStore::new());
        let store = FaultStore::new(memory.clone()).with_effects(effects.clone());
        let answers = every_verb(&store).await;
        let Some(stopped) = effects.stopped() else {
            assert!(answers.iter().all(Result::is_ok) && memory.dump().is_empty());
            return;
        };
        // Effects 1 to 6 lie between the put's application and the delete's.
        assert_eq!(memory.dump().len(), usize::from((1..=6).contains(&stopped.at)), "{stopped}");
        let first_lost = answers.iter().position(Result::is_err).expect("the stopped verb has no answer");
        assert!(answers.iter().skip(first_lost).all(|a| matches!(a, Err(StoreError::Unknown { .. }))), "{stopped}");
    })
    .await;
    assert_eq!(sweep.effects, 8);
    sweep.assert_stopped_at(&CRASH_POINTS);
}

#[tokio::test]
async fn a_lost_answer_may_or_may_not_have_been_applied() {
    for (kind, there) in
        [(FaultKind::Unapplied, 0), (FaultKind::Applied, 1), (FaultKind::Denied, 0), (FaultKind::Full, 0)]
    {
        let (memory, store) = faulty(always(Some(Verb::PutNew), kind), 3);
        let error = store.put_new(&key("a"), Bytes::new()).await.expect_err("a fault each time");
        assert_eq!(memory.dump().len(), there, "{kind:?}");
        let source = std::error::Error::source(&error).expect("the fault is the cause");
        assert!(source.to_string().contains("seed 3"), "{source}");
        store.get(&key("b")).await.expect_err("not there, but not a fault");
        assert_eq!(store.injected(), BTreeMap::from([("put", 1)]));
    }
    let (memory, store) = faulty(always(Some(Verb::Delete), FaultKind::Applied), 3);
    store.put_new(&key("a"), Bytes::new()).await.expect("put");
    store.delete(&key("a")).await.expect_err("the answer is lost");
    assert!(memory.dump().is_empty());
}

#[tokio::test]
async fn the_same_seed_breaks_the_same_way() {
    let mut histories = Vec::new();
    for seed in [1, 1, 2] {
        let faults = vec![Fault { verb: None, per_thousand: 300, kind: FaultKind::Unapplied }];
        let (_, store) = faulty(faults, seed);
        let mut history = Vec::new();
        for _ in 0..40 {
            history.extend(every_verb(&store).await.map(|answer| answer.is_ok()));
        }
        histories.push(history);
    }
    assert_eq!(histories[0], histories[1]);
    assert_ne!(histories[0], histories[2]);
    assert!(histories[0].contains(&true) && histories[0].contains(&false));
}

#[tokio::test(start_paused = true)]
async fn a_slow_answer_is_right_and_late() {
    let (_, store) = faulty(always(None, FaultKind::Slow(Duration::from_secs(5))), 1);
    let begun = tokio::time::Instant::now();
    for answer in every_verb(&store).await {
        answer.expect("right");
    }
    assert_eq!(begun.elapsed().as_secs(), 30);
}

#[tokio::test]
async fn a_short_listing_misses_something_and_says_it_is_complete() {
    let (memory, store) = faulty(always(None, FaultKind::ShortListing), 9);
    for n in 0..10 {
        store.put_new(&key(&format!("k{n}")), Bytes::new()).await.expect("only listings break");
    }
    let page = store.list("", None, 100).await.expect("list");
    assert!(page.entries.len() < memory.dump().len());
    assert_eq!(page.next, None);
    let kept: Vec<Key> = page.entries.into_iter().map(|e| e.key).collect();
    assert!(memory.dump().keys().cloned().collect::<Vec<_>>().starts_with(&kept));
}

#[tokio::test]
async fn a_stale_listing_hides_the_new_and_shows_the_removed() {
    for seed in 0..20 {
        let (memory, store) = faulty(always(None, FaultKind::StaleListing), seed);
        for name in ["k1", "k2", "k3"] {
            memory.put_new(&key(name), Bytes::new()).await.expect("before the store's time");
        }
        store.delete(&key("k2")).await.expect("delete");
        store.put_new(&key("k4"), Bytes::new()).await.expect("put");
        let page = store.list("k", None, 100).await.expect("list");
        let names: Vec<&str> = page.entries.iter().map(|e| e.key.as_str()).collect();
        let histories = [&["k1", "k3"][..], &["k1", "k2", "k3"]];
        assert!(histories.contains(&&names[..]), "seed {seed}: {names:?}");
    }
}
