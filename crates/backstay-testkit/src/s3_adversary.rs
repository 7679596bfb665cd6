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
    /// The connection closes in the middle of the request; the server saw its first half.
    CutRequest,
    /// The server applies the request; its answer never arrives.
    LostAfter,
    /// The server applies the request; the connection stays open and says nothing.
    SilentAfter,
    /// Half of the answer arrives.
    CutAnswer,
    /// Half of the answer's body arrives, under a length that says it is all.
    ShortAnswer,
    /// The answer's length is said to be larger than what arrives before the connection closes.
    LongLength,
    /// The answer arrives byte by byte with this pause between them.
    Drip(Duration),
    /// Another answers in the server's place, with this status and error code.
    Refused(u16, &'static str),
    /// The server is too busy, and asks to be left alone for so many seconds.
    Busy(u64),
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
    /// The put overwrites, and is answered as if it had not.
    Pretended,
}

/// What clients of the adversary speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    S3,
    /// The XML interface of Google Cloud Storage, which differs from S3 in how requests are let in and how a
    /// condition is put.
    Gcs,
}

/// The bearer token a stand-in for Google lets in.
pub const BEARER: &str = "a-token-that-no-message-may-show";

pub struct Adversary {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    upstream: SocketAddr,
    bucket: PathBuf,
    conditions: Conditions,
    dialect: Dialect,
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
    heads: Vec<String>,
    /// Access keys that the server takes for expired.
    expired: Option<String>,
    /// The most names one page of a listing shows.
    page: Option<usize>,
    bytes: (u64, u64),
    /// Who answers listings that ask for an empty delimiter.
    lister: Option<SocketAddr>,
}

/// What passed through since the last look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    pub requests: u64,
    pub sent: u64,
    pub received: u64,
}

struct Request {
    method: String,
    target: String,
    head: Vec<u8>,
    body: Vec<u8>,
}

impl Adversary {
    pub fn start(server: &S3Server, conditions: Conditions, odds: Option<Odds>) -> Self {
        Self::start_speaking(Dialect::S3, server, conditions, odds)
    }

    /// A stand-in for Google Cloud Storage in front of an open S3 server: there is no emulator of its XML
    /// interface that could be installed here. It shows what is sent, not that Google agrees.
    pub fn stand_in_for_gcs(server: &S3Server) -> Self {
        Self::start_speaking(Dialect::Gcs, server, Conditions::Honoured, None)
    }

    fn start_speaking(dialect: Dialect, server: &S3Server, conditions: Conditions, odds: Option<Odds>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("its address");
        let shared = Arc::new(Shared {
            upstream: server.address(),
            bucket: server.folder().join(BUCKET),
            conditions,
            dialect,
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

    /// The same, without forgetting them.
    pub fn requests_so_far(&self) -> Vec<String> {
        self.shared.state().requests.clone()
    }

    /// The heads of the requests since the last call: header lines, names in lower case.
    pub fn take_heads(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.state().heads)
    }

    /// How much passed through since the last call of this or of `take_requests`, bodies alone.
    pub fn take_traffic(&self) -> Traffic {
        let mut state = self.shared.state();
        let (sent, received) = std::mem::take(&mut state.bytes);
        Traffic { requests: std::mem::take(&mut state.requests).len() as u64, sent, received }
    }

    /// From now on these access keys have expired.
    pub fn expire(&self, access_key: &str) {
        self.shared.state().expired = Some(access_key.to_owned());
    }

    /// From now on a page of a listing shows no more names than this.
    pub fn shorten_pages(&self, most: usize) {
        self.shared.state().page = Some(most);
    }

    /// From now on a listing with an empty delimiter is one without. `s3s-fs` 0.14.1 takes it for a delimiter that
    /// is everywhere and shows no object; S3 takes it for none, and restic's client sends it with every listing.
    /// What is signed cannot be changed on the way, so a server beside that asks for no signature answers.
    pub fn mend_listings(&self, lister: &S3Server) {
        self.shared.state().lister = Some(lister.address());
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
        let mut request = read_request(&mut client)?;
        if self.dialect == Dialect::Gcs && !translate(&mut request) {
            return answer_with(&mut client, 401, "", &refusal("AuthenticationRequired"));
        }
        let trouble = self.trouble_for(&request);
        match trouble {
            Some(Trouble::LostBefore) => return client.shutdown(Shutdown::Both),
            Some(Trouble::CutRequest) => {
                // The server finds the rest of the body missing, whatever it says about that.
                drop(self.pass_on(&request, request.body.len() / 2));
                return client.shutdown(Shutdown::Both);
            }
            Some(Trouble::Refused(status, code)) => return answer_with(&mut client, status, "", &refusal(code)),
            Some(Trouble::Busy(seconds)) => {
                let quiet = format!("retry-after: {seconds}\r\n");
                return answer_with(&mut client, 503, &quiet, &refusal("SlowDown"));
            }
            Some(Trouble::Says(body)) => return answer_with(&mut client, 200, "", body),
            Some(Trouble::Slow(time)) => std::thread::sleep(time),
            _ => {}
        }
        let answer = match request.method.as_str() {
            "PUT" => {
                let _alone = self.puts.lock().unwrap_or_else(PoisonError::into_inner);
                let overwrote = self.forget_if_overwriting(&request);
                let answer = self.pass_on(&request, request.body.len())?;
                if overwrote && self.conditions == Conditions::Pretended {
                    return answer_with(&mut client, 412, "", &refusal("PreconditionFailed"));
                }
                answer
            }
            _ => self.pass_on(&request, request.body.len())?,
        };
        self.answer(&mut client, &request, trouble, answer)
    }

    fn answer(
        &self,
        client: &mut TcpStream,
        request: &Request,
        trouble: Option<Trouble>,
        answer: Vec<u8>,
    ) -> io::Result<()> {
        let answer = self.shortened(request, answer);
        match trouble {
            Some(Trouble::LostAfter) => {}
            Some(Trouble::SilentAfter) => {
                // Ends when the client hangs up.
                client.read_to_end(&mut Vec::new())?;
            }
            Some(Trouble::CutAnswer) => client.write_all(answer.get(..answer.len() / 2).unwrap_or_default())?,
            Some(Trouble::ShortAnswer) => {
                let (head, body) = split(&answer);
                client.write_all(&with_length(head, body.len() / 2))?;
                client.write_all(body.get(..body.len() / 2).unwrap_or_default())?;
            }
            Some(Trouble::LongLength) => {
                let (head, body) = split(&answer);
                client.write_all(&with_length(head, body.len() + 1000))?;
                client.write_all(body)?;
            }
            Some(Trouble::Drip(pause)) => {
                for byte in answer {
                    client.write_all(&[byte])?;
                    std::thread::sleep(pause);
                }
            }
            _ => client.write_all(&answer)?,
        }
        client.shutdown(Shutdown::Both)
    }

    /// A listing cut to the longest page there may be, with a token as a server would give one.
    fn shortened(&self, request: &Request, answer: Vec<u8>) -> Vec<u8> {
        let listing = request.method == "GET" && request.target.contains("list-type=2");
        let Some(most) = self.state().page.filter(|_| listing) else { return answer };
        let (head, body) = split(&answer);
        let text = String::from_utf8_lossy(body);
        let Some((at, _)) = text.match_indices("<Contents>").nth(most) else { return answer };
        let more = "<IsTruncated>true</IsTruncated><NextContinuationToken>more</NextContinuationToken>";
        let kept = text.get(..at).unwrap_or_default().replace("<IsTruncated>false</IsTruncated>", "");
        let body = format!("{kept}{more}</ListBucketResult>");
        [with_length(head, body.len()), body.into_bytes()].concat()
    }

    fn trouble_for(&self, request: &Request) -> Option<Trouble> {
        let mut state = self.state();
        state.requests.push(format!("{} {}", request.method, request.target));
        let head = String::from_utf8_lossy(&request.head);
        state.heads.push(head.lines().map(lower_name).collect::<Vec<_>>().join("\n"));
        state.bytes.0 += request.body.len() as u64;
        if let Some(expired) = &state.expired
            && head.contains(expired.as_str())
        {
            return Some(Trouble::Refused(400, "ExpiredToken"));
        }
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
    /// Whether there was something to overwrite.
    fn forget_if_overwriting(&self, request: &Request) -> bool {
        let conditional = String::from_utf8_lossy(&request.head).to_lowercase().contains("\r\nif-none-match:");
        if self.conditions == Conditions::Honoured || request.method != "PUT" || !conditional {
            return false;
        }
        let name = request.target.trim_start_matches(&format!("/{BUCKET}/")).split('?').next().unwrap_or_default();
        std::fs::remove_file(self.bucket.join(name)).is_ok()
    }

    /// Passes a request on with this much of its body, and brings the answer.
    fn pass_on(&self, request: &Request, body: usize) -> io::Result<Vec<u8>> {
        let lister = self.state().lister;
        let (address, head) = match (lister, without_empty_delimiter(request)) {
            (Some(lister), Some(head)) => (lister, head),
            _ => (self.upstream, request.head.clone()),
        };
        let mut server = TcpStream::connect(address)?;
        server.set_read_timeout(Some(SOCKET_TIME))?;
        let end = head.len().saturating_sub(2);
        server.write_all(head.get(..end).unwrap_or_default())?;
        server.write_all(b"connection: close\r\n\r\n")?;
        server.write_all(request.body.get(..body).unwrap_or_default())?;
        if body < request.body.len() {
            server.shutdown(Shutdown::Write)?;
        }
        let mut answer = Vec::new();
        server.read_to_end(&mut answer)?;
        self.state().bytes.1 += split(&answer).1.len() as u64;
        Ok(answer)
    }
}

/// The head of a listing that asks for an empty delimiter, without that and without its signature.
fn without_empty_delimiter(request: &Request) -> Option<Vec<u8>> {
    let (path, query) = request.target.split_once('?').filter(|_| request.method == "GET")?;
    let kept: Vec<&str> = query.split('&').filter(|part| *part != "delimiter=").collect();
    if kept.len() == query.split('&').count() {
        return None;
    }
    let head = String::from_utf8_lossy(&request.head).into_owned();
    let unsigned = |line: &&str| !line.is_empty() && !line.to_lowercase().starts_with("authorization:");
    let lines: Vec<&str> = head.lines().skip(1).filter(unsigned).collect();
    Some(format!("GET {path}?{} HTTP/1.1\r\n{}\r\n\r\n", kept.join("&"), lines.join("\r\n")).into_bytes())
}

/// A request of Google's interface as one of S3's. Whether it is let in.
fn translate(request: &mut Request) -> bool {
    let head = String::from_utf8_lossy(&request.head).into_owned();
    let line = |line: &str| match line.split_once(':').map(|(name, value)| (name.to_lowercase(), value.trim())) {
        Some((name, _)) if name == "authorization" => None,
        Some((name, "0")) if name == "x-goog-if-generation-match" => Some("if-none-match: *".to_owned()),
        _ => Some(line.to_owned()),
    };
    let lines: Vec<String> = head.lines().filter(|line| !line.is_empty()).filter_map(line).collect();
    request.head = format!("{}\r\n\r\n", lines.join("\r\n")).into_bytes();
    head.contains(&format!("Bearer {BEARER}"))
}

/// Some servers echo what was signed; none of it may reach a message.
fn refusal(code: &str) -> String {
    format!("<Error><Code>{code}</Code><Message>token SECRET-ECHO</Message></Error>")
}

fn lower_name(line: &str) -> String {
    match line.split_once(':') {
        Some((name, value)) => format!("{}:{value}", name.to_lowercase()),
        None => line.to_owned(),
    }
}

/// Head and body of an answer.
fn split(answer: &[u8]) -> (&[u8], &[u8]) {
    let at = answer.windows(4).position(|window| window == b"\r\n\r\n").map_or(answer.len(), |at| at + 4);
    answer.split_at(at)
}

/// A head that announces another length.
fn with_length(head: &[u8], len: usize) -> Vec<u8> {
    let text = String::from_utf8_lossy(head);
    let others = text.lines().filter(|line| {
        let line = line.to_lowercase();
        !line.is_empty() && !line.starts_with("content-length:") && !line.starts_with("transfer-encoding:")
    });
    let mut head: String = others.map(|line| format!("{line}\r\n")).collect();
    head.push_str(&format!("content-length: {len}\r\n\r\n"));
    head.into_bytes()
}

fn answer_with(client: &mut TcpStream, status: u16, header: &str, body: &str) -> io::Result<()> {
    let len = body.len();
    let head = format!("HTTP/1.1 {status} Trouble\r\n{header}content-length: {len}\r\nconnection: close\r\n\r\n");
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
