//! Planted bugs: each committed patch must turn a test red that it names.
//!
//! Owns `mutants/*.patch` and the scratch worktree under `target/mutants`. Never touches the working
//! tree: patches are tried on a checkout of `HEAD`. Stopped anywhere, it leaves that scratch worktree in
//! some state, and the next run resets it. What was killed is written down as it is, and `--continue`
//! passes over those whose patch has not changed since; it says on which commit that was.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::sources::Sources;
use crate::tree::Tree;

#[cfg(test)]
mod tests;

const FOLDER: &str = "mutants";
const CONTINUE: &str = "--continue";
/// Folders under `target` that tests look for.
const INSTALLED: [&str; 3] = ["recover-venv", "azurite", "node"];

/// A unified diff under two header lines: `# test: <nextest filter>` and `# why: <reason>`.
#[derive(Debug, PartialEq, Eq)]
pub struct Patch {
    pub name: String,
    pub test: String,
    pub why: String,
    /// The first file it changes.
    pub touches: String,
    /// Tells whether it is still the same.
    pub digest: u64,
}

impl Patch {
    pub fn parse(name: &str, text: &str) -> Result<Patch, String> {
        let header = |key: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix("# ")?.strip_prefix(key)).map(str::trim);
            value.filter(|value| !value.is_empty()).ok_or_else(|| format!("{name}: no header line `# {key} ...`"))
        };
        let (test, why) = (header("test:")?.to_owned(), header("why:")?.to_owned());
        let touches = text.lines().find_map(|line| line.strip_prefix("+++ b/")).unwrap_or_default().to_owned();
        Ok(Patch { name: name.to_owned(), test, why, touches, digest: digest(text) })
    }

    /// The crates the filter names, so that only their tests are built.
    pub fn packages(&self) -> Vec<&str> {
        arguments(&self.test, "package(")
    }

    /// Says what is wrong with the filter, against the tests in the sources.
    pub fn names_a_test(&self, sources: &Sources) -> Result<(), String> {
        let (packages, tests) = (self.packages(), arguments(&self.test, "test("));
        if packages.is_empty() || tests.is_empty() {
            return Err(format!("{}: name `package(..) & test(=..)`, not `{}`", self.name, self.test));
        }
        match tests.into_iter().find(|test| self.meant(sources, test).next().is_none()) {
            Some(test) => Err(format!("{}: no running test `{test}` in {}", self.name, packages.join(", "))),
            None => Ok(()),
        }
    }

    /// The running tests of its packages that `test` fits.
    fn meant<'a>(&self, sources: &'a Sources, test: &str) -> impl Iterator<Item = &'a str> {
        let prefixes: Vec<String> =
            self.packages().iter().map(|name| format!("{}::", name.replace('-', "_"))).collect();
        let inside = move |known: &str| prefixes.iter().any(|prefix| known.starts_with(prefix.as_str()));
        let running = sources.tests.iter().filter(|(_, ignored)| !**ignored).map(|(known, _)| known.as_str());
        running.filter(move |known| inside(known) && fits(known, test))
    }

    /// What cargo is told to build, so that a patch of one crate does not link sixty programs of tests.
    fn programs(&self, sources: &Sources) -> Vec<String> {
        let meant = arguments(&self.test, "test(").into_iter().flat_map(|test| self.meant(sources, test));
        let program = |known: &str| {
            let (package, rest) = known.split_once("::")?;
            let (first, _) = rest.split_once("::")?;
            let file = |name: &str| format!("crates/{}/{name}", package.replace('_', "-"));
            let there = |name: String| sources.files.contains_key(&file(&name));
            let is_program = there(format!("tests/{first}.rs")) || there(format!("tests/{first}/main.rs"));
            let is_module = there(format!("src/{first}.rs")) || there(format!("src/{first}/mod.rs"));
            let library = if there("src/lib.rs".to_owned()) { "--lib" } else { "--bins" };
            let of_program = is_program.then(|| format!("--test={first}"));
            Some(of_program.into_iter().chain((is_module || !is_program).then(|| library.to_owned())))
        };
        let named: Option<Vec<_>> = meant.map(program).collect();
        named.into_iter().flatten().flatten().collect::<BTreeSet<_>>().into_iter().collect()
    }
}

/// The words inside `opening .. )`, however often they occur.
fn arguments<'a>(filter: &'a str, opening: &str) -> Vec<&'a str> {
    let after = filter.match_indices(opening).map(|(at, _)| &filter[at + opening.len()..]);
    let words = after.filter_map(|rest| rest.split_once(')')).map(|(word, _)| word.trim());
    if opening == "package(" { words.map(|word| word.trim_start_matches('=')).collect() } else { words.collect() }
}

/// `=a::b` is a whole name below the crate (or below the file in `tests/`); anything else is a part.
fn fits(known: &str, test: &str) -> bool {
    match test.strip_prefix('=') {
        Some(exact) => known.strip_suffix(exact).is_some_and(|before| before.ends_with("::")),
        None => known.contains(test),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Killed,
    Survived,
    DoesNotApply,
    DoesNotCompile,
    NoTestRan,
    Other(i32),
}

impl Outcome {
    /// nextest tells a red test from a build that failed and from a filter that matches nothing.
    fn of(code: Option<i32>) -> Outcome {
        match code {
            Some(0) => Outcome::Survived,
            Some(100) => Outcome::Killed,
            Some(101) => Outcome::DoesNotCompile,
            Some(4) => Outcome::NoTestRan,
            other => Outcome::Other(other.unwrap_or(-1)),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Killed => f.pad("killed"),
            Outcome::Survived => f.pad("SURVIVED"),
            Outcome::DoesNotApply => f.pad("does not apply"),
            Outcome::DoesNotCompile => f.pad("does not compile"),
            Outcome::NoTestRan => f.pad("no test ran"),
            Outcome::Other(code) => f.pad(&format!("exit {code}")),
        }
    }
}

/// All patches, or those named, in order.
pub fn patches(root: &Path, wanted: &[String]) -> Result<Vec<Patch>, String> {
    let folder = root.join(FOLDER);
    let mut names = Vec::new();
    match std::fs::read_dir(&folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(format!("list {FOLDER}: {e}")),
        Ok(entries) => {
            for entry in entries {
                let name = entry.map_err(|e| format!("list {FOLDER}: {e}"))?.file_name();
                names.extend(name.to_string_lossy().strip_suffix(".patch").map(str::to_owned));
            }
        }
    }
    names.sort();
    if let Some(missing) = wanted.iter().find(|name| !names.contains(name)) {
        return Err(format!("no {FOLDER}/{missing}.patch"));
    }
    names.retain(|name| wanted.is_empty() || wanted.contains(name));
    let read = |name: &String| {
        let path = folder.join(format!("{name}.patch"));
        let text = std::fs::read_to_string(path).map_err(|e| format!("read {FOLDER}/{name}.patch: {e}"))?;
        Patch::parse(name, &text)
    };
    names.iter().map(read).collect()
}

/// Whether the patch still fits the files under `tree`.
pub fn applies(root: &Path, tree: &Path, name: &str) -> Result<(), String> {
    git(tree, &["apply", "--check", &patch_file(root, name)])
}

pub fn run(root: &Path, args: &[String]) -> Result<(), String> {
    let wanted: Vec<String> = args.iter().filter(|arg| *arg != CONTINUE).cloned().collect();
    let mut patches = patches(root, &wanted)?;
    let known = if wanted.len() < args.len() { Killed::read(root) } else { Killed::default() };
    let mut before = 0;
    patches.retain(|patch| match known.commit_of(patch) {
        Some(commit) => {
            println!("{:<16}  {:<34}  before, on {commit}", Outcome::Killed, patch.name);
            before += 1;
            false
        }
        None => true,
    });
    if patches.is_empty() && before > 0 {
        println!("mutants: all {before} were killed before");
        return Ok(());
    }
    if patches.is_empty() {
        println!("mutants: none in {FOLDER}/");
        return Ok(());
    }
    let sources = Sources::read(&Tree::gather(root)?);
    // What one patch made cargo build again, the next one has to build again anyway, if it is of the same crate.
    patches.sort_by(|a, b| (&a.touches, &a.name).cmp(&(&b.touches, &b.name)));
    patches.iter().try_for_each(|patch| patch.names_a_test(&sources))?;
    let scratch = Scratch::prepare(root)?;
    println!("mutants: {} patches on {}; uncommitted changes are not in it", patches.len(), scratch.commit);
    scratch.baseline(&patches)?;
    let mut lived = 0;
    for patch in &patches {
        let outcome = scratch.try_patch(patch, &patch.programs(&sources))?;
        lived += usize::from(outcome != Outcome::Killed);
        Killed::note(root, patch, (outcome == Outcome::Killed).then_some(scratch.commit.as_str()))?;
        println!("{outcome:<16}  {:<34}  {}", patch.name, patch.why);
    }
    println!("mutants: {} killed, {before} before, {lived} not; logs in target/mutants/logs", patches.len() - lived);
    if lived == 0 { Ok(()) } else { Err("a planted bug that no named test sees is a hole in the tests".to_owned()) }
}

/// FNV-1a: it has to notice an edit, not an enemy.
fn digest(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The patches that were killed, one line each: name, digest, commit. The last line of a name counts.
#[derive(Default)]
struct Killed(Vec<(String, u64, String)>);

impl Killed {
    fn path(root: &Path) -> PathBuf {
        root.join("target/mutants/killed")
    }

    fn read(root: &Path) -> Killed {
        Killed::parse(&std::fs::read_to_string(Killed::path(root)).unwrap_or_default())
    }

    fn parse(text: &str) -> Killed {
        let line = |line: &str| {
            let [name, digest, commit] = line.split(' ').collect::<Vec<_>>().try_into().ok()?;
            Some((name.to_owned(), u64::from_str_radix(digest, 16).ok()?, commit.to_owned()))
        };
        Killed(text.lines().filter_map(line).collect())
    }

    /// Where it was killed, if the last try of this very patch did that.
    fn commit_of(&self, patch: &Patch) -> Option<&str> {
        let (_, digest, commit) = self.0.iter().rfind(|(name, ..)| *name == patch.name)?;
        (*digest == patch.digest && commit != SURVIVED).then_some(commit)
    }

    fn note(root: &Path, patch: &Patch, commit: Option<&str>) -> Result<(), String> {
        use std::io::Write;
        let path = Killed::path(root);
        let line = format!("{} {:016x} {}\n", patch.name, patch.digest, commit.unwrap_or(SURVIVED));
        let file = std::fs::OpenOptions::new().append(true).create(true).open(&path);
        file.and_then(|mut file| file.write_all(line.as_bytes())).map_err(|e| format!("write {}: {e}", path.display()))
    }
}

/// Stands for a commit where the patch was not killed.
const SURVIVED: &str = "-";

/// A worktree of `HEAD` with a target folder of its own, kept warm between patches and runs.
struct Scratch {
    root: PathBuf,
    home: PathBuf,
    tree: PathBuf,
    commit: String,
}

impl Scratch {
    fn prepare(root: &Path) -> Result<Scratch, String> {
        let home = root.join("target/mutants");
        let tree = home.join("tree");
        std::fs::create_dir_all(home.join("logs")).map_err(|e| format!("create target/mutants: {e}"))?;
        let commit = output(root, &["rev-parse", "HEAD"])?;
        let scratch = Scratch { root: root.to_owned(), home, tree, commit };
        if scratch.tree.join(".git").exists() {
            git(&scratch.tree, &["checkout", "--quiet", "--force", "--detach", &scratch.commit])?;
        } else {
            git(root, &["worktree", "prune"])?;
            let tree = scratch.tree.to_string_lossy();
            git(root, &["worktree", "add", "--quiet", "--force", "--detach", &tree, &scratch.commit])?;
        }
        scratch.reset()?;
        scratch.lend()?;
        Ok(scratch)
    }

    /// What `./test` installed is not installed again.
    fn lend(&self) -> Result<(), String> {
        let folder = self.tree.join("target");
        std::fs::create_dir_all(&folder).map_err(|e| format!("create {}: {e}", folder.display()))?;
        for name in INSTALLED {
            match std::os::unix::fs::symlink(self.root.join("target").join(name), folder.join(name)) {
                Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                    return Err(format!("link target/{name}: {e}"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn reset(&self) -> Result<(), String> {
        git(&self.tree, &["checkout", "--quiet", "--force", "--", "."])?;
        git(&self.tree, &["clean", "--quiet", "-fd"])
    }

    /// A test that is red without a bug kills nothing.
    fn baseline(&self, patches: &[Patch]) -> Result<(), String> {
        let filter = patches.iter().map(|patch| format!("({})", patch.test)).collect::<Vec<_>>().join(" | ");
        let packages: Vec<&str> = patches.iter().flat_map(Patch::packages).collect();
        match Outcome::of(self.nextest("baseline", &packages, &[], &filter)?) {
            Outcome::Survived => Ok(()),
            other => Err(format!("without any patch the named tests do not pass ({other}): see target/mutants/logs")),
        }
    }

    fn try_patch(&self, patch: &Patch, programs: &[String]) -> Result<Outcome, String> {
        if applies(&self.root, &self.tree, &patch.name).is_err() {
            return Ok(Outcome::DoesNotApply);
        }
        git(&self.tree, &["apply", &patch_file(&self.root, &patch.name)])?;
        let code = self.nextest(&patch.name, &patch.packages(), programs, &patch.test);
        self.reset()?;
        code.map(Outcome::of)
    }

    fn nextest(&self, log: &str, packages: &[&str], programs: &[String], filter: &str) -> Result<Option<i32>, String> {
        let log = self.home.join("logs").join(format!("{log}.log"));
        let out = std::fs::File::create(&log).map_err(|e| format!("create {}: {e}", log.display()))?;
        let err = out.try_clone().map_err(|e| format!("open {} twice: {e}", log.display()))?;
        let mut command = Command::new("cargo");
        command.current_dir(&self.tree).env("CARGO_TARGET_DIR", self.home.join("target"));
        command.args(["nextest", "run", "--no-fail-fast", "-E", filter]).stdin(std::process::Stdio::null());
        command.args(packages.iter().flat_map(|package| ["-p", package])).args(programs).stdout(out).stderr(err);
        Ok(command.status().map_err(|e| format!("run cargo nextest: {e}"))?.code())
    }
}

fn patch_file(root: &Path, name: &str) -> String {
    root.join(FOLDER).join(format!("{name}.patch")).to_string_lossy().into_owned()
}

fn git(folder: &Path, args: &[&str]) -> Result<(), String> {
    output(folder, args).map(drop)
}

fn output(folder: &Path, args: &[&str]) -> Result<String, String> {
    let done = Command::new("git").current_dir(folder).args(args).output();
    let done = done.map_err(|e| format!("run git {}: {e}", args.join(" ")))?;
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).trim().to_owned());
    }
    Err(format!("git {}: {}", args.join(" "), String::from_utf8_lossy(&done.stderr).trim()))
}
