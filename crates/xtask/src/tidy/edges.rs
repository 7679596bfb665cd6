//! Dependency edges run one way, and a dangerous dependency has one owner.

use toml::{Table, Value};

use super::House;
use crate::finding::Finding;

/// A crate, and the crates of ours it may depend on. `None` is development only and free.
const EDGES: &[(&str, Option<&[&str]>)] = &[
    ("backstay-model", Some(&[])),
    ("backstay-format", Some(&["backstay-model"])),
    ("backstay-store", Some(&["backstay-model", "backstay-format"])),
    ("backstay-sqlite", Some(&["backstay-model", "backstay-format"])),
    ("backstay-ops", Some(&["backstay-model", "backstay-format", "backstay-store", "backstay-sqlite"])),
    ("backstay", Some(&["backstay-model", "backstay-format", "backstay-store", "backstay-sqlite", "backstay-ops"])),
    ("backstay-extension", Some(&[])),
    ("backstay-testkit", None),
    ("xtask", None),
];

/// A dependency from outside, and the only shipped crate that may name it.
const OWNERS: &[(&str, &str)] = &[
    ("object_store", "backstay-store"),
    ("age", "backstay-store"),
    ("aws-lc-rs", "backstay-store"),
    ("rusqlite", "backstay-sqlite"),
    ("libsqlite3-sys", "backstay-sqlite"),
    ("clap", "backstay"),
    ("clap_complete", "backstay"),
    ("clap_mangen", "backstay"),
    ("indicatif", "backstay"),
];

pub fn judge(house: &House) -> Vec<Finding> {
    let workspace = house.tree.text("Cargo.toml").unwrap_or_default();
    let renamed = workspace.parse::<Table>().unwrap_or_default();
    let mut findings = Vec::new();
    for (path, text) in house.tree.ending("/Cargo.toml").filter(|(path, _)| path.starts_with("crates/")) {
        match text.parse::<Table>() {
            Ok(manifest) => Manifest { path, text, manifest: &manifest, workspace: &renamed }.judge(&mut findings),
            Err(e) => findings.push(Finding {
                file: path.to_owned(),
                line: 1,
                what: format!("not TOML: {}", e.message()),
                why: "edges are read from manifests",
                instead: "make it parse".to_owned(),
            }),
        }
    }
    findings
}

struct Manifest<'a> {
    path: &'a str,
    text: &'a str,
    manifest: &'a Table,
    workspace: &'a Table,
}

impl Manifest<'_> {
    fn judge(&self, findings: &mut Vec<Finding>) {
        let folder = self.path.trim_start_matches("crates/").trim_end_matches("/Cargo.toml");
        let name = self.manifest.get("package").and_then(|p| p.get("name")).and_then(Value::as_str).unwrap_or("");
        if name != folder {
            findings.push(self.finding(
                "name",
                format!("package `{name}` lives in folder `{folder}`"),
                "a crate is found by its name",
                "give folder and package one name".to_owned(),
            ));
        }
        if self.manifest.get("lints").and_then(|l| l.get("workspace")).and_then(Value::as_bool) != Some(true) {
            findings.push(self.finding(
                "[lints]",
                format!("`{name}` does not take the workspace's lints"),
                "one crate without the bans is where ambient time and unwraps gather",
                "add `[lints]` with `workspace = true`".to_owned(),
            ));
        }
        let Some((_, allowed)) = EDGES.iter().find(|(known, _)| *known == name) else {
            findings.push(self.finding(
                "name",
                format!("crate `{name}` is not in the edge table"),
                "a crate exists only to enforce a rule, and its edges are part of that rule",
                "write its rule into ARCHITECTURE.md and its edges into crates/xtask/src/tidy/edges.rs".to_owned(),
            ));
            return;
        };
        let Some(allowed) = allowed else { return };
        for (dependency, entry) in self.dependencies() {
            findings.extend(self.edge(name, allowed, &self.real_name(dependency, entry)));
            findings.extend(self.simulation(dependency, entry.get("features")));
        }
        let features = self.manifest.get("features");
        findings.extend(self.simulation("default", features.and_then(|features| features.get("default"))));
    }

    fn edge(&self, name: &str, allowed: &[&str], dependency: &str) -> Option<Finding> {
        let ours = EDGES.iter().any(|(known, _)| *known == dependency) || dependency.starts_with("backstay");
        if ours && !allowed.contains(&dependency) {
            let allowed = if allowed.is_empty() { "none".to_owned() } else { allowed.join(", ") };
            return Some(self.finding(
                dependency,
                format!("`{name}` depends on `{dependency}`"),
                "edges run one way: model <- format <- {store, sqlite} <- ops <- backstay",
                format!("move the code to the crate that owns it, or pass bytes; allowed here: {allowed}"),
            ));
        }
        let owner = OWNERS.iter().find(|(what, _)| *what == dependency).map(|(_, owner)| *owner)?;
        (owner != name).then(|| {
            self.finding(
                dependency,
                format!("`{name}` depends on `{dependency}`"),
                "this dependency has one owner, so that its rules are kept in one place",
                format!("ask `{owner}` for what is needed"),
            )
        })
    }

    /// Nothing that is shipped turns the places on where tests let others act.
    fn simulation(&self, at: &str, features: Option<&Value>) -> Option<Finding> {
        let mut features = features.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        features.any(|feature| feature.rsplit('/').next() == Some("sim")).then(|| {
            self.finding(
                at,
                format!("`{at}` turns the feature `sim` on"),
                "what is shipped has no place where anybody else acts",
                "turn it on in `[dev-dependencies]`".to_owned(),
            )
        })
    }

    /// What is built into the shipped crate, as it is named here: dev-dependencies are exempt.
    fn dependencies(&self) -> Vec<(&String, &Value)> {
        let targets = self.manifest.get("target").and_then(Value::as_table);
        let targets = targets.into_iter().flat_map(|t| t.values().filter_map(Value::as_table));
        let tables = std::iter::once(self.manifest).chain(targets);
        let sections = tables.flat_map(|t| ["dependencies", "build-dependencies"].map(|section| t.get(section)));
        sections.flatten().filter_map(Value::as_table).flatten().collect()
    }

    fn real_name(&self, name: &str, value: &Value) -> String {
        let inherited = value.get("workspace").and_then(Value::as_bool) == Some(true);
        let shared = self.workspace.get("workspace").and_then(|w| w.get("dependencies")).and_then(|d| d.get(name));
        let entry = if inherited { shared.unwrap_or(value) } else { value };
        entry.get("package").and_then(Value::as_str).unwrap_or(name).to_owned()
    }

    fn finding(&self, at: &str, what: String, why: &'static str, instead: String) -> Finding {
        let line = self.text.lines().position(|line| line.trim_start().starts_with(at)).map_or(1, |i| i + 1);
        Finding { file: self.path.to_owned(), line, what, why, instead }
    }
}

/// Every dependency from outside has a line `# name: reason` in `deny.toml`.
pub fn reasons(house: &House) -> Vec<Finding> {
    let deny = house.tree.text("deny.toml").unwrap_or_default();
    let argued = |name: &str| deny.lines().filter_map(|line| reason(line, name)).any(|reason| !reason.is_empty());
    let mut findings = Vec::new();
    for (path, text) in house.tree.ending("Cargo.toml") {
        let table = text.parse::<Table>().unwrap_or_default();
        for name in from_outside(&table).filter(|name| !argued(name)) {
            findings.push(Finding {
                file: path.to_owned(),
                line: text.lines().position(|line| line.starts_with(name)).map_or(1, |i| i + 1),
                what: format!("`{name}` has no reason in deny.toml"),
                why: "each dependency is argued for: none for what thirty lines can do",
                instead: format!("add a line `# {name}: why it is here` to deny.toml, or remove it"),
            });
        }
    }
    findings
}

fn reason<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.strip_prefix("# ")?.strip_prefix(name)?.strip_prefix(':').map(str::trim)
}

/// Dependencies a manifest gives a version: neither a path nor the workspace's.
fn from_outside(manifest: &Table) -> impl Iterator<Item = &str> {
    let shared = manifest.get("workspace").and_then(|w| w.get("dependencies"));
    let own = ["dependencies", "dev-dependencies", "build-dependencies"].map(|section| manifest.get(section));
    let entries = own.into_iter().chain([shared]).flatten().filter_map(Value::as_table).flatten();
    let outside = entries.filter(|(_, value)| value.get("path").is_none() && value.get("workspace").is_none());
    outside.map(|(name, _)| name.as_str())
}
