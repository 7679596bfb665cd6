//! A profile as a person writes it, in TOML.

use super::unreadable;
use crate::diagnostics::Diagnostic;
use backstay_model::mask::{Fixed, Profile, Rule};
use std::path::Path;
use toml_edit::{Document, Item, TableLike};

/// Written by people: anything longer is the wrong file.
const LENGTH_MAX: u64 = 1 << 20;
/// Fewer bytes could be guessed.
const KEY_MIN: usize = 16;
/// What leaves a column open.
const OPEN: &str = "?";

/// A profile, and the key it names.
#[derive(Debug)]
pub struct Read {
    pub profile: Profile,
    pub secret: Option<Vec<u8>>,
}

pub fn read(path: &Path) -> Result<Read, Diagnostic> {
    let text = String::from_utf8(bytes(path)?).map_err(|_| unreadable(path, "it is no text"))?;
    let (profile, key_file) = parse(&text).map_err(|what| unreadable(path, &what))?;
    let secret = key_file.map(|file| {
        let file = path.parent().unwrap_or(Path::new(".")).join(file);
        let secret = bytes(&file)?;
        if secret.len() < KEY_MIN {
            return Err(unreadable(
                &file,
                "a key has 16 bytes or more; `head -c 32 /dev/urandom > mask.key` makes one",
            ));
        }
        Ok(secret)
    });
    Ok(Read { profile, secret: secret.transpose()? })
}

fn bytes(path: &Path) -> Result<Vec<u8>, Diagnostic> {
    let read = backstay_ops::disk::read_small(path, LENGTH_MAX);
    let found = read.map_err(|error| unreadable(path, &error.source.to_string()))?;
    found.ok_or_else(|| unreadable(path, "there is no such file"))
}

fn parse(text: &str) -> Result<(Profile, Option<String>), String> {
    let document = Document::parse(text).map_err(|error| error.to_string())?;
    let mut profile = Profile { strict: true, ..Profile::default() };
    let (mut version, mut key_file) = (None, None);
    for (name, item) in document.iter() {
        match name {
            "version" => version = Some(item.as_integer().ok_or("`version` is a number")?),
            "strict" => profile.strict = item.as_bool().ok_or("`strict` is true or false")?,
            "key_file" => key_file = Some(item.as_str().ok_or("`key_file` is the path of a file")?.to_owned()),
            "empty" => profile.empty = names(item)?,
            "table" => tables(item, &mut profile)?,
            other => return Err(format!("`{other}` means nothing in a profile")),
        }
    }
    match version {
        Some(1) => Ok((profile, key_file)),
        Some(other) => Err(format!("its version is {other}, and this Backstay knows 1")),
        None => Err("it lacks `version = 1`".to_owned()),
    }
}

fn names(item: &Item) -> Result<Vec<String>, String> {
    let list = item.as_array().and_then(|list| list.iter().map(|name| name.as_str().map(str::to_owned)).collect());
    list.ok_or_else(|| "`empty` is a list of names of tables".to_owned())
}

fn tables(item: &Item, profile: &mut Profile) -> Result<(), String> {
    let tables = item.as_table_like().ok_or("write the columns of a table below `[table.NAME]`")?;
    for (table, item) in tables.iter() {
        let columns =
            item.as_table_like().ok_or_else(|| format!("write the columns of {table} below `[table.{table}]`"))?;
        for (column, item) in columns.iter() {
            let rule = rule(item).map_err(|what| format!("{table}.{column}: {what}"))?;
            profile.rules.push((table.to_owned(), column.to_owned(), rule));
        }
    }
    Ok(())
}

fn rule(item: &Item) -> Result<Option<Rule>, String> {
    if let Some(word) = item.as_str() {
        return if word == OPEN { Ok(None) } else { word.parse().map(Some) };
    }
    let table = item.as_table_like().ok_or("write a rule such as \"hash\" or { fixed = \"x\" }")?;
    let mut entries = table.iter();
    match (entries.next(), entries.next()) {
        (Some(("fixed", value)), None) => fixed(value).map(Rule::Fixed).map(Some),
        (Some(("hash", _)), None) => length(table).map(|length| Some(Rule::Hash { length: Some(length) })),
        _ => Err("write { fixed = VALUE } or { hash = LENGTH }".to_owned()),
    }
}

fn length(table: &dyn TableLike) -> Result<u16, String> {
    let length = table.get("hash").and_then(Item::as_integer).and_then(|length| u16::try_from(length).ok());
    length.filter(|length| *length > 0).ok_or_else(|| "the length of a hash is a number from 1 to 65535".to_owned())
}

fn fixed(value: &Item) -> Result<Fixed, String> {
    if let Some(text) = value.as_str() {
        return Ok(Fixed::Text(text.to_owned()));
    }
    if let Some(n) = value.as_integer() {
        return Ok(Fixed::Integer(n));
    }
    if let Some(x) = value.as_float() {
        return Ok(Fixed::Real(x));
    }
    value.as_bool().map(|yes| Fixed::Integer(yes.into())).ok_or_else(|| "a fixed value is text or a number".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use backstay_model::mask::Fake;

    #[test]
    fn every_way_to_write_a_rule_is_read() {
        let text = "version = 1\nkey_file = './k'\nempty = ['log']\n[table.a]\nb = 'keep'\nc = 'hash'\nd = { hash = 8 }\n\
                    e = 'fake:email'\nf = { fixed = 'x' }\ng = { fixed = 1.5 }\nh = { fixed = true }\ni = '?'\n";
        let (profile, key) = parse(text).expect("a profile");
        assert!(profile.strict, "unless it says otherwise");
        assert_eq!((profile.empty.as_slice(), key.as_deref()), (["log".to_owned()].as_slice(), Some("./k")));
        let rules: Vec<Option<Rule>> = profile.rules.into_iter().map(|(_, _, rule)| rule).collect();
        let wanted = [
            Some(Rule::Keep),
            Some(Rule::Hash { length: None }),
            Some(Rule::Hash { length: Some(8) }),
            Some(Rule::Fake(Fake::Email)),
            Some(Rule::Fixed(Fixed::Text("x".into()))),
            Some(Rule::Fixed(Fixed::Real(1.5))),
            Some(Rule::Fixed(Fixed::Integer(1))),
            None,
        ];
        assert_eq!(rules, wanted);
    }

    #[test]
    fn what_is_not_understood_is_an_error_and_never_a_column_left_as_it_is() {
        let all = [
            ("strict = true", "version"),
            ("version = 2", "knows 1"),
            ("version = 1\ntables = 1", "`tables`"),
            ("version = 1\n[table.a]\nb = 'hsah'", "a.b: \"hsah\" is no rule"),
            ("version = 1\n[table.a]\nb = 'fake:person'", "nothing is made up as \"person\""),
            ("version = 1\n[table.a]\nb = { hash = 0 }", "1 to 65535"),
            ("version = 1\n[table.a]\nb = { hash = 4, fixed = 1 }", "{ fixed = VALUE }"),
            ("version = 1\n[table.a]\nb = 4", "a.b"),
            ("version = 1\nempty = 'log'", "`empty`"),
        ];
        for (text, word) in all {
            let error = parse(text).expect_err(text);
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
