use super::error::ConfigError;
use super::keys::{self, KEYS, distance, source_keys, suggest};
use super::secret::{KeySource, Secret, SecretError};
use super::settings::{ForeignKeys, Integrity, RepositoryLocation, Settings, Threads};
use super::write::{FreshConfig, NewSource};
use super::{DEFAULTS, Env, FlagSetting, Layers};
use backstay_model::lock::ObjectLock;
use backstay_model::{Kind, Kinded, SignerKey};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

const LEAST: &str = "repository = \"./vault\"\n";

fn layers(env: Env, flags: Vec<FlagSetting>) -> Layers {
    Layers { file: None, working_dir: PathBuf::from("/work-here"), env, flags }
}

fn load(text: &str) -> Result<Settings, ConfigError> {
    layers(Env::default(), Vec::new()).load_text(Path::new("/etc/shop/backstay.toml"), text)
}

fn origin_of(settings: &Settings, key: &str) -> Option<String> {
    settings.shown().iter().find(|shown| shown.key == key).map(|shown| shown.origin.to_string())
}

fn problem(text: &str) -> String {
    load(text).expect_err("a refused configuration").to_string()
}

#[test]
fn the_least_configuration_gets_every_default() {
    let settings = load(LEAST).expect("a valid configuration");
    assert_eq!(settings.repository, RepositoryLocation::Folder("/etc/shop/vault".into()));
    assert_eq!(settings.state_dir, Path::new("/etc/shop/.backstay"));
    assert_eq!(settings.general.max_age, Duration::from_secs(86_400));
    assert_eq!(settings.limits.threads, Threads::AllCores);
    assert_eq!((settings.root, settings.key.clone()), (None, None));
    assert_eq!(origin_of(&settings, "state_dir").as_deref(), Some("default"));
}

#[test]
fn the_defaults_describe_every_setting() {
    let described = |key: &str, from: &str| {
        let lines: Vec<&str> = from.lines().collect();
        let leaf = key.rsplit('.').next().unwrap_or(key);
        lines.windows(2).any(|pair| {
            let line = pair[1].trim_start_matches("# ");
            pair[0].starts_with('#') && line.starts_with(&format!("{leaf} ="))
        })
    };
    for key in KEYS.iter().copied().chain(source_keys()) {
        assert!(described(key, DEFAULTS), "{key} has no comment in defaults.toml");
    }
}

#[test]
fn unknown_keys_are_refused_with_their_place_and_what_was_meant() {
    let cases = [
        (
            "[proof]\nenabeld = true\n",
            "/etc/shop/backstay.toml:3:1: unknown key `proof.enabeld`",
            Some("proof.enabled"),
        ),
        ("integrity = \"full\"\n", "/etc/shop/backstay.toml:2:1: unknown key `integrity`", Some("proof.integrity")),
        ("[sorces.shop]\npath = \"x\"\n", "/etc/shop/backstay.toml:2:2: unknown key `sorces`", Some("sources")),
        (
            "[sources.shop]\n  pth = \"x\"\n",
            "/etc/shop/backstay.toml:3:3: unknown key `sources.shop.pth`",
            Some("sources.shop.path"),
        ),
        (
            "proof = { integrty = \"full\" }\n",
            "/etc/shop/backstay.toml:2:11: unknown key `proof.integrty`",
            Some("proof.integrity"),
        ),
        ("zzzzzz = 1\n", "/etc/shop/backstay.toml:2:1: unknown key `zzzzzz`", None),
    ];
    for (text, words, suggestion) in cases {
        let error = load(&format!("{LEAST}{text}")).expect_err(text);
        assert_eq!(error.to_string(), words, "{text}");
        let ConfigError::UnknownKey { meant, .. } = error else { panic!("{text}: {error:?}") };
        assert_eq!(meant.as_deref(), suggestion, "{text}");
    }
}

#[test]
fn broken_files_are_refused_with_their_place() {
    for text in ["repository = \n", "repository = \"a\"\nrepository = \"b\"\n", "[sources", "\u{feff}=", "a.b.c.d.e"] {
        let error = load(text).expect_err(text);
        assert!(matches!(error, ConfigError::Syntax { .. } | ConfigError::UnknownKey { .. }), "{text}: {error:?}");
        assert!(error.to_string().starts_with("/etc/shop/backstay.toml:"), "{error}");
        assert!(!error.to_string().contains('\n'), "{error}");
    }
}

#[test]
fn values_of_the_wrong_kind_are_refused() {
    let cases = [
        ("[proof]\nintegrity = \"fast\"\n", "`proof.integrity` must be \"full\" or \"quick\", not \"fast\""),
        ("[proof]\nenabled = \"yes\"\n", "`proof.enabled` must be true or false, not \"yes\""),
        ("proof = 3\n", "`proof` must be a table, not 3"),
        ("[capture]\nhold_max = 5\n", "`capture.hold_max` must be a span such as"),
        ("[capture]\nlog_growth_max = \"2 GB\"\n", "`capture.log_growth_max` must be a size such as"),
        ("[limits]\nthreads = -1\n", "`limits.threads` must be a number from 0 to 1024, not -1"),
        ("[limits]\nupload_in_flight = 0\n", "`limits.upload_in_flight` must be a number from 1 to 64, not 0"),
        ("root = \"abc\"\n", "`root` must be the 64 hexadecimal digits"),
        ("key_command = \"pass show x\"\n", "`key_command` must be a list of words"),
        ("key_command = []\n", "`key_command` must be a list of words"),
        ("[sources.Shop]\npath = \"x\"\n", "such as `sources.shop`"),
        ("[sources.shop]\npath = \"\"\n", "`sources.shop.path` must be a path, not \"\""),
        ("[sources.shop]\npath = \"x\"\nsmoke = \"SELECT 1\"\n", "`sources.shop.smoke` must be a list of SQL"),
    ];
    for (text, words) in cases {
        let error = problem(&format!("{LEAST}{text}"));
        assert!(error.contains(words), "{text}: {error}");
    }
    assert!(problem("repository = \"ftp://bucket/x\"\n").contains("must be a folder, s3://"));
    assert_eq!(problem(""), "/etc/shop/backstay.toml has no `repository`");
    assert_eq!(problem(&format!("{LEAST}[sources.shop]\n")), "/etc/shop/backstay.toml has no `sources.shop.path`");
}

#[test]
fn a_flag_outranks_a_variable_and_a_variable_the_file() {
    let text = format!("{LEAST}[status]\nmax_age = \"1h\"\n[proof]\nintegrity = \"quick\"\n");
    let env = Env::from([
        ("BACKSTAY_STATUS_MAX_AGE", "2h"),
        ("BACKSTAY_STATE_DIR", "state"),
        ("BACKSTAY_PROOF_ENABLED", "false"),
    ]);
    let flag = FlagSetting { key: "status.max_age", value: "3h".to_owned(), flag: "--max-age" };
    let path = Path::new("/etc/shop/backstay.toml");
    let with_env = layers(env.clone(), Vec::new()).load_text(path, &text).expect("valid");
    assert_eq!(with_env.general.max_age, Duration::from_secs(7200));
    assert_eq!(with_env.state_dir, Path::new("/work-here/state"), "a variable's path starts where the person stands");
    let with_flag = layers(env, vec![flag]).load_text(path, &text).expect("valid");
    assert_eq!(with_flag.general.max_age, Duration::from_secs(10_800));
    let origin = |key| origin_of(&with_flag, key);
    assert_eq!(origin("status.max_age").as_deref(), Some("flag --max-age"));
    assert_eq!(origin("proof.enabled").as_deref(), Some("env BACKSTAY_PROOF_ENABLED"));
    assert_eq!(origin("proof.integrity").as_deref(), Some("/etc/shop/backstay.toml:5"));
    assert_eq!(origin("limits.threads").as_deref(), Some("default"));
}

#[test]
fn a_source_has_its_own_policy_until_somebody_says_otherwise_now() {
    let text = format!(
        "{LEAST}[proof]\nforeign_keys = \"require\"\n[sources.shop]\npath = \"shop.db\"\n\
         [sources.shop.proof]\nintegrity = \"quick\"\nenabled = true\n[sources.other]\npath = \"/data/o.db\"\n"
    );
    let settings = load(&text).expect("valid");
    let shop = settings.source(&"shop".parse().expect("a name")).expect("shop");
    assert_eq!((shop.policy.proof.integrity, shop.policy.proof.foreign_keys), (Integrity::Quick, ForeignKeys::Require));
    assert_eq!(shop.path, Path::new("/etc/shop/shop.db"));
    let other = settings.source(&"other".parse().expect("a name")).expect("other");
    assert_eq!((other.policy.proof.integrity, other.path.as_path()), (Integrity::Full, Path::new("/data/o.db")));
    let flag = FlagSetting { key: "proof.enabled", value: "false".to_owned(), flag: "--no-proof" };
    let told = layers(Env::default(), vec![flag]).load_text(Path::new("/x/backstay.toml"), &text).expect("valid");
    assert!(told.sources.values().all(|source| !source.policy.proof.enabled));
}

#[test]
fn the_key_comes_from_one_place() {
    let both = format!("{LEAST}key_file = \"a\"\nkey_fd = 3\n");
    assert!(problem(&both).ends_with("the key comes from `key_file` and from `key_fd`"), "{}", problem(&both));
    let env = Env::from([("BACKSTAY_KEY", "AGE-SECRET-KEY-1")]);
    let settings = layers(env, Vec::new()).load_text(Path::new("/x/backstay.toml"), &both).expect("the variable wins");
    assert_eq!(settings.key, Some(KeySource::Env("BACKSTAY_KEY".to_owned())));
    assert!(!format!("{settings:?}").contains("AGE-SECRET"), "settings must not hold key material");
}

#[test]
fn a_secret_does_not_print_itself() {
    let secret = Secret::new(b"very secret".to_vec());
    assert_eq!(format!("{secret} {secret:?} {:#?}", Some(&secret)), "(secret) (secret) Some(\n    (secret),\n)");
}

fn command(line: &str) -> KeySource {
    KeySource::Command { program: "sh".to_owned(), arguments: vec!["-c".to_owned(), line.to_owned()] }
}

#[tokio::test]
async fn keys_are_fetched_from_where_they_are_kept() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("k");
    fs::write(&path, "KEY\n").expect("a key file");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("its mode");
    let env = Env::from([("BACKSTAY_KEY", "KEY\n")]);
    let opened = fs::File::open(&path).expect("the key file");
    let descriptor = u32::try_from(std::os::fd::AsRawFd::as_raw_fd(&opened)).expect("a descriptor");
    let sources = [
        KeySource::File(path.clone()),
        KeySource::Env("BACKSTAY_KEY".to_owned()),
        command("echo KEY"),
        KeySource::Descriptor(descriptor),
    ];
    for source in sources {
        let secret = source.load(&env, Duration::from_secs(20)).await.unwrap_or_else(|e| panic!("{source}: {e}"));
        assert_eq!(secret.expose(), b"KEY\n", "{source}");
    }
}

#[tokio::test]
async fn keys_that_cannot_be_had_are_named_errors() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let open = dir.path().join("open");
    fs::write(&open, "KEY\n").expect("a key file");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).expect("its mode");
    let load = |source: KeySource, patience| async move {
        source.load(&Env::default(), patience).await.expect_err("an error")
    };
    let long = Duration::from_secs(20);
    assert!(matches!(load(KeySource::File(open), long).await, SecretError::Open { mode: 0o644, .. }));
    assert!(matches!(load(KeySource::File(dir.path().join("none")), long).await, SecretError::NoFile { .. }));
    assert!(matches!(load(command("exit 3"), long).await, SecretError::Failed { .. }));
    assert!(matches!(load(command("true"), long).await, SecretError::Empty { .. }));
    assert!(matches!(load(command("head -c 70000 /dev/zero; exit 0"), long).await, SecretError::TooLong { .. }));
    assert!(matches!(load(command("exec sleep 600"), Duration::from_millis(20)).await, SecretError::Slow { .. }));
    let none = KeySource::Command { program: "no-such-program-here".to_owned(), arguments: Vec::new() };
    assert!(matches!(load(none, long).await, SecretError::Start { .. }));
    assert!(matches!(load(KeySource::Env("BACKSTAY_KEY".to_owned()), long).await, SecretError::Empty { .. }));
}

fn fresh() -> FreshConfig {
    let source = |name: &str, path: &str| NewSource { name: name.parse().expect("a name"), path: path.into() };
    FreshConfig {
        repository: "./vault".to_owned(),
        store: Vec::new(),
        root: SignerKey::from_bytes([0xab; 32]),
        key_file: Some("./backstay.key".into()),
        sources: vec![source("shop", "./shop.db"), source("odd", "./a \"quoted\"\n\\ name.db")],
    }
}

#[test]
fn a_fresh_file_reads_back_as_it_was_meant() {
    let settings = load(&fresh().render()).expect("what init writes must be valid");
    assert_eq!(settings.root, Some(SignerKey::from_bytes([0xab; 32])));
    assert_eq!(settings.key, Some(KeySource::File("/etc/shop/backstay.key".into())));
    let paths: Vec<&Path> = settings.sources.values().map(|source| source.path.as_path()).collect();
    assert_eq!(paths, [Path::new("/etc/shop/a \"quoted\"\n\\ name.db"), Path::new("/etc/shop/shop.db")]);
}

#[test]
fn a_fresh_file_never_replaces_one() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("backstay.toml");
    fs::write(&path, "mine").expect("a file");
    let error = fresh().create(&path).expect_err("a refusal");
    assert_eq!(error.kind(), Kind::Conflict);
    assert_eq!(fs::read_to_string(&path).expect("the file"), "mine");
}

#[test]
fn distances_count_edits_and_swaps() {
    for (a, b, want) in
        [("", "", 0), ("", "abc", 3), ("enabeld", "enabled", 1), ("kitten", "sitting", 3), ("é", "e", 1)]
    {
        assert_eq!(distance(a, b), want, "{a} {b}");
    }
    assert_eq!(suggest(&["repositry"]).as_deref(), Some("repository"));
}

#[test]
fn rates_are_sizes_per_second_and_never_nothing() {
    let of = |text: &str| load(&format!("{LEAST}[limits]\n{text}\n")).map(|settings| settings.limits);
    let limits = of("upload = \"2 MiB\"\nrequests_in_flight = 4").expect("a valid table");
    assert_eq!(limits.rates.upload.map(std::num::NonZeroU64::get), Some(2 << 20));
    assert_eq!((limits.rates.download, limits.requests_in_flight.get()), (None, 4));
    for (text, words) in [("upload = \"0 B\"", "at least one byte"), ("download = \"fast\"", "a size such as")] {
        let error = of(text).expect_err(text).to_string();
        assert!(error.contains(words), "{text}: {error}");
    }
}

#[test]
fn sources_share_after_a_span_if_they_may_at_all() {
    let of = |text: &str| load(&format!("{LEAST}[follow]\n{text}\n")).map(|settings| settings.share);
    assert_eq!(of("share = false").expect("valid"), None);
    assert_eq!(of("").expect("valid"), Some(Duration::from_secs(60)));
    assert_eq!(of("share = true\nshare_after = \"1s\"").expect("valid"), Some(Duration::from_secs(1)));
    for span in ["999ms", "61m", "0s", "soon"] {
        let error = of(&format!("share_after = \"{span}\"")).expect_err(span).to_string();
        assert!(error.contains("`follow.share_after` must be a span"), "{span}: {error}");
    }
    assert!(
        problem(&format!("{LEAST}[sources.shop]\npath = \"x\"\n[sources.shop.follow]\nshare_after = \"2m\"\n"))
            .contains("unknown key `sources.shop.follow.share_after`")
    );
}

#[test]
fn misspelt_variables_are_noticed() {
    let env =
        Env::from([("BACKSTAY_STATE_DIRR", "x"), ("BACKSTAY_STATE_DIR", "x"), ("BACKSTAY_KEY", "x"), ("PATH", "x")]);
    assert_eq!(env.unknown(), ["BACKSTAY_STATE_DIRR"]);
    assert!(keys::variables().contains(&"BACKSTAY_LIMITS_STORE_DEADLINE".to_owned()));
}

#[test]
fn a_bucket_is_reached_as_the_store_table_says() {
    use super::store::Where;
    use backstay_store::cloud::{Addressing, ServerSide, Transport};
    const BUCKET: &str = "repository = \"s3://vaults/shop\"\n[store]\n";
    let of = |text: &str| load(&format!("{BUCKET}{text}")).map(|settings| settings.store);
    let plain = of("").expect("nothing is needed");
    assert_eq!((plain.addressing, plain.transport, plain.credentials), {
        (Addressing::VirtualHost, Transport::TlsOnly, Where::Found)
    });
    let full = of("endpoint = \"http://10.0.0.7:9000/\"\nallow_http = true\nregion = \"x-1\"\nca_file = \"ca.pem\"\n\
        profile = \"backup\"\nstorage_class = \"STANDARD_IA\"\nsse = \"kms\"\nsse_kms_key = \"arn:x\"\n");
    let full = full.expect("a valid table");
    assert_eq!(full.endpoint.as_deref(), Some("http://10.0.0.7:9000"));
    assert_eq!((full.addressing, full.transport), (Addressing::Path, Transport::PlainAllowed));
    assert_eq!(full.ca_file.as_deref(), Some(Path::new("/etc/shop/ca.pem")));
    assert_eq!(full.server_side, Some(ServerSide::Kms { key: "arn:x".to_owned() }));
    let refused = [
        ("endpoint = \"http://10.0.0.7\"", "unless `store.allow_http = true`"),
        ("endpoint = \"https://id:pass@host\"", "a user in it"),
        ("endpoint = \"https://host/path\"", "without a path"),
        ("endpoint = \"host\"", "without a path"),
        ("storage_class = \"DEEP_ARCHIVE\"", "\"STANDARD\" or"),
        ("sse = \"kms\"", "given with `store.sse_kms_key`"),
        ("sse = \"aes256\"\nsse_kms_key = \"x\"", "left out unless `store.sse` is \"kms\""),
        ("sse_kms_key = \"x\"", "left out unless"),
        ("credentials = \"instance\"\nprofile = \"x\"", "`store.credentials` is \"instance\""),
        ("region = \"a b\"", "a region such as"),
        ("checksum = \"md5\"", "\"sha256\" or \"crc64nvme\""),
        ("locked_for = \"7d\"", "unless `store.object_lock` is set"),
        ("object_lock = \"1d\"", "at least \"2d\""),
        ("object_lock = \"30d\"\nlocked_for = \"30d\"", "at least a day shorter"),
        ("secret_access_key = \"x\"", "unknown key `store.secret_access_key`"),
    ];
    for (text, words) in refused {
        let error = of(text).expect_err(text).to_string();
        assert!(error.contains(words) && !error.contains("pass@"), "{text}: {error}");
    }
    for (place, table, words) in [
        ("gs://vaults", "region = \"x-1\"", "only s3:// has it"),
        ("az://team2/vaults", "sse = \"aes256\"", "only s3:// has it"),
        ("gs://vaults", "storage_class = \"STANDARD_IA\"", "\"NEARLINE\""),
        ("az://team2/vaults", "storage_class = \"Archive\"", "\"Cool\""),
    ] {
        let error = problem(&format!("repository = \"{place}\"\n[store]\n{table}\n"));
        assert!(error.contains(words), "{place} {table}: {error}");
    }
    let locked = of("object_lock = \"30d\"\nlocked_for = \"7d\"").expect("a lock");
    assert_eq!(locked.lock, ObjectLock::new(30 * 86_400_000, Some(7 * 86_400_000)));
    load("repository = \"gs://vaults\"\n[store]\nstorage_class = \"NEARLINE\"\n").expect("a class of Google's");
    let folder = problem(&format!("{LEAST}[store]\nregion = \"x-1\"\n"));
    assert!(folder.contains("`repository` is a folder"), "{folder}");
    for place in ["s3://", "s3://Vaults/x", "az://vaults", "ftp://vaults", "s3://vaults/a b"] {
        assert!(problem(&format!("repository = \"{place}\"\n")).contains("s3://BUCKET/PREFIX"), "{place}");
    }
}
