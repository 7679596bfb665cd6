use super::*;
use crate::memory::MemoryStore;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Chance that can be replayed.
struct Counting(AtomicU64);

impl Random for Counting {
    fn fill(&self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let n = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
            let mixed = (n ^ (n >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9).to_le_bytes();
            chunk.copy_from_slice(&mixed[..chunk.len()]);
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Silent,
    Unapplied,
    Applied,
    Denied,
    True,
}

/// Answers its calls as the script says, and truthfully after it.
struct Scripted {
    script: Mutex<Vec<Answer>>,
    calls: AtomicU32,
    inner: MemoryStore,
}

impl Scripted {
    fn new(script: &[Answer]) -> Arc<Self> {
        let script = Mutex::new(script.iter().rev().copied().collect());
        Arc::new(Self { script, calls: AtomicU32::new(0), inner: MemoryStore::new() })
    }

    async fn play<T>(&self, key: &Key, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let answer = self.script.lock().expect("not poisoned").pop().unwrap_or(Answer::True);
        let (op, key) = ("test", key.to_string());
        match answer {
            Answer::Silent => std::future::pending().await,
            Answer::Unapplied => Err(StoreError::Unknown { op, key, source: "lost".into() }),
            Answer::Denied => Err(StoreError::Denied { op, key, source: "no".into() }),
            Answer::Applied => {
                call.await?;
                Err(StoreError::Unknown { op, key, source: "lost".into() })
            }
            Answer::True => call.await,
        }
    }
}

#[async_trait]
impl Store for Scripted {
    async fn put_new(&self, key: &Key, bytes: Bytes) -> Result<Put, StoreError> {
        self.play(key, self.inner.put_new(key, bytes)).await
    }
    async fn get(&self, key: &Key) -> Result<Bytes, StoreError> {
        self.play(key, self.inner.get(key)).await
    }
    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.play(key, self.inner.get_range(key, range)).await
    }
    async fn head(&self, key: &Key) -> Result<Option<u64>, StoreError> {
        self.play(key, self.inner.head(key)).await
    }
    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, StoreError> {
        self.play(&a(), self.inner.list(prefix, after, limit)).await
    }
    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.play(key, self.inner.delete(key)).await
    }
    fn describe(&self) -> String {
        "scripted".to_owned()
    }
}

const PATIENCE: Patience = Patience {
    attempt: Duration::from_secs(10),
    deadline: Duration::from_secs(60),
    pause_first: Duration::from_millis(100),
    pause_max: Duration::from_secs(4),
};

fn a() -> Key {
    Key::parse("a").expect("legal")
}

fn retry(store: &Arc<Scripted>) -> Retry {
    Retry::new(store.clone(), Arc::new(Counting(AtomicU64::new(1))), PATIENCE)
}

#[tokio::test(start_paused = true)]
async fn an_unanswered_put_that_was_not_applied_is_created_by_the_next() {
    let store = Scripted::new(&[Answer::Unapplied, Answer::Silent]);
    assert_eq!(retry(&store).put_new(&a(), Bytes::from_static(b"x")).await.expect("put"), Put::Created);
    assert_eq!(store.calls.load(Ordering::Relaxed), 3);
}

#[tokio::test(start_paused = true)]
async fn an_unanswered_put_that_was_applied_says_exists_and_can_be_read() {
    let store = Scripted::new(&[Answer::Applied]);
    let retry = retry(&store);
    assert_eq!(retry.put_new(&a(), Bytes::from_static(b"x")).await.expect("put"), Put::Exists);
    assert_eq!(retry.get(&a()).await.expect("get"), "x");
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_never_asked_for_again() {
    let store = Scripted::new(&[Answer::Denied]);
    let error = retry(&store).put_new(&a(), Bytes::new()).await.expect_err("denied");
    assert!(matches!(error, StoreError::Denied { .. }), "{error:?}");
    let error = retry(&store).get(&a()).await.expect_err("absent");
    assert!(matches!(error, StoreError::NotFound { .. }), "{error:?}");
    assert_eq!(store.calls.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn a_silent_store_ends_in_a_deadline_for_every_verb() {
    for verb in Verb::ALL {
        let store = Scripted::new(&[Answer::Silent; 1000]);
        let (retry, begun) = (retry(&store), Instant::now());
        let answer = match verb {
            Verb::PutNew => retry.put_new(&a(), Bytes::new()).await.map(drop),
            Verb::Get => retry.get(&a()).await.map(drop),
            Verb::GetRange => retry.get_range(&a(), 0..1).await.map(drop),
            Verb::Head => retry.head(&a()).await.map(drop),
            Verb::List => retry.list("", None, 1).await.map(drop),
            Verb::Delete => retry.delete(&a()).await,
        };
        assert!(begun.elapsed() <= PATIENCE.deadline, "{verb:?} took {:?}", begun.elapsed());
        match answer {
            Err(StoreError::Deadline { op, attempts, .. }) => {
                assert_eq!(op, verb.word());
                assert!((5..=7).contains(&attempts), "{verb:?} had {attempts} attempts");
            }
            other => panic!("{verb:?} ended in {other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_at_once_is_not_hammered() {
    let store = Scripted::new(&[Answer::Unapplied; 100_000]);
    let error = retry(&store).head(&a()).await.expect_err("never answers");
    let StoreError::Deadline { attempts, millis, .. } = error else { panic!("{error:?}") };
    // Pauses average 2 s once grown, so a minute holds a few dozen.
    assert!((10..120).contains(&attempts), "{attempts}");
    assert!((50_000..=60_000).contains(&millis), "{millis}");
}

#[test]
fn pauses_double_up_to_the_longest_and_never_overflow() {
    let pauses: Vec<u128> = [1, 2, 3, 6, 7, u32::MAX].map(|n| PATIENCE.pause(n).as_millis()).into();
    assert_eq!(pauses, [100, 200, 400, 3200, 4000, 4000]);
    let random = Counting(AtomicU64::new(7));
    let drawn: Vec<Duration> = (0..200).map(|_| jitter(&random, Duration::from_millis(100))).collect();
    assert!(drawn.iter().all(|pause| *pause <= Duration::from_millis(100)));
    assert!(drawn.iter().any(|pause| *pause < Duration::from_millis(20)));
    assert!(drawn.iter().any(|pause| *pause > Duration::from_millis(80)));
    assert_eq!(jitter(&random, Duration::ZERO), Duration::ZERO);
    jitter(&random, Duration::MAX);
}
