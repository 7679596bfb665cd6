//! Copies as a person keeps them: set in backstay.toml, brought up to date, restored from when the original is gone.

mod far;
mod house;

use backstay_testkit::s3_server::{BUCKET, S3Server};
use far::Far;
use house::{House, rows};
use std::fs;

fn with_copy() -> House {
    let house = House::new();
    let text = fs::read_to_string(house.path("backstay.toml")).expect("a file");
    let text = text + "\n[copies.usb]\nrepository = \"./usb\"\n";
    fs::write(house.path("backstay.toml"), text).expect("written");
    house
}

#[test]
fn a_copy_restores_after_the_original_is_deleted() {
    let house = with_copy();
    let (exit, behind) = house.json(&["status"]);
    assert_eq!((exit, &behind["copies"][0]["verdict"]), (10, &"partial".into()), "there is no copy yet: {behind}");
    let (exit, copied) = house.json(&["repo", "copy"]);
    assert_eq!((exit, &copied["copies"][0]["report"]["sources"][0]["copied"]), (0, &1.into()), "{copied}");
    house.sql("UPDATE item SET name = 'changed' WHERE id = 5");
    house.ok(&["backup"]);
    let (exit, lagging) = house.json(&["status"]);
    let lag = &lagging["copies"][0]["sources"][0];
    assert_eq!((exit, &lag["behind"], lag["newest"].is_object()), (0, &1.into(), true), "{lagging}");
    assert_eq!(house.run(&["repo", "copy", "usb", "--check"]).0, 10, "it is behind");
    house.ok(&["repo", "copy", "usb"]);
    house.ok(&["repo", "copy", "usb", "--check", "--verify"]);
    assert_eq!(house.json(&["status"]).1["copies"][0]["sources"][0]["behind"], 0);
    let listed = house.ok(&["list", "shop"]);
    fs::remove_dir_all(house.path("vault")).expect("the original is gone");

    assert_eq!(house.ok(&["list", "shop", "--from-copy", "usb"]), listed);
    house.ok(&["show", "shop", "--from-copy", "usb"]);
    let (exit, deep) = house.json(&["check", "--deep", "--from-copy", "usb"]);
    assert_eq!((exit, &deep["sources"][0]["proof"]["outcome"]["proof"]), (0, &"proven".into()), "{deep}");
    house.ok(&["restore", "shop", "latest-proven", "--from-copy", "usb", "--to", "back.db"]);
    assert!(rows(&house.path("back.db")) == rows(&house.path("shop.db")));
    let (exit, _, err) = house.run(&["restore", "shop", "--from-copy", "nas", "--to", "x.db"]);
    assert!(exit == 2 && err.contains("usb"), "{err}");
}

#[test]
fn damage_in_the_copy_marks_nothing_in_the_original_and_damage_here_is_not_copied() {
    let house = with_copy();
    house.ok(&["repo", "copy"]);
    for entry in fs::read_dir(house.path("usb/data/shop/pack")).expect("packs").flatten() {
        fs::write(entry.path(), b"rubbish").expect("written");
    }
    assert_eq!(house.run(&["check", "--from-copy", "usb"]).0, 1);
    assert_eq!(house.run(&["repo", "copy", "--check"]).0, 1);
    house.ok(&["check"]);
    assert!(house.snapshots()[0]["quarantined"] == false, "its original is as good as before");
    house.sql("UPDATE item SET name = 'changed'");
    house.ok(&["backup"]);
    house.damage_packs();
    let (exit, report) = house.json(&["repo", "copy"]);
    assert_eq!(exit, 10, "{report}");
    assert_eq!(report["copies"][0]["report"]["sources"][0]["missing"], 1, "{report}");
}

#[test]
fn a_copy_in_a_bucket() {
    let server = S3Server::start();
    let far = Far::new(server.endpoint());
    far.house.ok(&house::INIT);
    let text = fs::read_to_string(far.house.path("backstay.toml")).expect("a file");
    let copy = format!(
        "\n[copies.offsite]\nrepository = \"s3://{BUCKET}/copy\"\n[copies.offsite.store]\nendpoint = \"{}\"\nallow_http = true\n",
        server.endpoint()
    );
    fs::write(far.house.path("backstay.toml"), text + &copy).expect("written");
    far.ok(&["repo", "copy"]);
    far.ok(&["repo", "copy", "--check", "--verify"]);
    far.ok(&["status"]);
    fs::remove_dir_all(far.house.path("vault")).expect("the original is gone");
    far.ok(&["check", "--from-copy", "offsite"]);
    far.ok(&["restore", "shop", "--from-copy", "offsite", "--to", "back.db"]);
    assert!(rows(&far.house.path("back.db")) == rows(&far.house.path("shop.db")));
}
