//! Who may do what on which CMKs (spec/kms.md 6.3): a policy in TOML. What it does not allow is denied.

use std::collections::{HashMap, HashSet};

use serde::Deserialize;

use super::{
    key::{Alias, KeyId, KeyRef},
    message::Verb,
};
use crate::{keys::VerifyingKey, platform::utc};

/// Bytes of the longest policy.
pub const POLICY_MAX: usize = 4 << 20;
/// Bytes of a caller's name.
const NAME_MAX: usize = 64;
/// What the audit log calls the owner of a store, its own work, and who is no caller.
const TAKEN: [&str; 3] = [OWNER, SCHEDULE, UNKNOWN];
const OWNER: &str = "local";
pub(super) const SCHEDULE: &str = "schedule";
const UNKNOWN: &str = "unknown";

/// A text that is no policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// Not TOML, or not of this form; says where.
    #[error("the policy is malformed: {0}")]
    Toml(String),
    /// Longer than [`POLICY_MAX`].
    #[error("the policy is longer than {POLICY_MAX} bytes")]
    TooLong,
    /// The name of a caller is empty, too long, or has characters that are not seen, or quotes.
    #[error("a caller's name is 1 to {NAME_MAX} bytes of printable characters without quotes, unlike {0:?}")]
    Name(String),
    /// The audit log calls somebody else so.
    #[error("no caller is called {0:?}: the audit log means another by that")]
    NameTaken(String),
    /// Two callers have one name.
    #[error("two callers are called {0:?}")]
    NameTwice(String),
    /// Two callers have one key.
    #[error("the callers {0:?} and {1:?} have one key")]
    KeyTwice(String, String),
    /// What stands for a sender key is none.
    #[error("the key of the caller {caller:?} is none (sws1…): {why}")]
    Key {
        /// Whose.
        caller: String,
        /// What is wrong with it.
        why: String,
    },
    /// A verb that there is not.
    #[error("the caller {caller:?} is allowed {verb:?}, which is no verb; they are create-key, list-keys and so on, or \"*\"")]
    Verb {
        /// Whose.
        caller: String,
        /// What stands there.
        verb: String,
    },
    /// What names no CMK.
    #[error("the caller {caller:?} is allowed on {key:?}, which is no id and no alias, nor \"*\"")]
    KeyName {
        /// Whose.
        caller: String,
        /// What stands there.
        key: String,
    },
    /// A date without its time of day and zone.
    #[error("the caller {0:?} expires at no moment; write it as 2027-01-31T00:00:00Z")]
    Expires(String),
}

/// Who may do what.
///
/// ```
/// use sealwire::{SenderKey, kms::AccessPolicy};
/// let orders = SenderKey::generate()?;
/// let policy = AccessPolicy::from_toml(&format!(
///     r#"
///     [[caller]]
///     name = "orders"
///     key = "{}"
///     expires = 2099-01-01T00:00:00Z
///     allow = [{{ verbs = ["generate-data-key", "decrypt-data-key"], keys = ["orders"] }}]
///     "#,
///     orders.verifying_key()
/// ))?;
/// assert!(policy.knows(orders.verifying_key()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Default)]
pub struct AccessPolicy {
    callers: HashMap<VerifyingKey, Caller>,
}

#[derive(Debug)]
struct Caller {
    name: String,
    /// Seconds since the Unix epoch.
    expires: Option<u64>,
    revoked: bool,
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    /// A bit for each verb.
    verbs: u32,
    any: bool,
    ids: HashSet<KeyId>,
    aliases: HashSet<Alias>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    caller: Vec<CallerToml>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CallerToml {
    name: String,
    key: String,
    expires: Option<toml::value::Datetime>,
    #[serde(default)]
    revoked: bool,
    #[serde(default)]
    allow: Vec<RuleToml>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleToml {
    verbs: Vec<String>,
    keys: Vec<String>,
}

impl AccessPolicy {
    /// Reads a policy. What is not understood is refused, not passed over.
    ///
    /// # Errors
    /// [`AccessError`].
    pub fn from_toml(text: &str) -> Result<Self, AccessError> {
        if text.len() > POLICY_MAX {
            return Err(AccessError::TooLong);
        }
        let file: File = toml::from_str(text).map_err(|error| AccessError::Toml(in_one_line(text, &error)))?;
        let mut policy = Self::default();
        for caller in file.caller {
            policy.add(caller)?;
        }
        Ok(policy)
    }

    fn add(&mut self, said: CallerToml) -> Result<(), AccessError> {
        let name = said.name;
        // As the audit log shows it, with nothing in it that is not seen.
        if name.is_empty() || name.len() > NAME_MAX || crate::wire::inspect::escape(name.as_bytes()) != name {
            return Err(AccessError::Name(name));
        }
        if TAKEN.contains(&name.as_str()) {
            return Err(AccessError::NameTaken(name));
        }
        if self.callers.values().any(|caller| caller.name == name) {
            return Err(AccessError::NameTwice(name));
        }
        let key = said.key.parse::<VerifyingKey>();
        let key = key.map_err(|error| AccessError::Key { caller: name.clone(), why: error.to_string() })?;
        let expires = said.expires.map(|date| seconds(date).ok_or(AccessError::Expires(name.clone()))).transpose()?;
        let rules = said.allow.into_iter().map(|rule| Rule::read(rule, &name)).collect::<Result<_, _>>()?;
        let caller = Caller { name, expires, revoked: said.revoked, rules };
        match self.callers.entry(key) {
            std::collections::hash_map::Entry::Occupied(there) => {
                Err(AccessError::KeyTwice(there.get().name.clone(), caller.name))
            }
            std::collections::hash_map::Entry::Vacant(free) => {
                free.insert(caller);
                Ok(())
            }
        }
    }

    /// Whether a key is a caller's, whatever he may do.
    #[must_use]
    pub fn knows(&self, key: &VerifyingKey) -> bool {
        self.callers.contains_key(key)
    }

    /// The same, of a caller whose time has not come.
    #[must_use]
    pub(crate) fn admits(&self, key: &VerifyingKey, now: u64) -> bool {
        self.callers.get(key).is_some_and(|caller| !caller.has_ended(now))
    }

    /// How many callers there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.callers.len()
    }

    /// Whether there is none: nobody may do anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.callers.is_empty()
    }

    /// What is wrong with no rule and yet worth a word: those who may do nothing any more.
    #[must_use]
    pub fn remarks(&self, now: u64) -> Vec<String> {
        let mut remarks: Vec<_> = self.callers.values().filter_map(|caller| caller.remark(now)).collect();
        remarks.sort();
        remarks
    }

    /// What a caller may do now.
    pub(crate) fn rights(&self, key: &VerifyingKey, now: u64) -> Rights<'_> {
        match self.callers.get(key) {
            // [KMS-40]
            Some(caller) => {
                Rights { name: &caller.name, rules: if caller.has_ended(now) { Some(&[]) } else { Some(&caller.rules) } }
            }
            None => Rights { name: UNKNOWN, rules: Some(&[]) },
        }
    }
}

impl Caller {
    fn has_ended(&self, now: u64) -> bool {
        self.revoked || self.expires.is_some_and(|at| now >= at)
    }

    fn remark(&self, now: u64) -> Option<String> {
        match self.expires {
            Some(at) if now >= at => Some(format!("the caller {:?} has expired at {}", self.name, utc(at))),
            _ if self.rules.is_empty() && !self.revoked => Some(format!("the caller {:?} may do nothing", self.name)),
            _ => None,
        }
    }
}

impl Rule {
    fn read(rule: RuleToml, caller: &str) -> Result<Self, AccessError> {
        let mut verbs = 0;
        for name in rule.verbs {
            verbs |= match (name.as_str(), Verb::ALL.into_iter().find(|verb| verb.name() == name)) {
                ("*", _) => u32::MAX,
                (_, Some(verb)) => bit(verb),
                (_, None) => return Err(AccessError::Verb { caller: caller.into(), verb: name }),
            };
        }
        let mut read = Self { verbs, any: false, ids: HashSet::new(), aliases: HashSet::new() };
        rule.keys.into_iter().try_for_each(|key| read.add(key, caller))?;
        Ok(read)
    }

    fn add(&mut self, key: String, caller: &str) -> Result<(), AccessError> {
        match (key.as_str(), key.parse()) {
            ("*", _) => self.any = true,
            (_, Ok(KeyRef::Id(id))) => drop(self.ids.insert(id)),
            (_, Ok(KeyRef::Alias(alias))) => drop(self.aliases.insert(alias)),
            (_, Err(_)) => return Err(AccessError::KeyName { caller: caller.into(), key }),
        }
        Ok(())
    }

    fn has(&self, verb: Verb) -> bool {
        self.verbs & bit(verb) != 0
    }

    fn allows_any(&self, verb: Verb) -> bool {
        self.has(verb) && self.any
    }
}

fn bit(verb: Verb) -> u32 {
    1 << (verb as u8)
}

/// What one caller may do.
#[derive(Clone, Copy)]
pub(crate) struct Rights<'a> {
    /// What the audit log calls him.
    pub(crate) name: &'a str,
    /// `None` for who holds the store itself.
    rules: Option<&'a [Rule]>,
}

impl Rights<'static> {
    /// Everything, for who has opened the store.
    pub(crate) const LOCAL: Self = Self { name: OWNER, rules: None };
}

impl Rights<'_> {
    /// Whether there is anything on which a verb is allowed.
    pub(crate) fn has(&self, verb: Verb) -> bool {
        self.rules.is_none_or(|rules| rules.iter().any(|rule| rule.has(verb)))
    }

    /// Whether a verb is allowed on whatever there is.
    pub(crate) fn on_any(&self, verb: Verb) -> bool {
        self.rules.is_none_or(|rules| rules.iter().any(|rule| rule.allows_any(verb)))
    }

    /// Whether a verb is allowed on a CMK: by its id, by an alias that it has now, or by everything. [KMS-41]
    pub(crate) fn on<'k>(&self, verb: Verb, id: KeyId, aliases: impl Iterator<Item = &'k Alias>) -> bool {
        if self.on_any(verb) {
            return true;
        }
        // The aliases are looked up, and not gone through, so that the time of a denial does not tell of a key that is there.
        let aliases: Vec<_> = aliases.collect();
        let names = |rule: &Rule| rule.ids.contains(&id) || aliases.iter().any(|alias| rule.aliases.contains(*alias));
        self.rules.is_none_or(|rules| rules.iter().any(|rule| rule.has(verb) && names(rule)))
    }

    /// Whether a verb is allowed on whatever has this name, or comes to have it.
    pub(crate) fn on_name(&self, verb: Verb, name: &KeyRef) -> bool {
        let names = |rule: &Rule| match name {
            KeyRef::Id(id) => rule.ids.contains(id),
            KeyRef::Alias(alias) => rule.aliases.contains(alias),
        };
        self.on_any(verb) || self.rules.is_none_or(|rules| rules.iter().any(|rule| rule.has(verb) && names(rule)))
    }
}

/// Where it is, and what; without the line itself, which may be long.
fn in_one_line(text: &str, error: &toml::de::Error) -> String {
    let what =
        error.message().split(char::is_control).map(str::trim).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ");
    let Some(before) = error.span().and_then(|span| text.get(..span.start)) else { return what };
    let (line, column) = (before.matches('\n').count() + 1, before.chars().rev().take_while(|c| *c != '\n').count() + 1);
    format!("line {line}, column {column}: {what}")
}

/// Seconds since the Unix epoch of a date with its time and zone.
fn seconds(date: toml::value::Datetime) -> Option<u64> {
    use toml::value::Offset;
    let (day, time, offset) = (date.date?, date.time?, date.offset?);
    let minutes = match offset {
        Offset::Z => 0,
        Offset::Custom { minutes } => i64::from(minutes),
    };
    let days = crate::platform::days_since_1970(day.year.into(), day.month, day.day)?;
    let seconds = days * 86_400 + u64::from(time.hour) * 3600 + u64::from(time.minute) * 60 + u64::from(time.second.unwrap_or(0));
    seconds.checked_add_signed(-60 * minutes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::SenderKey;

    const ID: &str = "cmk-000102030405060708090a0b0c0d0e0f";

    fn caller(name: &str, rest: &str) -> (VerifyingKey, String) {
        let key = *SenderKey::generate().unwrap().verifying_key();
        (key, format!("[[caller]]\nname = \"{name}\"\nkey = \"{key}\"\n{rest}\n"))
    }

    /// Proves KMS-40 and KMS-41.
    #[test]
    fn what_is_not_allowed_is_denied() {
        let (key, text) = caller("orders", &format!("allow = [{{ verbs = [\"decrypt\"], keys = [\"orders\", \"{ID}\"] }}]"));
        let policy = AccessPolicy::from_toml(&text).unwrap();
        let (orders, other): (Alias, Alias) = ("orders".parse().unwrap(), "other".parse().unwrap());
        let rights = policy.rights(&key, 0);
        assert!(rights.on(Verb::Decrypt, KeyId([1; 16]), [&orders].into_iter()));
        assert!(rights.on(Verb::Decrypt, ID.parse().unwrap(), [].into_iter()));
        assert!(!rights.on(Verb::Decrypt, KeyId([1; 16]), [&other].into_iter()));
        assert!(!rights.on(Verb::Encrypt, ID.parse().unwrap(), [&orders].into_iter()));
        assert!(!rights.on_any(Verb::Decrypt));
        let stranger = *SenderKey::generate().unwrap().verifying_key();
        assert!(!policy.knows(&stranger));
        assert!(!policy.rights(&stranger, 0).on(Verb::Decrypt, ID.parse().unwrap(), [&orders].into_iter()));
    }

    #[test]
    fn everything_has_an_end() {
        let all = "allow = [{ verbs = [\"*\"], keys = [\"*\"] }]";
        // 2026-01-31T23:59:59Z is 1769903999, as `date` says.
        for (extra, now, allowed) in [
            ("", u64::MAX, true),
            ("revoked = true", 0, false),
            ("expires = 2026-01-31T23:59:59Z", 1_769_903_998, true),
            ("expires = 2026-01-31T23:59:59Z", 1_769_903_999, false),
            ("expires = 2026-02-01T01:59:59+02:00", 1_769_903_998, true),
            ("expires = 2026-02-01T01:59:59+02:00", 1_769_903_999, false),
        ] {
            let (key, text) = caller("a", &format!("{extra}\n{all}"));
            let policy = AccessPolicy::from_toml(&text).unwrap();
            assert_eq!(policy.rights(&key, now).on_any(Verb::CreateKey), allowed, "{extra} at {now}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let (_, good) = caller("a", "");
        for bad in [
            "[[caller]]\nname = \"a\"".to_owned(),
            good.replace("name", "nmae"),
            format!("{good}allow = [{{ verbs = [\"open\"], keys = [\"*\"] }}]"),
            format!("{good}allow = [{{ verbs = [\"decrypt\"], keys = [\"Orders\"] }}]"),
            format!("{good}allow = [{{ verbs = [\"decrypt\"] }}]"),
            format!("{good}expires = 2026-01-31"),
            format!("{good}expires = \"tomorrow\""),
            format!("{good}{good}"),
            good.replace("sws1", "swr1"),
            good.replace("name = \"a\"", "name = \"\""),
            good.replace("\"a\"", "\"local\""),
            good.replace("\"a\"", "\"schedule\""),
            good.replace("\"a\"", "\"unknown\""),
            good.replace("\"a\"", "\"a\\u202e\""),
            good.replace("\"a\"", "\"a\\U000e0041\""),
        ] {
            assert!(AccessPolicy::from_toml(&bad).is_err(), "{bad}");
        }
        assert!(AccessPolicy::from_toml("").unwrap().is_empty());
        for (bad, at, what) in [
            ("x = 1", "line 1, column 1", "unknown field `x`"),
            ("\n[[caller]]\nname = \"\u{e4}\" nonsense\n", "line 3, column 12", "unexpected"),
            ("\n[[caller]]\nname = 7\n", "line 3, column 8", "invalid type: integer `7`"),
            ("[[caller]]\nname = \"a\"", "line 1, column 1", "missing field `key`"),
            ("[[caller]]\n\"a\\u000ab\\u001b[2J\" = 1", "line 2, column 1", "unknown field"),
            ("[[caller]]\nname = \"a", "line 2, column 10", "invalid basic string"),
            ("\n\n[[caller", "line 3", ""),
        ] {
            let said = AccessPolicy::from_toml(bad).unwrap_err().to_string();
            assert!(said.starts_with(&format!("the policy is malformed: {at}")) && said.contains(what), "{bad}: {said}");
            assert!(!said.contains(char::is_control), "{bad}: {said:?}");
        }
        let (_, other) = caller("a", "");
        assert!(matches!(AccessPolicy::from_toml(&format!("{good}{other}")), Err(AccessError::NameTwice(_))));
        assert!(matches!(
            AccessPolicy::from_toml(&format!("{good}{}", good.replace("\"a\"", "\"b\""))),
            Err(AccessError::KeyTwice(..))
        ));
    }

    #[test]
    fn lengths_have_their_limits() {
        let policy = |len: usize| AccessPolicy::from_toml(&"#".repeat(len));
        assert!(policy(POLICY_MAX).unwrap().is_empty());
        assert_eq!(policy(POLICY_MAX + 1).unwrap_err(), AccessError::TooLong);
        let named = |len: usize| AccessPolicy::from_toml(&caller(&"a".repeat(len), "").1);
        assert_eq!(named(NAME_MAX).unwrap().len(), 1);
        assert!(matches!(named(NAME_MAX + 1), Err(AccessError::Name(_))));
    }
}
