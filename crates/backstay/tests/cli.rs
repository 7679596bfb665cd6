//! The binary as a script meets it: exit codes, channels, and what is never printed.

use serde_json::Value;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// The binary in a folder, without any variable of ours from outside.
fn backstay(dir: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_backstay"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("BACKSTAY_")) {
        command.env_remove(name);
    }
    command.current_dir(dir).args(words).env("TZ", "UTC");
    command
}

fn run(dir: &Path, words: &[&str]) -> (i32, String, String) {
    ended(backstay(dir, words).output().expect("the binary runs"))
}

fn ended(output: Output) -> (i32, String, String) {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("output is text");
    (output.status.code().expect("an exit code"), text(output.stdout), text(output.stderr))
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// A folder with a configuration, a database and a key.
fn house(extra: &str) -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let root = "ab".repeat(32);
    let sources = "[sources.shop]\npath = \"./shop.db\"\n";
    let text =
        format!("repository = \"./vault\"\nroot = \"{root}\"\nkey_file = \"./backstay.key\"\n{extra}\n{sources}");
    fs::write(dir.path().join("backstay.toml"), text).expect("a configuration");
    fs::write(dir.path().join("shop.db"), "not looked into").expect("a file");
    let key = dir.path().join("backstay.key");
    fs::write(&key, "AGE-SECRET-KEY-TEST\n").expect("a key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("its mode");
    dir
}

#[test]
fn a_missing_configuration_says_what_to_run() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (exit, out, err) = run(dir.path(), &["config", "show"]);
    assert_eq!((exit, out.as_str()), (3, ""));
    assert!(err.contains("there is no ") && err.contains("`backstay init`"), "{err}");
    let (exit, out, err) = run(dir.path(), &["config", "show", "--json"]);
    assert_eq!((exit, err.as_str()), (3, ""));
    assert_eq!(json(&out)["error"]["kind"], "config");
}

#[test]
fn an_unknown_key_is_refused_with_line_and_suggestion() {
    let dir = house("[proof]\nenabeld = true");
    let (exit, _, err) = run(dir.path(), &["config", "check"]);
    assert_eq!(exit, 3);
    assert!(err.contains("backstay.toml:5:1: unknown key `proof.enabeld`"), "{err}");
    assert!(err.contains("Did you mean `proof.enabled`?"), "{err}");
}

#[test]
fn config_show_says_where_each_value_came_from() {
    let dir = house("[status]\nmax_age = \"2h\"");
    let mut command = backstay(dir.path(), &["config", "show", "--origin", "--json", "--state-dir", "s"]);
    let (exit, out, _) = ended(command.env("BACKSTAY_LIMITS_THREADS", "2").output().expect("the binary runs"));
    assert_eq!(exit, 0);
    let view = json(&out);
    let row = |key: &str| {
        let rows = view["values"].as_array().expect("rows").iter();
        let row = rows.clone().find(|row| row["key"] == key).unwrap_or_else(|| panic!("no {key}"));
        (row["value"].as_str().expect("a value").to_owned(), row["origin"].as_str().expect("an origin").to_owned())
    };
    let file = fs::canonicalize(dir.path()).expect("the folder").join("backstay.toml");
    assert_eq!(row("limits.threads"), ("2".to_owned(), "env BACKSTAY_LIMITS_THREADS".to_owned()));
    assert_eq!(row("state_dir"), ("s".to_owned(), "flag --state-dir".to_owned()));
    assert_eq!(row("proof.integrity"), ("full".to_owned(), "default".to_owned()));
    assert_eq!(row("status.max_age"), ("2h".to_owned(), format!("{}:5", file.display())));
}

#[test]
fn the_key_is_never_printed() {
    let dir = house("");
    for words in
        [&["config", "show", "--origin"][..], &["config", "show", "--json"], &["doctor", "-vvv"], &["config", "check"]]
    {
        let secret = "AGE-SECRET-KEY-FROM-ENV";
        let output = backstay(dir.path(), words).env("BACKSTAY_KEY", secret).output().expect("the binary runs");
        let (_, out, err) = ended(output);
        assert!(!out.contains("AGE-SECRET") && !err.contains("AGE-SECRET"), "{words:?}: {out}{err}");
        let (_, out, err) = run(dir.path(), words);
        assert!(!out.contains("AGE-SECRET") && !err.contains("AGE-SECRET"), "{words:?}: {out}{err}");
    }
}

#[test]
fn config_check_doubts_what_is_hardly_meant() {
    let dir = house("");
    let (exit, out, _) = run(dir.path(), &["config", "check"]);
    assert_eq!(exit, 0, "{out}");
    assert!(out.starts_with("PASS  ") && out.ends_with("Next: backstay doctor\n"), "{out}");
    let again = "[sources.again]\npath = \"./../shop.db\"";
    let dir = house(&again.replace("./../", "./"));
    let output = backstay(dir.path(), &["config", "check"]).env("BACKSTAY_STATE_DIRR", "x").output();
    let (exit, out, _) = ended(output.expect("the binary runs"));
    assert_eq!(exit, 10);
    assert!(out.contains("BACKSTAY_STATE_DIRR") && out.contains("are the same file"), "{out}");
}

#[test]
fn config_path_follows_the_flag_and_the_variable() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let real = fs::canonicalize(dir.path()).expect("the folder");
    let line = |name: &str| format!("{}\n", real.join(name).display());
    assert_eq!(run(dir.path(), &["config", "path"]).1, line("backstay.toml"));
    assert_eq!(run(dir.path(), &["config", "path", "--config", "x.toml"]).1, line("x.toml"));
    let output = backstay(dir.path(), &["config", "path"]).env("BACKSTAY_CONFIG", "/y.toml").output();
    assert_eq!(ended(output.expect("the binary runs")).1, "/y.toml\n");
}

#[test]
fn usage_errors_are_exit_2_in_the_form_asked_for() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (exit, out, err) = run(dir.path(), &["bakcup"]);
    assert_eq!((exit, out.as_str()), (2, ""));
    assert!(err.contains("'backup'"), "an unknown command suggests: {err}");
    let (exit, out, err) = run(dir.path(), &["--json", "restore"]);
    assert_eq!((exit, err.as_str()), (2, ""));
    assert_eq!(json(&out)["error"]["exit"], 2);
    assert_eq!(run(dir.path(), &["--help"]).0, 0);
    assert_eq!(run(dir.path(), &["--version"]).0, 0);
}

#[test]
fn completions_of_every_shell_name_the_commands() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (exit, out, err) = run(dir.path(), &["completions", shell]);
        assert_eq!((exit, err.as_str()), (0, ""), "{shell}");
        assert!(out.contains("restore") && out.contains("doctor"), "{shell}");
    }
}

#[test]
fn there_is_a_manual_page_for_every_command() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (exit, ..) = run(dir.path(), &["man", "--dir", "pages"]);
    assert_eq!(exit, 0);
    let entries = fs::read_dir(dir.path().join("pages")).expect("the pages");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    for page in ["backstay.1", "backstay-restore.1", "backstay-config-show.1", "backstay-repo-key-confirm.1"] {
        assert!(names.iter().any(|name| name == page), "{page} is not among {names:?}");
    }
    let text = fs::read_to_string(dir.path().join("pages/backstay-restore.1")).expect("a page");
    assert!(text.contains(".TH") && text.contains("dry"), "{text}");
}

#[test]
fn a_reader_that_goes_away_is_a_clean_exit() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut child = backstay(dir.path(), &["completions", "zsh"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    drop(child.stdout.take());
    let (exit, _, err) = ended(child.wait_with_output().expect("it ends"));
    assert_eq!((exit, err.as_str()), (0, ""));
}

#[test]
fn a_full_disk_under_stdout_is_a_failure() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
    let output = backstay(dir.path(), &["completions", "zsh"]).stdout(full).output().expect("the binary runs");
    let (exit, _, err) = ended(output);
    assert_eq!(exit, 8, "{err}");
}

#[test]
fn a_signal_is_exit_130() {
    for signal in ["INT", "TERM"] {
        let dir = house("");
        let text = fs::read_to_string(dir.path().join("backstay.toml")).expect("the configuration");
        let slow = "key_command = [\"sh\", \"-c\", \"echo > started; exec sleep 600\"]";
        let text = text.replace("key_file = \"./backstay.key\"", slow);
        fs::write(dir.path().join("backstay.toml"), text).expect("a configuration");
        let mut child = backstay(dir.path(), &["doctor"]).stderr(Stdio::piped()).spawn().expect("the binary runs");
        let started = dir.path().join("started");
        for _ in 0..1000 {
            if started.exists() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(started.exists(), "the key command was not started");
        let sent = Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status();
        assert!(sent.expect("kill runs").success());
        let mut err = String::new();
        child.stderr.take().expect("stderr").read_to_string(&mut err).expect("text");
        assert_eq!(child.wait().expect("it ends").code(), Some(130), "{signal}: {err}");
        assert!(err.contains("stopped before it was done"), "{signal}: {err}");
    }
}
