//! The recipe for small files, stopped at each of its steps with the power gone: whoever reads the file
//! afterwards finds what was there or what was to be there, whole.
//!
//! The crash tests of whole operations do not see this: a memory that cannot be read is one that is not
//! there, and the next run does without.

use backstay_ops::disk;
use backstay_testkit::crash_disk::{CrashDisk, PowerCut};
use backstay_testkit::effects::{Effects, stop_at_every_effect};

const OLD: &[u8] = b"what was there, and was there for long";
const NEW: &[u8] = b"what is to be there";

#[tokio::test]
async fn a_small_file_is_replaced_whole_or_not_at_all() {
    let by_chance = (0..20).map(|seed| PowerCut::SomeUnsynced { seed });
    let cuts = [PowerCut::NothingUnsynced, PowerCut::EverythingUnsynced].into_iter().chain(by_chance);
    for cut in cuts {
        let sweep = stop_at_every_effect("replace", 20, async |effects: Effects| {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let path = folder.path().join("seen.json");
            std::fs::write(&path, OLD).expect("write");
            let disk = CrashDisk::new(folder.path(), effects.clone()).expect("a disk");
            let done = disk::replace(&disk, &path, NEW, 0o600).is_ok();
            disk.power_cut(cut).expect("a power cut");
            let found = std::fs::read(&path).expect("one of them is there");
            assert!(found == NEW || (found == OLD && !done), "{cut:?}, {:?}: {found:?}", effects.stopped());
        })
        .await;
        sweep.assert_stopped_at(&["disk create", "disk write", "disk rename", "disk sync folder"]);
    }
}
