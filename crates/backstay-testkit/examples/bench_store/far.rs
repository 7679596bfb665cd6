//! A way to a server on which every request takes its time, as over a network: bytes go at once, and nothing waits for
//! an acknowledgement that the machine holds back.
//!
//! `s3s-fs` writes the head of an answer and its body apart, and the system sends the second of two small segments only
//! when the first is acknowledged. An acknowledgement may take 40 ms on loopback; stores do not do that, so each is
//! given at once here.

use crate::Failed;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

/// Set to anything, every request is told on standard error with the time it came and the times of its answer.
const TRACE: &str = "BACKSTAY_BENCH_TRACE";
const BUFFER: usize = 256 << 10;

/// Ends with it.
pub struct Far {
    address: SocketAddr,
    _runtime: Runtime,
}

impl Far {
    /// Each request to the server behind it waits this long.
    pub fn to(server: SocketAddr, away: Duration) -> Result<Self, Failed> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?;
        let trace = std::env::var_os(TRACE).map(|_| Instant::now());
        runtime.spawn(async move {
            for number in 0_u32.. {
                let Ok((client, _)) = listener.accept().await else { return };
                let wire = Wire { number, away, trace, asked: AtomicU64::new(0) };
                tokio::spawn(async move {
                    // A connection that breaks is one for whoever waits for it.
                    let _ = wire.carry(client, server).await;
                });
            }
        });
        Ok(Self { address, _runtime: runtime })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// One connection.
struct Wire {
    number: u32,
    away: Duration,
    /// When the trace began.
    trace: Option<Instant>,
    /// Microseconds at which the last request came; with an answer under way 0.
    asked: AtomicU64,
}

impl Wire {
    async fn carry(&self, client: TcpStream, server: SocketAddr) -> std::io::Result<()> {
        let server = TcpStream::connect(server).await?;
        for stream in [&client, &server] {
            stream.set_nodelay(true)?;
            stream.set_quickack(true)?;
        }
        let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
        let there = self.pass(from_client, to_server, Way::There);
        let back = self.pass(from_server, to_client, Way::Back);
        tokio::try_join!(there, back).map(|_| ())
    }

    async fn pass(&self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf, way: Way) -> std::io::Result<()> {
        let mut bytes = vec![0; BUFFER];
        loop {
            let read = from.read(&mut bytes).await?;
            let Some(bytes) = bytes.get(..read).filter(|bytes| !bytes.is_empty()) else {
                return to.shutdown().await;
            };
            // Whatever was written since has taken the wish back.
            from.as_ref().set_quickack(true)?;
            self.tell(way, bytes);
            if way == Way::There {
                tokio::time::sleep(self.away).await;
            }
            to.write_all(bytes).await?;
            to.as_ref().set_quickack(true)?;
        }
    }

    fn tell(&self, way: Way, bytes: &[u8]) {
        let Some(began) = self.trace else { return };
        let now = began.elapsed().as_micros() as u64;
        match way {
            Way::There => {
                let line = bytes.split(|byte| *byte == b'\r').next().unwrap_or_default();
                let line = String::from_utf8_lossy(line);
                let text = String::from_utf8_lossy(bytes).to_lowercase();
                let range = text.lines().find_map(|line| line.strip_prefix("range:")).unwrap_or_default();
                self.asked.store(now, Ordering::Relaxed);
                eprintln!("{:9.1} ms  {:>3} >  {line}{range}", now as f64 / 1e3, self.number);
            }
            Way::Back => {
                let after = (now - self.asked.load(Ordering::Relaxed)) as f64 / 1e3;
                let (at, len) = (now as f64 / 1e3, bytes.len());
                eprintln!("{at:9.1} ms  {:>3}  < {len} bytes, {after:.1} ms after it was asked", self.number);
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    There,
    Back,
}
