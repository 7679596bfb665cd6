use super::*;
use crate::memory::MemoryStore;
use backstay_model::{Kind, Kinded};
use proptest::prelude::*;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::{Duration, SystemTime};

fn key(text: &str) -> Key {
    Key::parse(text).expect("legal")
}

fn fresh() -> (tempfile::TempDir, LocalStore) {
    let dir = tempfile::tempdir().expect("temporary folder");
    let store = LocalStore::open(&dir.path().join("deep/vault"), OpenMode::Create).expect("open");
    (dir, store)
}

async fn put(store: &LocalStore, name: &str) {
    let put = store.put_new(&key(name), Bytes::from(name.to_owned())).await.expect("put");
    assert_eq!(put, Put::Created, "{name}");
}

async fn names(store: &LocalStore, prefix: &str) -> Result<Vec<String>, StoreError> {
    let page = store.list(prefix, None, 100).await?;
    Ok(page.entries.into_iter().map(|entry| entry.key.to_string()).collect())
}

#[test]
fn opening_what_is_not_there_fails_unless_told_to_make_it() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let path = dir.path().join("vault");
    let error = LocalStore::open(&path, OpenMode::Existing).err().expect("absent");
    assert_eq!((error.kind(), error.to_string().contains("vault")), (Kind::Unavailable, true));
    fs::write(&path, b"a file").expect("write");
    LocalStore::open(&path, OpenMode::Create).err().expect("a file is no folder");
    fs::remove_file(&path).expect("remove");
    LocalStore::open(&path, OpenMode::Create).expect("made");
    LocalStore::open(&path, OpenMode::Create).expect("found");
    LocalStore::open(&path, OpenMode::Existing).expect("found");
}

#[tokio::test]
async fn the_folders_it_makes_are_for_the_owner_alone() {
    let (_dir, store) = fresh();
    put(&store, "a/b/c").await;
    for made in
        [store.path().parent().expect("has one"), store.path(), &store.path().join("a"), &store.path().join("a/b")]
    {
        let mode = fs::metadata(made).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode, 0o700, "{}", made.display());
    }
}

#[tokio::test]
async fn unfinished_puts_are_invisible_and_swept_only_when_old() {
    let (_dir, store) = fresh();
    put(&store, "a/x").await;
    let (old, new, foreign) = (store.path().join("a/x#1"), store.path().join("a/y#22"), store.path().join("a/Z#1"));
    for staged in [&old, &new, &foreign] {
        fs::write(staged, b"half").expect("write");
    }
    fs::remove_file(&foreign).expect("removed again");
    assert_eq!(names(&store, "").await.expect("list"), ["a/x"]);
    assert_eq!(store.head(&key("a/y")).await.expect("head"), None);

    let file = fs::File::options().write(true).open(&old).expect("open");
    let day = Duration::from_millis(STAGING_AGE_MIN_MILLIS.unsigned_abs());
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000)).expect("set");
    let file = fs::File::options().write(true).open(&new).expect("open");
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000) + day).expect("set");
    let now = Moment::from_millis(1_000_060_000 + STAGING_AGE_MIN_MILLIS).expect("valid");
    assert_eq!(store.sweep_staging(now).await.expect("sweep"), 1);
    assert!(!old.exists() && new.exists());
    // The leftover of an earlier attempt is no hindrance to the next.
    put(&store, "a/y").await;
    assert_eq!(store.get(&key("a/y")).await.expect("get"), "a/y");
    assert_eq!(store.get(&key("a/x")).await.expect("get"), "a/x");
}

#[tokio::test]
async fn links_inside_the_store_are_never_followed() {
    let (dir, store) = fresh();
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).expect("make");
    fs::write(outside.join("secret"), b"secret").expect("write");
    symlink(&outside, store.path().join("folder")).expect("link");
    symlink(outside.join("secret"), store.path().join("file")).expect("link");
    for name in ["folder/secret", "file"] {
        let key = key(name);
        let answers = [
            store.put_new(&key, Bytes::new()).await.map(drop),
            store.get(&key).await.map(drop),
            store.get_range(&key, 0..1).await.map(drop),
            store.head(&key).await.map(drop),
            store.list(name, None, 1).await.map(drop),
            store.delete(&key).await,
        ];
        for (verb, answer) in Verb::ALL.into_iter().zip(answers) {
            // A link is no object, so a listing shows none; what lies behind one is not called absent.
            let refused = if (verb, name) == (Verb::List, "file") { Ok(()) } else { Err(Kind::Denied) };
            assert_eq!(answer.map_err(|e| e.kind()), refused, "{verb:?} {name}");
        }
    }
    assert_eq!(names(&store, "").await.expect("list"), [""; 0]);
    assert_eq!(fs::read(outside.join("secret")).expect("still there"), b"secret");
}

#[tokio::test]
async fn a_key_that_leads_out_of_the_folder_is_refused() {
    let (dir, store) = fresh();
    fs::write(dir.path().join("deep/secret"), b"secret").expect("write");
    for name in ["../secret", "x/../../secret", "/etc/hostname", "", "a//b"] {
        let key = Key::new(name.to_owned());
        assert_eq!(store.get(&key).await.expect_err(name).kind(), Kind::Denied);
        assert_eq!(store.put_new(&key, Bytes::new()).await.expect_err(name).kind(), Kind::Denied);
        assert_eq!(store.delete(&key).await.expect_err(name).kind(), Kind::Denied);
    }
    for prefix in ["../", "../s", "/", "a//", "./"] {
        assert_eq!(names(&store, prefix).await.expect("nothing begins so"), [""; 0]);
    }
    assert!(dir.path().join("deep/secret").exists());
}

/// One `.DS_Store`, left by a person who looked into the folder, stopped every backup and every restore.
#[tokio::test]
async fn what_other_programs_leave_is_left_out_of_listings_and_told_when_asked() {
    use std::os::unix::ffi::OsStrExt;
    let (_dir, store) = fresh();
    put(&store, "a/good").await;
    put(&store, "a/x").await;
    fs::write(store.path().join("a/good#1"), b"half").expect("an unfinished put, which is ours");
    assert_eq!(store.foreign_names().await.expect("look"), [""; 0]);
    for name in [".DS_Store", "sub dir#1", "x#", "x#1a", "#1"] {
        fs::write(store.path().join("a").join(name), b"").expect("write");
    }
    fs::create_dir(store.path().join("a/@eaDir")).expect("make");
    fs::write(store.path().join("a/@eaDir/thumb"), b"").expect("write");
    fs::write(store.path().join("a").join(std::ffi::OsStr::from_bytes(b"\xff")), b"").expect("write");
    symlink("nowhere", store.path().join("a/dangling")).expect("link");
    for prefix in ["", "a", "a/"] {
        assert_eq!(names(&store, prefix).await.expect(prefix), ["a/good", "a/x"]);
    }
    let page = store.list("a/", None, 1).await.expect("list");
    let rest = store.list("a/", page.next.as_ref(), 1).await.expect("list");
    assert_eq!((page.entries.len(), rest.entries.len(), rest.next), (1, 1, None), "nor do they fill pages");
    let found = store.foreign_names().await.expect("look");
    let wanted = ["#1", ".DS_Store", "@eaDir", "dangling", "sub dir#1", "x#", "x#1a", "\u{fffd}"];
    assert_eq!(found, wanted.map(|name| format!("a/{name}")));
}

#[tokio::test]
async fn a_pipe_under_a_legal_name_is_refused_and_never_waited_for() {
    let (_dir, store) = fresh();
    let dir = fs::File::open(store.path()).expect("open");
    rustix::fs::mkfifoat(&dir, "pipe", rustix::fs::Mode::RWXU).expect("make");
    let pipe = key("pipe");
    assert_eq!(store.get(&pipe).await.expect_err("no file").kind(), Kind::Denied);
    assert_eq!(store.head(&pipe).await.expect_err("no file").kind(), Kind::Denied);
    assert_eq!(store.put_new(&pipe, Bytes::new()).await.expect_err("no file").kind(), Kind::Denied);
    assert_eq!(names(&store, "").await.expect("no object"), [""; 0]);
    assert_eq!(store.foreign_names().await.expect("look"), ["pipe"]);
}

#[tokio::test]
async fn a_name_cannot_be_both_a_file_and_a_folder() {
    let (_dir, store) = fresh();
    put(&store, "a/b").await;
    assert_eq!(store.put_new(&key("a"), Bytes::new()).await.expect_err("a folder").kind(), Kind::Denied);
    assert_eq!(store.put_new(&key("a/b/c"), Bytes::new()).await.expect_err("below a file").kind(), Kind::Denied);
    for absent in ["a", "a/b/c", "x/y/z"] {
        let error = store.get(&key(absent)).await.expect_err(absent);
        assert!(matches!(error, StoreError::NotFound { .. }), "{error:?}");
        assert_eq!(store.head(&key(absent)).await.expect("head"), None, "{absent}");
        store.delete(&key(absent)).await.expect("nothing to remove");
    }
    assert_eq!(names(&store, "a/b/").await.expect("list"), [""; 0]);
    assert_eq!(store.get(&key("a/b")).await.expect("untouched"), "a/b");
}

/// A backup disk that was not mounted after a reboot must not look like an empty repository.
#[tokio::test]
async fn a_folder_that_is_gone_or_another_is_never_an_empty_store() {
    let (_dir, store) = fresh();
    put(&store, "a/b").await;
    let aside = store.path().with_extension("aside");
    fs::rename(store.path(), &aside).expect("rename");
    for other in ["gone", "another"] {
        if other == "another" {
            fs::create_dir(store.path()).expect("make");
        }
        let key = key("a/b");
        let answers = [
            store.put_new(&key, Bytes::new()).await.map(drop),
            store.get(&key).await.map(drop),
            store.get_range(&key, 0..1).await.map(drop),
            store.head(&key).await.map(drop),
            store.list("", None, 1).await.map(drop),
            store.delete(&key).await,
        ];
        for (verb, answer) in Verb::ALL.into_iter().zip(answers) {
            assert_eq!(answer.map_err(|e| e.kind()), Err(Kind::Unavailable), "{verb:?} {other}");
        }
    }
    assert_eq!(fs::read_dir(store.path()).expect("there").count(), 0);
}

#[tokio::test]
async fn an_object_too_large_to_hold_is_named_not_read() {
    let (_dir, store) = fresh();
    let file = fs::File::create(store.path().join("huge")).expect("make");
    file.set_len(OBJECT_BYTES_MAX + 1).expect("sparse");
    for answer in [store.get(&key("huge")).await, store.get_range(&key("huge"), 0..OBJECT_BYTES_MAX + 1).await] {
        assert!(matches!(answer, Err(StoreError::TooLarge { len, .. }) if len == OBJECT_BYTES_MAX + 1));
    }
    assert_eq!(store.get_range(&key("huge"), OBJECT_BYTES_MAX..OBJECT_BYTES_MAX + 1).await.expect("small"), "\0");
}

/// A folder that is moved away is never made anew at its path: what came into that would be in no repository.
#[tokio::test]
async fn a_folder_that_is_moved_away_amid_a_put_takes_the_object_along() {
    let (_dir, store) = fresh();
    let aside = store.path().with_extension("aside");
    let Ok(Prepared::Free(dir, name)) = store.folder.prepare("a/b/c") else { panic!("nobody has the name") };
    fs::rename(store.path(), &aside).expect("rename");
    assert!(tree::put_new(&dir, name, b"all of it").expect("put"));
    assert!(!store.path().exists(), "none is made in its place");
    assert_eq!(fs::read(aside.join("a/b/c")).expect("there"), b"all of it");
    assert_eq!(fs::read_dir(aside.join("a/b")).expect("there").count(), 1, "nothing staged is left");
    assert!(!tree::put_new(&dir, name, b"another").expect("put"), "the name is taken");
    assert_eq!(fs::read_dir(aside.join("a/b")).expect("there").count(), 1);
    fs::write(aside.join("a/b/d#1"), "of somebody who was stopped").expect("written");
    assert!(tree::put_new(&dir, "d", b"beside it").expect("put"));
    assert_eq!(fs::read(aside.join("a/b/d")).expect("there"), b"beside it");
}

#[test]
fn what_the_system_says_of_a_put_is_its_kind() {
    let codes = [(28, Kind::NoSpace), (122, Kind::NoSpace), (1, Kind::Denied), (13, Kind::Denied), (30, Kind::Denied)];
    for (code, kind) in codes.into_iter().chain([(5, Kind::Unavailable), (2, Kind::Unavailable), (20, Kind::Denied)]) {
        assert_eq!(put_failed("k", io::Error::from_raw_os_error(code)).kind(), kind, "errno {code}");
    }
}

/// Equal but for the times: each store has its own clock.
fn assert_same(one: &Page, other: &Page, what: &str) {
    let rows = |page: &Page| page.entries.iter().map(|e| (e.key.clone(), e.len)).collect::<Vec<_>>();
    assert_eq!((rows(one), &one.next), (rows(other), &other.next), "{what}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// The reference sorts whole keys; a folder's own order is another (`a-b`, `a/b`, `a0`).
    #[test]
    fn pages_are_those_of_the_reference(
        keys in prop::collection::btree_set("[ab]([-0/]?[ab]){0,3}", 0..14),
        prefixes in prop::collection::vec("[ab]?[-0/]?[ab]?/?", 3),
        limit in 1usize..5,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
        runtime.block_on(async {
            let ((_dir, local), memory) = (fresh(), MemoryStore::new());
            for name in &keys {
                let blocked = keys.iter().any(|k| k.starts_with(&format!("{name}/")) || name.starts_with(&format!("{k}/")));
                if !blocked {
                    put(&local, name).await;
                    memory.put_new(&key(name), Bytes::from(name.clone())).await.expect("put");
                }
            }
            for prefix in prefixes.iter().map(String::as_str).chain([""]) {
                let mut after = None;
                loop {
                    let page = local.list(prefix, after.as_ref(), limit).await.expect("list");
                    assert_same(&page, &memory.list(prefix, after.as_ref(), limit).await.expect("list"), &format!("{prefix:?} {after:?}"));
                    let Some(next) = page.next else { break };
                    after = Some(next);
                }
                for after in &keys {
                    let after = key(after);
                    let page = local.list(prefix, Some(&after), limit).await.expect("list");
                    assert_same(&page, &memory.list(prefix, Some(&after), limit).await.expect("list"), &format!("{prefix:?} {after}"));
                }
            }
        });
    }
}
