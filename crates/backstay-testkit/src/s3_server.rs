//! A real S3 server for tests: `s3s-fs` on loopback over a temporary folder, ended with its guard.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// What the missing server is installed with.
pub const INSTALL: &str = "cargo install --locked s3s-fs --version 0.14.1 --features binary";
pub const ACCESS_KEY: &str = "BACKSTAYTESTACCESS";
pub const SECRET_KEY: &str = "a-secret-that-no-message-may-show";
/// The bucket every server begins with.
pub const BUCKET: &str = "vaults";

const PORTS_TRIED: u32 = 8;
const POLLS: u32 = 500;
const POLL: Duration = Duration::from_millis(20);

pub struct S3Server {
    child: Child,
    address: SocketAddr,
    folder: Arc<TempDir>,
}

impl S3Server {
    /// Starts one and waits until it answers; panics, with what to install, when there is none.
    pub fn start() -> Self {
        Self::start_for(Visitors::WithKeys)
    }

    /// One that asks nobody for a signature, for a stand-in that has other ways to let people in.
    pub fn start_open() -> Self {
        Self::start_for(Visitors::Anyone)
    }

    /// Another over the same folder, which asks nobody for a signature.
    pub fn open_beside(&self) -> Self {
        Self::start_over(self.folder.clone(), Visitors::Anyone)
    }

    fn start_for(visitors: Visitors) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(folder.path().join(BUCKET)).expect("the bucket");
        Self::start_over(Arc::new(folder), visitors)
    }

    fn start_over(folder: Arc<TempDir>, visitors: Visitors) -> Self {
        for _ in 0..PORTS_TRIED {
            let address = free_address();
            let mut child = spawn(address, folder.path(), visitors);
            // Somebody else may take the port between the look and the server's own bind.
            if answers(address, &mut child) {
                return Self { child, address, folder };
            }
            end(&mut child);
        }
        panic!("s3s-fs did not begin to listen on any of {PORTS_TRIED} ports");
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where the server keeps the object of this name.
    pub fn file_of(&self, name: &str) -> PathBuf {
        self.folder.path().join(BUCKET).join(name)
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

pub(crate) fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("its address")
}

#[derive(Clone, Copy)]
enum Visitors {
    WithKeys,
    Anyone,
}

fn spawn(address: SocketAddr, root: &Path, visitors: Visitors) -> Child {
    let mut command = Command::new("s3s-fs");
    command.args(["--host", &address.ip().to_string(), "--port", &address.port().to_string()]);
    if let Visitors::WithKeys = visitors {
        command.args(["--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY]);
    }
    command.arg(root);
    command.env("RUST_LOG", "off").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap_or_else(|error| panic!("s3s-fs cannot be run ({error}); `./test` or this: {INSTALL}"))
}

pub(crate) fn answers(address: SocketAddr, child: &mut Child) -> bool {
    for _ in 0..POLLS {
        if child.try_wait().is_ok_and(|ended| ended.is_some()) {
            return false;
        }
        if TcpStream::connect(address).is_ok() {
            return true;
        }
        std::thread::sleep(POLL);
    }
    false
}

/// It may have ended by itself; either way nothing of it is left.
pub(crate) fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}
