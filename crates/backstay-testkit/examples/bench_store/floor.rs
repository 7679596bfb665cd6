//! The least that a restore can take over a server: its objects fetched by plain requests and thrown away, while a file of
//! the restored size is written in its order and made durable. Nothing is opened, decompressed or compared.

use crate::Failed;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

/// Connections at once and bytes per request, as our restore has them.
const CONNECTIONS: usize = 16;
const PIECE: u64 = 2 << 20;
const BUFFER: usize = 256 << 10;
/// A file is written in blocks of this size, and made durable after each so many.
const BLOCK: u64 = 1 << 20;
const SYNC_BLOCKS: u64 = 64;

pub struct Floor {
    pub seconds: f64,
    /// Bytes fetched.
    pub received: u64,
}

/// Fetches every object whose name begins with `prefix` from a server that asks for no signature and keeps them in
/// `folder`, and writes `len` bytes to `file`.
pub fn measure(server: SocketAddr, (folder, prefix): (&Path, &str), file: &Path, len: u64) -> Result<Floor, Failed> {
    let mut pieces = Vec::new();
    pieces_below(folder, prefix, &mut pieces)?;
    let (next, received) = (AtomicUsize::new(0), AtomicU64::new(0));
    let fetch = || -> std::io::Result<()> {
        let mut stream = TcpStream::connect(server)?;
        let mut buffer = vec![0; BUFFER];
        while let Some((name, range)) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
            received.fetch_add(fetch_one(&mut stream, (name, range), &mut buffer)?, Ordering::Relaxed);
        }
        Ok(())
    };
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let fetching: Vec<_> = (0..CONNECTIONS).map(|_| scope.spawn(fetch)).collect();
        let written = write_durably(file, len);
        let fetched = fetching.into_iter().try_for_each(|one| one.join().expect("no fetch panics"));
        written.and(fetched)
    })?;
    let seconds = begun.elapsed().as_secs_f64();
    std::fs::remove_file(file)?;
    Ok(Floor { seconds, received: received.into_inner() })
}

/// What is to be asked for, as names in the server's folder and ranges.
fn pieces_below(folder: &Path, name: &str, pieces: &mut Vec<(String, Range<u64>)>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder.join(name))? {
        let entry = entry?;
        let name = format!("{name}/{}", entry.file_name().to_string_lossy());
        let meta = entry.metadata()?;
        if meta.is_dir() {
            pieces_below(folder, &name, pieces)?;
            continue;
        }
        let starts = (0..meta.len()).step_by(PIECE as usize);
        pieces.extend(starts.map(|start| (name.clone(), start..meta.len().min(start + PIECE))));
    }
    Ok(())
}

fn fetch_one(stream: &mut TcpStream, (name, range): (&str, &Range<u64>), buffer: &mut [u8]) -> std::io::Result<u64> {
    let Range { start, end } = range;
    let bytes = format!("bytes={start}-{}", end - 1);
    stream.write_all(format!("GET /{name} HTTP/1.1\r\nHost: bench\r\nRange: {bytes}\r\n\r\n").as_bytes())?;
    let mut have = 0;
    let head = loop {
        have += some(stream, &mut buffer[have..])?;
        if let Some(at) = buffer[..have].windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
    };
    if !buffer.starts_with(b"HTTP/1.1 206") {
        return Err(std::io::Error::other(String::from_utf8_lossy(&buffer[..head]).into_owned()));
    }
    let mut left = end - start - (have - head) as u64;
    while left > 0 {
        let most = left.min(buffer.len() as u64) as usize;
        left -= some(stream, &mut buffer[..most])? as u64;
    }
    Ok(end - start)
}

fn some(stream: &mut TcpStream, buffer: &mut [u8]) -> std::io::Result<usize> {
    match stream.read(buffer)? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        read => Ok(read),
    }
}

fn write_durably(path: &Path, len: u64) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    let block = vec![0x5A; BLOCK as usize];
    for (at, start) in (0..len).step_by(BLOCK as usize).enumerate() {
        file.write_all(&block[..BLOCK.min(len - start) as usize])?;
        if (at as u64 + 1).is_multiple_of(SYNC_BLOCKS) {
            file.sync_data()?;
        }
    }
    file.sync_all()
}
