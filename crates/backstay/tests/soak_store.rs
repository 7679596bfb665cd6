//! A whole life over a real server that a test run does not start by itself: `cargo xtask soak` does.

mod far;
mod house;

use far::{Far, value};
use house::rows;

/// What `cargo xtask soak` says of the server it has started.
#[expect(clippy::disallowed_methods, reason = "the server is somebody else's, and its address has no other way in")]
fn told(name: &str) -> String {
    let missing = |_| panic!("{name} is not set: run `cargo xtask soak store --server garage`");
    std::env::var(name).unwrap_or_else(missing)
}

const ROUNDS: usize = 12;

/// What such a server cannot do is found at the beginning and said; what it stores is restored all the same, through
/// backups, retention without a grace, a change of the key and a rewriting.
#[test]
#[ignore = "needs a server that `cargo xtask soak store` starts"]
fn a_life_over_a_server_of_the_soak() {
    let mut far = Far::new(told("SOAK_ENDPOINT"));
    let keys =
        [("AWS_ACCESS_KEY_ID", "SOAK_KEY"), ("AWS_SECRET_ACCESS_KEY", "SOAK_SECRET"), ("AWS_REGION", "SOAK_REGION")];
    far.env = keys.into_iter().map(|(name, from)| (name.to_owned(), told(from))).collect();
    let (exit, out, err) = far.init_at(&format!("s3://{}/soak-{}", told("SOAK_BUCKET"), std::process::id()));
    assert_eq!(exit, 0, "{out}{err}");
    assert_eq!(value(&out)["conditional_put"].to_string(), told("SOAK_CONDITIONAL"), "what the probe found: {out}");
    far.house.edit("backstay.toml", "[sources.shop]", "[retention]\nlast = 3\n\n[sources.shop]");
    for round in 0..ROUNDS {
        far.house
            .sql(&format!("UPDATE item SET name = 'round {round}', note = randomblob(900) WHERE id % 7 = {round} % 7"));
        far.ok(&["backup"]);
        far.ok(&["retention", "apply", "shop", "--grace", "0", "--confirm", "shop"]);
        let to = format!("round-{round}.db");
        far.ok(&["restore", "shop", "--to", &to]);
        assert_eq!(rows(&far.house.path(&to)), rows(&far.house.path("shop.db")), "round {round}");
    }
    assert_eq!(far.snapshots().len(), 3);
    far.ok(&["repo", "key", "rotate", "--rewrite"]);
    far.ok(&["retention", "apply", "shop", "--grace", "0", "--confirm", "shop"]);
    far.ok(&["check", "--deep"]);
    far.ok(&["restore", "shop", "--to", "last.db"]);
    assert_eq!(rows(&far.house.path("last.db")), rows(&far.house.path("shop.db")));
}
