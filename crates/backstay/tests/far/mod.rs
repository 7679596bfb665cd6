//! A house whose repository is in a bucket, reached through whatever stands at an address.
#![allow(dead_code, reason = "each test file uses its part of it")]

use crate::house::{Ended, House, ended};
use backstay_testkit::s3_server::{ACCESS_KEY, BUCKET, SECRET_KEY};
use serde_json::Value;
use std::process::Command;

pub struct Far {
    pub house: House,
    pub endpoint: String,
    /// Variables of every command.
    pub env: Vec<(String, String)>,
}

impl Far {
    pub fn new(endpoint: String) -> Self {
        let keys = [("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY)];
        let env = keys.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Self { house: House::bare(), endpoint, env }
    }

    /// With one more variable.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = self.house.command(words);
        let clouds = ["AWS_", "AZURE_", "GOOGLE_"];
        let theirs = |name: &str| clouds.iter().any(|cloud| name.starts_with(cloud));
        for (name, _) in std::env::vars_os().filter(|(name, _)| theirs(&name.to_string_lossy())) {
            command.env_remove(name);
        }
        command.env("HOME", self.house.0.path());
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    pub fn run(&self, words: &[&str]) -> Ended {
        let ended = ended(self.command(words).output().expect("the binary runs"));
        assert!(!format!("{}{}", ended.1, ended.2).contains(SECRET_KEY), "{words:?} shows the secret");
        assert!(!format!("{}{}", ended.1, ended.2).contains("SECRET-ECHO"), "{words:?} shows what the server said");
        ended
    }

    pub fn ok(&self, words: &[&str]) -> String {
        let (exit, out, err) = self.run(words);
        assert_eq!(exit, 0, "{words:?}: {out}{err}");
        out
    }

    pub fn json(&self, words: &[&str]) -> Value {
        value(&self.ok(&[words, &["--json"]].concat()))
    }

    /// Makes the repository at `repo`, with the first backup; its address goes into the configuration.
    pub fn init_at(&self, repo: &str) -> Ended {
        let mut command = self.command(&["init", "--yes", "--source", "shop=./shop.db", "--repo", repo, "--json"]);
        command.env("BACKSTAY_STORE_ENDPOINT", &self.endpoint).env("BACKSTAY_STORE_ALLOW_HTTP", "true");
        ended(command.output().expect("the binary runs"))
    }

    pub fn init(&self) -> Ended {
        self.init_at(&format!("s3://{BUCKET}/shop"))
    }

    /// Ids of the snapshots, the newest first.
    pub fn snapshots(&self) -> Vec<String> {
        let listed = self.json(&["list", "shop"]);
        let rows = listed["snapshots"].as_array().expect("a list");
        rows.iter().map(|row| row["id"].as_str().expect("an id").to_owned()).collect()
    }
}

pub fn value(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}
