//! Access keys, and where new ones come from when they expire in the middle of a run.
//!
//! Owns the keys in use. Keys are asked for again shortly before they expire, and when a server says that they
//! have expired although they were accepted before. Keys that are refused again and again are given up on:
//! whoever hands out expired keys is not asked for ever. The lock is held while new keys are fetched, so that
//! one request asks and the others wait for it.

use async_trait::async_trait;
use futures::future::BoxFuture;
use object_store::aws::AwsCredential;
use object_store::client::CredentialProvider;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Keys as an access provider hands them out. Neither prints itself.
#[derive(Clone)]
pub struct AccessKeys {
    pub id: String,
    pub secret: String,
    pub token: Option<String>,
    /// How long they are good for from now, if they say so.
    pub good_for: Option<Duration>,
}

impl std::fmt::Debug for AccessKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(access keys)")
    }
}

/// Gets keys anew, or says in words of its own why it cannot. The words must hold no secret.
pub type Fetch = Arc<dyn Fn() -> BoxFuture<'static, Result<AccessKeys, String>> + Send + Sync>;

/// New keys are asked for this long before the old ones expire.
const MARGIN: Duration = Duration::from_secs(5 * 60);
/// New keys in a row that no server accepted before it is believed.
const IN_VAIN_MAX: u32 = 2;

pub struct Renewal {
    fetch: Fetch,
    held: Mutex<Held>,
    /// A server said that the keys have expired.
    discarded: AtomicBool,
    /// Fetched since any were accepted.
    in_vain: AtomicU32,
}

struct Held {
    keys: Arc<AwsCredential>,
    /// When new ones are asked for unbidden.
    until: Option<Instant>,
}

impl Held {
    fn of(keys: AccessKeys) -> Self {
        let until = keys.good_for.map(|span| Instant::now() + span.saturating_sub(MARGIN).max(span / 2));
        Self { keys: Arc::new(AwsCredential { key_id: keys.id, secret_key: keys.secret, token: keys.token }), until }
    }
}

impl std::fmt::Debug for Renewal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(renewed access keys)")
    }
}

/// Why there are no keys now.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct NotRenewed(pub String);

impl Renewal {
    pub fn new(first: AccessKeys, fetch: Fetch) -> Self {
        let held = Mutex::new(Held::of(first));
        Self { fetch, held, discarded: AtomicBool::new(false), in_vain: AtomicU32::new(0) }
    }

    /// A server accepted what it was asked with.
    pub(super) fn accepted(&self) {
        self.in_vain.store(0, Ordering::Relaxed);
    }

    /// A server says that the keys have expired. Whether new ones are worth a try.
    pub(super) fn discard(&self) -> bool {
        let worth = self.in_vain.load(Ordering::Relaxed) < IN_VAIN_MAX;
        self.discarded.store(worth, Ordering::Release);
        worth
    }
}

#[async_trait]
impl CredentialProvider for Renewal {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let mut held = self.held.lock().await;
        let refused = self.discarded.load(Ordering::Acquire);
        let due = held.until.is_some_and(|until| Instant::now() >= until);
        if !refused && !due {
            return Ok(held.keys.clone());
        }
        match (self.fetch)().await {
            Ok(keys) => {
                *held = Held::of(keys);
                self.discarded.store(false, Ordering::Release);
                self.in_vain.fetch_add(1, Ordering::Relaxed);
            }
            // What is still good is used while it is.
            Err(_) if !refused => held.until = None,
            Err(why) => {
                let source = NotRenewed(why).into();
                return Err(object_store::Error::Unauthenticated { path: String::new(), source });
            }
        }
        Ok(held.keys.clone())
    }
}
