//! A bad network and a bad server between a client and a good S3 server.
//!
//! Speaks HTTP/1.1 by hand, one request per connection: reads a request, decides by seed or script what goes
//! wrong, passes it on or not, and passes the answer back whole, in part or not at all. Remembers every
//! request. Threads end when their connection does, the listener with its guard.

use crate::s3_server::{BUCKET, S3Server};
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Neither side waits longer for the other.
const SOCKET_TIME: Duration = Duration::from_secs(60);
const HEAD_BYTES_MAX: usize = 64 << 10;

/// What goes wrong with one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The connection closes before the server saw the request.
    LostBefore,
    /// The server applies the request; its answer never arrives.
    LostAfter,
    /// Half of the answer arrives.
    CutAnswer,
    /// Another answers in the server's place, with this status and error code.
    Refused(u16, &'static str),
    /// Another answers in the server's place, and says yes with this body.
    Says(&'static str),
    /// The request waits before it is passed on.
    Slow(Duration),
}

/// How often something goes wrong by itself.
#[derive(Debug, Clone)]
pub struct Odds {
    pub seed: u64,
    pub per_thousand: u64,
    pub troubles: Vec<Trouble>,
}

/// Whether the condition of a put is honoured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conditions {
    Honoured,
    /// As some stores do: a put with `If-None-Match: *` overwrites.
    Ignored,
}

pub struct Adversary {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    upstream: SocketAddr,
    bucket: PathBuf,
    conditions: Conditions,
    odds: Option<Odds>,
    ended: AtomicBool,
    state: Mutex<State>,
    /// Held while a put is passed on: `s3s-fs` looks whether a name is taken and writes in two steps, so that
    /// racing writers would all be told that they created it. No store may do that.
    puts: Mutex<()>,
}

#[derive(Default)]
struct State {
    drawn: u64,
    script: VecDeque<(&'static str, Trouble)>,
    requests: Vec<String>,
}

struct Request {
    method: String,
    target: String,
    head: Vec<u8>,
    body: Vec<u8>,
}

impl Adversary {
    pub fn start(server: &S3Server, conditions: Conditions, odds: Option<Odds>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("its address");
        let shared = Arc::new(Shared {
            upstream: server.address(),
            bucket: server.folder().join(BUCKET),
            conditions,
            odds,
            ended: AtomicBool::new(false),
            state: Mutex::default(),
            puts: Mutex::default(),
        });
        let served = Arc::clone(&shared);
        on_a_thread(move || {
            for client in listener.incoming().flatten() {
                if served.ended.load(Ordering::Acquire) {
                    break;
                }
                let served = Arc::clone(&served);
                // A client that hangs up in the middle is no failure of the test.
                on_a_thread(move || drop(served.serve(client)));
            }
        });
        Self { address, shared }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The next request of this method goes wrong like this.
    pub fn next(&self, method: &'static str, trouble: Trouble) {
        self.shared.state().script.push_back((method, trouble));
    }

    /// Every request since the last call, as `METHOD target`.
    pub fn take_requests(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.state().requests)
    }
}

impl Drop for Adversary {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        // The listener looks at the flag when somebody comes.
        let _ = TcpStream::connect(self.address);
    }
}

#[expect(clippy::disallowed_methods, reason = "a server in a test runs beside it, also where there is no runtime")]
fn on_a_thread(work: impl FnOnce() + Send + 'static) {
    std::thread::spawn(work);
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, mut client: TcpStream) -> io::Result<()> {
        client.set_read_timeout(Some(SOCKET_TIME))?;
        client.set_write_timeout(Some(SOCKET_TIME))?;
        let request = read_request(&mut client)?;
        let trouble = self.trouble_for(&request);
        match trouble {
            Some(Trouble::LostBefore) => return client.shutdown(Shutdown::Both),
            Some(Trouble::Refused(status, code)) => {
                // Some servers echo what was signed; none of it may reach a message.
                let body = format!("<Error><Code>{code}</Code><Message>token SECRET-ECHO</Message></Error>");
                return answer_with(&mut client, status, &body);
            }
            Some(Trouble::Says(body)) => return answer_with(&mut client, 200, body),
            Some(Trouble::Slow(time)) => std::thread::sleep(time),
            _ => {}
        }
        let answer = match request.method.as_str() {
            "PUT" => {
                let _alone = self.puts.lock().unwrap_or_else(PoisonError::into_inner);
                self.forget_if_overwriting(&request);
                self.pass_on(&request)?
            }
            _ => self.pass_on(&request)?,
        };
        let shown = match trouble {
            Some(Trouble::LostAfter) => 0,
            Some(Trouble::CutAnswer) => answer.len() / 2,
            _ => answer.len(),
        };
        client.write_all(answer.get(..shown).unwrap_or_default())?;
        client.shutdown(Shutdown::Both)
    }

    fn trouble_for(&self, request: &Request) -> Option<Trouble> {
        let mut state = self.state();
        state.requests.push(format!("{} {}", request.method, request.target));
        if let Some(at) = state.script.iter().position(|(method, _)| *method == request.method) {
            return state.script.remove(at).map(|(_, trouble)| trouble);
        }
        let odds = self.odds.as_ref()?;
        state.drawn += 1;
        let draw = mixed(odds.seed.wrapping_add(state.drawn.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        let one_of = odds.troubles.len() as u64;
        let hit = one_of > 0 && draw % 1000 < odds.per_thousand;
        if hit { odds.troubles.get((draw / 1000 % one_of) as usize).copied() } else { None }
    }

    /// The condition is part of what is signed, so that it cannot be left out; but what it asks for can be made true.
    fn forget_if_overwriting(&self, request: &Request) {
        let conditional = String::from_utf8_lossy(&request.head).to_lowercase().contains("\r\nif-none-match:");
        if self.conditions == Conditions::Ignored && request.method == "PUT" && conditional {
            let name = request.target.trim_start_matches(&format!("/{BUCKET}/")).split('?').next().unwrap_or_default();
            // There is mostly nothing to remove.
            let _ = std::fs::remove_file(self.bucket.join(name));
        }
    }

    fn pass_on(&self, request: &Request) -> io::Result<Vec<u8>> {
        let mut server = TcpStream::connect(self.upstream)?;
        server.set_read_timeout(Some(SOCKET_TIME))?;
        let end = request.head.len().saturating_sub(2);
        server.write_all(request.head.get(..end).unwrap_or_default())?;
        server.write_all(b"connection: close\r\n\r\n")?;
        server.write_all(&request.body)?;
        let mut answer = Vec::new();
        server.read_to_end(&mut answer)?;
        Ok(answer)
    }
}

fn answer_with(client: &mut TcpStream, status: u16, body: &str) -> io::Result<()> {
    let head = format!("HTTP/1.1 {status} Trouble\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
    client.write_all(head.as_bytes())?;
    client.write_all(body.as_bytes())?;
    client.shutdown(Shutdown::Both)
}

fn read_request(client: &mut TcpStream) -> io::Result<Request> {
    let bad = || io::Error::from(io::ErrorKind::InvalidData);
    let (mut bytes, mut part) = (Vec::new(), vec![0; 64 << 10]);
    let head_len = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        let read = client.read(&mut part)?;
        if read == 0 || bytes.len() > HEAD_BYTES_MAX {
            return Err(bad());
        }
        bytes.extend_from_slice(part.get(..read).unwrap_or_default());
    };
    let mut body = bytes.split_off(head_len);
    let head = String::from_utf8_lossy(&bytes).into_owned();
    let mut first = head.lines().next().unwrap_or_default().split(' ').map(str::to_owned);
    let (Some(method), Some(target)) = (first.next(), first.next()) else { return Err(bad()) };
    let length = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length: u64 = length.map_or(Ok(0), |(_, value)| value.trim().parse()).map_err(|_| bad())?;
    let left = length.saturating_sub(body.len() as u64);
    client.take(left).read_to_end(&mut body)?;
    if (body.len() as u64) < length {
        return Err(bad());
    }
    Ok(Request { method, target, head: bytes, body })
}

/// A number that looks nothing like the one it came from.
fn mixed(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
