//! The repository's text as one value: gathered once, judged by pure rules.
//!
//! Owns the list of files a rule may look at. Never looks into `target` or anything git ignores, so
//! that a rule says the same on a laptop full of scratch files and on a fresh clone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Path relative to the root, with `/` between its parts, to the file's text.
#[derive(Debug, Default)]
pub struct Tree {
    files: BTreeMap<String, String>,
    /// Files that exist but are not UTF-8 text: corpora and golden bytes. Links may point at them.
    binary: Vec<String>,
}

impl Tree {
    /// Everything tracked, and everything that would be tracked once added.
    pub fn gather(root: &Path) -> Result<Tree, String> {
        let mut tree = Tree::default();
        for path in listed_by_git(root)? {
            match std::fs::read(root.join(&path)) {
                Ok(bytes) => match String::from_utf8(bytes) {
                    Ok(text) => drop(tree.files.insert(path, text)),
                    Err(_) => tree.binary.push(path),
                },
                // Deleted in the working tree but still in the index: it is on its way out.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(format!("read {path}: {e}")),
            }
        }
        Ok(tree)
    }

    #[cfg(test)]
    pub fn of(files: &[(&str, &str)]) -> Tree {
        let files = files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
        Tree { files, binary: Vec::new() }
    }

    pub fn text(&self, path: &str) -> Option<&str> {
        self.files.get(path).map(String::as_str)
    }

    pub fn files(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files.iter().map(|(path, text)| (path.as_str(), text.as_str()))
    }

    pub fn ending(&self, suffix: &'static str) -> impl Iterator<Item = (&str, &str)> {
        self.files().filter(move |(path, _)| path.ends_with(suffix))
    }

    /// A file, or a folder that holds one.
    pub fn exists(&self, path: &str) -> bool {
        let folder = format!("{path}/");
        let mut all = self.files.keys().chain(&self.binary);
        path.is_empty() || all.any(|known| known == path || known.starts_with(&folder))
    }

    /// The names of the folders under `crates/`.
    pub fn crates(&self) -> Vec<&str> {
        let names = self.files.keys().filter_map(|path| path.strip_prefix("crates/")?.strip_suffix("/Cargo.toml"));
        names.filter(|name| !name.contains('/')).collect()
    }
}

/// The root of the checkout this xtask was built in.
pub fn root() -> Result<PathBuf, String> {
    let built_in = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).map(Path::to_path_buf);
    built_in.filter(|root| root.join("Cargo.toml").is_file()).ok_or_else(|| "the checkout has moved".to_owned())
}

fn listed_by_git(root: &Path) -> Result<Vec<String>, String> {
    let listed = Command::new("git")
        .current_dir(root)
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .output()
        .map_err(|e| format!("run git ls-files: {e}"))?;
    if !listed.status.success() {
        return Err(format!("git ls-files: {}", String::from_utf8_lossy(&listed.stderr).trim()));
    }
    let text = String::from_utf8(listed.stdout).map_err(|e| format!("a file name is not UTF-8: {e}"))?;
    Ok(text.split('\0').filter(|path| !path.is_empty()).map(str::to_owned).collect())
}
