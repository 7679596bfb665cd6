//! Values that look like what they stand for and belong to nobody.
//!
//! Addresses of mail end in names that are kept for examples, numbers of telephones in ranges that nobody has. In a
//! column whose values must differ, letters that stand for the value make them differ.

use super::names::{CITY, FAMILY, GIVEN, STREET, TRADE, WORD};
use super::value::{Masker, folded};
use backstay_model::mask::{Fake, Form};

/// Letters that make a value differ from all others: 50 bits.
const TAIL: usize = 10;

/// `None` where the value is not of the kind.
pub fn fake(masker: &Masker, kind: Fake, form: Form, text: &[u8]) -> Option<String> {
    let text = folded(text, form.fold);
    let text = std::str::from_utf8(&text).ok()?;
    let mut dice = Dice::of(masker, kind, text);
    let tail = masker.letters("tail", text.as_bytes(), TAIL);
    let apart = |with: &str| if form.unique { format!("{with}{tail}") } else { String::new() };
    let (body, tail) = match kind {
        Fake::Name => (format!("{} {}", dice.pick(&GIVEN), dice.pick(&FAMILY)), apart(" ")),
        Fake::GivenName => (dice.pick(&GIVEN).to_owned(), apart("-")),
        Fake::FamilyName => (dice.pick(&FAMILY).to_owned(), apart("-")),
        Fake::Email => {
            let name = format!("{}.{}.", dice.pick(&GIVEN), dice.pick(&FAMILY)).to_ascii_lowercase();
            (name, format!("{tail}@example.{}", dice.pick(&["com", "net", "org"])))
        }
        Fake::User => (format!("{}_", dice.pick(&GIVEN)).to_ascii_lowercase(), tail),
        Fake::Phone if form.unique => (format!("+999{:012}", dice.below(1_000_000_000_000)), String::new()),
        Fake::Phone => (format!("+1{}55501{:02}", 200 + dice.below(800), dice.below(100)), String::new()),
        Fake::Address => {
            let street = format!("{} {} Street, {}", 1 + dice.below(199), dice.pick(&STREET), dice.pick(&CITY));
            (street, apart(", "))
        }
        Fake::City => (dice.pick(&CITY).to_owned(), apart(" ")),
        Fake::Company => (format!("{} {}", dice.pick(&FAMILY), dice.pick(&TRADE)), apart(" ")),
        Fake::Text => (words(&mut dice, text.chars().count(), form.unique.then_some(tail.as_str())), String::new()),
        Fake::Date => (date(&mut dice, text)?, String::new()),
    };
    Some(fitted(body, &tail, form.length))
}

/// What makes it differ stays whole for as long as there is room for it.
fn fitted(mut body: String, tail: &str, length: Option<u16>) -> String {
    let room = length.map_or(usize::MAX, usize::from);
    // All of it is ASCII: a byte is a character.
    body.truncate(room.saturating_sub(tail.len()));
    body.push_str(tail);
    body.truncate(room);
    body
}

/// Words of so many characters in all.
fn words(dice: &mut Dice, length: usize, tail: Option<&str>) -> String {
    let mut text = tail.unwrap_or_default().to_owned();
    let length = length.max(text.len());
    while text.len() < length {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(dice.pick(&WORD));
    }
    text.truncate(length);
    // No space at the end, which a constraint may not like.
    if text.ends_with(' ') {
        text.truncate(length - 1);
        text.push('.');
    }
    text
}

/// `2026-03-01T12:34:56Z` becomes another day of 2026 at midnight, in the same form.
fn date(dice: &mut Dice, text: &str) -> Option<String> {
    let (day, time) = text.split_at_checked(10)?;
    let is_day =
        day.bytes().enumerate().all(|(at, byte)| if at == 4 || at == 7 { byte == b'-' } else { byte.is_ascii_digit() });
    let is_time = time.bytes().all(|byte| byte.is_ascii_digit() || b"TZ :.+-".contains(&byte));
    if !is_day || !is_time {
        return None;
    }
    let midnight: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    Some(format!("{}-{:02}-{:02}{midnight}", day.get(..4)?, 1 + dice.below(12), 1 + dice.below(28)))
}

/// Chance that a value and a key fix.
struct Dice(blake3::OutputReader);

impl Dice {
    fn of(masker: &Masker, kind: Fake, text: &str) -> Self {
        let name = Fake::ALL.iter().find(|(_, known)| *known == kind).map_or("", |(name, _)| name);
        Self(masker.stream(name, text.as_bytes()))
    }

    fn below(&mut self, sides: u64) -> u64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        u64::from_le_bytes(bytes) % sides
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        let at = usize::try_from(self.below(of.len().max(1) as u64)).unwrap_or(0);
        of.get(at).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(kind: Fake, text: &str) -> Option<String> {
        fake(&Masker::new(b"key"), kind, Form::default(), text.as_bytes())
    }

    #[test]
    fn made_up_values_look_like_what_they_stand_for() {
        let email = made(Fake::Email, "jane@corp.example").expect("made");
        let (name, host) = email.split_once('@').expect("an address");
        assert!(name.split('.').count() == 3 && host.starts_with("example."), "{email}");
        let phone = made(Fake::Phone, "0301234").expect("made");
        assert!(phone.len() == 12 && phone.get(5..10) == Some("55501"), "{phone}");
        assert_eq!(made(Fake::Text, "f\u{fc}nf und drei").expect("made").len(), 13);
        let date = made(Fake::Date, "1987-06-05 04:03:02.1+02:00").expect("made");
        assert!(date.starts_with("1987-") && date.ends_with(" 00:00:00.0+00:00"), "{date}");
        assert_eq!([made(Fake::Date, "yesterday"), made(Fake::Date, "1987-06-05 at noon")], [None, None]);
    }
}
