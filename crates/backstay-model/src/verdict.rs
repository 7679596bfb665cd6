//! The four outcomes of anything that was tried, and how several become one.

/// What came of a check, a proof or a backup. A failure to reach a verdict is an error, not one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    Pass,
    Fail,
    /// Some of it holds, and what does not is named.
    Partial,
    /// It could not be found out.
    Inconclusive,
}

impl Verdict {
    pub const ALL: [Verdict; 4] = [Verdict::Pass, Verdict::Fail, Verdict::Partial, Verdict::Inconclusive];

    pub const fn exit(self) -> u8 {
        match self {
            Verdict::Pass => 0,
            Verdict::Fail => 1,
            Verdict::Partial => 10,
            Verdict::Inconclusive => 11,
        }
    }

    pub const fn word(self) -> &'static str {
        match self {
            Verdict::Pass => "pass",
            Verdict::Fail => "fail",
            Verdict::Partial => "partial",
            Verdict::Inconclusive => "inconclusive",
        }
    }

    /// The verdict over two parts: the worse of them, where a failure outranks everything.
    pub fn and(self, other: Verdict) -> Verdict {
        let rank = |v: Verdict| match v {
            Verdict::Pass => 0,
            Verdict::Inconclusive => 1,
            Verdict::Partial => 2,
            Verdict::Fail => 3,
        };
        if rank(self) >= rank(other) { self } else { other }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_never_outvoted() {
        for v in Verdict::ALL {
            assert_eq!(v.and(Verdict::Fail), Verdict::Fail);
            assert_eq!(Verdict::Pass.and(v), v);
        }
    }
}
