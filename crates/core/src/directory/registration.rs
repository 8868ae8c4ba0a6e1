//! Publishing a name.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use alongside_sys::{monotonic_ns, own_pid, own_uid, process, random, since_epoch_s};
use serde_json::value::RawValue;

use crate::directory::entry::{self, Entry};
use crate::directory::listening::Listener;
use crate::directory::name::Name;
use crate::directory::scope::Scope;
use crate::directory::seeking::{Sought, checked};
use crate::directory::store::{self, Life};
use crate::error::Error;

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
    /// Whether those who do can be told how messages were handled.
    pub reports: bool,
    /// Who may, beside this user and root.
    pub allow: Allowed,
}

/// Other users who may connect.
#[derive(Clone, Debug, Default)]
pub struct Allowed {
    /// These.
    pub users: Vec<u32>,
    /// All who are in one of these groups.
    pub groups: Vec<u32>,
}

impl Allowed {
    pub(crate) fn is_empty(&self) -> bool {
        self.users.is_empty() && self.groups.is_empty()
    }
}

impl Registration {
    /// Publishes a name. Others see it, complete, when this returns.
    pub fn new(name: &str, scope: &Scope, said: &Said<'_>) -> Result<Registration, Error> {
        Registration::of_name(checked(name)?, scope, said)
    }

    /// Publishes a name with a further part, which makes it one that nobody has.
    pub fn unique(name: &str, scope: &Scope, said: &Said<'_>) -> Result<Registration, Error> {
        checked(name)?;
        loop {
            let unique = format!("{name}/{}", unused());
            if Sought::new(&unique, Some(own_uid()), None, scope)?.first()?.is_none() {
                return Registration::of_name(checked(&unique)?, scope, said);
            }
        }
    }

    fn of_name(name: Name, scope: &Scope, said: &Said<'_>) -> Result<Registration, Error> {
        if !scope.is_shared() && !said.allow.is_empty() {
            return Err(Error::Rule(format!(
                "nobody else can reach names of scope {:?}, whatever allow says\n\
                 publish(..., scope=\"machine\") is for several users",
                scope.name()
            )));
        }
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
            inode: me.mark.inode,
            begun: me.mark.begun,
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
        let listener =
            if said.connects { Some(Listener::new(&life, instance, said)?) } else { None };
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
        let entry = self.entry.lock().unwrap_or_else(PoisonError::into_inner).clone();
        entry.filter(|_| self.life.is_ours())
    }

    /// Says something else; what is none stays as it is.
    pub fn update(&self, about: Option<&str>, other_info: Option<&str>) -> Result<(), Error> {
        if !self.life.is_ours() {
            return Err(Error::Rule(
                "this registration belongs to the process that forked this one; publish anew"
                    .into(),
            ));
        }
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
        // A clock that was set back makes no change older than the one before, nor as old.
        let after = f64::from_bits(entry.changed.to_bits() + 1);
        next.changed = since_epoch_s().max(after);
        self.life.update(&self.file, &bytes(&next)?)?;
        *current = Some(next);
        Ok(())
    }

    /// Takes the name away; a second time does nothing.
    pub fn revoke(&self) -> Result<(), Error> {
        if !self.life.is_ours() {
            // A forked child has nothing of it.
            return Ok(());
        }
        let mut current = self.entry.lock().unwrap_or_else(PoisonError::into_inner);
        if current.is_some() {
            self.life.revoke(&self.file)?;
            *current = None;
            drop(self.listener.lock().unwrap_or_else(PoisonError::into_inner).take());
        }
        Ok(())
    }
}

/// A part that no other living program uses, and this one only once: its number, and which one it is.
fn unused() -> String {
    static USED: AtomicU64 = AtomicU64::new(0);
    match USED.fetch_add(1, Ordering::Relaxed) {
        0 => own_pid().to_string(),
        before => format!("{}-{}", own_pid(), before + 1),
    }
}

/// Leaves all directories: the process is about to end.
pub fn leave_all() {
    store::leave_all();
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
    use crate::directory::seeking::running;

    const SAID: Said<'_> = Said {
        about: "a test",
        info: "{\"x\":1}",
        connects: false,
        reports: false,
        allow: Allowed { users: Vec::new(), groups: Vec::new() },
    };

    #[test]
    fn a_name_is_there_from_publish_to_revoke() {
        let scope = Scope::User;
        let name = format!("test/{}/{}", own_pid(), random().unwrap());
        let find = |instance| Sought::new(&name, None, instance, &scope).unwrap().first().unwrap();
        assert!(find(None).is_none());
        let first = Registration::new(&name, &scope, &SAID).unwrap();
        let second = Registration::new(&name, &scope, &SAID).unwrap();
        let found = running(&format!("test/{}/*", own_pid()), &scope).unwrap();
        let instances: Vec<_> = found.iter().map(|found| found.entry.instance.clone()).collect();
        let expected = [&first, &second].map(|own| own.entry().unwrap().instance);
        assert_eq!(instances, expected, "the oldest first");

        first.update(Some("another"), None).unwrap();
        let found = find(None).unwrap().entry;
        assert_eq!((found.about.as_str(), found.info.get()), ("another", "{\"x\":1}"));
        assert!(found.changed >= found.since);
        let picked = find(Some(&expected[1])).unwrap();
        assert_eq!(picked.entry.about, "a test");

        first.revoke().unwrap();
        first.revoke().unwrap();
        assert!(first.update(None, None).is_err());
        second.revoke().unwrap();
        assert!(find(None).is_none());
    }

    #[test]
    fn what_breaks_a_rule_is_not_published() {
        let scope = Scope::User;
        for (name, info) in
            [("a//b", "{}"), ("ok", "{"), ("ok", &format!("\"{}\"", "x".repeat(5000)))]
        {
            let said = Said { about: "", info, connects: true, ..SAID };
            assert!(matches!(Registration::new(name, &scope, &said), Err(Error::Rule(_))));
        }
    }
}
