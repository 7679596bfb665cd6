use super::*;
use backstay_model::{Kind, Kinded};
use std::fs;
use tempfile::TempDir;

fn plain() -> StoreSettings {
    StoreSettings { region: Some("eu-central-1".to_owned()), ..StoreSettings::plain() }
}

fn home(config: &str, credentials: &str) -> TempDir {
    let home = tempfile::tempdir().expect("a temporary folder");
    fs::create_dir(home.path().join(".aws")).expect("a folder");
    fs::write(home.path().join(".aws/config"), config).expect("written");
    fs::write(home.path().join(".aws/credentials"), credentials).expect("written");
    home
}

fn env(home: &TempDir, more: &[(&str, &str)]) -> Env {
    let home = home.path().to_str().expect("text");
    let mut pairs = vec![("HOME", home), ("PATH", "/usr/bin:/bin")];
    pairs.extend(more);
    Env(pairs.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect())
}

async fn found(env: &Env, store: &StoreSettings) -> Result<Access, ConfigError> {
    find(&finder(env), store, Path::new("/etc/shop/backstay.toml")).await
}

fn finder(env: &Env) -> Finder {
    Finder { env: env.clone(), clock: Arc::new(backstay_store::os::SystemClock) }
}

/// The id and the secret; panics on another kind of credentials.
fn keys(access: Access) -> (String, String, Option<String>) {
    match access.credentials {
        Credentials::Keys(keys) => (keys.id, keys.secret, keys.token),
        other => panic!("{other:?}"),
    }
}

/// The same of a profile, as it is asked when keys expire.
async fn of_profile(env: &Env, name: &str) -> (String, String, Option<String>) {
    let keys = Profile::read(env, name).expect("a profile").keys(&finder(env)).await.expect("keys").expect("some");
    (keys.id, keys.secret, keys.token)
}

fn three(id: &str, secret: &str, token: Option<&str>) -> (String, String, Option<String>) {
    (id.to_owned(), secret.to_owned(), token.map(str::to_owned))
}

const CONFIG: &str = "[default]\nregion = us-west-2\n# aws_access_key_id = no\n[profile far]\nregion=ap-south-1\n\
    s3 =\n  max_concurrent_requests = 3\n[profile role]\nrole_arn = arn:x\nsource_profile = default\n\
    [profile sso]\nsso_session = s\n";
const CREDENTIALS: &str = "[default]\naws_access_key_id = ID\naws_secret_access_key = SE=CRET\n\
    [far]\naws_access_key_id = FAR\naws_secret_access_key = AWAY\naws_session_token = TOK\n";

#[tokio::test]
async fn the_environment_comes_before_the_default_profile_and_a_named_profile_before_it() {
    let home = home(CONFIG, CREDENTIALS);
    let said = [("AWS_ACCESS_KEY_ID", "E"), ("AWS_SECRET_ACCESS_KEY", "S"), ("AWS_SESSION_TOKEN", "T")];
    let of_env = keys(found(&env(&home, &said), &plain()).await.expect("keys"));
    assert_eq!(of_env, three("E", "S", Some("T")));
    let of_default = keys(found(&env(&home, &[]), &plain()).await.expect("keys"));
    assert_eq!(of_default, three("ID", "SE=CRET", None));
    let far = StoreSettings { profile: Some("far".to_owned()), ..plain() };
    // Keys with a token do not last; the profile is asked for new ones.
    let renewed = |access: Access| matches!(access.credentials, Credentials::Renewed(_));
    assert!(renewed(found(&env(&home, &said), &far).await.expect("keys")));
    assert_eq!(of_profile(&env(&home, &said), "far").await, three("FAR", "AWAY", Some("TOK")));
    let chosen = env(&home, &[("AWS_PROFILE", "far")]);
    assert!(renewed(found(&chosen, &plain()).await.expect("keys")));
}

#[tokio::test]
async fn the_region_comes_from_the_nearest_that_says_one() {
    let home = home(CONFIG, CREDENTIALS);
    let silent = StoreSettings { region: None, ..plain() };
    let of = |access: Result<Access, ConfigError>| access.expect("a region").region;
    assert_eq!(of(found(&env(&home, &[]), &plain()).await), "eu-central-1");
    assert_eq!(of(found(&env(&home, &[("AWS_REGION", "sa-east-1")]), &silent).await), "sa-east-1");
    assert_eq!(of(found(&env(&home, &[]), &silent).await), "us-west-2");
    let bare = self::home("", CREDENTIALS);
    let error = found(&env(&bare, &[]), &silent).await.expect_err("no region");
    assert!(error.to_string().ends_with("has no `store.region`"), "{error}");
    let own = StoreSettings { endpoint: Some("https://s3.example.org".to_owned()), ..silent };
    assert_eq!(of(found(&env(&bare, &[]), &own).await), "us-east-1");
}

#[tokio::test]
async fn roles_of_platforms_are_taken_and_keys_that_are_nowhere_are_missed() {
    let home = home("", "");
    let error = found(&env(&home, &[]), &plain()).await.expect_err("no keys");
    assert!(matches!(error, ConfigError::NoAccessKeys { .. }) && error.kind() == Kind::Config, "{error:?}");
    let half = env(&home, &[("AWS_ACCESS_KEY_ID", "E")]);
    assert!(matches!(found(&half, &plain()).await, Err(ConfigError::NoAccessKeys { .. })));
    let web = env(&home, &[("AWS_WEB_IDENTITY_TOKEN_FILE", "/t"), ("AWS_ROLE_ARN", "arn:x")]);
    assert!(matches!(found(&web, &plain()).await.expect("a role").credentials, Credentials::WebIdentity { .. }));
    let task = env(&home, &[("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/x")]);
    assert!(matches!(found(&task, &plain()).await.expect("a role").credentials, Credentials::Container { .. }));
    let instance = StoreSettings { credentials: Where::Instance, ..plain() };
    assert!(matches!(
        found(&env(&home, &[]), &instance).await.expect("a role").credentials,
        Credentials::Instance { .. }
    ));
}

#[tokio::test]
async fn a_profile_that_cannot_be_used_is_refused_and_not_passed_over() {
    let home = home(CONFIG, CREDENTIALS);
    for (name, words) in
        [("role", "takes a role with `role_arn`"), ("sso", "signs in with `sso_"), ("none", "is in neither file")]
    {
        let store = StoreSettings { profile: Some(name.to_owned()), ..plain() };
        let error = found(&env(&home, &[("AWS_ACCESS_KEY_ID", "E")]), &store).await.expect_err(name);
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[tokio::test]
async fn a_credential_process_is_asked_without_a_shell() {
    let run = |line: &str| {
        let home = home(&format!("[default]\ncredential_process = {line}\n"), "");
        async move {
            found(&env(&home, &[]), &plain()).await.map(|_| ())?;
            Ok::<_, ConfigError>(of_profile(&env(&home, &[]), "default").await)
        }
    };
    let script = tempfile::tempdir().expect("a folder");
    let answer = script.path().join("an answer.json");
    let good = r#"{"Version":1,"AccessKeyId":"P","SecretAccessKey":"Q","SessionToken":"R","Expiration":"2030-01-01"}"#;
    fs::write(&answer, good).expect("written");
    let line = format!("cat \"{}\"", answer.display());
    assert_eq!(run(&line).await.expect("keys"), three("P", "Q", Some("R")));
    for bad in [r#"{"Version":2,"AccessKeyId":"P","SecretAccessKey":"Q"}"#, "{}", "P Q"] {
        fs::write(&answer, bad).expect("written");
        let error = run(&line).await.expect_err(bad);
        assert!(error.to_string().contains("not of version 1") && !error.to_string().contains('Q'), "{error}");
    }
    assert!(matches!(run("false").await, Err(ConfigError::Secret(_))));
    assert!(matches!(run("cat /dev/null; cat x").await, Err(ConfigError::Secret(_))), "no shell");
}

#[test]
fn command_lines_are_split_at_spaces_outside_quotes() {
    assert_eq!(words(r#"  a "b c"  d"e f"g "" "#), ["a", "b c", "de fg", ""]);
    assert_eq!(words(" "), [""; 0]);
}
