//! What the model itself says a power cut leaves.

use super::*;
use PowerCut::{EverythingUnsynced, NothingUnsynced, SomeUnsynced};

struct Folder {
    dir: tempfile::TempDir,
    disk: CrashDisk,
}

impl Folder {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let disk = CrashDisk::new(dir.path(), Effects::unstopped()).expect("a disk");
        Self { dir, disk }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A file with a durable name and durable bytes.
    fn durable(&self, name: &str, text: &str) {
        self.written(name, text).sync().expect("sync");
        self.sync_dir();
    }

    fn written(&self, name: &str, text: &str) -> Box<dyn DiskFile> {
        let file = self.disk.create(&self.at(name), 0o600).expect("create");
        file.write_at(0, text.as_bytes()).expect("write");
        file
    }

    fn sync_dir(&self) {
        self.disk.sync_dir(self.dir.path()).expect("sync folder");
    }

    fn cut(&self, cut: PowerCut) {
        self.disk.power_cut(cut).expect("cut");
        assert!(self.disk.is_all_durable());
    }

    fn text(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.at(name)).ok()
    }

    /// What chance leaves of a change, over many seeds, made anew each time.
    fn outcomes(make: impl Fn(&Folder), look: impl Fn(&Folder) -> String) -> BTreeSet<String> {
        let outcome = |seed| {
            let folder = Folder::new();
            make(&folder);
            folder.cut(SomeUnsynced { seed });
            look(&folder)
        };
        (0..64).map(outcome).collect()
    }
}

#[test]
fn a_synced_file_in_a_folder_that_was_not_synced_may_be_missing() {
    for (cut, left) in [(NothingUnsynced, None), (EverythingUnsynced, Some("text".to_owned()))] {
        let folder = Folder::new();
        folder.written("a", "text").sync().expect("sync");
        assert!(!folder.disk.is_all_durable());
        folder.cut(cut);
        assert_eq!(folder.text("a"), left);
    }
}

#[test]
fn a_name_without_synced_bytes_is_an_empty_file() {
    let folder = Folder::new();
    let _file = folder.written("a", "text");
    folder.sync_dir();
    folder.cut(NothingUnsynced);
    assert_eq!(folder.text("a").as_deref(), Some(""));
}

#[test]
fn bytes_go_back_to_their_last_sync() {
    let folder = Folder::new();
    let file = folder.written("a", "first");
    file.sync().expect("sync");
    file.write_at(0, b"secon").expect("write");
    file.set_len(20).expect("set length");
    folder.sync_dir();
    folder.cut(NothingUnsynced);
    assert_eq!(folder.text("a").as_deref(), Some("first"));
}

#[test]
fn a_rename_is_undone_whole_or_not_at_all() {
    let make = |folder: &Folder| {
        folder.durable("old", "old");
        folder.durable("new", "new");
        folder.disk.rename(&folder.at("new"), &folder.at("old")).expect("rename");
    };
    let look = |folder: &Folder| format!("{:?} {:?}", folder.text("old"), folder.text("new"));
    let both = ["Some(\"new\") None".to_owned(), "Some(\"old\") Some(\"new\")".to_owned()];
    assert_eq!(Folder::outcomes(make, look), BTreeSet::from(both));
}

#[test]
fn a_rename_keeps_the_very_file() {
    let folder = Folder::new();
    folder.durable("old", "old");
    folder.durable("new", "new");
    let before = fs::metadata(folder.at("old")).expect("there").ino();
    folder.disk.rename(&folder.at("new"), &folder.at("old")).expect("rename");
    folder.cut(NothingUnsynced);
    assert_eq!(fs::metadata(folder.at("old")).expect("there").ino(), before);
}

#[test]
fn a_synced_rename_stays() {
    let folder = Folder::new();
    folder.durable("new", "new");
    folder.disk.rename(&folder.at("new"), &folder.at("old")).expect("rename");
    folder.sync_dir();
    folder.cut(NothingUnsynced);
    assert_eq!((folder.text("old").as_deref(), folder.text("new")), (Some("new"), None));
}

#[test]
fn removed_files_and_second_names_may_come_and_go_on_their_own() {
    let make = |folder: &Folder| {
        folder.durable("a", "text");
        folder.disk.link(&folder.at("a"), &folder.at("b")).expect("link");
        folder.disk.remove(&folder.at("a")).expect("remove");
    };
    let look = |folder: &Folder| format!("{} {}", folder.at("a").exists(), folder.at("b").exists());
    let all = ["false true", "true false", "true true", "false false"].map(str::to_owned);
    assert_eq!(Folder::outcomes(make, look), BTreeSet::from(all));
}

#[test]
fn a_folder_that_was_not_synced_takes_its_files_with_it() {
    let folder = Folder::new();
    let inner = folder.at("inner");
    folder.disk.create_dir(&inner).expect("create folder");
    let file = folder.disk.create(&inner.join("a"), 0o600).expect("create");
    file.sync().expect("sync");
    folder.disk.sync_dir(&inner).expect("sync folder");
    folder.cut(NothingUnsynced);
    assert!(!inner.exists());
}

#[test]
fn a_write_may_survive_in_part() {
    let make = |folder: &Folder| {
        let file = folder.written("a", "");
        file.write_at(0, &[7; 2048]).expect("write");
        folder.sync_dir();
    };
    let look = |folder: &Folder| {
        let bytes = fs::read(folder.at("a")).expect("there");
        assert!(bytes.iter().all(|byte| *byte == 7));
        bytes.len().to_string()
    };
    let found = Folder::outcomes(make, look);
    assert!(found.is_superset(&["0", "512", "2048"].map(str::to_owned).into()), "{found:?}");
}

#[test]
fn what_others_did_is_durable() {
    let folder = Folder::new();
    folder.durable("mine", "mine");
    fs::write(folder.at("theirs"), "theirs").expect("write");
    folder.disk.remove(&folder.at("mine")).expect("remove");
    fs::write(folder.at("mine"), "now theirs").expect("write");
    folder.cut(NothingUnsynced);
    assert_eq!(folder.text("theirs").as_deref(), Some("theirs"));
    assert_eq!(folder.text("mine").as_deref(), Some("now theirs"));
}

#[test]
fn the_write_that_stops_a_run_is_torn_and_nothing_follows() {
    let dir = tempfile::tempdir().expect("a folder");
    let disk = CrashDisk::new(dir.path(), Effects::stop_at(1)).expect("a disk");
    let path = dir.path().join("a");
    let file = disk.create(&path, 0o600).expect("create");
    assert!(file.write_at(0, b"12345678").is_err());
    assert!(file.write_at(8, b"9").is_err() && disk.remove(&path).is_err());
    assert_eq!(fs::read_to_string(&path).expect("there"), "1234");
    let next = disk.next_process(Effects::unstopped());
    next.remove(&path).expect("a new process may");
    assert!(!path.exists());
}

#[test]
fn every_operation_is_a_stop_point() {
    let dir = tempfile::tempdir().expect("a folder");
    let effects = Effects::unstopped();
    let disk = CrashDisk::new(dir.path(), effects.clone()).expect("a disk");
    let at = |name: &str| dir.path().join(name);
    let file = disk.create(&at("a"), 0o600).expect("create");
    file.write_at(0, b"text").expect("write");
    file.set_len(3).expect("set length");
    file.sync().expect("sync");
    disk.create_dir(&at("folder")).expect("create folder");
    disk.rename(&at("a"), &at("b")).expect("rename");
    disk.link(&at("b"), &at("c")).expect("link");
    disk.remove(&at("c")).expect("remove");
    disk.sync_dir(dir.path()).expect("sync folder");
    file.give_owner_of(&at("b")).expect("copy owner");
    assert_eq!(effects.seen(), STOP_POINTS.iter().map(|name| (*name, 1)).collect());
}
