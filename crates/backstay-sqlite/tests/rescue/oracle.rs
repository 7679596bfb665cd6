//! `sqlite3 .recover`, the program whose work ours is compared with.
//!
//! Some distributions build the program without the one module `.recover` reads pages by. There the
//! very SQLite this workspace is built with is compiled once more, with that module, and lent to it.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

pub struct Oracle {
    env: Vec<(&'static str, OsString)>,
}

impl Oracle {
    pub fn find() -> Self {
        let own = Self { env: Vec::new() };
        if own.works() {
            return own;
        }
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("recover-oracle-1");
        if !dir.join("shim.so").exists() {
            build(&dir);
        }
        let lent =
            Self { env: vec![("LD_LIBRARY_PATH", dir.clone().into()), ("LD_PRELOAD", dir.join("shim.so").into())] };
        assert!(lent.works(), "`sqlite3 .recover` does not work here, with its own library or with ours");
        lent
    }

    fn works(&self) -> bool {
        let dir = tempfile::tempdir().expect("the oracle can be asked");
        let db = dir.path().join("works.db");
        let made = self.run(&db, "CREATE TABLE t(a); INSERT INTO t VALUES ('found again');");
        assert!(made.status.success(), "install the program with `apt-get install sqlite3`");
        String::from_utf8_lossy(&self.run(&db, ".recover").stdout).contains("found again")
    }

    fn run(&self, db: &Path, input: &str) -> Output {
        let mut command = Command::new("sqlite3");
        command.arg("-batch").arg(db).envs(self.env.iter().cloned());
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("install the program with `apt-get install sqlite3`");
        // Written from beside: what it prints meanwhile must be read, or both wait for ever.
        let mut stdin = child.stdin.take().expect("the oracle can be asked");
        std::thread::scope(|scope| {
            scope.spawn(move || stdin.write_all(input.as_bytes()));
            child.wait_with_output().expect("the oracle can be asked")
        })
    }

    /// What `.recover` makes of a damaged database, as a database. `false` when it gives up.
    pub fn recover(&self, damaged: &Path, into: &Path) -> bool {
        let said = self.run(damaged, ".recover");
        let sql = String::from_utf8_lossy(&said.stdout).into_owned();
        // The program goes on after a statement of its own that fails, and so does a person.
        let is_whole = sql.trim_end().ends_with("COMMIT;");
        is_whole && self.run(into, &sql).status.code().is_some()
    }
}

/// Compiles the library and a shim that says it is the version the program was made for.
fn build(dir: &Path) {
    let parent = dir.parent().expect("the oracle can be asked");
    let staged = tempfile::tempdir_in(parent).expect("the oracle can be asked");
    let version = Command::new("sqlite3").arg("--version").output().expect("the oracle can be asked");
    let version = String::from_utf8(version.stdout).expect("the oracle can be asked");
    let source_id = version
        .trim()
        .split_once(' ')
        .expect("the oracle can be asked")
        .1
        .split(" (")
        .next()
        .expect("the oracle can be asked")
        .to_owned();
    let shim = staged.path().join("shim.c");
    std::fs::write(&shim, format!("const char *sqlite3_sourceid(void) {{ return \"{source_id}\"; }}\n"))
        .expect("the oracle can be asked");
    compile(&[shim], &staged.path().join("shim.so"), &[]);
    let options = ["DBPAGE_VTAB", "FTS5", "SESSION", "PREUPDATE_HOOK", "RTREE", "COLUMN_METADATA", "STMTVTAB"];
    let flags: Vec<String> = options.iter().map(|option| format!("-DSQLITE_ENABLE_{option}")).collect();
    compile(&[bundled()], &staged.path().join("libsqlite3.so.0"), &flags);
    // Another test may have been quicker.
    let staged = staged.keep();
    if std::fs::rename(&staged, dir).is_err() {
        std::fs::remove_dir_all(&staged).expect("the oracle can be asked");
    }
}

fn compile(sources: &[PathBuf], out: &Path, flags: &[String]) {
    let mut command = Command::new("cc");
    command.args(["-O1", "-shared", "-fPIC"]).args(flags).args(sources).arg("-o").arg(out);
    let done = command.output().expect("install a C compiler with `apt-get install gcc`");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// The source of SQLite that this workspace is built with.
fn bundled() -> PathBuf {
    let rustc = Command::new("rustc").arg("-vV").output().expect("the oracle can be asked");
    let host = String::from_utf8(rustc.stdout).expect("the oracle can be asked");
    let host = host.lines().find_map(|line| line.strip_prefix("host: ")).expect("the oracle can be asked").to_owned();
    let mut command = Command::new(env!("CARGO"));
    command.args(["metadata", "--format-version", "1", "--offline", "--filter-platform", &host]);
    let said = command.current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("the oracle can be asked");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let said: serde_json::Value = serde_json::from_slice(&said.stdout).expect("the oracle can be asked");
    let packages = said["packages"].as_array().expect("the oracle can be asked");
    let package = packages.iter().find(|package| package["name"] == "libsqlite3-sys").expect("the oracle can be asked");
    Path::new(package["manifest_path"].as_str().expect("the oracle can be asked"))
        .with_file_name("sqlite3")
        .join("sqlite3.c")
}
