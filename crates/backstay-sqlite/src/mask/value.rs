//! One value in, another out: the same for the same value and key, and nothing that leads back without the key.

use super::fake;
use crate::lazy::Value;
use backstay_model::mask::{ColumnPlan, Fixed, Fold, Form, Rule};

/// Numbers that every program can hold, a browser too.
const SMALL_BITS: u32 = 52;
const SMALL: i64 = 1 << SMALL_BITS;
const ROUNDS: u8 = 10;
/// Letters that stand for a value: 26 of them hold 130 bits.
const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
const TEXT_USUAL: usize = 26;
const BLOB_USUAL: usize = 16;

/// Turns values into others by a key.
pub struct Masker {
    key: [u8; 32],
}

impl Masker {
    /// `secret` is what a person keeps, or fresh random bytes.
    pub fn new(secret: &[u8]) -> Self {
        Self { key: blake3::derive_key("backstay 2026-11 masked copies", secret) }
    }

    pub(super) fn mask(&self, plan: &ColumnPlan, value: Value) -> Value {
        match (&plan.rule, value) {
            (Rule::Keep, value) => value,
            (Rule::Null, _) => Value::Null,
            (Rule::Fixed(fixed), _) => match fixed {
                Fixed::Integer(n) => Value::Integer(*n),
                Fixed::Real(x) => Value::Real(*x),
                Fixed::Text(text) => Value::Text(text.clone().into_bytes()),
            },
            (_, Value::Null) => Value::Null,
            // Nothing is told by nothing.
            (_, Value::Text(text)) if text.is_empty() => Value::Text(text),
            (_, Value::Blob(blob)) if blob.is_empty() => Value::Blob(blob),
            (Rule::Fake(fake), Value::Text(text)) => match fake::fake(self, *fake, plan.form, &text) {
                Some(made) => Value::Text(made.into_bytes()),
                None => self.hash_text(&text, plan.form, None),
            },
            (Rule::Hash { length }, value) => self.hash(value, plan.form, *length),
            (Rule::Fake(_), value) => self.hash(value, plan.form, None),
        }
    }

    fn hash(&self, value: Value, form: Form, length: Option<u16>) -> Value {
        match value {
            Value::Null => Value::Null,
            Value::Integer(n) => Value::Integer(self.number(n)),
            Value::Real(x) => Value::Real(self.real(x)),
            Value::Text(text) => self.hash_text(&text, form, length),
            Value::Blob(blob) => {
                let mut bytes = vec![0; length.map_or(BLOB_USUAL, usize::from).max(1)];
                self.stream("blob", &blob).fill(&mut bytes);
                Value::Blob(bytes)
            }
        }
    }

    fn hash_text(&self, text: &[u8], form: Form, length: Option<u16>) -> Value {
        // As a reference it would be compared as a number.
        if form.numeric
            && let Some(n) = std::str::from_utf8(text).ok().and_then(|text| text.trim().parse::<i64>().ok())
        {
            return Value::Text(self.number(n).to_string().into_bytes());
        }
        let letters = [length, form.length].into_iter().flatten().map(usize::from).min().unwrap_or(TEXT_USUAL);
        Value::Text(self.letters("text", &folded(text, form.fold), letters.clamp(1, TEXT_USUAL)).into_bytes())
    }

    /// A permutation of the integers that keeps their sign, so that keys never fall together.
    fn number(&self, n: i64) -> i64 {
        if n < 0 {
            return -1 - self.number(-1 - n);
        }
        if n < SMALL {
            return self.permuted(n.cast_unsigned(), SMALL_BITS).cast_signed();
        }
        let mut found = n.cast_unsigned();
        loop {
            // Walks on until it is back among the large ones, as it must be in the end.
            found = self.permuted(found, 64);
            if let Ok(n @ SMALL..) = i64::try_from(found) {
                return n;
            }
        }
    }

    /// As the integer of the same value, where there is one.
    fn real(&self, x: f64) -> f64 {
        if x.fract() == 0.0 && x.abs() < SMALL as f64 {
            return self.number(x as i64) as f64;
        }
        let mut bytes = [0; 8];
        self.stream("real", &x.to_bits().to_le_bytes()).fill(&mut bytes);
        let size = (u64::from_le_bytes(bytes) >> 13) as f64 + 0.5;
        if x < 0.0 { -size } else { size }
    }

    /// Rounds of a keyed function over the halves of a number, undone by nobody who lacks the key.
    fn permuted(&self, n: u64, bits: u32) -> u64 {
        let half = bits / 2;
        let mask = (1_u64 << half) - 1;
        let (mut left, mut right) = (n >> half, n & mask);
        for round in 0..ROUNDS {
            let mut hasher = blake3::Hasher::new_keyed(&self.key);
            hasher.update(&[b'r', round, bits as u8]).update(&right.to_le_bytes());
            let digest: [u8; 32] = hasher.finalize().into();
            let [a, b, c, d, e, f, g, h, ..] = digest;
            (left, right) = (right, left ^ (u64::from_le_bytes([a, b, c, d, e, f, g, h]) & mask));
        }
        (left << half) | right
    }

    /// So many letters that stand for a value; the first is none that a number begins with.
    pub(super) fn letters(&self, domain: &str, value: &[u8], count: usize) -> String {
        let mut bytes = vec![0; count];
        self.stream(domain, value).fill(&mut bytes);
        let letter = |(at, byte): (usize, &u8)| {
            let of = if at == 0 { 26 } else { LETTERS.len() };
            char::from(LETTERS.get(usize::from(*byte) % of).copied().unwrap_or(b'a'))
        };
        bytes.iter().enumerate().map(letter).collect()
    }

    /// Bytes without an end that belong to a value.
    pub(super) fn stream(&self, domain: &str, value: &[u8]) -> blake3::OutputReader {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&[domain.len() as u8]).update(domain.as_bytes()).update(value);
        hasher.finalize_xof()
    }
}

/// What a column takes for the same becomes the same.
pub(super) fn folded(text: &[u8], fold: Fold) -> Vec<u8> {
    match fold {
        Fold::Exact => text.to_owned(),
        Fold::Case => text.to_ascii_lowercase(),
        Fold::Trailing => {
            let end = text.iter().rposition(|byte| *byte != b' ').map_or(0, |at| at + 1);
            text.get(..end).unwrap_or_default().to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use backstay_model::mask::{Fake, Why};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn plan(rule: Rule, form: Form) -> ColumnPlan {
        ColumnPlan { name: "c".to_owned(), rule, why: Why::Profile, form }
    }

    fn text(value: Value) -> String {
        match value {
            Value::Text(text) => String::from_utf8(text).expect("text"),
            other => panic!("{other:?} is no text"),
        }
    }

    proptest! {
        #[test]
        fn numbers_never_fall_together_and_keep_their_sign(a in any::<i64>(), b in any::<i64>(), small in -5000..5000_i64) {
            let masker = Masker::new(b"key");
            prop_assert_eq!(masker.number(a) == masker.number(b), a == b);
            prop_assert_ne!(masker.number(small), masker.number(a.wrapping_add(i64::from(a == small))));
            prop_assert_eq!(masker.number(a) < 0 , a < 0, "{}", a);
            prop_assert_eq!(masker.number(small).abs() <= SMALL, true);
            prop_assert_eq!(masker.real(small as f64), masker.number(small) as f64);
        }

        #[test]
        fn every_rule_gives_the_same_for_the_same_and_another_with_another_key(value in "[ -~]{9,40}", which in 0..Fake::ALL.len()) {
            let (one, same, other) = (Masker::new(b"a"), Masker::new(b"a"), Masker::new(b"b"));
            for rule in [Rule::Hash { length: None }, Rule::Fake(Fake::ALL[which].1)] {
                let plan = plan(rule, Form { unique: true, ..Form::default() });
                let mask = |masker: &Masker| masker.mask(&plan, Value::Text(value.clone().into_bytes()));
                prop_assert_eq!(mask(&one), mask(&same));
                prop_assert_ne!(mask(&one), mask(&other));
                prop_assert_ne!(text(mask(&one)), value.clone());
            }
        }

        #[test]
        fn nothing_is_longer_than_its_column(value in "\\PC{1,60}", length in 1..40_u16, which in 0..Fake::ALL.len(), unique in any::<bool>()) {
            let masker = Masker::new(b"key");
            for rule in [Rule::Hash { length: None }, Rule::Fake(Fake::ALL[which].1)] {
                let plan = plan(rule, Form { unique, length: Some(length), ..Form::default() });
                let made = text(masker.mask(&plan, Value::Text(value.clone().into_bytes())));
                prop_assert!(made.chars().count() <= usize::from(length), "{made:?}");
            }
        }
    }

    #[test]
    fn made_up_values_of_unique_columns_do_not_fall_together() {
        let masker = Masker::new(b"key");
        for (name, fake) in Fake::ALL.into_iter().filter(|(name, _)| *name != "date") {
            let plan = plan(Rule::Fake(fake), Form { unique: true, ..Form::default() });
            let made: BTreeSet<String> =
                (0..20_000).map(|n| text(masker.mask(&plan, Value::Text(format!("value {n}").into_bytes())))).collect();
            assert_eq!(made.len(), 20_000, "{name}");
        }
    }

    #[test]
    fn what_a_column_takes_for_the_same_stays_the_same() {
        let masker = Masker::new(b"key");
        let hash =
            |form: Form, value: &str| masker.mask(&plan(Rule::Hash { length: None }, form), Value::Text(value.into()));
        let fold = |fold| Form { fold, ..Form::default() };
        assert_eq!(hash(fold(Fold::Case), "Bob"), hash(fold(Fold::Case), "bOB"));
        assert_eq!(hash(fold(Fold::Trailing), "bob  "), hash(fold(Fold::Exact), "bob"));
        assert_ne!(hash(fold(Fold::Exact), "Bob"), hash(fold(Fold::Exact), "bob"));
        let numeric = Form { numeric: true, ..Form::default() };
        assert_eq!(text(hash(numeric, "42")), masker.number(42).to_string());
    }

    #[test]
    fn nothing_stays_nothing() {
        let masker = Masker::new(b"key");
        for rule in [Rule::Hash { length: None }, Rule::Fake(Fake::Email)] {
            for value in [Value::Null, Value::Text(Vec::new()), Value::Blob(Vec::new())] {
                assert_eq!(masker.mask(&plan(rule.clone(), Form::default()), value.clone()), value);
            }
        }
    }
}
