//! Looking names up.

use alongside_sys::own_uid;

use crate::directory::calling::{Call, Wish};
use crate::directory::entry::Entry;
use crate::directory::name::{self, Name, Pattern};
use crate::directory::scope::Scope;
use crate::directory::store::{Flaw, Found, Store};
use crate::error::Error;

/// Names that are so near to one that was not found are mentioned.
const NEAR: usize = 2;
/// And so many of them.
const MENTIONED: usize = 3;

/// The programs whose name fits, the oldest registration first. Those that are dead are no part of it, and
/// some of them are removed on the way.
pub fn running(pattern: &str, scope: &Scope) -> Result<Vec<Found>, Error> {
    let wanted = Pattern::new(pattern);
    look(scope, &|_| true, None, &|name| wanted.matches(name))
}

/// What in a scope's directory is no entry.
pub fn flaws(scope: &Scope) -> Result<Vec<Flaw>, Error> {
    let mut flaws = Vec::new();
    Store::each(scope, &|_| true, &mut |store| {
        store.look(None, &mut |_| {}, &mut |flaw| flaws.push(flaw))
    })?;
    Ok(flaws)
}

fn user_id(user: &str) -> Result<u32, Error> {
    match user.parse() {
        Ok(uid) => Ok(uid),
        Err(_) => match alongside_sys::user_id(user).map_err(Error::os("looking a user up"))? {
            Some(uid) => Ok(uid),
            None => Err(Error::Rule(format!("there is no user {user:?} here"))),
        },
    }
}

/// Checks the rules for names.
pub(crate) fn checked(name: &str) -> Result<Name, Error> {
    Name::new(name).map_err(|rule| Error::Rule(format!("{name:?} is no name: {rule}")))
}

/// Checks a name that is to be made longer: it may have this many bytes.
pub fn check_name(name: &str, most: usize) -> Result<(), Error> {
    checked(name)?;
    if name.len() <= most {
        return Ok(());
    }
    Err(Error::Rule(format!("{name:?} is too long here: it has {} bytes, of {most}", name.len())))
}

/// A name that is looked for, and which of its registrations are meant.
///
/// In the scope "machine" a name is each user's own. Unless an owner is said, root's is meant, then one's
/// own, and nobody else's: another user can publish the name, too, and would be taken for who is not.
#[derive(Clone, Debug)]
pub struct Sought {
    name: Name,
    owner: Option<u32>,
    instance: Option<String>,
    scope: Scope,
}

impl Sought {
    /// The registrations of a name, which may be a `name@user`, or the one with this instance.
    pub fn new(
        name: &str,
        owner: Option<u32>,
        instance: Option<&str>,
        scope: &Scope,
    ) -> Result<Sought, Error> {
        let (name, named) = match name.split_once('@') {
            Some((name, user)) => (checked(name)?, Some(user_id(user)?)),
            None => (checked(name)?, None),
        };
        if let (Some(owner), Some(named)) = (owner, named)
            && owner != named
        {
            let text = format!("{name}@{named}, and owner is user {owner}: name one of them");
            return Err(Error::Rule(text));
        }
        let owner = owner.or(named);
        if !scope.is_shared() && owner.is_some_and(|owner| owner != own_uid()) {
            return Err(Error::Rule(format!(
                "names of scope {:?} are this user's own\nscope=\"machine\" has those of others",
                scope.name()
            )));
        }
        let (scope, instance) = (scope.clone(), instance.map(str::to_owned));
        Ok(Sought { name, owner, instance, scope })
    }

    /// How good an entry's owner is, the best first; none if it is not meant.
    fn rank(&self, uid: u32) -> Option<u8> {
        match self.owner {
            Some(owner) => (uid == owner).then_some(0),
            None if uid == 0 => Some(0),
            None => (uid == own_uid()).then_some(1),
        }
    }

    /// Those that are meant, the oldest first.
    fn all(&self) -> Result<Vec<Found>, Error> {
        let name = self.name.as_str();
        let is_meant = |uid| !self.scope.is_shared() || self.rank(uid).is_some();
        let number = Some(self.name.number());
        let mut found = look(&self.scope, &is_meant, number, &|other| other == name)?;
        let wanted = self.instance.as_ref();
        found.retain(|found| wanted.is_none_or(|wanted| found.entry.instance == *wanted));
        if self.scope.is_shared() {
            // Stable: among one user's the oldest stays the first.
            found.sort_by_key(|found| self.rank(found.entry.uid));
        }
        Ok(found)
    }

    /// The oldest of them.
    pub fn first(&self) -> Result<Option<Found>, Error> {
        Ok(self.all()?.into_iter().next())
    }

    /// Calls the oldest of them that takes connections. One that ends meanwhile is none.
    pub fn call(self, wish: Wish) -> Result<Call, Error> {
        let (callable, deaf): (Vec<Found>, Vec<Found>) =
            self.all()?.into_iter().partition(|found| found.entry.connects);
        match deaf.first() {
            Some(deaf) if callable.is_empty() => Err(Error::Denied(format!(
                "{:?} takes no connections (pid {})\n\
                 publish(..., on_message=...) or publish(..., on_connect=...) would",
                self.name.as_str(),
                deaf.entry.pid
            ))),
            _ => Ok(Call::new(self, callable, wish)),
        }
    }

    /// The error if there is none: it mentions names that are nearly the same.
    pub fn not_found(&self) -> Error {
        let name = self.name.as_str();
        let shown = |entry: &Entry| match self.rank(entry.uid) {
            None if self.scope.is_shared() => format!("{}@{}", entry.name, entry.uid),
            _ => entry.name.clone(),
        };
        let all = running("*", &self.scope).unwrap_or_default();
        let mut near: Vec<(usize, String)> = Vec::new();
        for Found { entry, .. } in all {
            let away = match name::distance(name, &entry.name, NEAR) {
                Some(away) => away,
                None if entry.name.to_lowercase() == name.to_lowercase() => 0,
                None if entry.name.starts_with(name) => NEAR,
                None => continue,
            };
            let shown = shown(&entry);
            if !near.iter().any(|(_, known)| *known == shown) {
                near.push((away, shown));
            }
        }
        near.sort();
        let mentioned: Vec<_> =
            near.iter().take(MENTIONED).map(|(_, name)| format!("{name:?}")).collect();
        let which = self
            .instance
            .as_ref()
            .map(|instance| format!(" with the instance {instance}"))
            .unwrap_or_default();
        Error::NotFound(if mentioned.is_empty() {
            format!("no program runs under the name {name:?}{which}")
        } else {
            let there = mentioned.join(", ");
            format!("no program runs under the name {name:?}{which}\nthere is {there}")
        })
    }
}

fn look(
    scope: &Scope,
    of_whom: &dyn Fn(u32) -> bool,
    number: Option<u64>,
    is_meant: &dyn Fn(&str) -> bool,
) -> Result<Vec<Found>, Error> {
    let mut all = Vec::new();
    Store::each(scope, of_whom, &mut |store| {
        let mut alive = |found: Found| {
            if is_meant(&found.entry.name) {
                all.push(found);
            }
        };
        store.look(number, &mut alive, &mut |_| {})
    })?;
    all.sort_by(|Found { entry: one, .. }, Found { entry: other, .. }| {
        one.order.cmp(&other.order).then_with(|| one.instance.cmp(&other.instance))
    });
    Ok(all)
}

#[cfg(test)]
mod tests {
    use alongside_sys::random;

    use super::*;
    use crate::directory::registration::{Allowed, Registration, Said};

    #[test]
    fn near_misses_are_named() {
        let scope = Scope::User;
        let name = format!("near/{}", random().unwrap());
        let allow = Allowed::default();
        let said = Said { about: "", info: "{}", connects: false, reports: false, allow };
        let own = Registration::new(&name, &scope, &said).unwrap();
        let sought = Sought::new(&format!("{name}x"), None, None, &scope).unwrap();
        let Error::NotFound(text) = sought.not_found() else { panic!() };
        assert!(text.contains(&format!("there is {name:?}")), "{text}");
        own.revoke().unwrap();
    }
}
