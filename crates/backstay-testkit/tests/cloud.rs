//! The cloud store over a real S3 server, and with a bad network and a bad server in between.

use backstay_format::facts::{Conf, StoreAbilities};
use backstay_model::{Kind, Kinded, Moment, RepoId};
use backstay_store::cloud::{
    AccessKeys, Addressing, AzureKeys, Checksum, CloudOptions, CloudStore, Credentials, GcsKeys, Reach, S3, ServerSide,
    Service, Transport,
};
use backstay_store::limit::Rates;
use backstay_store::os::OsRandom;
use backstay_store::repo::{NewRepository, RepoError, Repository};
use backstay_store::retry::{Patience, Retry};
use backstay_store::seal::MasterIdentity;
use backstay_store::seam::OBJECT_BYTES_MAX;
use backstay_store::signing::SigningKey;
use backstay_store::{Put, Store, StoreError};
use backstay_testkit::azurite::{ACCOUNT, ACCOUNT_KEY, Azurite, CONTAINER};
use backstay_testkit::s3_adversary::{Adversary, BEARER, Conditions, Odds, Trouble};
use backstay_testkit::s3_server::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY};
use backstay_testkit::store_contract::{contract, key, noise};
use bytes::Bytes;
use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

const REQUEST_TIME: Duration = Duration::from_secs(20);

fn options(endpoint: String, prefix: &str) -> CloudOptions {
    CloudOptions {
        place: format!("s3://{BUCKET}/{prefix}").parse().expect("a place"),
        reach: Reach {
            endpoint: Some(endpoint),
            transport: Transport::PlainAllowed,
            ca_pem: None,
            request_time: REQUEST_TIME,
            rates: Rates::default(),
        },
        storage_class: None,
        service: Service::S3(s3(AccessKeys {
            id: ACCESS_KEY.to_owned(),
            secret: SECRET_KEY.to_owned(),
            token: None,
            good_for: None,
        })),
    }
}

fn s3(keys: AccessKeys) -> S3 {
    S3 {
        region: "us-east-1".to_owned(),
        addressing: Addressing::Path,
        server_side: None,
        checksum: None,
        credentials: Credentials::Keys(keys),
    }
}

fn cloud(endpoint: String, prefix: &str) -> Arc<dyn Store> {
    Arc::new(CloudStore::open(options(endpoint, prefix)).expect("a client"))
}

/// Short, so that a store that never answers is given up on within the test.
const QUICK: Patience = Patience {
    attempt: Duration::from_secs(5),
    deadline: Duration::from_secs(20),
    pause_first: Duration::from_millis(1),
    pause_max: Duration::from_millis(20),
};

fn patient(store: Arc<dyn Store>) -> Arc<dyn Store> {
    Arc::new(Retry::new(store, Arc::new(OsRandom), QUICK))
}

/// An error and all its causes, as a person would see them.
fn told(error: &StoreError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

/// The adversary does nothing bad here but make puts wait for each other, which the server alone does not: its
/// check of the condition and its write are two steps. That a provider's are one, only the provider can show.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_bucket_keeps_the_contract() {
    let server = S3Server::start();
    let wire = Adversary::start(&server, Conditions::Honoured, None);
    let fresh = Cell::new(0);
    contract(async || {
        fresh.set(fresh.get() + 1);
        cloud(wire.endpoint(), &format!("Team/vault-{}", fresh.get()))
    })
    .await;
}

/// What goes at a pace goes through another client, and must carry the same condition under the same signature.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_bucket_at_a_pace_keeps_the_contract() {
    let server = S3Server::start();
    let wire = Adversary::start(&server, Conditions::Honoured, None);
    let fresh = Cell::new(0);
    contract(async || {
        fresh.set(fresh.get() + 1);
        let mut options = options(wire.endpoint(), &format!("paced-{}", fresh.get()));
        // Fast enough for a test; that it is kept is measured where time is pretended.
        let rate = std::num::NonZeroU64::new(1 << 30);
        options.reach.rates = Rates { upload: rate, download: rate };
        Arc::new(CloudStore::open(options).expect("a store")) as Arc<dyn Store>
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_bad_network_with_retries_keeps_what_it_acknowledged() {
    for seed in 0..3 {
        let server = S3Server::start();
        let troubles = vec![
            Trouble::LostBefore,
            Trouble::LostAfter,
            Trouble::CutAnswer,
            Trouble::Refused(500, "InternalError"),
            Trouble::Refused(503, "SlowDown"),
            Trouble::Slow(Duration::from_millis(30)),
        ];
        let odds = Odds { seed, per_thousand: 250, troubles };
        let bad = Adversary::start(&server, Conditions::Honoured, Some(odds));
        let (store, truth) = (patient(cloud(bad.endpoint(), "v")), cloud(server.endpoint(), "v"));
        for n in 0..60 {
            let (key, bytes) = (key(&format!("data/shop/pack/{n:02}")), noise(&format!("{seed} {n}"), 2000 + n * 37));
            let put = store.put_new(&key, bytes.clone()).await.unwrap_or_else(|e| panic!("seed {seed}: {}", told(&e)));
            // `Exists` is our own earlier attempt, whose answer was lost: nobody else knows the name.
            assert!(truth.get(&key).await.expect("acknowledged is there") == bytes, "seed {seed}, {n}, {put:?}");
            assert!(store.get(&key).await.expect("get") == bytes, "seed {seed}, {n}");
            let range = store.get_range(&key, 10..1000).await.expect("range");
            assert!(range == bytes[10..1000], "seed {seed}, {n}");
            assert_eq!(store.head(&key).await.expect("head"), Some(bytes.len() as u64));
        }
        let page = store.list("data/shop/", None, 1000).await.expect("list");
        assert_eq!((page.entries.len(), page.next), (60, None), "seed {seed}");
        for entry in &page.entries {
            store.delete(&entry.key).await.expect("delete");
        }
        assert_eq!(truth.list("", None, 10).await.expect("list").entries, [], "seed {seed}");
    }
}

#[tokio::test]
async fn without_a_retry_an_ambiguous_answer_is_unknown_and_asked_once() {
    let server = S3Server::start();
    let bad = Adversary::start(&server, Conditions::Honoured, None);
    let (store, truth) = (cloud(bad.endpoint(), "v"), cloud(server.endpoint(), "v"));
    let cases = [
        (Trouble::LostBefore, false),
        (Trouble::LostAfter, true),
        (Trouble::CutAnswer, true),
        (Trouble::Refused(500, "InternalError"), false),
        (Trouble::Refused(503, "SlowDown"), false),
        (Trouble::Refused(409, "ConditionalRequestConflict"), false),
        (Trouble::Refused(400, "RequestTimeout"), false),
        (Trouble::Refused(429, ""), false),
    ];
    for (n, (trouble, applied)) in cases.into_iter().enumerate() {
        let key = key(&format!("slot/{n}"));
        bad.next("PUT", trouble);
        let error = store.put_new(&key, Bytes::from_static(b"mine")).await.expect_err("no acknowledgement");
        assert!(matches!(error, StoreError::Unknown { .. }), "{trouble:?}: {}", told(&error));
        assert_eq!(bad.take_requests().len(), 1, "{trouble:?}: the client must not try again by itself");
        assert_eq!(truth.head(&key).await.expect("head").is_some(), applied, "{trouble:?}");
        // The next attempt finds out: ours when it was applied, made now when it was not.
        let again = store.put_new(&key, Bytes::from_static(b"mine")).await.expect("an answer");
        assert_eq!(again, if applied { Put::Exists } else { Put::Created }, "{trouble:?}");
        assert_eq!(truth.get(&key).await.expect("get"), "mine");
        bad.take_requests();
    }
    let one = key("slot/0");
    for trouble in [Trouble::CutAnswer, Trouble::LostAfter, Trouble::Refused(500, "InternalError")] {
        bad.next("GET", trouble);
        let error = store.get(&one).await.expect_err("half an answer is none");
        assert!(matches!(error, StoreError::Unknown { .. }), "{trouble:?}: {}", told(&error));
        bad.next("GET", trouble);
        let error = store.list("", None, 10).await.expect_err("half a listing is none");
        assert!(matches!(error, StoreError::Unknown { .. }), "{trouble:?}: {}", told(&error));
    }
}

#[tokio::test]
async fn refusals_keep_their_kind_and_nothing_the_server_said() {
    let server = S3Server::start();
    let bad = Adversary::start(&server, Conditions::Honoured, None);
    let store = cloud(bad.endpoint(), "v");
    let cases = [
        (403, "AccessDenied", Kind::Denied),
        (403, "SignatureDoesNotMatch", Kind::Denied),
        (401, "", Kind::Denied),
        (400, "ExpiredToken", Kind::Denied),
        (507, "", Kind::NoSpace),
        (403, "QuotaExceeded", Kind::NoSpace),
        (404, "NoSuchBucket", Kind::Config),
        (400, "InvalidArgument", Kind::Config),
        (501, "NotImplemented", Kind::Config),
        (502, "", Kind::Unavailable),
    ];
    for (status, code, kind) in cases {
        bad.next("PUT", Trouble::Refused(status, code));
        let put = store.put_new(&key("a"), Bytes::from_static(b"x")).await.expect_err("refused");
        bad.next("GET", Trouble::Refused(status, code));
        let get = store.get(&key("a")).await.expect_err("refused");
        bad.next("GET", Trouble::Refused(status, code));
        let list = store.list("", None, 1).await.expect_err("refused");
        bad.next("DELETE", Trouble::Refused(status, code));
        let delete = store.delete(&key("a")).await.expect_err("refused");
        for error in [put, get, list, delete] {
            let told = told(&error);
            assert_eq!(error.kind(), kind, "{status} {code}: {told}");
            assert!(told.contains(&status.to_string()) && told.contains(code), "{told}");
            assert!(!told.contains("SECRET-ECHO") && !told.contains(SECRET_KEY), "{told}");
        }
    }
    bad.next("PUT", Trouble::Refused(301, "PermanentRedirect"));
    let moved = store.put_new(&key("a"), Bytes::new()).await.expect_err("another region");
    assert!(moved.kind() == Kind::Config && told(&moved).contains("another region"), "{}", told(&moved));
    bad.next("GET", Trouble::Refused(404, "NoSuchKey"));
    assert!(matches!(store.get(&key("a")).await, Err(StoreError::NotFound { .. })));
    bad.next("DELETE", Trouble::Refused(404, "NoSuchKey"));
    store.delete(&key("a")).await.expect("what is not there is removed");
}

#[tokio::test]
async fn wrong_keys_and_absent_buckets_are_told_apart() {
    let server = S3Server::start();
    let wrong = AccessKeys { id: ACCESS_KEY.to_owned(), secret: "another".to_owned(), token: None, good_for: None };
    let stranger = CloudOptions { service: Service::S3(s3(wrong)), ..options(server.endpoint(), "v") };
    let store = CloudStore::open(stranger).expect("a client");
    let error = store.put_new(&key("a"), Bytes::new()).await.expect_err("a refusal");
    assert_eq!(error.kind(), Kind::Denied, "{}", told(&error));
    let elsewhere =
        CloudOptions { place: "s3://nowhere/v".parse().expect("a place"), ..options(server.endpoint(), "v") };
    let store = CloudStore::open(elsewhere).expect("a client");
    let error = store.list("", None, 1).await.expect_err("a refusal");
    assert_eq!(error.kind(), Kind::Config, "{}", told(&error));
    drop(server);
    let gone = cloud("http://127.0.0.1:1".to_owned(), "v");
    assert_eq!(gone.head(&key("a")).await.expect_err("nobody is there").kind(), Kind::Unavailable);
}

#[tokio::test]
async fn a_page_of_a_listing_is_one_request() {
    let server = S3Server::start();
    let bad = Adversary::start(&server, Conditions::Honoured, None);
    let store = cloud(bad.endpoint(), "v");
    for n in 0..30 {
        let put = store.put_new(&key(&format!("snap/{n:02}")), Bytes::from_static(b"x")).await.expect("put");
        assert_eq!(put, Put::Created);
    }
    bad.take_requests();
    let page = store.list("snap/", None, 5).await.expect("list");
    assert_eq!((page.entries.len(), page.next.as_ref().map(|k| k.as_str())), (5, Some("snap/04")));
    let requests = bad.take_requests();
    assert_eq!(requests.len(), 1, "{requests:?}");
    let rest = store.list("snap/", page.next.as_ref(), 1000).await.expect("list");
    assert_eq!((rest.entries.len(), rest.next), (25, None));
    assert_eq!(bad.take_requests().len(), 1);
}

#[tokio::test]
async fn foreign_names_are_named_when_they_lie_below_the_prefix() {
    let server = S3Server::start();
    let store = cloud(server.endpoint(), "v");
    store.put_new(&key("ctl/conf/0"), Bytes::from_static(b"x")).await.expect("put");
    std::fs::write(server.file_of("beside-the-prefix"), "x").expect("written");
    assert_eq!(store.list("", None, 10).await.expect("list").entries.len(), 1);
    std::fs::write(server.file_of("v/ctl/README.TXT"), "x").expect("written");
    match store.list("ctl/", None, 10).await {
        Err(StoreError::BadName { name }) => assert!(name.contains("README.TXT"), "{name}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_huge_object_is_refused_before_it_is_read() {
    let server = S3Server::start();
    let store = cloud(server.endpoint(), "v");
    store.put_new(&key("huge"), Bytes::from_static(b"x")).await.expect("put");
    // A file with a hole: its length costs nothing.
    let file = std::fs::OpenOptions::new().write(true).open(server.file_of("v/huge")).expect("the object");
    file.set_len(OBJECT_BYTES_MAX + 1).expect("longer");
    let answer = store.get(&key("huge")).await;
    assert!(matches!(answer, Err(StoreError::TooLarge { len, .. }) if len == OBJECT_BYTES_MAX + 1), "{answer:?}");
    let answer = store.get_range(&key("huge"), 0..OBJECT_BYTES_MAX + 1).await;
    assert!(matches!(answer, Err(StoreError::TooLarge { .. })), "{answer:?}");
}

/// A server that never answers is given up on at the deadline, whatever the client would like.
#[tokio::test]
async fn a_server_that_is_silent_is_not_waited_for_beyond_the_deadline() {
    let server = S3Server::start();
    let silent = Odds { seed: 1, per_thousand: 1000, troubles: vec![Trouble::Slow(Duration::from_secs(30))] };
    let bad = Adversary::start(&server, Conditions::Honoured, Some(silent));
    let patience = Patience { attempt: Duration::from_millis(200), deadline: Duration::from_millis(700), ..QUICK };
    let store = Retry::new(cloud(bad.endpoint(), "v"), Arc::new(OsRandom), patience);
    let answer = tokio::time::timeout(Duration::from_secs(10), store.put_new(&key("a"), Bytes::new())).await;
    assert!(matches!(answer, Ok(Err(StoreError::Deadline { .. }))), "{answer:?}");
}

#[tokio::test]
async fn a_store_that_ignores_conditions_overwrites_and_so_fails_the_probe() {
    let server = S3Server::start();
    let bad = Adversary::start(&server, Conditions::Ignored, None);
    let store = cloud(bad.endpoint(), "v");
    for bytes in ["first", "second"] {
        assert_eq!(store.put_new(&key("slot"), Bytes::from(bytes)).await.expect("put"), Put::Created);
    }
    assert_eq!(store.get(&key("slot")).await.expect("get"), "second");
}

fn entry(name: &str) -> String {
    format!("<Contents><Key>{name}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><Size>1</Size></Contents>")
}

/// A listing as a server would send it; lives as long as the test.
fn listing(names: &[&str], next: Option<&str>) -> Trouble {
    let entries: String = names.iter().map(|name| entry(name)).collect();
    let next = next.map(|token| format!("<NextContinuationToken>{token}</NextContinuationToken>")).unwrap_or_default();
    Trouble::Says(Box::leak(format!("<ListBucketResult>{entries}{next}</ListBucketResult>").into_boxed_str()))
}

#[tokio::test]
async fn listings_that_make_no_sense_are_no_answer_and_folders_of_consoles_are_passed_over() {
    let server = S3Server::start();
    let bad = Adversary::start(&server, Conditions::Honoured, None);
    let store = cloud(bad.endpoint(), "v");
    bad.next("GET", listing(&["v/", "v/ctl/", "v/ctl/a", "v/ctl/b"], None));
    let page = store.list("ctl/", None, 10).await.expect("a listing");
    assert_eq!(page.entries.iter().map(|e| e.key.as_str()).collect::<Vec<_>>(), ["ctl/a", "ctl/b"]);
    // A page with nothing but a folder leads to the next one.
    bad.next("GET", listing(&["v/ctl/"], Some("more")));
    bad.next("GET", listing(&["v/ctl/a"], None));
    let page = store.list("ctl/", None, 1).await.expect("a listing");
    assert_eq!((page.entries.len(), page.next), (1, None));
    let senseless = [
        listing(&["v/ctl/b", "v/ctl/a"], None),
        listing(&["v/ctl/a", "v/ctl/a"], None),
        listing(&["v/ctl/a", "v/ctl/b", "v/ctl/c"], None),
        listing(&[], Some("more")),
        Trouble::Says("<ListBucketResult><Contents>"),
        Trouble::Says("hello"),
    ];
    for trouble in senseless {
        bad.next("GET", trouble);
        let answer = store.list("ctl/", None, 2).await;
        assert!(matches!(answer, Err(StoreError::Unknown { .. })), "{trouble:?}: {answer:?}");
    }
    bad.next("GET", listing(&["v/ctl//a"], None));
    assert!(matches!(store.list("ctl/", None, 2).await, Err(StoreError::BadName { .. })));
}

/// A repository that knows what its store can do.
async fn repository(store: Arc<dyn Store>, conditional_put: bool) -> Repository {
    let root = SigningKey::generate(&OsRandom);
    let conf = Conf {
        generation: 0,
        created: Moment::from_millis(0).expect("a moment"),
        master: MasterIdentity::generate().master().text().to_owned(),
        older: None,
        published_identity: None,
        recipients: Vec::new(),
        signers: Vec::new(),
        store: StoreAbilities { conditional_put },
    };
    let new = NewRepository { id: RepoId::from_bytes([7; 16]), root: &root, conf };
    Repository::create(store, new).await.expect("a repository")
}

#[tokio::test]
async fn a_slot_is_ours_or_lost_whatever_became_of_the_answer() {
    for conditions in [Conditions::Honoured, Conditions::Ignored] {
        let server = S3Server::start();
        let bad = Adversary::start(&server, conditions, None);
        let repo = repository(patient(cloud(bad.endpoint(), "v")), conditions == Conditions::Honoured).await;
        let truth = cloud(server.endpoint(), "v");
        for (n, trouble) in [Trouble::LostAfter, Trouble::CutAnswer, Trouble::LostBefore].into_iter().enumerate() {
            let slot = key(&format!("data/shop/branch/{n}"));
            bad.next("PUT", trouble);
            repo.put_slot(&slot, Bytes::from_static(b"mine")).await.expect("it is ours");
            repo.put_slot(&slot, Bytes::from_static(b"mine")).await.expect("it still is");
            let lost = repo.put_slot(&slot, Bytes::from_static(b"another's")).await;
            assert!(matches!(lost, Err(RepoError::LostRace { .. })), "{conditions:?} {trouble:?}: {lost:?}");
            assert_eq!(truth.get(&slot).await.expect("get"), "mine", "{conditions:?} {trouble:?}");
        }
    }
}

fn azure(server: &Azurite, key: &str, prefix: &str) -> Arc<dyn Store> {
    let options = CloudOptions {
        place: format!("az://{ACCOUNT}/{CONTAINER}/{prefix}").parse().expect("a place"),
        service: Service::Azure(AzureKeys::AccountKey(key.to_owned())),
        ..options(server.endpoint(), prefix)
    };
    Arc::new(CloudStore::open(options).expect("a client"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn azurite_keeps_the_contract() {
    let server = Azurite::start();
    let fresh = Cell::new(0);
    contract(async || {
        fresh.set(fresh.get() + 1);
        azure(&server, ACCOUNT_KEY, &format!("Team/vault-{}", fresh.get()))
    })
    .await;
    let wrong = azure(&server, "d3Jvbmc=", "v");
    let error = wrong.put_new(&key("a"), Bytes::new()).await.expect_err("a refusal");
    assert_eq!(error.kind(), Kind::Denied, "{}", told(&error));
    let nowhere = CloudOptions {
        place: format!("az://{ACCOUNT}/nowhere/v").parse().expect("a place"),
        service: Service::Azure(AzureKeys::AccountKey(ACCOUNT_KEY.to_owned())),
        ..options(server.endpoint(), "v")
    };
    let nowhere = CloudStore::open(nowhere).expect("a client");
    let error = nowhere.list("", None, 1).await.expect_err("a refusal");
    assert_eq!(error.kind(), Kind::Config, "{}", told(&error));
}

fn google(endpoint: String, bearer: &str, prefix: &str) -> Arc<dyn Store> {
    let options = CloudOptions {
        place: format!("gs://{BUCKET}/{prefix}").parse().expect("a place"),
        service: Service::Gcs(GcsKeys::Token(bearer.to_owned())),
        storage_class: Some("NEARLINE".to_owned()),
        ..options(endpoint, prefix)
    };
    Arc::new(CloudStore::open(options).expect("a client"))
}

/// What is sent is Google's; the server behind the stand-in is not. The condition of a put must be said in
/// Google's words, or the stand-in passes it on without one and the contract breaks.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_stand_in_for_google_keeps_the_contract() {
    let server = S3Server::start_open();
    let wire = Adversary::stand_in_for_gcs(&server);
    let fresh = Cell::new(0);
    contract(async || {
        fresh.set(fresh.get() + 1);
        google(wire.endpoint(), BEARER, &format!("Team/vault-{}", fresh.get()))
    })
    .await;
    assert!(wire.take_heads().iter().any(|head| head.contains("x-goog-storage-class: NEARLINE")));
    let error = google(wire.endpoint(), "another", "v").head(&key("a")).await.expect_err("a refusal");
    assert_eq!(error.kind(), Kind::Denied, "{}", told(&error));
}

#[tokio::test]
async fn what_is_set_goes_over_the_wire_with_every_object_and_under_the_signature() {
    let server = S3Server::start();
    let wire = Adversary::start(&server, Conditions::Honoured, None);
    let head_of = async |s3: S3, class: Option<&str>| {
        let options = CloudOptions {
            service: Service::S3(s3),
            storage_class: class.map(str::to_owned),
            ..options(wire.endpoint(), "v")
        };
        let store = CloudStore::open(options).expect("a client");
        wire.take_heads();
        // Whether the server knows what these mean is not what is asked.
        let _ = store.put_new(&key("a"), Bytes::from_static(b"abc")).await;
        wire.take_heads().pop().expect("a request")
    };
    let plain = s3(AccessKeys {
        id: ACCESS_KEY.to_owned(),
        secret: SECRET_KEY.to_owned(),
        token: Some("a-session".to_owned()),
        good_for: None,
    });
    let head = head_of(plain.clone(), None).await;
    let digest = "x-amz-content-sha256: ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    for line in ["if-none-match: *", "x-amz-security-token: a-session", digest] {
        assert!(head.contains(line), "{line}: {head}");
    }
    assert!(!head.contains("x-amz-server-side-encryption") && !head.contains("x-amz-checksum"), "{head}");
    let kms = ServerSide::Kms { key: "arn:aws:kms:eu-central-1:1:key/2".to_owned() };
    let full = S3 { server_side: Some(kms), checksum: Some(Checksum::Sha256), ..plain.clone() };
    let head = head_of(full, Some("STANDARD_IA")).await;
    for line in [
        "x-amz-storage-class: STANDARD_IA",
        "x-amz-server-side-encryption: aws:kms",
        "x-amz-server-side-encryption-aws-kms-key-id: arn:aws:kms:eu-central-1:1:key/2",
        "x-amz-checksum-sha256: ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=",
    ] {
        assert!(head.contains(line), "{line}: {head}");
    }
    let signed = head.lines().find(|line| line.starts_with("authorization:")).expect("a signature");
    for name in ["if-none-match", "x-amz-storage-class", "x-amz-server-side-encryption", "x-amz-checksum-sha256"] {
        assert!(signed.contains(name), "{name}: {signed}");
    }
    let other = S3 { server_side: Some(ServerSide::Aes256), checksum: Some(Checksum::Crc64Nvme), ..plain };
    let head = head_of(other, None).await;
    assert!(
        head.contains("x-amz-server-side-encryption: AES256") && head.contains("x-amz-checksum-crc64nvme:"),
        "{head}"
    );
}

/// An answer cut short by somebody who mended its length, which only the length of the whole object gives away.
#[tokio::test]
async fn a_shortened_answer_is_none() {
    let server = S3Server::start();
    let bad = Adversary::start(&server, Conditions::Honoured, None);
    let store = cloud(bad.endpoint(), "v");
    store.put_new(&key("a"), noise("a", 1000)).await.expect("put");
    for trouble in [Trouble::ShortAnswer, Trouble::LongLength, Trouble::CutAnswer] {
        bad.next("GET", trouble);
        let whole = store.get(&key("a")).await;
        assert!(matches!(whole, Err(StoreError::Unknown { .. })), "{trouble:?}: {whole:?}");
        bad.next("GET", trouble);
        let part = store.get_range(&key("a"), 10..900).await;
        assert!(matches!(part, Err(StoreError::Unknown { .. })), "{trouble:?}: {part:?}");
    }
}
