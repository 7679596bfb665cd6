//! Runs the commands the pages print: a fenced block marked `sh test` is a test.
//!
//! The blocks of one page run in order, in one empty folder, with the release binary first on the path
//! and `contrib` beside them. A page that needs what an earlier page made says so by making it again.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::tree::Tree;

#[cfg(test)]
mod tests;

const MARK: &str = "```sh test";
const SECONDS_MAX: &str = "300";

#[derive(Debug, PartialEq, Eq)]
struct Block {
    line: usize,
    script: String,
}

fn blocks(text: &str) -> Vec<Block> {
    let mut found: Vec<Block> = Vec::new();
    let mut open = false;
    for (i, line) in text.lines().enumerate() {
        match (open, line.trim_end()) {
            (false, MARK) => {
                found.push(Block { line: i + 1, script: String::new() });
                open = true;
            }
            (true, "```") => open = false,
            (true, _) => found.iter_mut().last().into_iter().for_each(|block| block.script += &format!("{line}\n")),
            _ => {}
        }
    }
    found
}

/// Runs every marked block of the pages whose path holds one of `wanted`, or of all pages.
pub fn run(root: &Path, wanted: &[String]) -> Result<(), String> {
    let tree = Tree::gather(root)?;
    if !release(root).join("backstay").is_file() {
        return Err("no release binary: run `cargo build --release -p backstay`".to_owned());
    }
    let (mut passed, mut failed) = (0, 0);
    for (page, text) in tree.ending(".md").filter(|(page, _)| chosen(page, wanted)) {
        let blocks = blocks(text);
        if blocks.is_empty() {
            continue;
        }
        let folder = tempfile::tempdir().map_err(|e| format!("create a scratch folder: {e}"))?;
        std::os::unix::fs::symlink(root.join("contrib"), folder.path().join("contrib"))
            .map_err(|e| format!("link contrib: {e}"))?;
        for block in &blocks {
            match run_block(root, folder.path(), block)? {
                Ok(()) => passed += 1,
                Err(output) => {
                    failed += 1;
                    println!("{page}:{}: this block fails\n{output}", block.line);
                }
            }
        }
    }
    println!("docs: {passed} passed, {failed} failed");
    if failed == 0 { Ok(()) } else { Err("a command we print must work as printed".to_owned()) }
}

fn chosen(page: &str, wanted: &[String]) -> bool {
    wanted.is_empty() || wanted.iter().any(|part| page.contains(part.as_str()))
}

/// The outer error is ours, the inner one the block's, with all it printed. A setting of the shell that runs us is
/// not the reader's, so no variable of ours goes in.
fn run_block(root: &Path, folder: &Path, block: &Block) -> Result<Result<(), String>, String> {
    let script = format!("exec 2>&1\n{}", block.script);
    let mut command = Command::new("timeout");
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("BACKSTAY_")) {
        command.env_remove(name);
    }
    let done = command
        .args([SECONDS_MAX, "bash", "-euo", "pipefail", "-c", &script])
        .current_dir(folder)
        .env("HOME", folder)
        .env("PATH", path(root))
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("run timeout bash: {e}"))?;
    if done.status.success() {
        return Ok(Ok(()));
    }
    let printed = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    Ok(Err(format!("{}\n{printed}{}", block.script.trim_end(), done.status)))
}

/// Where cargo puts the release binary, also when it was told to build elsewhere.
fn release(root: &Path) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    root.join(target).join("release")
}

fn path(root: &Path) -> std::ffi::OsString {
    let ours = [release(root), root.join("target/recover-venv/bin")];
    let theirs = std::env::var_os("PATH").unwrap_or_default();
    let all = ours.into_iter().chain(std::env::split_paths(&theirs));
    std::env::join_paths(all).unwrap_or(theirs)
}
