//! What the credentials at hand may do in the store, found out by trying.
//!
//! Every probe has a fresh random name that nothing reads, in each folder that matters for a role. What
//! could be created is deleted again where that is allowed; where it is not, which is right for a
//! writer, the probe stays and is named. Nothing that was there before is touched.

use crate::OpsError;
use crate::catalog::Vault;
use backstay_format::facts::Role;
use backstay_model::{Kind, Kinded, ObjectId, Verdict, seams};
use backstay_store::{Key, Store, StoreError};
use bytes::Bytes;

/// A part of the repository that policies tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Area {
    Data,
    Conf,
    Marks,
    Masters,
    Audit,
}

impl Area {
    pub const ALL: [Area; 5] = [Area::Data, Area::Conf, Area::Marks, Area::Masters, Area::Audit];

    pub const fn prefix(self) -> &'static str {
        match self {
            Area::Data => "data/",
            Area::Conf => "ctl/conf/",
            Area::Marks => "ctl/mark/",
            Area::Masters => "ctl/master/",
            Area::Audit => "ctl/audit/",
        }
    }

    /// No source, signer or slot is called so, and no reader reads it.
    fn probe(self, id: &ObjectId) -> String {
        match self {
            Area::Conf => format!("ctl/conf/probe-{id}"),
            other => format!("{}.probe/{id}", other.prefix()),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Act {
    Create,
    Read,
    List,
    Delete,
}

impl Act {
    pub const ALL: [Act; 4] = [Act::Create, Act::Read, Act::List, Act::Delete];
}

/// What came of trying.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Answer {
    Allowed,
    Refused,
    /// The store did not say, or there is nothing to try it on.
    Unknown {
        why: String,
    },
}

/// What a role asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Want {
    MustNot,
    May,
    Must,
}

/// Whether a role must, may or must not do something somewhere. Nothing a writer can do may cause a
/// deletion, and nobody's daily credentials may write a configuration: that is for whoever holds the root.
pub fn want(role: Role, area: Area, act: Act) -> Want {
    use Want::{May, Must, MustNot};
    match (role, area, act) {
        (Role::Writer, Area::Masters, _) => MustNot,
        (Role::Writer, Area::Audit, Act::Read | Act::List) => May,
        (_, Area::Conf, Act::Create | Act::Delete) => MustNot,
        (_, _, Act::Read | Act::List) => Must,
        (Role::Writer, Area::Data, Act::Create) | (Role::Reader, Area::Marks, Act::Create) => Must,
        (Role::Reader, Area::Audit, Act::Create) => May,
        (Role::Keeper, Area::Audit, Act::Delete) => MustNot,
        (Role::Keeper, _, _) => Must,
        (Role::Writer | Role::Reader, _, Act::Create | Act::Delete) => MustNot,
    }
}

/// One thing that was tried.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Tried {
    pub area: Area,
    pub act: Act,
    #[serde(flatten)]
    pub answer: Answer,
    /// What the roles of this host ask for.
    pub want: Want,
    pub verdict: Verdict,
}

#[derive(Debug, Clone, serde::Serialize)]
pub struct PermissionsReport {
    pub verdict: Verdict,
    /// The roles that were asked about.
    pub roles: Vec<Role>,
    /// The roles these credentials could play, each by itself.
    pub could_be: Vec<Role>,
    pub tried: Vec<Tried>,
    /// Probes that could be made and not taken away.
    pub left: Vec<String>,
}

/// Tries everything. `holds_root` lets configurations be created: somebody must.
pub async fn audit(vault: &Vault, roles: &[Role], holds_root: bool) -> Result<PermissionsReport, OpsError> {
    let store = vault.repo.store().as_ref();
    let mut answers = Vec::new();
    let mut left = Vec::new();
    for area in Area::ALL {
        vault.env.cancel.check()?;
        let id = ObjectId::from_bytes(seams::fresh(vault.env.random.as_ref()));
        let probe = Key::parse(&area.probe(&id))?;
        let (found, stays) = try_area(store, area, &probe).await;
        answers.extend(found.into_iter().map(|(act, answer)| (area, act, answer)));
        left.extend(stays.then(|| probe.to_string()));
    }
    Ok(judge(roles, holds_root, answers, left))
}

async fn try_area(store: &dyn Store, area: Area, probe: &Key) -> ([(Act, Answer); 4], bool) {
    let created = answer(store.put_new(probe, Bytes::from_static(b"a probe of `backstay repo audit-perms`\n")).await);
    let made = created == Answer::Allowed;
    let listed = store.list(area.prefix(), None, 1).await;
    let first = listed.as_ref().ok().and_then(|page| page.entries.first().map(|entry| entry.key.clone()));
    let list = answer(listed);
    let read = match if made { Some(probe.clone()) } else { first } {
        Some(key) => answer(store.get_range(&key, 0..1).await),
        None => match store.get(probe).await {
            // Nothing is there, and the store says so instead of refusing.
            Err(StoreError::NotFound { .. }) => Answer::Allowed,
            other => answer(other),
        },
    };
    // To delete what is not there is allowed to whoever may delete.
    let delete = answer(store.delete(probe).await);
    let stays = made && delete != Answer::Allowed;
    ([(Act::Create, created), (Act::Read, read), (Act::List, list), (Act::Delete, delete)], stays)
}

fn answer<T>(result: Result<T, StoreError>) -> Answer {
    match result {
        Ok(_) => Answer::Allowed,
        // Not for want of a right: it is kept from everybody.
        Err(error @ StoreError::Locked { .. }) => Answer::Unknown { why: crate::prove::with_causes(&error) },
        Err(error) if error.kind() == Kind::Denied => Answer::Refused,
        Err(error) => Answer::Unknown { why: crate::prove::with_causes(&error) },
    }
}

/// What the answers mean. Pure.
fn judge(roles: &[Role], holds_root: bool, answers: Vec<(Area, Act, Answer)>, left: Vec<String>) -> PermissionsReport {
    let wanted = |area, act| {
        let root = (holds_root && area == Area::Conf && act == Act::Create).then_some(Want::Must);
        let of_roles = roles.iter().map(|role| want(*role, area, act));
        of_roles.chain(root).max().unwrap_or(Want::MustNot)
    };
    let could = |role: &Role| {
        answers.iter().all(|(area, act, answer)| want(*role, *area, *act) != Want::Must || *answer == Answer::Allowed)
    };
    let could_be = Role::ALL.into_iter().filter(could).collect();
    let tried: Vec<Tried> = answers
        .iter()
        .map(|(area, act, answer)| {
            let want = wanted(*area, *act);
            let verdict = match (want, answer) {
                (Want::Must, Answer::Refused) => Verdict::Fail,
                (Want::MustNot, Answer::Allowed) => Verdict::Partial,
                (Want::May, _) | (Want::Must, Answer::Allowed) | (Want::MustNot, Answer::Refused) => Verdict::Pass,
                (_, Answer::Unknown { .. }) => Verdict::Inconclusive,
            };
            Tried { area: *area, act: *act, answer: answer.clone(), want, verdict }
        })
        .collect();
    let verdict = tried.iter().fold(Verdict::Pass, |all, tried| all.and(tried.verdict));
    PermissionsReport { verdict, roles: roles.to_vec(), could_be, tried, left }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_role_writes_configurations_and_only_a_keeper_deletes() {
        for role in Role::ALL {
            assert_eq!(want(role, Area::Conf, Act::Create), Want::MustNot);
            assert_eq!(want(role, Area::Conf, Act::Delete), Want::MustNot);
            for area in [Area::Data, Area::Marks, Area::Masters] {
                let deletes = want(role, area, Act::Delete) == Want::Must;
                assert_eq!(deletes, role == Role::Keeper, "{role:?} {area:?}");
            }
        }
    }

    #[test]
    fn what_is_missing_fails_and_what_is_too_much_is_partial() {
        let all = |answer: Answer| {
            let acts = Area::ALL.into_iter().flat_map(|area| Act::ALL.map(|act| (area, act)));
            acts.map(|(area, act)| (area, act, answer.clone())).collect::<Vec<_>>()
        };
        let too_much = judge(&[Role::Writer], false, all(Answer::Allowed), Vec::new());
        assert_eq!((too_much.verdict, too_much.could_be), (Verdict::Partial, Role::ALL.to_vec()));
        let nothing = judge(&[Role::Writer], false, all(Answer::Refused), Vec::new());
        assert_eq!((nothing.verdict, nothing.could_be), (Verdict::Fail, Vec::new()));
        let silent = judge(&[Role::Writer], false, all(Answer::Unknown { why: String::new() }), Vec::new());
        assert_eq!(silent.verdict, Verdict::Inconclusive);
    }
}
