//! A real Azure Blob server for tests: `azurite` on loopback, ended with its guard.

use crate::s3_server::{answers, end, free_address};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// What the missing server is installed with.
pub const INSTALL: &str = "npm install --prefix target/azurite azurite@3.37.0";
/// The account that every azurite has, and its key, which is no secret of anyone's.
pub const ACCOUNT: &str = "devstoreaccount1";
pub const ACCOUNT_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
/// The container every server begins with.
pub const CONTAINER: &str = "vaults";

const PORTS_TRIED: u32 = 8;

/// Makes a container with a signed request; no client of ours does, since none of ours may.
const MAKE_CONTAINER: &str = r#"
const [port, account, key, container] = process.argv.slice(1);
const path = `/${account}/${container}`, date = new Date().toUTCString(), version = '2021-08-06';
const named = `x-ms-date:${date}\nx-ms-version:${version}\n`;
const text = 'PUT' + '\n'.repeat(12) + named + `/${account}${path}\nrestype:container`;
const signature = require('crypto').createHmac('sha256', Buffer.from(key, 'base64')).update(text).digest('base64');
const headers = {'x-ms-date': date, 'x-ms-version': version, 'content-length': 0,
  authorization: `SharedKey ${account}:${signature}`};
const options = {host: '127.0.0.1', port, method: 'PUT', path: path + '?restype=container', headers,
  rejectUnauthorized: false};
const secure = process.env.SECURE === '1';
require(secure ? 'https' : 'http').request(options, r => process.exit(r.statusCode === 201 ? 0 : 1)).end();
"#;

pub struct Azurite {
    child: Child,
    address: SocketAddr,
    secured: Option<PathBuf>,
    _folder: TempDir,
}

impl Azurite {
    pub fn start() -> Self {
        Self::start_with(None)
    }

    /// One that speaks TLS with a certificate of an authority nobody knows; `ca_file` is what to believe.
    pub fn start_secured() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        certificate(folder.path());
        Self::start_with(Some(folder))
    }

    fn start_with(certificate: Option<TempDir>) -> Self {
        let secured = certificate.is_some();
        let folder = certificate.unwrap_or_else(|| tempfile::tempdir().expect("a temporary folder"));
        let ca = secured.then(|| folder.path().join("cert.pem"));
        for _ in 0..PORTS_TRIED {
            let address = free_address();
            let mut child = spawn(address, folder.path(), secured);
            if answers(address, &mut child) && make_container(address, secured) {
                return Self { child, address, secured: ca, _folder: folder };
            }
            end(&mut child);
        }
        panic!("azurite did not begin to listen on any of {PORTS_TRIED} ports");
    }

    pub fn endpoint(&self) -> String {
        match self.secured {
            Some(_) => format!("https://localhost:{}", self.address.port()),
            None => format!("http://{}", self.address),
        }
    }

    /// The certificate to believe.
    pub fn ca_file(&self) -> &Path {
        self.secured.as_deref().expect("a secured server")
    }
}

impl Drop for Azurite {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

fn spawn(address: SocketAddr, folder: &Path, secured: bool) -> Child {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let script = workspace.join("target/azurite/node_modules/azurite/dist/src/blob/main.js");
    assert!(script.exists(), "azurite is not installed; `./test` or this: {INSTALL}");
    let mut command = Command::new("node");
    command.arg(script).args(["--blobHost", "127.0.0.1", "--blobPort", &address.port().to_string()]);
    command.args(["--silent", "--skipApiVersionCheck", "--disableTelemetry", "--inMemoryPersistence"]);
    if secured {
        command.arg("--cert").arg(folder.join("cert.pem")).arg("--key").arg(folder.join("key.pem"));
    }
    command.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap_or_else(|error| panic!("node cannot be run ({error}); install Node.js"))
}

fn make_container(address: SocketAddr, secured: bool) -> bool {
    let mut command = Command::new("node");
    command.args(["-e", MAKE_CONTAINER, "--", &address.port().to_string(), ACCOUNT, ACCOUNT_KEY, CONTAINER]);
    command.env("SECURE", if secured { "1" } else { "0" }).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn certificate(folder: &Path) {
    let words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -keyout key.pem -out cert.pem \
        -subj /CN=localhost -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE";
    let mut command = Command::new("openssl");
    command.args(words.split_whitespace()).current_dir(folder).stderr(Stdio::null());
    let made = command.status().unwrap_or_else(|error| panic!("openssl cannot be run ({error}); install openssl"));
    assert!(made.success(), "openssl made no certificate");
}
