//! A replica that Litestream 0.5.17 wrote, and what it restored from it, in `litestream/`.

mod world;

use backstay_model::{Kind, Kinded, Moment};
use backstay_ops::OpsError;
use backstay_ops::disk::OsDisk;
use backstay_ops::env::blocking;
use backstay_ops::litestream::{Replica, ReplicaPlan, ReplicaRequest, ReplicaRestored, Until, perform, plan};
use backstay_store::memory::MemoryStore;
use backstay_store::{Key, Store};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use world::integrity_of;

fn kept() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/litestream")
}

fn restored(replica: &Path, to: &Path, txid: Option<u64>) -> Result<(ReplicaPlan, ReplicaRestored), OpsError> {
    let until = txid.map_or(Until::Last, Until::Txid);
    let request = ReplicaRequest { replica: Replica::Folder(replica.to_owned()), to: to.to_owned(), until };
    let planned = plan(&request)?;
    let done = perform(&world::env(Arc::new(OsDisk)), &planned, &request)?;
    Ok((planned, done))
}

/// A copy of the replica that may be damaged.
fn copy() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for level in ["0", "1", "9"] {
        let to = folder.path().join("ltx").join(level);
        fs::create_dir_all(&to).expect("a folder");
        for entry in fs::read_dir(kept().join("replica/ltx").join(level)).expect("a folder").flatten() {
            fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
        }
    }
    folder
}

fn file(folder: &Path, level: u8, min: u64, max: u64) -> PathBuf {
    folder.join(format!("ltx/{level}/{min:016x}-{max:016x}.ltx"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_becomes_the_bytes_that_litestream_makes_of_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let to = folder.path().join("new.db");
    let (planned, done) = restored(&kept().join("replica"), &to, None).expect("restored");
    let wanted = fs::read(kept().join("restored.db")).expect("read");
    assert!(fs::read(&to).expect("read") == wanted);
    assert_eq!((planned.txid, planned.files.len(), planned.page_size), (8, 2, 512));
    assert!(done.pages * 512 >= wanted.len() as u64);
    // Without what was put together, the same comes of the small ones.
    let small = copy();
    for level in ["1", "9"] {
        fs::remove_dir_all(small.path().join("ltx").join(level)).expect("removed");
    }
    let other = folder.path().join("other.db");
    let (planned, _) = restored(&small.path().join("ltx"), &other, None).expect("restored");
    assert_eq!(planned.files.len(), 8);
    assert!(fs::read(&other).expect("read") == wanted);
    // Every transaction can be gone back to.
    for txid in 1..=8 {
        let to = folder.path().join(format!("{txid}.db"));
        let (planned, _) = restored(&kept().join("replica"), &to, Some(txid)).expect("restored");
        assert_eq!((planned.txid, integrity_of(&to).as_str()), (txid, "ok"));
    }
    // A time is that of the last transaction made by then, whether files were put together or not.
    for (millis, txid) in
        [(872_323, 1), (872_709, 1), (872_710, 2), (873_400, 2), (876_005, 5), (876_909, 7), (999_999, 8)]
    {
        let at = Moment::from_millis(1_795_290_000_000 + millis).expect("a moment");
        let replica = Replica::Folder(kept().join("replica"));
        let request = ReplicaRequest { replica, to: folder.path().join("then.db"), until: Until::At(at) };
        assert_eq!(plan(&request).expect("a plan").txid, txid, "{at}");
    }
    let error = restored(&kept().join("replica"), &to, None).expect_err("never over another");
    assert!(matches!(error, OpsError::TargetExists { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_holes_and_lies_leave_no_file() {
    let target = tempfile::tempdir().expect("a temporary folder");
    let to = target.path().join("new.db");
    let refused = |folder: &Path, kind: Kind, words: &str| {
        let error = restored(folder, &to, None).expect_err(words);
        assert_eq!(error.kind(), kind, "{error}");
        let said =
            format!("{error}: {}", std::error::Error::source(&error).map_or_else(String::new, ToString::to_string));
        assert!(said.contains(words), "{said}");
        assert_eq!(fs::read_dir(target.path()).expect("a folder").count(), 0, "{words}");
    };
    let damaged = copy();
    let path = file(damaged.path(), 1, 6, 8);
    let mut bytes = fs::read(&path).expect("read");
    let end = bytes.len() - 1;
    bytes[end] ^= 1;
    fs::write(&path, &bytes).expect("written");
    refused(damaged.path(), Kind::Corrupt, "checksum");
    fs::write(&path, &bytes[..end - 20]).expect("written");
    refused(damaged.path(), Kind::Corrupt, "");

    let holed = copy();
    for (level, min, max) in [(1, 6, 8), (0, 6, 6), (0, 7, 7)] {
        fs::remove_file(file(holed.path(), level, min, max)).expect("removed");
    }
    refused(holed.path(), Kind::Corrupt, "transactions 0000000000000006 to 0000000000000007 are in no file");

    let renamed = copy();
    fs::rename(file(renamed.path(), 0, 3, 3), file(renamed.path(), 0, 9, 9)).expect("renamed");
    refused(renamed.path(), Kind::Corrupt, "its transactions are not those of its name");

    let old = tempfile::tempdir().expect("a temporary folder");
    fs::create_dir(old.path().join("generations")).expect("a folder");
    refused(old.path(), Kind::Usage, "of an earlier release");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_in_a_bucket_is_read_in_pieces_and_an_object_that_goes_leaves_no_file() {
    let store = Arc::new(MemoryStore::new());
    for level in ["0", "1", "9"] {
        for entry in fs::read_dir(kept().join("replica/ltx").join(level)).expect("a folder").flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            // As Litestream names them there, and as a folder that was copied there has them.
            let folder = if level == "9" { "ltx/9".to_owned() } else { format!("000{level}") };
            let key = Key::parse(&format!("{folder}/{name}")).expect("legal");
            store.put_new(&key, fs::read(entry.path()).expect("read").into()).await.expect("put");
        }
    }
    store.put_new(&Key::parse("0001/half.ltx.tmp").expect("legal"), "half".into()).await.expect("put");
    let target = tempfile::tempdir().expect("a temporary folder");
    let env = world::env(Arc::new(OsDisk));
    let request = |name: &str, until: Until| {
        let replica = Replica::Bucket(store.clone());
        ReplicaRequest { replica, to: target.path().join(name), until }
    };
    let (last, then) = (request("new.db", Until::Last), request("then.db", Until::Txid(4)));
    let planned = blocking(|| plan(&last)).expect("a plan");
    assert_eq!((planned.txid, planned.files.len()), (8, 2));
    blocking(|| perform(&env, &planned, &last)).expect("restored");
    assert!(fs::read(&last.to).expect("read") == fs::read(kept().join("restored.db")).expect("read"));
    let planned = blocking(|| plan(&then)).expect("a plan");
    let first = planned.files.last().expect("a file");
    let key = Key::parse(&format!("000{}/{:016x}-{:016x}.ltx", first.level, first.min, first.max)).expect("legal");
    store.delete(&key).await.expect("deleted");
    let error = blocking(|| perform(&env, &planned, &then)).expect_err("an object is gone");
    assert!(matches!(error, OpsError::Repo(_)) && !then.to.exists(), "{error}");
    assert_eq!(fs::read_dir(target.path()).expect("a folder").count(), 1);
    let none = ReplicaRequest { replica: Replica::Bucket(Arc::new(MemoryStore::new())), ..then };
    assert!(matches!(blocking(|| plan(&none)), Err(OpsError::NotAReplica { is_old: false, .. })));
}
