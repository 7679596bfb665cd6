use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split_whitespace())
}

/// Every command with its path, the hidden ones too.
fn all(command: &clap::Command, path: &str, found: &mut Vec<(String, clap::Command)>) {
    found.push((path.to_owned(), command.clone()));
    for below in command.get_subcommands() {
        all(below, &format!("{path}-{}", below.get_name()), found);
    }
}

fn commands() -> Vec<(String, clap::Command)> {
    let mut grammar = grammar().term_width(100);
    grammar.build();
    let mut found = Vec::new();
    all(&grammar, "backstay", &mut found);
    found
}

#[test]
fn the_grammar_is_sound() {
    grammar().debug_assert();
}

#[test]
fn help_of_every_command() {
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| {
        for (path, mut command) in commands() {
            insta::assert_snapshot!(path.as_str(), command.render_help().to_string());
        }
    });
}

#[test]
fn every_command_has_an_example_and_a_name() {
    for (path, command) in commands() {
        let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(after.contains("Example"), "{path} has no example");
        assert!(command.get_about().is_some(), "{path} does not say what it does");
    }
}

#[test]
fn no_flag_takes_a_secret() {
    for (path, command) in commands() {
        let with_value = command.get_arguments().filter(|flag| flag.get_action().takes_values());
        for flag in with_value.filter_map(clap::Arg::get_long) {
            let secret = ["password", "passphrase", "secret", "identity"].iter().any(|word| flag.contains(word));
            assert!(!secret && flag != "key", "{path} --{flag}");
        }
    }
}

#[test]
fn a_restore_point_is_said_in_one_way() {
    let wanted = |line: &str| match parse(line).expect(line).command {
        Command::Restore(restore) => restore.point.wanted(),
        other => panic!("{other:?}"),
    };
    assert_eq!(wanted("backstay restore shop"), Wanted::Point(Point::Latest));
    assert_eq!(wanted("backstay restore shop latest-proven"), Wanted::Point(Point::LatestProven));
    let label = "before-v2".parse().expect("a label");
    assert_eq!(wanted("backstay restore shop label:before-v2"), Wanted::Point(Point::Label(label)));
    assert_eq!(wanted("backstay restore shop --at 2026-11-21"), Wanted::At("2026-11-21".to_owned()));
    let id = "abcd12".parse().expect("a prefix");
    assert_eq!(wanted("backstay restore shop --snapshot ABCD12"), Wanted::Snapshot(id));
    for line in
        ["latest --at now", "--at now --snapshot abcd", "yesterday", "label:", "--snapshot xyz", "--snapshot abc"]
    {
        assert!(parse(&format!("backstay restore shop {line}")).is_err(), "{line}");
    }
}

#[test]
fn the_words_scripts_rely_on() {
    let line = "backstay init --yes --source shop=./shop.db --source b=x=y --repo ./vault --no-backup";
    let Command::Init(init) = parse(line).expect(line).command else { panic!("not init") };
    let path = |text: &str| PathBuf::from(text);
    assert_eq!((init.yes, init.no_backup, init.unsealed), (true, true, false));
    assert_eq!((init.repo, init.key_file), (path("./vault"), path("./backstay.key")));
    let sources: Vec<(&str, &PathBuf)> = init.sources.iter().map(|s| (s.name.as_str(), &s.path)).collect();
    assert_eq!(sources, [("shop", &path("./shop.db")), ("b", &path("x=y"))]);
    for line in [
        "backstay backup",
        "backstay backup shop --label before-v2 --keep 90d",
        "backstay list shop --json",
        "backstay check shop",
        "backstay restore shop --to FILE",
        "backstay status --max-age 24h",
        "backstay demo --keep",
        "backstay --config x.toml repo key confirm --key-file k",
        "backstay doctor -vv",
        "backstay show shop latest",
    ] {
        assert!(parse(line).is_ok(), "{line}");
    }
    for line in [
        "backstay",
        "backstay restore",
        "backstay init --source shop",
        "backstay init --source =x",
        "backstay init --source Shop=x",
        "backstay backup --keep soon",
        "backstay status --max-age x",
        "backstay -q -v status",
        "backstay check --snapshot abcd",
        "backstay list LOG",
    ] {
        assert!(parse(line).is_err(), "{line}");
    }
}

#[test]
fn flags_become_settings() {
    let settings = |line: &str| parse(line).expect(line).command.flag_settings();
    let age = settings("backstay status --max-age 36h");
    assert_eq!((age[0].key, age[0].value.as_str(), age[0].flag), ("status.max_age", "36h", "--max-age"));
    let proof = settings("backstay backup --no-proof");
    assert_eq!((proof[0].key, proof[0].value.as_str(), proof[0].flag), ("proof.enabled", "false", "--no-proof"));
    assert!(settings("backstay backup").is_empty());
}
