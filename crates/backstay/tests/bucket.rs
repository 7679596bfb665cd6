//! A repository in a bucket, from `init` to `restore`, over a real S3 server, with its requests counted.

mod far;
mod house;

use backstay_testkit::azurite::{self, Azurite};
use backstay_testkit::s3_adversary::{Adversary, BEARER, Conditions, Odds, Trouble};
use backstay_testkit::s3_server::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY};
use far::{Far, value};
use house::{ended, rows};
use serde_json::Value;
use std::fs;
use std::time::Duration;

#[test]
fn a_repository_in_a_bucket_lives_its_whole_life() {
    let server = S3Server::start();
    let wire = Adversary::start(&server, Conditions::Honoured, None);
    let far = Far::new(wire.endpoint());
    let (exit, out, err) = far.init();
    assert_eq!(exit, 0, "{out}{err}");
    let made = value(&out);
    assert_eq!((&made["verdict"], &made["conditional_put"]), (&"pass".into(), &true.into()), "{made}");
    assert_eq!(made["repository"], Value::from(format!("s3://{BUCKET}/shop")));
    let config = fs::read_to_string(far.house.path("backstay.toml")).expect("the configuration");
    assert!(config.contains("[store]") && config.contains(&wire.endpoint()), "{config}");
    assert!(!config.contains(SECRET_KEY) && !config.contains(ACCESS_KEY), "{config}");
    println!("init with its first backup: {} requests", wire.take_requests().len());

    far.ok(&["backup", "shop"]);
    let again = wire.take_requests();
    println!("a backup without changes: {} requests", again.len());
    assert!(again.len() <= 40, "{again:#?}");

    let before = rows(&far.house.path("shop.db"));
    far.house.sql("DELETE FROM item WHERE id > 1000");
    far.ok(&["backup", "shop"]);
    wire.take_requests();
    let listed = value(&far.ok(&["list", "shop", "--json"]));
    let snapshots = listed["snapshots"].as_array().expect("a list").len();
    assert_eq!(snapshots, 3, "{listed}");
    let asked = wire.take_requests();
    let of_snapshots = asked.iter().filter(|r| r.contains("list-type=2") && r.contains("snap")).count();
    assert_eq!(of_snapshots, 1, "one page of snapshots is one request: {asked:#?}");
    println!("a list: {} requests", asked.len());

    far.ok(&["check"]);
    fs::copy(far.house.path("backstay.key"), far.house.path("copy.key")).expect("a copy");
    far.ok(&["repo", "key", "confirm", "--key-file", "copy.key"]);
    far.ok(&["doctor"]);
    far.ok(&["repo", "show"]);
    let first = listed["snapshots"][2]["id"].as_str().expect("an id").to_owned();
    far.ok(&["restore", "shop", "--snapshot", &first, "--to", "first.db"]);
    far.ok(&["restore", "shop", "--to", "newest.db"]);
    assert_eq!(rows(&far.house.path("first.db")), before);
    assert_eq!(rows(&far.house.path("newest.db")), rows(&far.house.path("shop.db")));
    let (exit, _, err) = far.init();
    assert_eq!(exit, 5, "a second init changes nothing: {err}");
}

#[test]
fn a_bad_network_delays_a_backup_and_costs_it_nothing() {
    let server = S3Server::start();
    let troubles = vec![
        Trouble::LostBefore,
        Trouble::LostAfter,
        Trouble::CutAnswer,
        Trouble::Refused(503, "SlowDown"),
        Trouble::Slow(Duration::from_millis(20)),
    ];
    let wire = Adversary::start(&server, Conditions::Honoured, Some(Odds { seed: 11, per_thousand: 150, troubles }));
    let far = Far::new(wire.endpoint());
    let (exit, out, err) = far.init();
    assert_eq!(exit, 0, "{out}{err}");
    far.house.sql("UPDATE item SET name = 'changed' WHERE id % 7 = 0");
    far.ok(&["backup", "shop"]);
    far.ok(&["check"]);
    far.ok(&["restore", "shop", "--to", "newest.db"]);
    assert_eq!(rows(&far.house.path("newest.db")), rows(&far.house.path("shop.db")));
}

#[test]
fn a_store_that_overwrites_is_found_and_said_every_time() {
    let server = S3Server::start();
    let wire = Adversary::start(&server, Conditions::Ignored, None);
    let far = Far::new(wire.endpoint());
    let (exit, out, err) = far.init();
    assert_eq!((exit, &value(&out)["conditional_put"]), (0, &false.into()), "{out}{err}");
    far.house.sql("UPDATE item SET name = 'changed' WHERE id % 7 = 0");
    far.ok(&["backup", "shop"]);
    assert!(far.ok(&["repo", "show"]).contains("NOT refused"), "repo show says so");
    let (exit, out, _) = far.run(&["doctor"]);
    assert_eq!(exit, 10, "{out}");
    far.ok(&["check"]);
    far.ok(&["restore", "shop", "--to", "newest.db"]);
    assert_eq!(rows(&far.house.path("newest.db")), rows(&far.house.path("shop.db")));
}

/// No emulator locks: what is shown is counted from when the store got each object.
#[test]
fn of_a_locked_bucket_it_is_shown_until_when_nobody_can_delete() {
    let server = S3Server::start();
    let wire = Adversary::start(&server, Conditions::Honoured, None);
    let far = Far::new(wire.endpoint());
    let (exit, out, err) = far.init();
    assert_eq!(exit, 0, "{out}{err}");
    let told = |words: &[&str]| {
        let mut command = far.command(words);
        ended(command.env("BACKSTAY_STORE_OBJECT_LOCK", "30d").output().expect("it runs"))
    };
    let (exit, out, err) = told(&["status", "--json"]);
    let horizon = &value(&out)["sources"][0]["horizon"];
    assert!(exit == 0 && horizon["until"].is_string() && horizon["short"] == false, "{out}{err}");
    let (_, out, _) = told(&["status"]);
    assert!(out.contains("nobody can delete the newest before"), "{out}");
    let (exit, out, err) = told(&["show", "shop"]);
    assert!(exit == 0 && out.contains("by all it refers to"), "{out}{err}");
    let (exit, out, err) = told(&["retention", "plan"]);
    assert!(exit == 0 && out.contains("LOCKED UNTIL"), "{out}{err}");
    assert!(!far.ok(&["retention", "plan"]).contains("LOCKED"), "without the setting nothing is known of a lock");
    let mut wrong = far.command(&["status"]);
    let (exit, _, err) = ended(wrong.env("BACKSTAY_STORE_OBJECT_LOCK", "1d").output().expect("it runs"));
    assert!(exit == 3 && err.contains("BACKSTAY_STORE_OBJECT_LOCK"), "{exit}: {err}");
}

#[test]
fn what_a_bucket_needs_is_said_before_anything_is_made() {
    let server = S3Server::start();
    let far = Far::new(server.endpoint());
    let repo = format!("s3://{BUCKET}/shop");
    let words = ["init", "--yes", "--source", "shop=./shop.db", "--repo", repo.as_str()];
    let mut keyless = far.command(&words);
    keyless.env_remove("AWS_ACCESS_KEY_ID").env("AWS_REGION", "eu-central-1");
    let (exit, _, err) = ended(keyless.output().expect("it runs"));
    assert!(exit == 3 && err.contains("AWS_ACCESS_KEY_ID"), "{exit}: {err}");
    let mut plain = far.command(&words);
    plain.env("BACKSTAY_STORE_ENDPOINT", server.endpoint());
    let (exit, _, err) = ended(plain.output().expect("it runs"));
    assert!(exit == 3 && err.contains("store.allow_http"), "{exit}: {err}");
    let mut wrong = far.command(&words);
    wrong.env("BACKSTAY_STORE_ENDPOINT", server.endpoint()).env("BACKSTAY_STORE_ALLOW_HTTP", "true");
    wrong.env("AWS_SECRET_ACCESS_KEY", "another-secret");
    let (exit, _, err) = ended(wrong.output().expect("it runs"));
    assert!(exit == 7 && !err.contains("another-secret"), "{exit}: {err}");
    let (exit, _, err) = far.run(&["init", "--yes", "--source", "shop=./shop.db", "--repo", "ftp://vaults/shop"]);
    assert!(exit == 2 && err.contains("s3://"), "{exit}: {err}");
    for name in ["backstay.toml", "backstay.key", ".backstay"] {
        assert!(!far.house.path(name).exists(), "{name} was left");
    }
}

/// The whole life of a repository that is elsewhere than in S3.
fn lives(far: &Far, repo: &str, secret: &str) {
    let (exit, out, err) = far.init_at(repo);
    assert_eq!(exit, 0, "{out}{err}");
    let made = value(&out);
    assert_eq!((&made["repository"], &made["conditional_put"]), (&repo.into(), &true.into()), "{made}");
    let before = rows(&far.house.path("shop.db"));
    far.house.sql("UPDATE item SET name = 'changed' WHERE id % 7 = 0");
    far.ok(&["backup", "shop"]);
    let snapshots = far.snapshots();
    assert_eq!(snapshots.len(), 2);
    far.ok(&["check"]);
    fs::copy(far.house.path("backstay.key"), far.house.path("copy.key")).expect("a copy");
    far.ok(&["repo", "key", "confirm", "--key-file", "copy.key"]);
    far.ok(&["doctor"]);
    far.ok(&["restore", "shop", "--snapshot", &snapshots[1], "--to", "first.db"]);
    far.ok(&["restore", "shop", "--to", "newest.db"]);
    assert_eq!(rows(&far.house.path("first.db")), before);
    assert_eq!(rows(&far.house.path("newest.db")), rows(&far.house.path("shop.db")));
    let config = fs::read_to_string(far.house.path("backstay.toml")).expect("the configuration");
    assert!(!config.contains(secret), "{config}");
}

#[test]
fn a_repository_in_azure_lives_its_whole_life() {
    let server = Azurite::start();
    let far = Far::new(server.endpoint()).with("AZURE_STORAGE_ACCOUNT_KEY", azurite::ACCOUNT_KEY);
    lives(&far, &format!("az://{}/{}/shop", azurite::ACCOUNT, azurite::CONTAINER), azurite::ACCOUNT_KEY);
}

#[test]
fn a_repository_at_a_stand_in_for_google_lives_its_whole_life() {
    let server = S3Server::start_open();
    let wire = Adversary::stand_in_for_gcs(&server);
    let far = Far::new(wire.endpoint()).with("GOOGLE_OAUTH_ACCESS_TOKEN", BEARER);
    lives(&far, &format!("gs://{BUCKET}/shop"), BEARER);
}

#[test]
fn a_certificate_of_an_own_authority_is_believed_when_it_is_named_and_not_otherwise() {
    let server = Azurite::start_secured();
    let far = Far::new(server.endpoint()).with("AZURE_STORAGE_ACCOUNT_KEY", azurite::ACCOUNT_KEY);
    let repo = format!("az://{}/{}/shop", azurite::ACCOUNT, azurite::CONTAINER);
    let (exit, out, err) = far.with("BACKSTAY_LIMITS_STORE_DEADLINE", "1s").init_at(&repo);
    assert!(exit == 4 && out.contains("certificate"), "{exit}: {out}{err}");
    let far = Far::new(server.endpoint()).with("AZURE_STORAGE_ACCOUNT_KEY", azurite::ACCOUNT_KEY);
    let ca = server.ca_file().to_str().expect("text").to_owned();
    let far = far.with("BACKSTAY_STORE_CA_FILE", &ca);
    let (exit, out, err) = far.init_at(&repo);
    assert_eq!(exit, 0, "{out}{err}");
}

/// The machine's role, as the address all machines have hands it out.
#[test]
fn the_role_of_a_machine_is_asked_for_when_it_is_meant() {
    let server = S3Server::start();
    let wire = Adversary::start(&server, Conditions::Honoured, None);
    let platform = Adversary::start(&server, Conditions::Honoured, None);
    let keys = format!(
        "{{\"AccessKeyId\":\"{ACCESS_KEY}\",\"SecretAccessKey\":\"{SECRET_KEY}\",\"Token\":\"of-the-role\",\
         \"Expiration\":\"2999-01-01T00:00:00Z\"}}"
    );
    let keys: &'static str = Box::leak(keys.into_boxed_str());
    // A command opens its store once or twice, and asks each time.
    for _ in 0..4 {
        platform.next("PUT", Trouble::Says("a token"));
        platform.next("GET", Trouble::Says("a-role"));
        platform.next("GET", Trouble::Says(keys));
    }
    let mut far = Far::new(wire.endpoint());
    far.env.retain(|(name, _)| !name.starts_with("AWS_"));
    let far = far
        .with("AWS_EC2_METADATA_SERVICE_ENDPOINT", &platform.endpoint())
        .with("BACKSTAY_STORE_CREDENTIALS", "instance");
    let (exit, out, err) = far.init();
    assert_eq!(exit, 0, "{out}{err}");
    let asked = platform.take_requests();
    assert!(asked[2].ends_with("/latest/meta-data/iam/security-credentials/a-role"), "{asked:#?}");
    assert!(wire.take_heads().iter().all(|head| head.contains("x-amz-security-token: of-the-role")));

    // The agent of a pod, asked with the token in a file.
    let agent = Adversary::start(&server, Conditions::Honoured, None);
    agent.next("GET", Trouble::Says(keys));
    fs::write(far.house.path("token"), "let-me-in").expect("written");
    let mut far = far;
    far.env.retain(|(name, _)| name != "BACKSTAY_STORE_CREDENTIALS");
    let far = far
        .with("AWS_CONTAINER_CREDENTIALS_FULL_URI", &format!("{}/v1/credentials", agent.endpoint()))
        .with("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "token");
    far.house.edit("backstay.toml", "credentials = \"instance\"\n", "");
    far.ok(&["list"]);
    let heads = agent.take_heads();
    assert!(heads.len() == 1 && heads[0].contains("authorization: let-me-in"), "{heads:?}");
}

#[test]
fn the_bucket_is_in_the_host_name_unless_the_path_is_asked_for() {
    let server = S3Server::start();
    let proxy = Adversary::start(&server, Conditions::Honoured, None);
    for (path_style, wanted) in
        [("false", "GET http://vaults.s3.example.test/?"), ("true", "GET http://s3.example.test/vaults?")]
    {
        let far = Far::new("http://s3.example.test".to_owned())
            .with("HTTP_PROXY", &proxy.endpoint())
            .with("BACKSTAY_STORE_PATH_STYLE", path_style);
        proxy.next("GET", Trouble::Refused(403, "AccessDenied"));
        let (exit, _, err) = far.init();
        assert_eq!(exit, 7, "{err}");
        let asked = proxy.take_requests();
        assert!(asked[0].starts_with(wanted), "{asked:?}");
    }
}

/// A list asks for each manifest and each mark once, and still sees what is said of an old snapshot since.
#[test]
fn a_list_reads_nothing_twice_and_misses_nothing_new() {
    let server = S3Server::start();
    let wire = Adversary::start(&server, Conditions::Honoured, None);
    let far = Far::new(wire.endpoint());
    let (exit, out, err) = far.init();
    assert_eq!(exit, 0, "{out}{err}");
    for round in 0..4 {
        far.house.sql(&format!("UPDATE item SET name = 'round {round}' WHERE id % 5 = {round}"));
        far.ok(&["backup", "shop"]);
    }
    let first = far.json(&["list", "shop"]);
    wire.take_requests();
    let second = far.json(&["list", "shop"]);
    let asked = wire.take_requests();
    assert_eq!(second["snapshots"], first["snapshots"]);
    // The names of configuration, prune records, marks and snapshots, and the bytes of the configuration.
    assert_eq!(asked.len(), 5, "{asked:#?}");
    assert_eq!(second["store"]["requests"], Value::from(5), "{second}");

    let few = far.json(&["list", "shop", "--limit", "2"]);
    assert_eq!(few["snapshots"].as_array().expect("a list"), &second["snapshots"].as_array().expect("a list")[..2]);
    assert_eq!((&few["older"], &second["older"]), (&serde_json::json!(["shop"]), &serde_json::json!([])));
    let (_, text, _) = far.run(&["list", "shop", "--limit", "2"]);
    assert!(text.contains("older snapshots of shop"), "{text}");

    // Damage that another run finds, and its marks are new.
    let pack = server.file_of("shop/data/shop/pack");
    for entry in fs::read_dir(pack).expect("packs").flatten() {
        let mut bytes = fs::read(entry.path()).expect("a pack");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(entry.path(), bytes).expect("written");
    }
    let (exit, _, _) = far.run(&["check"]);
    assert_eq!(exit, 1);
    let listed = far.json(&["list", "shop"]);
    let rows = listed["snapshots"].as_array().expect("a list");
    assert!(rows.len() == 5 && rows.iter().all(|row| row["quarantined"] == true && row["proven"] == false), "{listed}");

    // A memory that was damaged or cut is as good as none.
    let states = fs::read_dir(far.house.path(".backstay")).expect("the state").flatten();
    let memory = states.map(|entry| entry.path().join("shop/remembered")).find(|path| path.exists()).expect("a memory");
    let mut bytes = fs::read(&memory).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&memory, bytes).expect("written");
    assert_eq!(far.json(&["list", "shop"])["snapshots"], listed["snapshots"]);
    wire.take_requests();
    assert_eq!(far.json(&["list", "shop"])["snapshots"], listed["snapshots"]);
    assert_eq!(wire.take_requests().len(), 5, "it was made whole again");
}

/// One that overwrites and says that it refused: only looking at what is there tells.
#[test]
fn a_store_that_only_pretends_to_refuse_is_found() {
    let server = S3Server::start();
    let wire = Adversary::start(&server, Conditions::Pretended, None);
    let far = Far::new(wire.endpoint());
    let (exit, out, err) = far.init();
    assert_eq!((exit, &value(&out)["conditional_put"]), (0, &false.into()), "{out}{err}");
}

/// Where one writer is the rule and two come all the same: the slower one is told, and so is whoever looks
/// afterwards, since there are two children of one parent.
#[test]
fn two_writers_at_a_store_that_overwrites_are_noticed() {
    let server = S3Server::start();
    let wire = Adversary::start(&server, Conditions::Ignored, None);
    let one = Far::new(wire.endpoint());
    let (exit, out, err) = one.init();
    assert_eq!((exit, &value(&out)["conditional_put"]), (0, &false.into()), "{out}{err}");
    assert!(one.ok(&["repo", "show"]).contains("let one host back up each source, and one maintain"));

    // Another host with the same configuration and key, at its own address.
    let slow = Adversary::start(&server, Conditions::Ignored, None);
    let two = Far::new(slow.endpoint());
    for name in ["backstay.toml", "backstay.key", "shop.db"] {
        fs::copy(one.house.path(name), two.house.path(name)).expect("copied");
    }
    two.house.edit("backstay.toml", &one.endpoint, &two.endpoint);
    two.house.sql("UPDATE item SET name = 'two' WHERE id % 3 = 0");
    one.house.sql("UPDATE item SET name = 'one' WHERE id % 3 = 1");
    // It has read what is there, and is about to store its first pack, while the other begins and ends.
    slow.next("PUT", Trouble::Slow(Duration::from_secs(4)));
    let mut command = two.command(&["backup", "shop", "--no-proof", "--json"]);
    let child =
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().expect("runs");
    while !slow.requests_so_far().iter().any(|request| request.starts_with("PUT")) {
        std::thread::yield_now();
    }
    one.ok(&["backup", "shop", "--no-proof"]);
    let (exit, out, err) = ended(child.wait_with_output().expect("it ends"));
    assert!(exit == 5 && out.contains("another writer"), "{exit}: {out}{err}");
    let (exit, out, _) = one.run(&["check"]);
    assert!(exit == 1 && out.contains("two writers"), "{exit}: {out}");
    assert!(out.contains("nothing is damaged") && out.contains("backstay list shop"), "{out}");
    let (exit, out, _) = one.run(&["status"]);
    assert!(exit != 0 && out.contains("two writers"), "{exit}: {out}");
}
