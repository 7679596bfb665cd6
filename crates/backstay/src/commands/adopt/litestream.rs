//! A `litestream.yml` in Backstay's words. What has no equal becomes a comment, and no secret is copied.

use super::yaml::{self, Yaml};
use crate::context::Context;
use crate::diagnostics::Diagnostic;
use backstay_model::{Kind, SourceName};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use toml_edit::Value;

/// Written by people: anything longer is the wrong file.
const LENGTH_MAX: u64 = 1 << 20;
/// Databases that a folder may bring in.
const FOUND_MAX: usize = 1000;
/// What a database's file begins with.
const MAGIC: &[u8] = b"SQLite format 3\0";

/// Settings whose values are never printed.
const SECRETS: [&str; 14] = [
    "access-key-id",
    "secret-access-key",
    "sse-customer-key",
    "account-key",
    "sas-token",
    "password",
    "webdav-password",
    "jwt",
    "seed",
    "nkey",
    "token",
    "creds",
    "identities",
    "client-key",
];

/// Settings for which Backstay does something else, and what.
const OTHERWISE: [(&str, &str); 30] = [
    ("addr", "metrics go to a file: `follow.metrics`"),
    ("mcp-addr", "Backstay has no such server"),
    ("socket", "Backstay needs no socket; `backstay status` reads the repository"),
    ("exec", "`backstay run -- COMMAND` starts the application, and ends when its last commit is durable"),
    ("logging", "`-q`, `-v` and BACKSTAY_LOG say how much is told"),
    ("levels", "commits are put as they come, and nothing has to be put together"),
    ("l0-retention", "every commit can be restored for `retention.log`"),
    ("l0-retention-check-interval", "`backstay retention apply` runs when its schedule says"),
    ("verify-compaction", "what is stored is compared with what was signed: `backstay check`, `backstay scrub`"),
    ("validation", "each backup is restored and questioned; `backstay check` looks at what was stored"),
    ("validation-interval", "each backup is restored and questioned; `backstay check` looks at what was stored"),
    ("heartbeat-url", "it is `ping.url`"),
    ("heartbeat-interval", "a ping follows each backup"),
    ("shutdown-sync-timeout", "`backstay follow` ends when everything is durable"),
    ("shutdown-sync-interval", "`backstay follow` ends when everything is durable"),
    ("auto-recover", "a gap is recorded, told, and followed by a new snapshot without being asked"),
    ("meta-path", "nothing is kept beside the database; `state_dir` holds a cache"),
    ("monitor-interval", "writes are heard of, and not looked for"),
    ("checkpoint-interval", "the log is copied back as soon as its commits are durable: `follow.wal_limit`"),
    ("min-checkpoint-page-count", "the log is copied back as soon as its commits are durable: `follow.wal_limit`"),
    ("max-checkpoint-page-count", "the log is copied back as soon as its commits are durable: `follow.wal_limit`"),
    ("truncate-page-n", "the log is bounded by `follow.wal_limit`"),
    ("restore-if-db-not-exists", "`backstay run -- COMMAND` puts the database back if it is missing"),
    ("part-size", "objects are 32 MiB at the most and put in one piece"),
    ("concurrency", "`limits.upload_in_flight`"),
    ("skip-verify", "certificates are always looked at; `store.ca_file` names an authority of your own"),
    ("age", "the repository is sealed anyway; `backstay repo key add` says who can read"),
    ("sse-customer-key-path", "the repository is sealed before it leaves this host"),
    ("retention-check-interval", "`backstay retention apply` runs when its schedule says"),
    ("snapshot-interval", "snapshots are made by `backstay backup`: see `backstay schedule export systemd`"),
];

/// Whether names of variables in its text are replaced by their values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variables {
    Expanded,
    AsWritten,
}

/// What the file says.
pub fn tree(context: &Context, path: &Path, variables: Variables) -> Result<Yaml, Diagnostic> {
    let text = read(path)?;
    let env = |name: &str| context.env().get(name).unwrap_or_default().to_owned();
    let text = if variables == Variables::Expanded { expanded(&text, &env) } else { text };
    yaml::parse(&text).map_err(|what| unreadable(path, &what))
}

pub fn settings(context: &Context, path: &Path, variables: Variables) -> Result<String, Diagnostic> {
    let tree = tree(context, path, variables)?;
    let mut found = Found::of(&tree, &context.layers.working_dir);
    if found.sources.is_empty() && found.notes.is_empty() {
        return Err(unreadable(path, "it names no database under `dbs`"));
    }
    found.top(&tree);
    Ok(found.render(path))
}

fn read(path: &Path) -> Result<String, Diagnostic> {
    let bytes =
        backstay_ops::disk::read_small(path, LENGTH_MAX).map_err(|e| unreadable(path, &e.source.to_string()))?;
    let bytes = bytes.ok_or_else(|| unreadable(path, "there is no such file"))?;
    String::from_utf8(bytes).map_err(|_| unreadable(path, "it is no text"))
}

fn unreadable(path: &Path, what: &str) -> Diagnostic {
    Diagnostic::new(Kind::Config, format!("{} cannot be read as Litestream's settings", path.display()))
        .because(what)
        .hint("Name the file: `backstay adopt litestream FILE`.")
}

/// `$NAME` and `${NAME}` as Litestream replaces them, in the whole text.
fn expanded(text: &str, env: &dyn Fn(&str) -> String) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let braced = after.strip_prefix('{').and_then(|inner| inner.split_once('}'));
        rest = match braced {
            Some((name, behind)) => {
                out.push_str(&env(name));
                behind
            }
            None => {
                let end = after.find(|c| !is_of_name(c)).unwrap_or(after.len());
                let (name, behind) = after.split_at(end);
                if name.is_empty() {
                    out.push('$');
                } else {
                    out.push_str(&env(name));
                }
                behind
            }
        };
    }
    out + rest
}

/// What was found in the file.
struct Found {
    sources: Vec<Source>,
    /// Comments on the whole.
    notes: Vec<String>,
    /// Tables that are not of a source.
    tables: Vec<(&'static str, Vec<String>)>,
    names: BTreeSet<SourceName>,
}

struct Source {
    name: SourceName,
    path: PathBuf,
    notes: Vec<String>,
    settings: Vec<String>,
    interval: Option<String>,
}

impl Found {
    fn of(tree: &Yaml, dir: &Path) -> Self {
        let mut found = Self { sources: Vec::new(), notes: Vec::new(), tables: Vec::new(), names: BTreeSet::new() };
        for db in tree.get("dbs").map(Yaml::items).unwrap_or_default() {
            if let Some(path) = db.get("path").and_then(Yaml::text) {
                found.source(db, dir.join(path));
                continue;
            }
            let Some(folder) = db.get("dir").and_then(Yaml::text) else {
                found.notes.push("an entry of `dbs` has neither `path` nor `dir`, and is left out".to_owned());
                continue;
            };
            let pattern = db.get("pattern").and_then(Yaml::text).unwrap_or("*");
            let recursive = db.get("recursive").and_then(Yaml::text) == Some("true");
            let paths = databases(&dir.join(folder), pattern, recursive);
            found.notes.push(format!(
                "`dir: {folder}` with `pattern: {pattern}`: the {} databases that are there today are named below one by one; \
                 a new one needs a table of its own",
                paths.len()
            ));
            for path in paths {
                found.source(db, path);
            }
        }
        found
    }

    fn source(&mut self, db: &Yaml, path: PathBuf) {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let names = std::iter::once(stem.clone()).chain((2..).map(|n| format!("{stem}-{n}")));
        let mut names = names.map(|name| SourceName::suggest(&name));
        let name = names.find(|name| !self.names.contains(name)).expect("the numbers do not end");
        self.names.insert(name.clone());
        let mut source = Source { name, path, notes: Vec::new(), settings: Vec::new(), interval: None };
        for (key, value) in db.entries() {
            match key.as_str() {
                "path" | "dir" | "pattern" | "recursive" => {}
                "watch" => source.notes.push("`watch`: new databases are not found by themselves".to_owned()),
                "busy-timeout" => source.set("capture.busy_timeout", value),
                "replica" => source.replica(value),
                "replicas" => value.items().iter().for_each(|replica| source.replica(replica)),
                other => source.notes.push(note(other, value)),
            }
        }
        self.sources.push(source);
    }

    /// What is said for all databases together.
    fn top(&mut self, tree: &Yaml) {
        let mut retention = Vec::new();
        for (key, value) in tree.entries() {
            match key.as_str() {
                "dbs" => {}
                "snapshot" => self.snapshot(value, &mut retention),
                "sync-interval" => {
                    self.tables.push(("follow", vec![format!("interval = {}", span(value))]));
                }
                "heartbeat-url" => {
                    let url = value.text().unwrap_or_default();
                    self.tables.push(("ping", vec![format!("url = {}", quoted(url))]));
                }
                other => self.notes.push(note(other, value)),
            }
        }
        if !retention.is_empty() {
            self.tables.push(("retention", retention));
        }
    }

    fn snapshot(&mut self, value: &Yaml, retention: &mut Vec<String>) {
        for (key, value) in value.entries() {
            match key.as_str() {
                "interval" => self.notes.push(format!(
                    "`snapshot.interval: {}`: snapshots are made by `backstay backup`; `backstay schedule export systemd` \
                     prints a timer",
                    value.text().unwrap_or_default()
                )),
                "retention" => {
                    retention.push(format!("# `snapshot.retention: {}`", value.text().unwrap_or_default()));
                    retention.push(format!("log = {}", span(value)));
                    retention.push("# Without a rule here nothing is ever freed; docs/retention.md has recipes.".to_owned());
                    retention.push("# daily = 7".to_owned());
                }
                other => self.notes.push(note(&format!("snapshot.{other}"), value)),
            }
        }
    }

    fn render(&self, path: &Path) -> String {
        let mut text =
            format!("# From {}, by `backstay adopt litestream`. Read it before you use it.\n", path.display());
        text.push_str("#\n# A new repository, its key and a backstay.toml with these databases are made by\n#\n#   backstay init --yes --repo ./vault");
        for source in &self.sources {
            let _ = write!(text, " \\\n#     --source {}={}", source.name, shell(&source.path));
        }
        text.push_str("\n#\n# Then add what you want of the rest. A replica is no repository: Litestream's files stay where they are, and\n");
        text.push_str(
            "# `backstay adopt litestream restore` reads them. docs/from-litestream.md goes through all of it.\n",
        );
        for note in &self.notes {
            let _ = write!(text, "\n# {note}");
        }
        if !self.notes.is_empty() {
            text.push('\n');
        }
        for (name, lines) in &self.tables {
            let _ = write!(text, "\n[{name}]\n{}\n", lines.join("\n"));
        }
        for source in &self.sources {
            source.render(&mut text);
        }
        text
    }
}

impl Source {
    fn set(&mut self, key: &str, value: &Yaml) {
        self.settings.push(format!("{key} = {}", span(value)));
    }

    fn replica(&mut self, replica: &Yaml) {
        if let Some(url) = replica.text() {
            self.place(url);
            return;
        }
        let part = |name: &str| replica.get(name).and_then(Yaml::text);
        let kind = part("type").unwrap_or(if part("bucket").is_some() { "s3" } else { "file" });
        let place = match (part("url"), kind) {
            (Some(url), _) => url.to_owned(),
            (None, "file") => part("path").unwrap_or_default().to_owned(),
            (None, kind) => {
                let host = part("bucket").or(part("host")).unwrap_or_default();
                format!("{kind}://{host}/{}", part("path").unwrap_or_default().trim_start_matches('/'))
            }
        };
        self.place(&place);
        for (key, value) in replica.entries() {
            match key.as_str() {
                "type" | "url" | "path" | "bucket" | "host" | "name" => {}
                "sync-interval" => self.interval = Some(span(value)),
                "retention" => self.settings.push(format!("retention.log = {}", span(value))),
                "endpoint" | "region" => self.notes.push(format!(
                    "`{key}: {}`: for a repository in a bucket it is `store.{key}`",
                    value.text().unwrap_or_default()
                )),
                "force-path-style" => self.notes.push(format!(
                    "`{key}: {}`: for a repository in a bucket it is `store.path_style`",
                    value.text().unwrap_or_default()
                )),
                other => self.notes.push(note(other, value)),
            }
        }
    }

    fn place(&mut self, place: &str) {
        let words = match place.split_once("://").map(|(scheme, _)| scheme) {
            None | Some("file") => format!("its replica: {}; a repository may lie beside it", without_password(place)),
            Some("s3" | "gs" | "gcs" | "abs" | "oss") => format!(
                "its replica: {}; a repository may be in the same bucket under another prefix",
                without_password(place)
            ),
            Some(scheme) => format!(
                "its replica: {}; Backstay has no {scheme} repositories, a folder or a bucket is needed",
                without_password(place)
            ),
        };
        self.notes.push(words);
    }

    fn render(&self, text: &mut String) {
        text.push('\n');
        for note in &self.notes {
            let _ = writeln!(text, "# {note}");
        }
        let _ = writeln!(text, "[sources.{}]\npath = {}", self.name, quoted(&self.path.display().to_string()));
        for line in &self.settings {
            let _ = writeln!(text, "{line}");
        }
        if let Some(interval) = &self.interval {
            let _ = writeln!(
                text,
                "# `sync-interval`. A single commit is put at once, and does not wait for it.\nfollow.interval = {interval}"
            );
        }
    }
}

/// Why a setting is not taken over. Secrets are named and not shown.
fn note(key: &str, value: &Yaml) -> String {
    if SECRETS.contains(&key) {
        return format!(
            "`{key}`: not copied; secrets come from variables or the provider's own files, docs/object-stores.md"
        );
    }
    let said = value.text().map_or_else(|| key.to_owned(), |value| format!("{key}: {}", without_password(value)));
    let said = said.replace(['\n', '\r'], " ");
    match OTHERWISE.iter().find(|(known, _)| *known == key) {
        Some((_, words)) => format!("`{said}`: {words}"),
        // Nobody knows what it is, so that it is named and not shown.
        None => format!("`{key}`: has no equal"),
    }
}

/// An address without what may stand before its host.
fn without_password(place: &str) -> String {
    match place.split_once("://") {
        Some((scheme, rest)) => {
            let (host, path) = rest.split_once('/').map_or((rest, None), |(host, path)| (host, Some(path)));
            let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
            let path = path.map_or_else(String::new, |path| format!("/{}", path.split('?').next().unwrap_or_default()));
            format!("{scheme}://{host}{path}")
        }
        None => place.to_owned(),
    }
}

/// Spans of Go and of Backstay are written alike, but for days.
fn span(value: &Yaml) -> String {
    quoted(value.text().unwrap_or_default())
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// A path as a shell takes it.
fn shell(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
    if is_plain { text } else { format!("'{}'", text.replace('\'', "'\\''").replace(['\n', '\r'], "?")) }
}

/// Files of a folder that are databases and whose names fit, in order.
fn databases(folder: &Path, pattern: &str, recursive: bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            let name = entry.file_name();
            if kind.is_dir() && recursive {
                folders.push(entry.path());
            } else if kind.is_file()
                && crate::commands::import::fits(pattern.as_bytes(), name.as_encoded_bytes())
                && is_database(&entry.path())
            {
                found.push(entry.path());
            }
            if found.len() + folders.len() > FOUND_MAX {
                folders.clear();
                break;
            }
        }
    }
    found.sort();
    found
}

fn is_database(path: &Path) -> bool {
    use std::io::Read;
    let mut first = [0; MAGIC.len()];
    std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut first)).is_ok() && first == *MAGIC
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: &str = "
access-key-id: AKIAIOSFODNN7EXAMPLE
secret-access-key: wJalrXUtnFEMI
addr: ':9090'
snapshot:
  interval: 24h
  retention: 72h
dbs:
  - path: $DATA/shop.db
    busy-timeout: 5s
    checkpoint-interval: 1m
    replicas:
      - url: s3://key:secret@bucket.example/shop?endpoint=x
        sync-interval: 10s
        retention: 720h
        sse-customer-key: hunter2
        something-new: hunter3
  - path: /srv/other/shop.db
    replica: { type: sftp, host: 'me:pw@host:22', path: /backup, password: hunter4, key-path: /etc/key }
  - dir: DIR
    pattern: '*.sqlite'
    watch: true
    replica:
      type: file
      path: /backup
";

    fn written(text: &str) -> String {
        let tree = yaml::parse(&expanded(text, &|name| if name == "DATA" { "/var/data" } else { "" }.to_owned()));
        let tree = tree.expect("a tree");
        let mut found = Found::of(&tree, Path::new("/work"));
        found.top(&tree);
        found.render(Path::new("/etc/litestream.yml"))
    }

    #[test]
    fn settings_are_said_in_our_words_or_become_comments() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("a.sqlite"), b"SQLite format 3\0 and more").expect("written");
        std::fs::write(folder.path().join("b.sqlite"), b"something else").expect("written");
        let text = written(&USUAL.replace("DIR", &folder.path().display().to_string()));
        for line in [
            "[sources.shop]",
            "path = \"/var/data/shop.db\"",
            "capture.busy_timeout = \"5s\"",
            "follow.interval = \"10s\"",
            "retention.log = \"720h\"",
            "[sources.shop-2]",
            "path = \"/srv/other/shop.db\"",
            "[sources.a]",
            "[retention]",
            "log = \"72h\"",
            "#     --source shop=/var/data/shop.db \\",
            "# `addr: :9090`: metrics go to a file: `follow.metrics`",
            "# `something-new`: has no equal",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
        assert!(!text.contains("[sources.b]"), "only databases are taken: {text}");
        text.parse::<toml_edit::DocumentMut>().unwrap_or_else(|error| panic!("{error}: {text}"));
    }

    #[test]
    fn no_secret_of_the_file_is_printed() {
        let text = written(USUAL);
        for secret in ["AKIA", "wJalr", "hunter", "key:secret", "me:pw", "endpoint=x"] {
            assert!(!text.contains(secret), "{secret}: {text}");
        }
    }

    #[test]
    fn variables_are_put_in_as_litestream_does() {
        let env = |name: &str| format!("<{name}>");
        for (text, wanted) in
            [("a $B c", "a <B> c"), ("${X}y", "<X>y"), ("$", "$"), ("5$ ${", "5$ ${"), ("$A_1/b", "<A_1>/b")]
        {
            assert_eq!(expanded(text, &env), wanted);
        }
    }
}
