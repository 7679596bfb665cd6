//! What every store and every stack of decorators must do, as one suite.

use backstay_model::{Clock, Moment};
use backstay_store::os::SystemClock;
use backstay_store::seam::OBJECT_BYTES_MAX;
use backstay_store::{Key, Put, Store, StoreError};
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;

/// Runs the whole suite; `make` gives a fresh, empty store each time.
pub async fn contract(make: impl AsyncFn() -> Arc<dyn Store>) {
    an_empty_store_has_nothing(&*make().await).await;
    objects_are_created_once(&*make().await).await;
    ranges_are_exact(&*make().await).await;
    an_empty_object_is_an_object(&*make().await).await;
    deleting_is_idempotent(&*make().await).await;
    prefixes_are_strings(&*make().await).await;
    listings_are_in_byte_order(&*make().await).await;
    pages_are_disjoint_and_complete(&*make().await).await;
    a_listing_goes_on_after_changes(&*make().await).await;
    one_of_many_writers_creates(&make().await).await;
    objects_keep_the_time_they_were_created(&*make().await).await;
    large_objects_are_intact(&*make().await).await;
    too_large_objects_are_refused(&*make().await).await;
}

/// A key for a test; panics on a name that is not legal.
pub fn key(text: &str) -> Key {
    Key::parse(text).expect("a test's own key is legal")
}

/// Bytes that differ everywhere and are the same every time.
pub fn noise(seed: &str, len: usize) -> Bytes {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(seed.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes.into()
}

async fn create(store: &dyn Store, name: &str) {
    let put = store.put_new(&key(name), Bytes::from(name.to_owned())).await.expect("put");
    assert_eq!(put, Put::Created, "{name}");
}

async fn names(store: &dyn Store, prefix: &str) -> Vec<String> {
    let page = store.list(prefix, None, 1000).await.expect("list");
    assert_eq!(page.next, None, "one page holds it all");
    for entry in &page.entries {
        assert_eq!(entry.len, entry.key.as_str().len() as u64, "each object holds its own name");
    }
    page.entries.into_iter().map(|entry| entry.key.to_string()).collect()
}

fn assert_absent<T: std::fmt::Debug>(answer: Result<T, StoreError>, name: &str) {
    match answer {
        Err(StoreError::NotFound { key }) => assert_eq!(key, name),
        other => panic!("{name} is not there, and the answer is {other:?}"),
    }
}

async fn an_empty_store_has_nothing(store: &dyn Store) {
    assert_absent(store.get(&key("a/b")).await, "a/b");
    assert_absent(store.get_range(&key("a/b"), 0..1).await, "a/b");
    assert_absent(store.get_range(&key("a/b"), 0..0).await, "a/b");
    assert_eq!(store.head(&key("a/b")).await.expect("head"), None);
    store.delete(&key("a/b")).await.expect("nothing to remove");
    for prefix in ["", "a", "a/", "a/b", "a/b/c/"] {
        assert_eq!(names(store, prefix).await, [""; 0], "{prefix:?}");
    }
    assert!(!store.describe().is_empty());
}

async fn objects_are_created_once(store: &dyn Store) {
    let key = key("data/shop/pack/one");
    assert_eq!(store.put_new(&key, Bytes::from_static(b"first")).await.expect("put"), Put::Created);
    for bytes in [&b"second, and longer"[..], b"", b"first"] {
        assert_eq!(store.put_new(&key, Bytes::copy_from_slice(bytes)).await.expect("put"), Put::Exists);
    }
    assert_eq!(store.get(&key).await.expect("get"), "first");
    assert_eq!(store.head(&key).await.expect("head"), Some(5));
}

async fn ranges_are_exact(store: &dyn Store) {
    let (key, bytes) = (key("r"), noise("ranges", 1000));
    store.put_new(&key, bytes.clone()).await.expect("put");
    for range in [0..1000, 0..1, 999..1000, 0..0, 500..500, 1000..1000, 17..900] {
        let got = store.get_range(&key, range.clone()).await.expect("inside");
        assert_eq!(got, bytes[range.start as usize..range.end as usize], "{range:?}");
    }
    let backwards = Range { start: 10, end: 9 };
    for range in [0..1001, 999..1001, 1000..1001, 1001..1001, 5000..6000, 0..u64::MAX, u64::MAX..u64::MAX, backwards] {
        match store.get_range(&key, range.clone()).await {
            Err(StoreError::Short { key, wanted }) => {
                assert_eq!((key.as_str(), wanted), ("r", range.start.max(range.end)), "{range:?}");
            }
            other => panic!("{range:?} is past the end, and the answer is {:?}", other.map(|bytes| bytes.len())),
        }
    }
}

async fn an_empty_object_is_an_object(store: &dyn Store) {
    let key = key("empty");
    assert_eq!(store.put_new(&key, Bytes::new()).await.expect("put"), Put::Created);
    assert_eq!(store.put_new(&key, Bytes::from_static(b"x")).await.expect("put"), Put::Exists);
    assert_eq!(store.head(&key).await.expect("head"), Some(0));
    assert_eq!(store.get(&key).await.expect("get"), "");
    assert_eq!(store.get_range(&key, 0..0).await.expect("range"), "");
    let page = store.list("", None, 10).await.expect("list");
    assert_eq!(page.entries.iter().map(|e| e.len).collect::<Vec<_>>(), [0]);
}

async fn deleting_is_idempotent(store: &dyn Store) {
    for name in ["d/one", "d/two"] {
        create(store, name).await;
    }
    for _ in 0..2 {
        store.delete(&key("d/one")).await.expect("delete");
        assert_absent(store.get(&key("d/one")).await, "d/one");
        assert_eq!(store.head(&key("d/one")).await.expect("head"), None);
        assert_eq!(names(store, "d/").await, ["d/two"]);
    }
    store.delete(&key("d/two")).await.expect("delete");
    assert_eq!(names(store, "").await, [""; 0]);
    create(store, "d/three").await;
    assert_eq!(names(store, "d").await, ["d/three"]);
}

async fn prefixes_are_strings(store: &dyn Store) {
    for name in ["a/b", "a/bc", "a/b-/x", "a/bd/x", "ab/b", "b", "a.b/c", "a/c"] {
        create(store, name).await;
    }
    let cases: [(&str, &[&str]); 13] = [
        ("a/b", &["a/b", "a/b-/x", "a/bc", "a/bd/x"]),
        ("a/bc", &["a/bc"]),
        ("a/bd", &["a/bd/x"]),
        ("a/bd/", &["a/bd/x"]),
        ("a/b/", &[]),
        ("a", &["a.b/c", "a/b", "a/b-/x", "a/bc", "a/bd/x", "a/c", "ab/b"]),
        ("a/", &["a/b", "a/b-/x", "a/bc", "a/bd/x", "a/c"]),
        ("a/b-/x", &["a/b-/x"]),
        ("a/b-/x/", &[]),
        ("A", &[]),
        ("/", &[]),
        ("a//", &[]),
        ("../", &[]),
    ];
    for (prefix, wanted) in cases {
        assert_eq!(names(store, prefix).await, wanted, "prefix {prefix:?}");
    }
}

async fn listings_are_in_byte_order(store: &dyn Store) {
    let mut wanted = ["a/z", "a-b", "a.c", "a+d", "a0", "a_e", "a/b/c", "a/b-c", "a/b0", "z", "0", "-", "a/b.d/e"];
    for name in wanted {
        create(store, name).await;
    }
    wanted.sort_unstable();
    assert_eq!(names(store, "").await, wanted);
}

async fn pages_are_disjoint_and_complete(store: &dyn Store) {
    let all: Vec<String> =
        (0..24).map(|n| format!("p/{:x}{}", n % 5, ["", "/x", "-y"][n % 3]) + &format!("{n:02}")).collect();
    for name in &all {
        create(store, name).await;
    }
    let mut sorted = all.clone();
    sorted.sort_unstable();
    for limit in [0, 1, 2, 5, 23, 24, 25, usize::MAX] {
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let page = store.list("p/", after.as_ref(), limit).await.expect("list");
            assert!(page.entries.len() <= limit.max(1), "limit {limit}");
            assert!(!page.entries.is_empty(), "a page that is not the last leads to something");
            seen.extend(page.entries.iter().map(|e| e.key.to_string()));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(seen, sorted, "limit {limit}");
    }
    // A place to go on from need not be a key, nor lie under the prefix.
    let page = store.list("p/", Some(&key("p/2")), 1000).await.expect("list");
    assert_eq!(page.entries.len(), sorted.iter().filter(|name| name.as_str() > "p/2").count());
    let page = store.list("p/", Some(&key("a")), 1000).await.expect("list");
    assert_eq!(page.entries.len(), sorted.len());
    let page = store.list("p/", Some(&key("q")), 1000).await.expect("list");
    assert_eq!((page.entries.len(), page.next), (0, None));
}

async fn a_listing_goes_on_after_changes(store: &dyn Store) {
    for name in ["c/1", "c/3", "c/5"] {
        create(store, name).await;
    }
    let first = store.list("c/", None, 2).await.expect("list");
    let next = first.next.expect("there is more");
    assert_eq!(next.as_str(), "c/3");
    store.delete(&next).await.expect("delete");
    create(store, "c/2").await;
    create(store, "c/4").await;
    let second = store.list("c/", Some(&next), 10).await.expect("list");
    assert_eq!(second.entries.iter().map(|e| e.key.as_str()).collect::<Vec<_>>(), ["c/4", "c/5"]);
    assert_eq!(second.next, None);
}

async fn one_of_many_writers_creates(store: &Arc<dyn Store>) {
    const WRITERS: usize = 8;
    for round in 0..4 {
        let key = key(&format!("data/race{round}/slot"));
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..WRITERS {
            let (store, key) = (Arc::clone(store), key.clone());
            writers.spawn(async move {
                let bytes = noise(&writer.to_string(), 100_000 + writer);
                (writer, store.put_new(&key, bytes).await.expect("put"))
            });
        }
        let answers = writers.join_all().await;
        let winners: Vec<usize> = answers.iter().filter(|(_, put)| *put == Put::Created).map(|(w, _)| *w).collect();
        let [winner] = winners[..] else { panic!("exactly one creates, and {winners:?} did") };
        let wanted = noise(&winner.to_string(), 100_000 + winner);
        assert!(store.get(&key).await.expect("get") == wanted, "the winner's bytes are there, whole");
        let page = store.list(&format!("data/race{round}/"), None, 100).await.expect("list");
        assert_eq!(page.entries.len(), 1, "losers leave nothing behind");
    }
}

async fn objects_keep_the_time_they_were_created(store: &dyn Store) {
    let times = async || -> Vec<(String, Moment)> {
        let page = store.list("t/", None, 100).await.expect("list");
        page.entries.into_iter().map(|e| (e.key.to_string(), e.modified)).collect()
    };
    let mut known = Vec::new();
    for name in ["t/1", "t/2", "t/3"] {
        create(store, name).await;
        store.put_new(&key("t/1"), Bytes::new()).await.expect("it exists");
        store.get(&key("t/1")).await.expect("get");
        let now = times().await;
        assert_eq!(now.get(..known.len()), Some(&known[..]), "what is there keeps its time");
        known = now;
    }
    assert!(known.is_sorted_by_key(|(_, created)| *created), "{known:?}");
    // In the right unit, that is; the clock of a store is its own.
    let off = SystemClock.now().millis_since(known[0].1).abs();
    assert!(off < 2 * 86_400_000, "{known:?} is {off} ms from now");
}

async fn large_objects_are_intact(store: &dyn Store) {
    const LEN: usize = 32 << 20;
    let (key, bytes) = (key("data/shop/pack/large"), noise("large", LEN));
    assert_eq!(store.put_new(&key, bytes.clone()).await.expect("put"), Put::Created);
    assert_eq!(store.head(&key).await.expect("head"), Some(LEN as u64));
    assert!(store.get(&key).await.expect("get") == bytes);
    let range = LEN / 2 - 70_000..LEN / 2 + 70_001;
    let part = store.get_range(&key, range.start as u64..range.end as u64).await.expect("range");
    assert!(part == bytes[range]);
}

async fn too_large_objects_are_refused(store: &dyn Store) {
    // Zeroed memory that nobody touches costs nothing.
    let bytes = Bytes::from(vec![0; OBJECT_BYTES_MAX as usize + 1]);
    let answer = store.put_new(&key("huge"), bytes).await;
    assert!(matches!(answer, Err(StoreError::TooLarge { len, .. }) if len == OBJECT_BYTES_MAX + 1), "{answer:?}");
    assert_eq!(store.head(&key("huge")).await.expect("head"), None);
}
