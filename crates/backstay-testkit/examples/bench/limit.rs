//! The machine's own limit: the same work without anything around it, on the same cores.

use crate::Cost;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

const FRAME: usize = 256 << 10;
const PACK: usize = 16 << 20;
const PAGE: usize = 4096;

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Reads every frame of a file, on every core, in the order of the file.
fn each_frame(path: &Path, work: impl Fn(u64, &[u8]) + Sync) -> std::io::Result<()> {
    let file = File::open(path)?;
    let len = file.metadata()?.len();
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads() {
            scope.spawn(|| {
                let mut buffer = vec![0; FRAME];
                loop {
                    let at = next.fetch_add(FRAME as u64, Ordering::Relaxed);
                    if at >= len {
                        break;
                    }
                    let part = &mut buffer[..FRAME.min((len - at) as usize)];
                    file.read_exact_at(part, at).expect("the file is there");
                    work(at, part);
                }
            });
        }
    });
    Ok(())
}

fn hash_pages(key: &[u8; 32], frame: &[u8]) -> u8 {
    frame.chunks(PAGE).fold(0, |sum, page| sum ^ blake3::keyed_hash(key, page).as_bytes()[0])
}

/// Read, BLAKE3 per page, zstd 1, AES-256-GCM, write, fsync.
pub fn seal(path: &Path, out: &Path) -> std::io::Result<Cost> {
    std::fs::create_dir_all(out)?;
    let begun = Instant::now();
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32]).expect("a key"));
    let pack: Mutex<(Vec<u8>, u64)> = Mutex::new((Vec::with_capacity(PACK + 2 * FRAME), 0));
    let stored = AtomicU64::new(0);
    let flush = |bytes: &[u8], number: u64| {
        let mut file = File::create(out.join(number.to_string())).expect("create");
        file.write_all(bytes).expect("write");
        file.sync_all().expect("fsync");
        stored.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    };
    each_frame(path, |at, frame| {
        std::hint::black_box(hash_pages(&[9; 32], frame));
        let mut sealed = zstd::bulk::compress(frame, 1).expect("compress");
        let mut nonce = [0; 12];
        nonce[..8].copy_from_slice(&at.to_le_bytes());
        let nonce = Nonce::assume_unique_for_key(nonce);
        key.seal_in_place_append_tag(nonce, Aad::empty(), &mut sealed).expect("seal");
        let full = {
            let mut pack = pack.lock().expect("lock");
            pack.0.extend_from_slice(&sealed);
            (pack.0.len() >= PACK).then(|| {
                pack.1 += 1;
                (std::mem::replace(&mut pack.0, Vec::with_capacity(PACK + 2 * FRAME)), pack.1)
            })
        };
        if let Some((bytes, number)) = full {
            flush(&bytes, number);
        }
    })?;
    let (rest, _) = pack.into_inner().expect("lock");
    flush(&rest, 0);
    File::open(out)?.sync_all()?;
    let cost = Cost { seconds: begun.elapsed().as_secs_f64(), bytes: stored.load(Ordering::Relaxed) };
    std::fs::remove_dir_all(out)?;
    Ok(cost)
}

/// Read and BLAKE3 per page, nothing else.
pub fn hash_only(path: &Path) -> std::io::Result<f64> {
    let begun = Instant::now();
    each_frame(path, |_, frame| {
        std::hint::black_box(hash_pages(&[9; 32], frame));
    })?;
    Ok(begun.elapsed().as_secs_f64())
}

/// `zstd -d` of the whole file compressed at level 1, and an fsync of what it wrote.
pub fn zstd_d(path: &Path, dir: &Path) -> Result<f64, Box<dyn std::error::Error>> {
    let (packed, plain) = (dir.join("whole.zst"), dir.join("whole.db"));
    zstd::stream::copy_encode(File::open(path)?, File::create(&packed)?, 1)?;
    File::open(&packed)?.sync_all()?;
    let begun = Instant::now();
    let status =
        std::process::Command::new("zstd").args(["-q", "-d", "-f"]).arg(&packed).arg("-o").arg(&plain).status()?;
    File::open(&plain)?.sync_all()?;
    let seconds = begun.elapsed().as_secs_f64();
    std::fs::remove_file(&packed)?;
    std::fs::remove_file(&plain)?;
    if status.success() { Ok(seconds) } else { Err("zstd -d failed".into()) }
}
