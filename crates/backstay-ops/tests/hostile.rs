//! Hostile bytes: every object cut at every length and flipped in every region. What comes of it is an
//! error that names the object, or exactly the bytes that were captured.

mod evil;
mod world;

use backstay_ops::check::Depth;
use backstay_store::Key;
use evil::{Golden, shop};

/// The regions of an object where every single byte is flipped.
const HEADER: usize = 224;
const TRAILER: usize = 24;
/// Flips spread over the rest of an object.
const SAMPLES: usize = 300;

/// One object of each kind, by what its name begins with.
const KINDS: [&str; 7] = [
    "ctl/conf/",
    "ctl/mark/shop/",
    "ctl/audit/",
    "data/shop/branch/",
    "data/shop/snap/",
    "data/shop/pack/",
    "data/till/pack/",
];

fn chosen(golden: &Golden, prefix: &str) -> Key {
    let all = golden.keys_below(prefix);
    let longest = all.iter().max_by_key(|key| golden.contents[*key].len());
    let key = longest.expect("one of each kind").clone();
    assert!(golden.contents[&key].len() <= 64 << 10, "{key} is larger than a test object should be");
    key
}

/// The deeper check costs more and sees more of packs only: it looks at a share of the trials.
fn depth(nth: usize) -> Depth {
    if nth.is_multiple_of(16) { Depth::Authentic } else { Depth::Intact }
}

async fn every_cut(prefix: &str) -> usize {
    let golden = Golden::new().await;
    let key = chosen(&golden, prefix);
    let bytes = golden.contents[&key].clone();
    for cut in 0..bytes.len() {
        let probe = golden.probe(golden.with(&key, bytes.slice(..cut)), depth(cut)).await;
        probe.assert_named(&key, &format!("{key} cut at {cut}"));
    }
    bytes.len()
}

async fn flips(prefix: &str) -> usize {
    let golden = Golden::new().await;
    let key = chosen(&golden, prefix);
    let bytes = golden.contents[&key].clone();
    let front = backstay_format::object::Front::parse(&bytes).expect("a real object").len;
    let every = (0..front.min(HEADER + 600)).chain(bytes.len() - TRAILER..bytes.len());
    let step = (bytes.len() / SAMPLES).max(1);
    let places: Vec<usize> = every.chain((0..bytes.len()).step_by(step)).collect();
    for (nth, at) in places.iter().enumerate() {
        let mut flipped = bytes.to_vec();
        flipped[*at] ^= 1 << (nth % 8);
        let probe = golden.probe(golden.with(&key, flipped), depth(nth)).await;
        probe.assert_named(&key, &format!("{key} with bit {} of byte {at} flipped", nth % 8));
    }
    places.len()
}

macro_rules! for_each_kind {
    ($($name:ident: $nth:literal,)*) => {
        mod cut {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
            async fn $name() {
                println!("{} cuts of {}", super::every_cut(super::KINDS[$nth]).await, super::KINDS[$nth]);
            })*
        }
        mod flipped {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
            async fn $name() {
                println!("{} flips of {}", super::flips(super::KINDS[$nth]).await, super::KINDS[$nth]);
            })*
        }
    };
}

for_each_kind! {
    a_configuration: 0,
    a_mark: 1,
    an_audit_record: 2,
    a_branch_record: 3,
    a_manifest: 4,
    a_pack: 5,
    a_pack_of_another_source: 6,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_untouched_repository_has_nothing_wrong_with_it() {
    let golden = Golden::new().await;
    let probe = golden.probe(golden.contents.clone(), Depth::Authentic).await;
    assert_eq!((probe.errors.as_slice(), probe.wrong, probe.read), ([].as_slice(), false, 5));
    assert_eq!(probe.proven, [golden.of(&shop())[0].id]);
    for key in golden.contents.keys() {
        println!("{key}: {} bytes", golden.contents[key].len());
    }
}
