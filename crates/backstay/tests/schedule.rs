//! `backstay schedule export`: what is printed works.

mod house;

use house::House;
use std::fs;
use std::process::Command;

/// The files of the output, by the last part of their names.
fn files(house: &House, words: &[&str]) -> Vec<(String, String)> {
    let (exit, said) = house.json(&[&["schedule", "export"], words].concat());
    assert_eq!(exit, 0, "{said:#}");
    let text = |value: &serde_json::Value| value.as_str().expect("text").to_owned();
    let files = said["files"].as_array().expect("files").iter();
    files
        .map(|file| (text(&file["name"]).rsplit('/').next().expect("a name").to_owned(), text(&file["text"])))
        .collect()
}

#[test]
fn the_units_are_what_systemd_accepts() {
    let house = House::new();
    let units = files(&house, &["systemd", "--user", "root", "--at", "03:30"]);
    let dir = house.path("units and 100%");
    fs::create_dir(&dir).expect("a folder");
    for (name, text) in &units {
        fs::write(dir.join(name), text).expect("written");
    }
    let (service, timer) = (&units[0].1, &units[1].1);
    assert!(
        service.contains("User=root\n")
            && service.contains(" backup\n")
            && timer.contains("OnCalendar=*-*-* 03:30:00\n")
    );
    for folder in ["vault", ".backstay"] {
        let path = house.path(folder).display().to_string();
        assert!(service.lines().any(|line| line.starts_with("ReadWritePaths=") && line.contains(&path)), "{service}");
    }
    // Where there is no systemd there is nobody to ask, and nobody to run the units.
    let asked =
        Command::new("systemd-analyze").arg("verify").args(units.iter().map(|(name, _)| dir.join(name))).output();
    if let Ok(answer) = asked {
        let said = String::from_utf8_lossy(&answer.stderr).into_owned();
        let about_ours: Vec<&str> = said.lines().filter(|line| line.contains("backstay")).collect();
        assert!(answer.status.success() && about_ours.is_empty(), "{said}\n{service}");
    }
}

/// What cron makes of a line: everything behind five fields, with `\%` a per cent sign.
fn run_as_cron(house: &House, crontab: &str, line: &str) -> (i32, String) {
    let path = crontab.lines().find_map(|line| line.strip_prefix("PATH=")).expect("a path");
    let command = line.split_whitespace().skip(5).collect::<Vec<_>>().join(" ").replace("\\%", "%");
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", &command]).env_clear().env("PATH", path).env("HOME", house.0.path()).current_dir("/");
    let output = shell.output().expect("a shell");
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().expect("an exit code"), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn the_lines_for_cron_run_and_say_nothing_unless_something_is_wrong() {
    let house = House::new();
    // A folder such as people have.
    let odd = house.path("it's 100% mine");
    fs::create_dir(&odd).expect("a folder");
    for name in ["shop.db", "shop.db-wal", "backstay.key", "backstay.toml", "vault", ".backstay"] {
        if house.path(name).exists() {
            fs::rename(house.path(name), odd.join(name)).expect("moved");
        }
    }
    let config = odd.join("backstay.toml").display().to_string();
    let crontab = &files(&house, &["cron", "--config", &config])[0].1;
    let lines: Vec<&str> = crontab.lines().filter(|line| line.starts_with("0 ")).collect();
    assert_eq!(lines.len(), 2, "{crontab}");
    let snapshots = || fs::read_dir(odd.join("vault/data/shop/snap")).expect("snapshots").count();
    let before = snapshots();
    for line in &lines {
        assert_eq!(run_as_cron(&house, crontab, line), (0, String::new()), "{line}");
    }
    assert_eq!(snapshots(), before + 1);
    fs::rename(odd.join("shop.db"), odd.join("gone.db")).expect("moved");
    let (exit, said) = run_as_cron(&house, crontab, lines[0]);
    assert!(exit != 0 && said.contains("shop"), "cron mails what is wrong: {exit} {said}");
}
