//! Writes the repository that the zoo's cases damage. Run once for a format version and never over what
//! is there: what it wrote is what every later build must read.

#[path = "../tests/evil/mod.rs"]
mod evil;
#[path = "../tests/world/mod.rs"]
mod world;

use evil::Golden;
use std::fs;
use std::path::Path;

#[tokio::main]
async fn main() {
    let zoo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../backstay-testkit/zoo/v1");
    assert!(!zoo.exists(), "{} is there and stays as it is", zoo.display());
    let golden = Golden::new().await;
    for (key, bytes) in &golden.contents {
        let path = zoo.join("vault").join(key.as_str());
        fs::create_dir_all(path.parent().expect("every key has a folder")).expect("create");
        fs::write(path, bytes).expect("write");
    }
    fs::copy(golden.world.dir().join("backstay.key"), zoo.join("backstay.key")).expect("copy");
    let digest = |bytes: &[u8]| blake3::hash(bytes).to_hex();
    let lines = golden.taken.iter().map(|taken| format!("{} {} {}\n", taken.source, taken.id, digest(&taken.bytes)));
    fs::write(zoo.join("expected.txt"), lines.collect::<String>()).expect("write");
}
