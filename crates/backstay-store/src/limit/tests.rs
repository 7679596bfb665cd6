use super::*;
use crate::memory::MemoryStore;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::Instant;

fn key(text: &str) -> Key {
    Key::parse(text).expect("legal")
}

/// Bytes per second in each direction; 0 is without bound.
fn bounds(in_flight: u32, upload: u64, download: u64) -> Bounds {
    Bounds {
        in_flight: NonZeroU32::new(in_flight).expect("not zero"),
        rates: Rates { upload: NonZeroU64::new(upload), download: NonZeroU64::new(download) },
    }
}

/// Takes a second over everything and remembers how many calls it had at once.
#[derive(Default)]
struct Crowd {
    now: AtomicUsize,
    most: AtomicUsize,
    inner: MemoryStore,
}

#[async_trait]
impl Store for Crowd {
    async fn put_new(&self, key: &Key, bytes: Bytes) -> Result<Put, StoreError> {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_secs(1)).await;
        self.now.fetch_sub(1, Ordering::SeqCst);
        self.inner.put_new(key, bytes).await
    }
    async fn get(&self, key: &Key) -> Result<Bytes, StoreError> {
        self.inner.get(key).await
    }
    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.inner.get_range(key, range).await
    }
    async fn head(&self, key: &Key) -> Result<Option<u64>, StoreError> {
        self.inner.head(key).await
    }
    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, StoreError> {
        self.inner.list(prefix, after, limit).await
    }
    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.inner.delete(key).await
    }
    fn describe(&self) -> String {
        self.inner.describe()
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_calls_than_allowed_are_in_flight() {
    let crowd = Arc::new(Crowd::default());
    let limit = Limit::new(crowd.clone(), bounds(3, 0, 0));
    let begun = Instant::now();
    let keys: Vec<Key> = (0..9).map(|n| key(&format!("k{n}"))).collect();
    futures::future::join_all(keys.iter().map(|key| limit.put_new(key, Bytes::new()))).await;
    assert_eq!(crowd.most.load(Ordering::SeqCst), 3);
    assert_eq!(begun.elapsed().as_secs(), 3);
}

#[tokio::test(start_paused = true)]
async fn bytes_are_paid_for_in_each_direction_by_itself() {
    let limit = Limit::new(Arc::new(MemoryStore::new()), bounds(8, 1000, 500));
    let begun = Instant::now();
    // The first goes at once, and each waits for what those before it cost.
    for n in 0..4 {
        limit.put_new(&key(&format!("k{n}")), vec![0; 2000].into()).await.expect("put");
    }
    assert_eq!(begun.elapsed().as_secs(), 6);
    // Reading is not behind what was written, and learns its size afterwards.
    let begun = Instant::now();
    limit.get(&key("k0")).await.expect("get");
    assert_eq!(begun.elapsed().as_secs(), 0);
    limit.get_range(&key("k0"), 0..1000).await.expect("range");
    // Four seconds for the whole object, less the one that was saved up.
    assert_eq!(begun.elapsed().as_secs(), 3);
    limit.get(&key("k0")).await.expect("get");
    assert_eq!(begun.elapsed().as_secs(), 5);
    // What carries no bytes of objects waits for nobody.
    limit.head(&key("k0")).await.expect("head");
    assert_eq!(begun.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn silence_is_saved_up_for_one_second_only() {
    let limit = Limit::new(Arc::new(MemoryStore::new()), bounds(8, 1000, 0));
    tokio::time::sleep(Duration::from_secs(600)).await;
    let begun = Instant::now();
    limit.put_new(&key("a"), vec![0; 1000].into()).await.expect("put");
    limit.put_new(&key("b"), vec![0; 1000].into()).await.expect("put");
    assert_eq!(begun.elapsed(), Duration::ZERO);
    limit.put_new(&key("c"), vec![0; 1].into()).await.expect("put");
    assert_eq!(begun.elapsed().as_secs(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_forged_range_cannot_stop_the_line_for_ever() {
    let limit = Limit::new(Arc::new(MemoryStore::new()), bounds(8, 0, 1));
    limit.get_range(&key("a"), 0..u64::MAX).await.expect_err("not there");
    let wait = tokio::time::timeout(Duration::from_secs(10 * 365 * 86_400), limit.get(&key("a"))).await;
    wait.expect("the next call is served").expect_err("not there either");
}
