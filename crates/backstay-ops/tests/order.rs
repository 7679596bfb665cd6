//! What must have happened before what, when nothing goes wrong: a put that takes long, a file that
//! comes between the plan and its performance.

mod world;

use async_trait::async_trait;
use backstay_format::object::Object;
use backstay_format::table::Table;
use backstay_model::ObjectId;
use backstay_model::catalog::Target;
use backstay_ops::OpsError;
use backstay_ops::disk::OsDisk;
use backstay_ops::restore::{self, Destination, RestoreRequest};
use backstay_store::keys;
use backstay_store::memory::MemoryStore;
use backstay_store::{Key, Put, Store, StoreError, Verb};
use backstay_testkit::fault_store::{Fault, FaultKind, FaultStore};
use bytes::Bytes;
use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use world::{World, source};

/// Knows which packs were acknowledged when each manifest was put.
struct Watched {
    inner: FaultStore,
    packs: Mutex<HashSet<ObjectId>>,
    /// Per manifest: the packs it refers to, and those of them that were not acknowledged.
    manifests: Mutex<Vec<(usize, usize)>>,
}

impl Watched {
    /// Every put takes long enough for whoever does not wait for it to be elsewhere.
    fn slow() -> Self {
        let slow =
            Fault { verb: Some(Verb::PutNew), per_thousand: 1000, kind: FaultKind::Slow(Duration::from_millis(100)) };
        let inner = FaultStore::new(Arc::new(MemoryStore::new())).with_faults(1, vec![slow]);
        Self { inner, packs: Mutex::default(), manifests: Mutex::default() }
    }

    fn look_at_manifest(&self, bytes: &[u8]) {
        let object = Object::parse(bytes).expect("a manifest");
        let table = Table::parse(object.table).expect("a table");
        let packs = self.packs.lock().expect("packs");
        let missing = table.refs().iter().filter(|r| !packs.contains(&r.object)).count();
        self.manifests.lock().expect("manifests").push((table.refs().len(), missing));
    }
}

#[async_trait]
impl Store for Watched {
    async fn put_new(&self, key: &Key, bytes: Bytes) -> Result<Put, StoreError> {
        if key.as_str().starts_with(&keys::snapshot_prefix(&source())) {
            self.look_at_manifest(&bytes);
        }
        let put = self.inner.put_new(key, bytes).await?;
        if let Some(id) = keys::parse_pack(&source(), key) {
            self.packs.lock().expect("packs").insert(id);
        }
        Ok(put)
    }

    backstay_testkit::forward!(inner: get get_range head list delete describe);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_is_put_after_every_pack_it_refers_to() {
    let store = Arc::new(Watched::slow());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let world = World::over(folder, store.clone(), Arc::new(OsDisk)).await;
    world.sql("CREATE TABLE t(x); INSERT INTO t VALUES (zeroblob(500000))");
    world.backup().await.expect("backup");
    world.sql("UPDATE t SET x = randomblob(500000)");
    world.backup().await.expect("backup");
    let manifests = store.manifests.lock().expect("manifests").clone();
    assert_eq!(manifests.len(), 2);
    for (packs, missing) in manifests {
        assert!(packs > 0, "it refers to packs");
        assert_eq!(missing, 0, "of {packs} packs a manifest refers to, this many were not acknowledged");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_came_after_the_plan_is_not_overwritten() {
    let world = World::new().await;
    world.sql("CREATE TABLE t(x); INSERT INTO t VALUES (1)");
    world.backup().await.expect("backup");
    let to = world.dir().join("out.db");
    let request = RestoreRequest {
        source: source(),
        target: Target::Latest,
        into: Destination::New(to.clone()),
        smoke: Vec::new(),
        busy: Duration::from_secs(5),
    };
    let planned = restore::plan(&world.vault, request).await.expect("nothing is in the way yet");
    std::fs::write(&to, "somebody else's").expect("write");
    let error = restore::perform(&world.vault, planned).await.expect_err("a file is in the way");
    assert!(matches!(&error, OpsError::TargetExists { path } if *path == to), "{error}");
    assert_eq!(std::fs::read(&to).expect("read"), b"somebody else's");
}
