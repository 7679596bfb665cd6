//! Every Rust file of the workspace, parsed once, with its place in its crate's module tree.
//!
//! Owns the walk from a crate's roots (`lib.rs`, `main.rs`, `build.rs`, files in `tests`, `benches`,
//! `examples`, `bin`) along `mod` lines. A file the walk does not reach is dead.

use std::collections::{BTreeMap, BTreeSet};

use crate::finding::Finding;
use crate::rust::{Mod, Source};
use crate::tree::Tree;

pub struct File {
    pub path: String,
    pub source: Source,
    pub text_lines: usize,
    /// The whole file is test code: under `tests/`, or reached through a `#[cfg(test)]` module.
    pub test: bool,
}

#[derive(Default)]
pub struct Sources {
    pub files: BTreeMap<String, File>,
    /// Full test names, `crate_name::module::test`, to whether the test is ignored.
    pub tests: BTreeMap<String, bool>,
    pub unreachable: BTreeSet<String>,
    pub unreadable: Vec<Finding>,
}

impl Sources {
    pub fn read(tree: &Tree) -> Sources {
        let mut sources = Sources::default();
        for (path, text) in tree.ending(".rs").filter(|(path, _)| path.starts_with("crates/")) {
            match Source::parse(text) {
                Ok(source) => {
                    let file = File { path: path.to_owned(), source, text_lines: text.lines().count(), test: false };
                    sources.files.insert(path.to_owned(), file);
                }
                Err((line, message)) => sources.unreadable.push(Finding {
                    file: path.to_owned(),
                    line,
                    what: format!("not Rust: {message}"),
                    why: "a file that cannot be read cannot be judged",
                    instead: "make it parse".to_owned(),
                }),
            }
        }
        sources.unreachable = sources.files.keys().cloned().collect();
        for (path, modules) in roots(&sources) {
            sources.walk(&path, &modules, is_test_root(&path));
        }
        sources
    }

    fn walk(&mut self, path: &str, modules: &[String], test: bool) {
        if !self.unreachable.remove(path) {
            return;
        }
        let Some(file) = self.files.get_mut(path) else { return };
        file.test = test;
        for found in &file.source.tests {
            let full = modules.iter().chain(&found.path).map(String::as_str).collect::<Vec<_>>().join("::");
            self.tests.insert(full, found.ignored);
        }
        let next: Vec<_> =
            file.source.mods.iter().map(|item| (places(path, item), item.path.clone(), item.test)).collect();
        for (candidates, inner, cfg_test) in next {
            let inside: Vec<String> = modules.iter().cloned().chain(inner).collect();
            if let Some(found) = candidates.iter().find(|place| self.files.contains_key(*place)) {
                self.walk(found, &inside, test || cfg_test);
            }
        }
    }
}

/// Where the compiler starts, with the module path it starts from.
fn roots(sources: &Sources) -> Vec<(String, Vec<String>)> {
    let mut roots = Vec::new();
    for path in sources.files.keys() {
        let Some((name, inside)) = path.strip_prefix("crates/").and_then(|rest| rest.split_once('/')) else { continue };
        let name = name.replace('-', "_");
        let stem = inside.rsplit('/').next().unwrap_or(inside).trim_end_matches(".rs").to_owned();
        let parts = inside.split('/').count();
        match inside.split('/').next() {
            _ if matches!(inside, "src/lib.rs" | "src/main.rs" | "build.rs") => roots.push((path.clone(), vec![name])),
            Some("tests" | "benches" | "examples") if parts == 2 => roots.push((path.clone(), vec![name, stem])),
            Some("tests" | "benches" | "examples") if parts == 3 && stem == "main" => {
                let folder = inside.split('/').nth(1).unwrap_or(&stem).to_owned();
                roots.push((path.clone(), vec![name, folder]));
            }
            _ if inside.starts_with("src/bin/") && parts == 3 => roots.push((path.clone(), vec![name, stem])),
            _ => {}
        }
    }
    roots
}

fn is_test_root(path: &str) -> bool {
    path.contains("/tests/") || path.contains("/benches/")
}

/// The files `mod name;` in `path` may mean, nearest first.
fn places(path: &str, item: &Mod) -> Vec<String> {
    let (folder, file) = path.rsplit_once('/').unwrap_or(("", path));
    if let Some(given) = &item.file {
        return vec![join(folder, given)];
    }
    let is_root = path.ends_with("/build.rs") || path.ends_with("src/lib.rs") || path.ends_with("src/main.rs");
    let owns_folder = is_root || file == "mod.rs" || file == "main.rs" || crate_level(path);
    let base = if owns_folder { folder.to_owned() } else { path.trim_end_matches(".rs").to_owned() };
    let inner = item.path.join("/");
    vec![format!("{base}/{inner}.rs"), format!("{base}/{inner}/mod.rs")]
}

/// A crate root by its folder: its modules are its siblings.
fn crate_level(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    matches!(parts.as_slice(), ["crates", _, "tests" | "benches" | "examples", _] | ["crates", _, "src", "bin", _])
}

/// `folder/given` with its `.` and `..` resolved.
pub fn join(folder: &str, given: &str) -> String {
    let mut parts: Vec<&str> = if folder.is_empty() { Vec::new() } else { folder.split('/').collect() };
    for part in given.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            name => parts.push(name),
        }
    }
    parts.join("/")
}
