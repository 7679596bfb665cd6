//! The order of system calls by which a local put and delete become durable.
//!
//! A power cut cannot be made in a test, but what must have happened before one can be read: the
//! test runs itself again under `strace`, puts an object into a fresh folder, puts it again, deletes
//! it, and looks at what the kernel was asked to do, and when.

use backstay_store::local::{LocalStore, OpenMode};
use backstay_store::{Put, Store};
use backstay_testkit::store_contract::key;
use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

/// Set only in the traced child: where its store is.
const FOLDER: &str = "BACKSTAY_TRACED_STORE";
const TEST: &str = "puts_and_deletes_are_durable_before_they_are_answered";
const CALLS: &str = "trace=mkdir,mkdirat,openat,fsync,fdatasync,link,linkat,rename,renameat,renameat2,unlink,unlinkat";

/// Marks in the trace: the child looks for files of these names between its steps.
const MARKS: [&str; 6] =
    ["mark-opened", "mark-put", "mark-put-again", "mark-deleted", "mark-deleted-again", "mark-put-by-another"];

#[test]
#[expect(clippy::disallowed_methods, reason = "the traced child learns from its environment that it is the child")]
fn puts_and_deletes_are_durable_before_they_are_answered() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        return traced(Path::new(&folder));
    }
    let dir = tempfile::tempdir().expect("temporary folder");
    let base = dir.path().canonicalize().expect("absolute");
    let output = base.join("trace");
    let status = Command::new("strace")
        .args(["-f", "-y", "-s", "4096", "-e", CALLS, "-o"])
        .arg(&output)
        .arg(std::env::current_exe().expect("the test's own file"))
        .args(["--exact", TEST, "--test-threads", "1"])
        .env(FOLDER, base.join("vault"))
        .status()
        .expect("this test needs strace; install it with `apt-get install strace`");
    assert!(status.success(), "the traced process failed");
    let trace = std::fs::read_to_string(&output).expect("a trace");
    check(&Trace::parse(&trace, &base));
}

fn traced(folder: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
    let mark = |name: &str| drop(std::fs::File::open(folder.with_file_name(name)));
    let store = LocalStore::open(folder, OpenMode::Create).expect("open");
    let one = key("data/shop/one");
    mark(MARKS[0]);
    assert_eq!(runtime.block_on(store.put_new(&one, "bytes".into())).expect("put"), Put::Created);
    mark(MARKS[1]);
    assert_eq!(runtime.block_on(store.put_new(&one, "bytes".into())).expect("put"), Put::Exists);
    mark(MARKS[2]);
    runtime.block_on(store.delete(&one)).expect("delete");
    mark(MARKS[3]);
    runtime.block_on(store.delete(&one)).expect("delete");
    mark(MARKS[4]);
    // Stands for another process, which cannot know whether the first synced the folders it made.
    let another = LocalStore::open(folder, OpenMode::Existing).expect("open");
    runtime.block_on(another.put_new(&key("data/shop/two"), "bytes".into())).expect("put");
    mark(MARKS[5]);
}

/// What must have happened before what; each line is a promise a power cut would test.
fn check(trace: &Trace) {
    let opened = trace.mark(MARKS[0]);
    let put = trace.mark(MARKS[1]);
    let put_again = trace.mark(MARKS[2]);
    let deleted = trace.mark(MARKS[3]);
    let deleted_again = trace.mark(MARKS[4]);
    let by_another = trace.mark(MARKS[5]);

    let mut from = 0;
    for (made, parent) in [("vault", ""), ("vault/data", "vault"), ("vault/data/shop", "vault/data")] {
        let made_at = trace.find(from, put, "mkdir", made);
        let until = if made == "vault" { opened } else { put };
        trace.find(made_at, until, "fsync", parent);
        from = made_at;
    }
    let staged = trace.find(opened, put, "create", "vault/data/shop/one#1");
    let synced = trace.find(staged, put, "fsync", "vault/data/shop/one#1");
    let visible = trace.find(synced, put, "appear", "vault/data/shop/one");
    assert_eq!(trace.first("appear", "vault/data/shop/one"), Some(visible), "visible before it was synced:\n{trace}");
    trace.find(visible, put, "fsync", "vault/data/shop");
    trace.find(put, put_again, "fsync", "vault/data/shop");
    let removed = trace.find(put_again, deleted, "unlink", "vault/data/shop/one");
    trace.find(removed, deleted, "fsync", "vault/data/shop");
    trace.find(deleted, deleted_again, "fsync", "vault/data/shop");
    for folder in ["vault", "vault/data", "vault/data/shop"] {
        trace.find(deleted_again, by_another, "fsync", folder);
    }
}

/// System calls that succeeded, in the order they ended, with paths below the test's folder.
struct Trace {
    calls: Vec<(String, String)>,
}

impl Trace {
    fn parse(text: &str, base: &Path) -> Self {
        let mut pending: HashMap<&str, String> = HashMap::new();
        let mut calls = Vec::new();
        for line in text.lines() {
            let Some((process, call)) = line.split_once(' ') else { continue };
            let call = call.trim_start();
            let whole = if let Some(begun) = call.strip_suffix("<unfinished ...>") {
                pending.insert(process, begun.to_owned());
                continue;
            } else if let Some((_, rest)) = call.split_once(" resumed>") {
                pending.remove(process).unwrap_or_default() + rest
            } else {
                call.to_owned()
            };
            calls.extend(understand(&whole, base));
        }
        Self { calls }
    }

    fn find(&self, from: usize, until: usize, what: &str, path: &str) -> usize {
        let wanted = (what.to_owned(), path.to_owned());
        let found = (from..until).find(|at| self.calls.get(*at) == Some(&wanted));
        found.unwrap_or_else(|| panic!("no `{what} {path}` between calls {from} and {until}:\n{self}"))
    }

    fn first(&self, what: &str, path: &str) -> Option<usize> {
        self.calls.iter().position(|(w, p)| w == what && p == path)
    }

    fn mark(&self, name: &str) -> usize {
        self.first("missing", name).unwrap_or_else(|| panic!("no mark {name}:\n{self}"))
    }
}

impl std::fmt::Display for Trace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.calls.iter().enumerate().try_for_each(|(at, (what, path))| writeln!(f, "{at:4} {what} {path}"))
    }
}

/// A call in the words of this test, with the path it acts on; `None` for one that does not matter.
fn understand(call: &str, base: &Path) -> Option<(String, String)> {
    let (name, rest) = call.split_once('(')?;
    // Short calls are padded, so any number of spaces may lie before the answer.
    let (arguments, answer) = rest.rsplit_once(" = ")?;
    let arguments = arguments.trim_end().strip_suffix(')')?;
    let failed = answer.starts_with('-');
    let what = match name {
        "openat" if failed && answer.contains("ENOENT") => "missing",
        "openat" if !failed && arguments.contains("O_CREAT") => "create",
        "fsync" | "fdatasync" if !failed => "fsync",
        "mkdir" | "mkdirat" if !failed => "mkdir",
        "link" | "linkat" | "rename" | "renameat" | "renameat2" if !failed => "appear",
        "unlink" | "unlinkat" if !failed => "unlink",
        _ => return None,
    };
    let path = last_path(arguments)?;
    let below = Path::new(&path).strip_prefix(base).ok()?;
    Some((what.to_owned(), below.to_str()?.to_owned()))
}

/// The last path of the arguments: `5</dir>, "name"` is `/dir/name`, and `5</dir>` alone is `/dir`.
fn last_path(arguments: &str) -> Option<String> {
    let mut dir: Option<&str> = None;
    let mut path = None;
    for argument in arguments.split(", ") {
        if let Some(name) = argument.strip_prefix('"').and_then(|a| a.strip_suffix('"')) {
            let whole = if name.starts_with('/') { name.to_owned() } else { format!("{}/{name}", dir?) };
            path = Some(whole);
        } else if let Some((_, named)) = argument.split_once('<') {
            dir = named.strip_suffix('>');
            path = dir.map(str::to_owned);
        }
    }
    path
}
