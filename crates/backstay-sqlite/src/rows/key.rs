//! The order of keys, as SQLite's own trees have it.

use crate::lazy::Value;
use std::cmp::Ordering;

/// How text lies in a database: that is what its bytes are compared as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Utf8,
    Utf16le,
    Utf16be,
}

impl Encoding {
    pub(super) fn named(name: &str) -> Self {
        match name {
            "UTF-16le" => Encoding::Utf16le,
            "UTF-16be" => Encoding::Utf16be,
            _ => Encoding::Utf8,
        }
    }

    fn compare(self, a: &[u8], b: &[u8]) -> Ordering {
        let wide = |bytes: &[u8]| -> Vec<u8> {
            let text = String::from_utf8_lossy(bytes);
            match self {
                Encoding::Utf16le => text.encode_utf16().flat_map(u16::to_le_bytes).collect(),
                _ => text.encode_utf16().flat_map(u16::to_be_bytes).collect(),
            }
        };
        match self {
            Encoding::Utf8 => a.cmp(b),
            _ => wide(a).cmp(&wide(b)),
        }
    }
}

/// NULL, numbers, text by its bytes, blobs.
pub(super) fn compare(encoding: Encoding, a: &[Value], b: &[Value]) -> Ordering {
    let one = |(a, b): (&Value, &Value)| match (a, b) {
        (Value::Integer(a), Value::Integer(b)) => a.cmp(b),
        (Value::Real(a), Value::Real(b)) => a.total_cmp(b),
        (Value::Integer(n), Value::Real(x)) => against(*n, *x),
        (Value::Real(x), Value::Integer(n)) => against(*n, *x).reverse(),
        (Value::Text(a), Value::Text(b)) => encoding.compare(a, b),
        (Value::Blob(a), Value::Blob(b)) => a.cmp(b),
        (a, b) => class(a).cmp(&class(b)),
    };
    a.iter().zip(b).map(one).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
}

fn class(value: &Value) -> u8 {
    match value {
        Value::Null => 0,
        Value::Integer(_) | Value::Real(_) => 1,
        Value::Text(_) => 2,
        Value::Blob(_) => 3,
    }
}

/// Exactly, also where a double has fewer digits than the integer.
fn against(n: i64, x: f64) -> Ordering {
    const EDGE: f64 = 9_223_372_036_854_775_808.0;
    if x >= EDGE {
        return Ordering::Less;
    }
    if x < -EDGE {
        return Ordering::Greater;
    }
    let whole = x.trunc();
    n.cmp(&(whole as i64)).then_with(|| whole.partial_cmp(&x).unwrap_or(Ordering::Equal))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::Connection;

    /// SQLite sorts the same values into the same order, in every encoding.
    #[test]
    fn the_order_is_that_of_sqlite() {
        for name in ["UTF-8", "UTF-16le", "UTF-16be"] {
            let conn = Connection::open_in_memory().expect("open");
            conn.pragma_update(None, "encoding", name).expect("encoding");
            conn.execute_batch("CREATE TABLE t(x)").expect("table");
            let mut values = vec![Value::Null, Value::Blob(vec![]), Value::Blob(vec![0, 255])];
            values.extend([i64::MIN, -3, 0, 2, 9_007_199_254_740_993, i64::MAX].map(Value::Integer));
            values.extend([-1e300, -2.5, 0.5, 2.25, 9_007_199_254_740_992.0, 1e300].map(Value::Real));
            values.extend(
                ["", "a", "A", "\u{e9}", "\u{ff5e}", "\u{1f600}", "ab", "\u{100}"].map(|t| Value::Text(t.into())),
            );
            for value in &values {
                conn.execute("INSERT INTO t VALUES (?1)", [value]).expect("inserted");
            }
            let mut statement = conn.prepare("SELECT x FROM t ORDER BY x").expect("a query");
            let sorted = statement.query_map([], |row| Ok(Value::of(row.get_ref(0)?))).expect("rows");
            let sorted: Vec<Value> = sorted.map(|value| value.expect("a value")).collect();
            let encoding = Encoding::named(name);
            values.sort_by(|a, b| compare(encoding, std::slice::from_ref(a), std::slice::from_ref(b)));
            assert_eq!(values, sorted, "{name}");
        }
    }
}
