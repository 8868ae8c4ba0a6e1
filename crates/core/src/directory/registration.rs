//! Publishing a name, and looking names up.

use std::sync::{Arc, Mutex, PoisonError};

use alongside_sys::{monotonic_ns, own_pid, own_uid, process, random, since_epoch_s};
use serde_json::value::RawValue;

use crate::deadline::Deadline;
use crate::directory::connecting::{self, Listener};
use crate::directory::entry::{self, Entry};
use crate::directory::name::{self, Name, Pattern};
use crate::directory::scope::Scope;
use crate::directory::store::{self, Flaw, Found, Life, Store};
use crate::error::Error;
use crate::message::Buffer;
use crate::session::Session;

/// Names that are so near to one that was not found are mentioned.
const NEAR: usize = 2;
/// And so many of them.
const MENTIONED: usize = 3;

/// A name that this process has published.
#[derive(Debug)]
pub struct Registration {
    life: Arc<Life>,
    file: String,
    /// Where callers come in; none if nobody may connect, or any more.
    listener: Mutex<Option<Arc<Listener>>>,
    /// What it says at the moment; none once it is revoked.
    entry: Mutex<Option<Entry>>,
}

/// What a program says of itself.
#[derive(Debug)]
pub struct Said<'a> {
    /// In words.
    pub about: &'a str,
    /// As a JSON object.
    pub info: &'a str,
    /// Whether others may connect.
    pub connects: bool,
}

impl Registration {
    /// Publishes a name. Others see it, complete, when this returns.
    pub fn new(name: &str, scope: &Scope, said: &Said<'_>) -> Result<Registration, Error> {
        let name = checked(name)?;
        let life = Life::of_this_process(scope)?;
        let me = process::of_this();
        let now = since_epoch_s();
        let instance = random().map_err(Error::os("making an instance's number"))?;
        let entry = Entry {
            version: entry::VERSION,
            name: name.as_str().to_owned(),
            instance: entry::hexadecimal(instance),
            life: life.number().to_owned(),
            pid: own_pid(),
            uid: own_uid(),
            executable: me.executable,
            started: me.started_s,
            about: said.about.to_owned(),
            info: info(said.info)?,
            connects: said.connects,
            since: now,
            changed: now,
            order: monotonic_ns(),
        };
        let file = Entry::file_name(name.number(), instance);
        let bytes = bytes(&entry)?;
        // Before anybody can see that it may be connected to.
        let listener = if said.connects { Some(Listener::new(&life, instance)?) } else { None };
        life.publish(&file, &bytes)?;
        let listener = Mutex::new(listener.map(Arc::new));
        Ok(Registration { life, file, listener, entry: Mutex::new(Some(entry)) })
    }

    /// Where callers come in, as long as they may.
    pub fn listener(&self) -> Option<Arc<Listener>> {
        self.listener.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What it says; none once it is revoked.
    pub fn entry(&self) -> Option<Entry> {
        self.entry.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says something else; what is none stays as it is.
    pub fn update(&self, about: Option<&str>, other_info: Option<&str>) -> Result<(), Error> {
        let mut current = self.entry.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(entry) = &*current else {
            return Err(Error::Rule("this registration is revoked; publish the name again".into()));
        };
        let mut next = entry.clone();
        if let Some(about) = about {
            next.about = about.to_owned();
        }
        if let Some(other) = other_info {
            next.info = info(other)?;
        }
        // A clock that was set back makes no change older than the one before.
        next.changed = since_epoch_s().max(entry.changed);
        self.life.update(&self.file, &bytes(&next)?)?;
        *current = Some(next);
        Ok(())
    }

    /// Takes the name away; a second time does nothing.
    pub fn revoke(&self) -> Result<(), Error> {
        let mut current = self.entry.lock().unwrap_or_else(PoisonError::into_inner);
        if current.is_some() {
            self.life.revoke(&self.file)?;
            *current = None;
            drop(self.listener.lock().unwrap_or_else(PoisonError::into_inner).take());
        }
        Ok(())
    }
}

/// Leaves all directories: the process is about to end.
pub fn leave_all() {
    store::leave_all();
}

/// The entries whose name fits, the oldest first. Those of dead processes are no part of it, and some of
/// them are removed on the way.
pub fn running(pattern: &str, scope: &Scope) -> Result<Vec<Found>, Error> {
    let wanted = Pattern::new(pattern);
    look(scope, None, &|name| wanted.matches(name))
}

/// The oldest entry with this name, or the one with this instance.
pub fn find(name: &str, instance: Option<&str>, scope: &Scope) -> Result<Option<Found>, Error> {
    let wanted = checked(name)?;
    Ok(find_all(&wanted, instance, scope)?.into_iter().next())
}

fn find_all(wanted: &Name, instance: Option<&str>, scope: &Scope) -> Result<Vec<Found>, Error> {
    let mut found = look(scope, Some(wanted.number()), &|name| name == wanted.as_str())?;
    found.retain(|found| instance.is_none_or(|wanted| found.entry.instance == wanted));
    Ok(found)
}

/// Connects to the oldest program with this name that takes connections, or to the one with this instance.
/// One that ends meanwhile is none.
pub fn connect<B: Buffer>(
    name: &str,
    instance: Option<&str>,
    scope: &Scope,
    max_message_bytes: u64,
    deadline: Deadline,
    go_on: &mut dyn FnMut() -> bool,
) -> Result<Arc<Session<B>>, Error> {
    let all = find_all(&checked(name)?, instance, scope)?;
    let mut is_deaf = None;
    for found in &all {
        if !found.entry.connects {
            is_deaf = Some(found.entry.pid);
            continue;
        }
        match connecting::connect(found, max_message_bytes, deadline, go_on) {
            Err(Error::NotFound(_)) => {}
            result => return result,
        }
    }
    match is_deaf {
        Some(pid) => Err(Error::Denied(format!(
            "{name:?} takes no connections (pid {pid})\n\
             publish(..., on_message=...) or publish(..., on_connect=...) would"
        ))),
        None => Err(not_found(name, instance, scope)),
    }
}

/// The error for a name that is not there: it mentions those that are nearly the same.
pub fn not_found(name: &str, instance: Option<&str>, scope: &Scope) -> Error {
    let all = running("*", scope).unwrap_or_default();
    let mut near: Vec<(usize, String)> = Vec::new();
    for Found { entry, .. } in all {
        let away = match name::distance(name, &entry.name, NEAR) {
            Some(away) => away,
            None if entry.name.to_lowercase() == name.to_lowercase() => 0,
            None if entry.name.starts_with(name) => NEAR,
            None => continue,
        };
        if !near.iter().any(|(_, known)| *known == entry.name) {
            near.push((away, entry.name));
        }
    }
    near.sort();
    let mentioned: Vec<_> =
        near.iter().take(MENTIONED).map(|(_, name)| format!("{name:?}")).collect();
    let which =
        instance.map(|instance| format!(" with the instance {instance}")).unwrap_or_default();
    Error::NotFound(if mentioned.is_empty() {
        format!("no program runs under the name {name:?}{which}")
    } else {
        let there = mentioned.join(", ");
        format!("no program runs under the name {name:?}{which}\nthere is {there}")
    })
}

/// What in a scope's directory is no entry.
pub fn flaws(scope: &Scope) -> Result<Vec<Flaw>, Error> {
    let mut flaws = Vec::new();
    for store in Store::existing(scope) {
        store.look(None, &mut |_| {}, &mut |flaw| flaws.push(flaw))?;
    }
    Ok(flaws)
}

fn look(
    scope: &Scope,
    number: Option<u64>,
    is_meant: &dyn Fn(&str) -> bool,
) -> Result<Vec<Found>, Error> {
    let mut all = Vec::new();
    for store in Store::existing(scope) {
        let mut alive = |found: Found| {
            if is_meant(&found.entry.name) {
                all.push(found);
            }
        };
        store.look(number, &mut alive, &mut |_| {})?;
    }
    all.sort_by(|one, other| {
        let key = |found: &Found| (found.entry.order, found.entry.instance.clone());
        key(one).cmp(&key(other))
    });
    Ok(all)
}

fn checked(name: &str) -> Result<Name, Error> {
    Name::new(name).map_err(|rule| Error::Rule(format!("{name:?} is no name: {rule}")))
}

fn info(text: &str) -> Result<Box<RawValue>, Error> {
    RawValue::from_string(text.to_owned())
        .map_err(|error| Error::Rule(format!("info is no JSON: {error}")))
}

fn bytes(entry: &Entry) -> Result<Vec<u8>, Error> {
    entry.to_bytes().map_err(|bytes| {
        let most = entry::MOST_BYTES;
        Error::Rule(format!(
            "an entry of {bytes} bytes; name, about and info have room for {most} together"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: Said<'_> = Said { about: "a test", info: "{\"x\":1}", connects: false };

    #[test]
    fn a_name_is_there_from_publish_to_revoke() {
        let scope = Scope::User;
        let name = format!("test/{}/{}", own_pid(), random().unwrap());
        assert!(find(&name, None, &scope).unwrap().is_none());
        let first = Registration::new(&name, &scope, &SAID).unwrap();
        let second = Registration::new(&name, &scope, &SAID).unwrap();
        let found = running(&format!("test/{}/*", own_pid()), &scope).unwrap();
        let instances: Vec<_> = found.iter().map(|found| found.entry.instance.clone()).collect();
        let expected = [&first, &second].map(|own| own.entry().unwrap().instance);
        assert_eq!(instances, expected, "the oldest first");

        first.update(Some("another"), None).unwrap();
        let found = find(&name, None, &scope).unwrap().unwrap().entry;
        assert_eq!((found.about.as_str(), found.info.get()), ("another", "{\"x\":1}"));
        assert!(found.changed >= found.since);
        let picked = find(&name, Some(&expected[1]), &scope).unwrap().unwrap();
        assert_eq!(picked.entry.about, "a test");

        first.revoke().unwrap();
        first.revoke().unwrap();
        assert!(first.update(None, None).is_err());
        second.revoke().unwrap();
        assert!(find(&name, None, &scope).unwrap().is_none());
    }

    #[test]
    fn near_misses_are_named() {
        let scope = Scope::User;
        let name = format!("near/{}", random().unwrap());
        let own = Registration::new(&name, &scope, &SAID).unwrap();
        let Error::NotFound(text) = not_found(&format!("{name}x"), None, &scope) else { panic!() };
        assert!(text.contains(&format!("there is {name:?}")), "{text}");
        own.revoke().unwrap();
    }

    #[test]
    fn what_breaks_a_rule_is_not_published() {
        let scope = Scope::User;
        for (name, info) in
            [("a//b", "{}"), ("ok", "{"), ("ok", &format!("\"{}\"", "x".repeat(5000)))]
        {
            let said = Said { about: "", info, connects: true };
            assert!(matches!(Registration::new(name, &scope, &said), Err(Error::Rule(_))));
        }
    }
}
