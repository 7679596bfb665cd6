use super::render::Colour;
use super::{Diagnostic, panic};
use crate::cancel::Cancelled;
use crate::config::error::ConfigError;
use crate::config::origin::{Origin, Place};
use crate::config::secret::SecretError;
use backstay_model::Kind;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;

fn file() -> PathBuf {
    PathBuf::from("backstay.toml")
}

fn place() -> Place {
    Place { file: file(), line: 4, column: 1 }
}

fn name(text: &str) -> backstay_model::SourceName {
    text.parse().expect("a name")
}

/// All of them one after the other, as a person would see them, with the exit code in front.
pub(super) fn rendered(errors: Vec<Diagnostic>) -> String {
    let one = |d: Diagnostic| {
        assert!(d.hints.iter().all(|hint| hint.ends_with('.')), "a hint is a sentence: {d:?}");
        assert!(!d.hints.is_empty(), "no hint: {d:?}");
        format!("[{} {}] {}", d.exit(), d.kind.word(), d.human(Colour::Off))
    };
    errors.into_iter().map(one).collect::<Vec<_>>().join("\n")
}

fn denied() -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, "permission denied")
}

#[test]
fn of_reading_the_configuration() {
    let bad = |origin| ConfigError::BadValue {
        origin,
        key: "status.max_age".to_owned(),
        wanted: "a span such as \"30s\"".to_owned(),
        found: "\"soon\"".to_owned(),
    };
    let unknown = |meant: Option<&str>| ConfigError::UnknownKey {
        at: place(),
        key: "proof.enabeld".to_owned(),
        meant: meant.map(str::to_owned),
    };
    let missing = |key: &str| ConfigError::Missing { path: file(), key: key.to_owned() };
    let errors = vec![
        ConfigError::NotFound { path: file() },
        ConfigError::Io { op: "open", path: file(), source: denied() },
        ConfigError::Io { op: "read", path: file(), source: io::Error::new(io::ErrorKind::InvalidData, "not text") },
        ConfigError::TooLong { path: file(), limit: 1_048_576 },
        ConfigError::Syntax { at: place(), message: "invalid string".to_owned() },
        unknown(Some("proof.enabled")),
        unknown(None),
        bad(Origin::File(place())),
        bad(Origin::Env("BACKSTAY_STATUS_MAX_AGE".to_owned())),
        bad(Origin::Flag("--max-age")),
        missing("repository"),
        missing("sources.shop.path"),
        ConfigError::TwoKeySources { origin: Origin::File(place()), first: "key_file", second: "key_fd" },
    ];
    insta::assert_snapshot!(rendered(errors.into_iter().map(Diagnostic::from).collect()), @r#"
    [3 config] error: there is no backstay.toml
      fix  Run `backstay init` to make one here.
      fix  Run the command in the folder that has it, or add `--config FILE`.

    [7 denied] error: cannot open backstay.toml
      why  permission denied
      fix  Look at it with `ls -l backstay.toml`.

    [3 config] error: cannot read backstay.toml
      why  not text
      fix  Look at it with `ls -l backstay.toml`.

    [3 config] error: backstay.toml is longer than 1048576 bytes
      fix  Name the right file with `--config FILE`.

    [3 config] error: backstay.toml:4:1: invalid string
      fix  Correct the line, then run `backstay config check`.

    [3 config] error: backstay.toml:4:1: unknown key `proof.enabeld`
      fix  Did you mean `proof.enabled`? Correct it, then run `backstay config check`.

    [3 config] error: backstay.toml:4:1: unknown key `proof.enabeld`
      fix  Remove it; `backstay config show` lists the keys there are.

    [3 config] error: backstay.toml:4:1: `status.max_age` must be a span such as "30s", not "soon"
      fix  Correct it, then run `backstay config check`.

    [3 config] error: env BACKSTAY_STATUS_MAX_AGE: `status.max_age` must be a span such as "30s", not "soon"
      fix  Correct it, then run `backstay config check`.

    [2 usage] error: flag --max-age: `status.max_age` must be a span such as "30s", not "soon"
      fix  Correct it, then run `backstay config check`.

    [3 config] error: backstay.toml has no `repository`
      fix  Add a line such as `repository = "./vault"`, or run `backstay init` in a new folder.

    [3 config] error: backstay.toml has no `sources.shop.path`
      fix  Add `sources.shop.path`, then run `backstay config check`.

    [3 config] error: backstay.toml:4:1: the key comes from `key_file` and from `key_fd`
      fix  Keep one of the two; `backstay config show --origin` says where each is set.
    "#);
}

#[test]
fn of_sources_and_of_writing_the_configuration() {
    let none = |have: &[&str]| ConfigError::NoSuchSource {
        path: file(),
        name: name("shp"),
        have: have.iter().map(|text| name(text)).collect(),
    };
    let no_copy = |have: &[&str]| ConfigError::NoSuchCopy {
        path: file(),
        name: "usb".to_owned(),
        have: have.iter().map(|text| (*text).to_owned()).collect(),
    };
    let errors = vec![
        none(&["shop", "other"]),
        none(&["customers", "orders"]),
        none(&[]),
        no_copy(&["offsite", "nas"]),
        no_copy(&[]),
        ConfigError::Exists { path: file() },
    ];
    insta::assert_snapshot!(rendered(errors.into_iter().map(Diagnostic::from).collect()), @r#"
    [2 usage] error: there is no source named `shp` in backstay.toml
      fix  Did you mean `shop`? Run `backstay config show` to see all of them.

    [2 usage] error: there is no source named `shp` in backstay.toml
      fix  Name one of `customers`, `orders`, or add a table `[sources.shp]` with its `path`.

    [2 usage] error: there is no source named `shp` in backstay.toml
      fix  Add a table `[sources.shp]` with the `path` of the database.

    [2 usage] error: there is no copy named `usb` in backstay.toml
      fix  Name one of these: `offsite`, `nas`.

    [2 usage] error: there is no copy named `usb` in backstay.toml
      fix  Add a table such as `[copies.offsite]` with a `repository` to backstay.toml.

    [5 conflict] error: backstay.toml exists already
      fix  Nothing was changed; run `backstay status` to see what is protected already.
    "#);
}

#[test]
fn of_key_material() {
    let (path, from, program) = (PathBuf::from("backstay.key"), "backstay.key".to_owned(), "pass".to_owned());
    let errors = vec![
        SecretError::NoFile { path: path.clone() },
        SecretError::Read { from: from.clone(), source: denied() },
        SecretError::Open { path, mode: 0o644 },
        SecretError::TooLong { from: from.clone(), limit: 65_536 },
        SecretError::Empty { from },
        SecretError::Start { program: program.clone(), source: io::Error::new(io::ErrorKind::NotFound, "not found") },
        SecretError::Failed { program: program.clone(), status: ExitStatus::from_raw(256) },
        SecretError::Slow { program, seconds: 30 },
    ];
    insta::assert_snapshot!(rendered(errors.into_iter().map(Diagnostic::from).collect()), @r#"
    [3 config] error: there is no key file backstay.key
      fix  Bring the key back from where its copy is kept, or name the copy with BACKSTAY_KEY_FILE.
      fix  Run `backstay config show --origin` to see which setting names this file.

    [7 denied] error: cannot read the key from backstay.key
      why  permission denied
      fix  Run `backstay config show --origin` to see which setting says where the key is.

    [7 denied] error: the key file backstay.key may be used by others (mode 0644)
      fix  Run `chmod 600 backstay.key`; if others could read it, replace the key.

    [3 config] error: the key from backstay.key is longer than 65536 bytes
      fix  Run `backstay config show --origin` to see which setting says where the key is.

    [3 config] error: the key from backstay.key is empty
      fix  Run `backstay config show --origin` to see which setting says where the key is.

    [3 config] error: cannot start the key command `pass`
      why  not found
      fix  Correct `key_command`: the first word is a program, and no shell reads the rest.

    [7 denied] error: the key command `pass` failed (exit status: 1)
      fix  Run `pass` by hand, with the words of `key_command`, and see what it says.

    [4 unavailable] error: the key command `pass` gave no answer for 30 s
      fix  Run `pass` by hand: it must print the key without asking anything.
    "#);
}

#[test]
fn of_the_program_itself() {
    let all = vec![Diagnostic::from(Cancelled), panic::diagnostic("index out of bounds", "src/x.rs:3")];
    insta::assert_snapshot!(rendered(all), @r#"
    [130 cancelled] error: stopped before it was done
      fix  Run the same command again: it goes on from what is complete.

    [70 internal] error: this is a bug in Backstay, not a mistake of yours
      why  index out of bounds (src/x.rs:3)
      fix  Restore points that were complete before stay complete; run `backstay check` to see it.
      fix  Report the line above with the version, 0.0.0.
    "#);
}

#[test]
fn json_has_every_field_whatever_it_holds() {
    let error = ConfigError::Secret(SecretError::Read { from: "backstay.key".to_owned(), source: denied() });
    insta::assert_snapshot!(format!("{:#}", Diagnostic::from(error).json()), @r#"
    {
      "error": {
        "because": [
          "permission denied"
        ],
        "exit": 7,
        "hints": [
          "Run `backstay config show --origin` to see which setting says where the key is."
        ],
        "kind": "denied",
        "what": "cannot read the key from backstay.key"
      }
    }
    "#);
    let bare = Diagnostic::new(Kind::Internal, "x").json();
    assert_eq!(bare["error"]["because"], serde_json::json!([]));
    assert_eq!(bare["error"]["hints"], serde_json::json!([]));
}

#[test]
fn a_cause_that_was_quoted_already_is_not_repeated() {
    #[derive(Debug, thiserror::Error)]
    #[error("cannot open: {0}")]
    struct Quoting(#[source] io::Error);
    impl backstay_model::Kinded for Quoting {
        fn kind(&self) -> Kind {
            Kind::Denied
        }
    }
    assert_eq!(Diagnostic::of(&Quoting(denied())).because, Vec::<String>::new());
}

#[test]
fn foreign_text_cannot_command_the_terminal() {
    let diagnostic = Diagnostic::new(Kind::Config, "no \x1b[31mfile\x07").because("a\rb");
    let text = diagnostic.human(Colour::Off);
    assert!(!text.contains(['\x1b', '\x07', '\r']), "{text:?}");
    assert!(diagnostic.human(Colour::On).contains("\x1b[1;31merror:\x1b[0m"));
}

#[test]
fn a_panic_is_caught_and_named() {
    assert_eq!(panic::guarded(|| 7), Some(7));
    assert_eq!(panic::guarded(|| -> u8 { panic!("a bug") }), None);
    assert_eq!(panic::diagnostic("a bug", "x.rs:1").exit(), 70);
}
