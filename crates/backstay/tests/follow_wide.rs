//! Following many databases with one process.

mod house;

use house::House;
use std::process::Command;

/// Five open files for each database are more than most systems let a process have at first.
#[test]
fn forty_databases_are_followed_where_64_open_files_are_the_limit_at_first() {
    const MANY: usize = 40;
    let house = House::bare();
    house.ok(&["init", "--yes", "--source", "shop=./shop.db", "--repo", "./vault", "--no-backup"]);
    std::fs::create_dir(house.path("tenants")).expect("made");
    let open: Vec<rusqlite::Connection> = (0..MANY)
        .map(|n| {
            let conn = rusqlite::Connection::open(house.path(&format!("tenants/t{n}.db"))).expect("open");
            conn.execute_batch("PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; CREATE TABLE t(x)").expect("made");
            conn
        })
        .collect();
    house.edit("backstay.toml", "[sources.shop]", "[sources.tenants]\nglob = \"./tenants/*.db\"\n\n[sources.shop]");
    let us = house.command(&["follow", "tenants", "--once", "--json"]);
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -S -n 64 && exec \"$0\" \"$@\""]).arg(us.get_program()).args(us.get_args());
    limited.current_dir(house.path("."));
    for (name, value) in us.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    let (exit, out, err) = house::ended(limited.output().expect("a shell"));
    assert_eq!(exit, 0, "{out}{err}");
    let said: serde_json::Value = serde_json::from_str(&out).expect("a value");
    assert_eq!(said["sources"].as_array().map(Vec::len), Some(MANY), "{said}");
    drop(open);
}
