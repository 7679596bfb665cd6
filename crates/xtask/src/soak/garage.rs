//! A life over a server that takes too long to build for every test run.
//!
//! `store --server garage`: an S3 server that ignores conditional writes, one node in a temporary folder, and the test
//! that lives a whole life over it. Starts and ends the server; leaves nothing.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const BUCKET: &str = "vaults";
const REGION: &str = "garage";
/// How long the server may take to answer at first.
const START: Duration = Duration::from_secs(60);

pub fn run(root: &Path) -> Result<(), String> {
    store(root, &Garage::start()?)
}

fn store(root: &Path, server: &Garage) -> Result<(), String> {
    let mut command = Command::new("cargo");
    command.current_dir(root).args(["nextest", "run", "-p", "backstay", "--run-ignored", "only", "--no-capture"]);
    command.args(["-E", "package(backstay) & test(=a_life_over_a_server_of_the_soak)"]);
    command.env("SOAK_ENDPOINT", &server.endpoint).env("SOAK_KEY", &server.key).env("SOAK_SECRET", &server.secret);
    command.env("SOAK_REGION", REGION).env("SOAK_BUCKET", BUCKET).env("SOAK_CONDITIONAL", "false");
    let done = command.status().map_err(|e| format!("run cargo nextest: {e}"))?;
    if done.success() { Ok(()) } else { Err("the soak failed; what the test said is above".to_owned()) }
}

/// One node with one bucket and one key.
struct Garage {
    child: Child,
    config: PathBuf,
    endpoint: String,
    key: String,
    secret: String,
    _folder: tempfile::TempDir,
}

impl Garage {
    fn start() -> Result<Self, String> {
        let folder = tempfile::tempdir().map_err(|e| format!("make a temporary folder: {e}"))?;
        let (rpc, api) = (free_port()?, free_port()?);
        let config = folder.path().join("garage.toml");
        std::fs::write(&config, settings(folder.path(), rpc, api)).map_err(|e| format!("write garage.toml: {e}"))?;
        let log = std::fs::File::create(folder.path().join("log")).map_err(|e| format!("create the log: {e}"))?;
        let mut command = Command::new("garage");
        command.arg("-c").arg(&config).arg("server").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => "garage is not installed: run `cargo install --locked garage`".to_owned(),
            _ => format!("run garage: {e}"),
        })?;
        let endpoint = format!("http://127.0.0.1:{api}");
        let (key, secret) = (String::new(), String::new());
        let mut server = Self { child, config, endpoint, key, secret, _folder: folder };
        server.set_up()?;
        Ok(server)
    }

    fn set_up(&mut self) -> Result<(), String> {
        let began = Instant::now();
        let node = loop {
            match self.ask(&["node", "id", "-q"]).and_then(|id| self.ask(&["status"]).map(|_| id)) {
                Ok(id) => break id.split('@').next().unwrap_or_default().trim().to_owned(),
                Err(error) if began.elapsed() > START => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(200)),
            }
        };
        self.ask(&["layout", "assign", "-z", "here", "-c", "1G", &node])?;
        self.ask(&["layout", "apply", "--version", "1"])?;
        self.ask(&["bucket", "create", BUCKET])?;
        let made = self.ask(&["key", "create", "soak"])?;
        let value = |name: &str| {
            let line = made.lines().find_map(|line| line.trim().strip_prefix(name)).map(str::trim);
            line.map(str::to_owned).ok_or_else(|| format!("garage key create does not say `{name}`: {made}"))
        };
        (self.key, self.secret) = (value("Key ID:")?, value("Secret key:")?);
        self.ask(&["bucket", "allow", "--read", "--write", "--owner", BUCKET, "--key", "soak"])?;
        Ok(())
    }

    fn ask(&self, words: &[&str]) -> Result<String, String> {
        let done = Command::new("garage").arg("-c").arg(&self.config).args(words).output();
        let done = done.map_err(|e| format!("run garage {}: {e}", words.join(" ")))?;
        if done.status.success() {
            return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
        }
        Err(format!("garage {}: {}", words.join(" "), String::from_utf8_lossy(&done.stderr).trim()))
    }
}

impl Drop for Garage {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn settings(folder: &Path, rpc: u16, api: u16) -> String {
    let (dir, secret) = (folder.display(), "5e".repeat(32));
    format!(
        "metadata_dir = \"{dir}/meta\"\ndata_dir = \"{dir}/data\"\ndb_engine = \"sqlite\"\nreplication_factor = 1\n\
         rpc_bind_addr = \"127.0.0.1:{rpc}\"\nrpc_public_addr = \"127.0.0.1:{rpc}\"\nrpc_secret = \"{secret}\"\n\n\
         [s3_api]\ns3_region = \"{REGION}\"\napi_bind_addr = \"127.0.0.1:{api}\"\nroot_domain = \".s3.garage.localhost\"\n"
    )
}

fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| format!("find a free port: {e}"))?;
    listener.local_addr().map(|address| address.port()).map_err(|e| format!("find a free port: {e}"))
}
