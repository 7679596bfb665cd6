//! The one list of settings: what may stand in a file, which variable sets it, and what a typing error meant.

/// Every setting outside `[sources]`, by its dotted name.
pub const KEYS: &[&str] = &[
    "repository",
    "root",
    "key_file",
    "key_command",
    "key_fd",
    "state_dir",
    "store.endpoint",
    "store.region",
    "store.path_style",
    "store.allow_http",
    "store.ca_file",
    "store.profile",
    "store.credentials",
    "store.storage_class",
    "store.sse",
    "store.sse_kms_key",
    "store.checksum",
    "store.object_lock",
    "store.locked_for",
    "proof.enabled",
    "proof.integrity",
    "proof.foreign_keys",
    "proof.temp_dir",
    "capture.busy_timeout",
    "capture.hold_max",
    "capture.log_growth_max",
    "follow.mode",
    "follow.interval",
    "follow.interval_steady",
    "follow.puts_per_day",
    "follow.share",
    "follow.share_after",
    "follow.snapshot_interval",
    "follow.point_interval",
    "follow.wal_limit",
    "follow.spool_limit",
    "follow.rest_after",
    "follow.metrics",
    "limits.threads",
    "limits.upload_in_flight",
    "limits.requests_in_flight",
    "limits.upload",
    "limits.download",
    "limits.store_deadline",
    "status.max_age",
    "retention.last",
    "retention.days",
    "retention.hourly",
    "retention.daily",
    "retention.weekly",
    "retention.monthly",
    "retention.yearly",
    "retention.grace",
    "retention.log",
    "retention.zone",
    "check.budget",
    "hooks.before_backup.run",
    "hooks.before_backup.on_failure",
    "hooks.before_backup.timeout",
    "hooks.after_backup.run",
    "hooks.after_backup.on_failure",
    "hooks.after_backup.timeout",
    "hooks.before_restore.run",
    "hooks.before_restore.on_failure",
    "hooks.before_restore.timeout",
    "hooks.after_restore.run",
    "hooks.after_restore.on_failure",
    "hooks.after_restore.timeout",
    "hooks.health_url",
    "hooks.health_deadline",
    "ping.url",
    "ping.deadline",
];

/// Sections a source may set for itself, below `sources.<name>`.
const OF_SOURCES: &[&str] = &["proof.", "capture.", "follow.", "status.", "retention.", "hooks.", "ping."];

/// Settings in those that belong to the process, whatever it follows.
const OF_THE_PROCESS: &[&str] = &["follow.metrics", "follow.puts_per_day", "follow.share", "follow.share_after"];

/// Every setting of one source, below `sources.<name>`.
pub fn source_keys() -> Vec<&'static str> {
    let shared =
        |key: &&str| OF_SOURCES.iter().any(|section| key.starts_with(section)) && !OF_THE_PROCESS.contains(key);
    ["path", "glob", "smoke"].into_iter().chain(KEYS.iter().copied().filter(shared)).collect()
}

/// What may be set of a copy, below `copies.<name>`: how a repository is found and reached, and what it keeps.
fn copy_keys() -> Vec<&'static str> {
    let of_copy = |key: &&str| *key == "repository" || key.starts_with("store.") || key.starts_with("retention.");
    KEYS.iter().copied().filter(of_copy).collect()
}

/// The variable that holds the key material itself.
pub const KEY_VARIABLE: &str = "BACKSTAY_KEY";

/// Variables that are ours and set no key of the file.
const OTHER_VARIABLES: &[&str] = &["BACKSTAY_CONFIG", KEY_VARIABLE, "BACKSTAY_LOG"];

/// Settings whose value is a list, which a variable cannot hold without inventing a quoting rule.
const LISTS: &[&str] = &[
    "key_command",
    "hooks.before_backup.run",
    "hooks.after_backup.run",
    "hooks.before_restore.run",
    "hooks.after_restore.run",
];

/// The settings a variable can set, with the variable's name.
pub fn by_variable() -> impl Iterator<Item = (&'static str, String)> {
    KEYS.iter().filter(|key| !LISTS.contains(key)).map(|key| (*key, variable(key)))
}

fn variable(key: &str) -> String {
    format!("BACKSTAY_{}", key.to_uppercase().replace('.', "_"))
}

/// The names of all variables Backstay reads.
pub fn variables() -> Vec<String> {
    let others = OTHER_VARIABLES.iter().map(|name| (*name).to_owned());
    by_variable().map(|(_, name)| name).chain(others).collect()
}

/// What stands at a dotted path of the file.
#[derive(Debug, PartialEq, Eq)]
pub enum Slot {
    Value,
    Table,
    Unknown,
}

/// What the file may have at `path`.
pub fn slot(path: &[&str]) -> Slot {
    match path {
        ["sources"] | ["sources", _] | ["copies"] | ["copies", _] => Slot::Table,
        ["copies", _, below @ ..] => slot_in(&copy_keys(), below),
        ["sources", _, below @ ..] => slot_in(&source_keys(), below),
        _ => slot_in(KEYS, path),
    }
}

fn slot_in(keys: &[&str], path: &[&str]) -> Slot {
    let dotted = path.join(".");
    if keys.contains(&dotted.as_str()) {
        return Slot::Value;
    }
    let inside = keys.iter().any(|key| key.strip_prefix(&dotted).is_some_and(|rest| rest.starts_with('.')));
    if inside { Slot::Table } else { Slot::Unknown }
}

/// The setting that was most likely meant by an unknown `path`, as a full dotted name.
pub fn suggest(path: &[&str]) -> Option<String> {
    let (prefix, keys, below) = match path {
        ["sources", name, below @ ..] if !below.is_empty() => (format!("sources.{name}."), source_keys(), below),
        ["copies", name, below @ ..] if !below.is_empty() => (format!("copies.{name}."), copy_keys(), below),
        _ => (String::new(), KEYS.to_vec(), path),
    };
    let typed = below.join(".");
    let leaf = *below.last()?;
    let sections =
        keys.iter().filter_map(|key| key.split_once('.').map(|(section, _)| section)).chain(["sources", "copies"]);
    let near = |a: &str, b: &str| Some(distance(a, b)).filter(|d| *d <= (a.chars().count() / 3).max(1));
    let whole = keys.iter().copied().chain(sections).filter_map(|key| Some((near(&typed, key)?, key)));
    // A key in the wrong table is as common as a misspelt one.
    let moved = keys.iter().filter_map(|key| Some((near(leaf, key.rsplit('.').next()?)?.saturating_add(1), *key)));
    let best = whole.chain(moved).min_by_key(|(d, _)| *d)?.1;
    Some(format!("{prefix}{best}"))
}

/// How many characters must be added, removed, changed or swapped with their neighbour.
pub fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().take(64).collect());
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, cb) in b.iter().enumerate() {
            let mut cost = (above[j] + usize::from(ca != cb)).min(above[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *ca == b[j - 1] && a[i - 1] == *cb {
                cost = cost.min(before[j - 1] + 1);
            }
            row.push(cost);
        }
        before = above;
        above = row;
    }
    above.last().copied().unwrap_or(0)
}
