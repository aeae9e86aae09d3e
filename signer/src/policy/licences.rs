//! Which licences dependencies may have.

use crate::recipe::fields::Reading;
use crate::recipe::yaml::Node;

use super::demands::words;

/// Licences by SPDX identifier, compared without case.
#[derive(Debug, Clone, Default, PartialEq, Eq, schemars::JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Licences {
    /// Only these; all that are not denied if absent.
    pub allowed: Option<Vec<String>>,
    /// None of these.
    pub denied: Option<Vec<String>>,
}

pub(super) const LICENCES: &[&str] = &["allowed", "denied"];

pub(super) fn read(reading: &mut Reading, node: &Node) -> Option<Licences> {
    let fields = reading.fields(node, "licences", LICENCES)?;
    Some(Licences { allowed: words(reading, &fields, "allowed"), denied: words(reading, &fields, "denied") })
}

/// Deepest brackets in an expression; more is read as refused.
const DEPTH: usize = 16;

impl Licences {
    /// Why a package with this licence expression is refused; one without a licence always is.
    pub(crate) fn refuses(&self, licence: Option<&str>) -> Option<String> {
        let Some(licence) = licence else {
            return Some("names no licence, so the policy cannot allow it".to_owned());
        };
        let spaced = licence.replace('(', " ( ").replace(')', " ) ");
        let mut tokens = spaced.split_whitespace().peekable();
        let allowed = self.any(&mut tokens, 0) == Some(true) && tokens.peek().is_none();
        (!allowed).then(|| format!("has the licence {licence:?}, which the policy does not allow"))
    }

    /// `a AND b OR c`: one of the alternatives is enough. `None` for what is no expression.
    fn any<'a>(&self, tokens: &mut std::iter::Peekable<impl Iterator<Item = &'a str>>, depth: usize) -> Option<bool> {
        let mut allowed = self.all(tokens, depth)?;
        while tokens.next_if(|token| token.eq_ignore_ascii_case("OR")).is_some() {
            allowed |= self.all(tokens, depth)?;
        }
        Some(allowed)
    }

    fn all<'a>(&self, tokens: &mut std::iter::Peekable<impl Iterator<Item = &'a str>>, depth: usize) -> Option<bool> {
        let mut allowed = self.one(tokens, depth)?;
        while tokens.next_if(|token| token.eq_ignore_ascii_case("AND")).is_some() {
            allowed &= self.one(tokens, depth)?;
        }
        Some(allowed)
    }

    /// A licence (with its exception, or of several words), or an expression in brackets.
    fn one<'a>(&self, tokens: &mut std::iter::Peekable<impl Iterator<Item = &'a str>>, depth: usize) -> Option<bool> {
        if tokens.next_if_eq(&"(").is_some() {
            let inner = if depth < DEPTH { self.any(tokens, depth + 1)? } else { return None };
            return tokens.next_if_eq(&")").map(|_| inner);
        }
        let word = |token: &&str| {
            !["(", ")"].contains(token) && !token.eq_ignore_ascii_case("AND") && !token.eq_ignore_ascii_case("OR")
        };
        let mut words = Vec::new();
        while let Some(token) = tokens.next_if(word) {
            words.push(token);
        }
        let name = words.join(" ");
        let lists = |list: &[String]| list.iter().any(|one| one.trim().eq_ignore_ascii_case(&name));
        let denied = self.denied.as_deref().is_some_and(lists);
        (!name.is_empty()).then(|| !denied && self.allowed.as_deref().is_none_or(lists))
    }
}
