//! A history of many snapshots, each with its proven mark, in a repository of many objects.
//!
//! The store is in memory and shows pages of 1000 names, so that requests are what S3 would be asked. The seconds are once
//! ours alone, and once with 30 ms for each request, as over a network.

use crate::report::{Bound, Table};
use crate::{Failed, Options};
use async_trait::async_trait;
use backstay_format::facts::Mark;
use backstay_model::catalog::MarkKind;
use backstay_model::{ByteLen, Moment, ObjectId, Sequence, SourceName};
use backstay_ops::backup::{BackupRequest, Malformed, backup};
use backstay_ops::bundles;
use backstay_ops::catalog::Vault;
use backstay_ops::disk::OsDisk;
use backstay_ops::init::{self, NewVault, Sealing};
use backstay_ops::{Cancel, Env, State};
use backstay_store::memory::MemoryStore;
use backstay_store::meter::Meter;
use backstay_store::os::{OsRandom, SystemClock};
use backstay_store::remember::{Remembered, Verified};
use backstay_store::repo::{Chain, Draft, Repository, Signing};
use backstay_store::seal::Unsealer;
use backstay_store::{Key, Page, Put, Store, StoreError, keys};
use bytes::Bytes;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What `list` shows unless it is asked for more.
const USUAL: usize = 1000;

pub async fn measure(options: &Options) -> Result<Table, Failed> {
    let work = tempfile::tempdir()?;
    let far = Arc::new(Far { inner: MemoryStore::new(), is_far: AtomicBool::new(false) });
    let meter = Arc::new(Meter::new(far.clone()));
    let vault = vault(meter.clone(), work.path()).await?;
    fill(&vault, work.path(), options).await?;
    let title = format!("list: {} snapshots, {} objects", options.snapshots, options.objects);
    let mut table = Table::new(title);
    let mut memory = Vec::new();
    let rounds = [
        ("the usual list, blank host", Some(USUAL), false),
        ("the usual list, again", Some(USUAL), true),
        ("the usual list, after one more backup", Some(USUAL), true),
        ("the whole list, blank host", None, false),
        ("the whole list, again", None, true),
    ];
    for (name, newest, again) in rounds {
        if !again {
            memory.clear();
        }
        if name.ends_with("backup") {
            backup(&vault, &request(work.path())?).await?;
        }
        let mut copy = memory.clone();
        far.is_far.store(true, Ordering::Relaxed);
        let over_a_network = one(&vault, &meter, &mut copy, newest).await?;
        far.is_far.store(false, Ordering::Relaxed);
        let cost = one(&vault, &meter, &mut memory, newest).await?;
        table.figure(&format!("{name}: seconds"), cost.seconds, "s");
        table.figure(&format!("{name}: seconds, 30 ms each request"), over_a_network.seconds, "s");
        table.figure(&format!("{name}: requests"), cost.requests as f64, "");
        // Bundles, and the names of all marks and notices by the thousand: 39 when this was written.
        if !again {
            table.bound(&format!("{name}: requests"), cost.requests as f64, Bound::Most(60.0));
        }
        // The names of the snapshots of a whole list alone are a page for each thousand.
        if again && newest.is_some() {
            table.bound(&format!("{name}: seconds"), cost.seconds, Bound::Most(1.0));
            table.bound(&format!("{name}: requests"), cost.requests as f64, Bound::Most(10.0));
        }
    }
    table.figure("remembered", memory.len() as f64 / 1e6, "MB");
    Ok(table)
}

struct Cost {
    seconds: f64,
    requests: u64,
}

/// What the command does, from opening the repository on.
async fn one(vault: &Vault, meter: &Arc<Meter>, memory: &mut Vec<u8>, newest: Option<usize>) -> Result<Cost, Failed> {
    let (before, begun) = (meter.read(), Instant::now());
    let remembered = Arc::new(Remembered::new(meter.clone()));
    let seal = vault.seal();
    remembered.load(memory, &source()?, seal);
    let repo = Repository::open(remembered.clone(), vault.repo.root(), None).await?;
    let opened = Vault { repo, state: vault.state.clone(), signer: None, unsealer: None, env: vault.env.clone() };
    let catalog = opened.newest(&source()?, newest, &remembered).await?;
    if !catalog.broken.is_empty() || !catalog.mark_faults.is_empty() {
        return Err(format!("{} broken, {} faults", catalog.broken.len(), catalog.mark_faults.len()).into());
    }
    let wanted = newest.unwrap_or(usize::MAX);
    // The snapshot of one more backup is not proven.
    let unproven = catalog.snapshots.iter().filter(|s| !s.is_proven()).count();
    if catalog.snapshots.len() != wanted.min(catalog.marks.len() + unproven) || unproven > 1 {
        return Err(format!("{} snapshots, {} marks", catalog.snapshots.len(), catalog.marks.len()).into());
    }
    let verified = Verified { keys: &catalog.verified_keys(&source()?), source: &source()?, height: catalog.noticed };
    memory.extend(remembered.verified(verified));
    Ok(Cost { seconds: begun.elapsed().as_secs_f64(), requests: meter.read().since(&before).calls() })
}

fn source() -> Result<SourceName, Failed> {
    Ok("shop".parse()?)
}

async fn vault(store: Arc<dyn Store>, work: &Path) -> Result<Vault, Failed> {
    let env = Env {
        clock: Arc::new(SystemClock),
        random: Arc::new(OsRandom),
        disk: Arc::new(OsDisk),
        events: Arc::new(|_| {}),
        cancel: Cancel::default(),
        threads: 2,
    };
    let key_file = work.join("backstay.key");
    let made =
        init::create(&env, NewVault { store, key_file: &key_file, sealing: Sealing::Sealed, host: "bench".into() })
            .await?;
    let state = State::open(env.disk.clone(), &work.join("state"), made.repo.id())?;
    let unsealer = made.keys.identity.map(Unsealer::new);
    Ok(Vault { repo: made.repo, state, signer: made.keys.signer, unsealer, env })
}

/// One real backup, then as many like it as are wanted: signed, chained and marked as they would be.
async fn fill(vault: &Vault, work: &Path, options: &Options) -> Result<(), Failed> {
    let request = request(work)?;
    rusqlite::Connection::open(&request.path)?.execute_batch(
        "CREATE TABLE item(id INTEGER PRIMARY KEY, name TEXT);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500) INSERT INTO item SELECT i, i FROM n;",
    )?;
    backup(vault, &request).await?;
    repeat(vault, options.snapshots).await?;
    let random = vault.env.random.as_ref();
    for _ in vault.repo.list("").await?.len() as u64..options.objects {
        let pack = keys::pack(&source()?, &vault.repo.fresh_id(random));
        vault.repo.store().put_new(&pack, Bytes::new()).await?;
    }
    Ok(())
}

fn request(work: &Path) -> Result<BackupRequest, Failed> {
    Ok(BackupRequest {
        source: source()?,
        path: work.join("shop.db"),
        label: None,
        keep: None,
        busy: Duration::from_secs(30),
        hold_max: Duration::from_secs(1),
        malformed: Malformed::Refuse,
        uploads_in_flight: 2,
        log_growth_max: ByteLen::new(1 << 30),
    })
}

/// A store at the other end of a network, when it is to be.
struct Far {
    inner: MemoryStore,
    is_far: AtomicBool,
}

impl Far {
    async fn wait(&self) {
        if self.is_far.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }
}

#[async_trait]
impl Store for Far {
    async fn put_new(&self, key: &Key, bytes: Bytes) -> Result<Put, StoreError> {
        self.wait().await;
        self.inner.put_new(key, bytes).await
    }
    async fn get(&self, key: &Key) -> Result<Bytes, StoreError> {
        self.wait().await;
        self.inner.get(key).await
    }
    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.wait().await;
        self.inner.get_range(key, range).await
    }
    async fn head(&self, key: &Key) -> Result<Option<u64>, StoreError> {
        self.wait().await;
        self.inner.head(key).await
    }
    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, StoreError> {
        self.wait().await;
        self.inner.list(prefix, after, limit).await
    }
    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.wait().await;
        self.inner.delete(key).await
    }
    fn describe(&self) -> String {
        self.inner.describe()
    }
}

async fn repeat(vault: &Vault, snapshots: u64) -> Result<(), Failed> {
    let (source, random) = (source()?, vault.env.random.as_ref());
    let signer = vault.signer.as_ref().ok_or("no signer")?;
    let name = vault.repo.newest_names(&source, 1).await?.remove(0);
    let model = vault.repo.manifest(&name).await?;
    let body = model.unseal(vault.unsealer()?)?;
    let sealer = vault.repo.sealer(random);
    // About as long as a real proof's: the tables with their rows.
    let evidence =
        serde_json::json!({ "tables": (0..12).map(|n| format!("table {n}: 1000 rows")).collect::<Vec<_>>() });
    let (mut previous, mut mark_chain, mut id) = (model.front.digest, Chain::START, name.id);
    for sequence in 1..=snapshots {
        if sequence > 1 {
            id = vault.repo.fresh_id(random);
            let mut facts = model.front.facts.clone();
            facts.taken = Moment::from_millis(facts.taken.as_millis() + sequence as i64).ok_or("no moment")?;
            let chain = Chain { sequence: Sequence::new(sequence), previous };
            let draft = Draft { id, facts, table: model.table.clone(), body: body.clone(), chain, signer };
            let (bytes, digest) = draft.seal(&sealer, random);
            previous = digest;
            vault.repo.put_fresh(&keys::snapshot(&source, Sequence::new(sequence), &id), bytes).await?;
        }
        let (root, at) = (model.front.facts.root, vault.env.clock.now());
        let facts = Mark {
            source: source.clone(),
            snapshot: id,
            kind: MarkKind::Proven,
            root,
            at,
            releases: None,
            evidence: evidence.clone(),
        };
        let mark: ObjectId = vault.repo.fresh_id(random);
        vault.repo.put_mark(facts, mark_chain, Signing { key: signer, id: mark }).await?;
        // The next one follows what was just put.
        let bytes = vault.repo.store().get(&keys::mark(&source, &id, MarkKind::Proven, &mark)).await?;
        let digest = backstay_format::object::Front::parse(&bytes)?.digest;
        mark_chain = Chain::after(mark_chain.sequence, digest).ok_or("the last number")?;
        // As a backup does after it.
        bundles::make(vault, &source, Sequence::new(sequence)).await?;
    }
    Ok(())
}
