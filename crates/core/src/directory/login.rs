//! Which login session this program belongs to.
//!
//! There is no one word for that on Linux. The first of these that says something counts:
//! 1. `ALONGSIDE_LOGIN`, for programs that are told
//! 2. the control group: `…/session-7.scope`, which systemd's logind makes for each login
//! 3. `XDG_SESSION_ID`, if logind knows that session as one of this user's
//! 4. the audit session of the kernel (`/proc/self/sessionid`)
//!
//! A session in the sense of `setsid` is a terminal's, not a login's.

use std::fs::read_to_string;
use std::path::Path;

use alongside_sys::own_uid;

use crate::error::Error;

const VARIABLE: &str = "ALONGSIDE_LOGIN";
/// Where logind tells of its sessions.
const SESSIONS: &str = "/run/systemd/sessions";
/// What the kernel says where no audit session was begun.
const NO_AUDIT_SESSION: &str = "4294967295";
/// The longest id.
const MOST_BYTES: usize = 64;

/// The id of this program's login session.
pub(crate) fn id() -> Result<String, Error> {
    if let Some(told) = std::env::var_os(VARIABLE).filter(|told| !told.is_empty()) {
        let told = told.to_string_lossy();
        return match is_id(&told) {
            true => Ok(told.into_owned()),
            false => Err(Error::Rule(format!(
                "{VARIABLE} is {told:?}; a login's id is at most {MOST_BYTES} letters, digits, \"_\" \
                 and \"-\""
            ))),
        };
    }
    of_control_group().or_else(of_environment).or_else(of_audit).ok_or_else(|| {
        let said = match std::env::var("XDG_SESSION_ID") {
            Ok(id) => format!("XDG_SESSION_ID ({id:?} is no session of this user's that logind knows)"),
            Err(_) => "XDG_SESSION_ID".to_owned(),
        };
        Error::NoScope(format!(
            "this program belongs to no login session that could be told: neither {VARIABLE}, nor its \
             control group, nor {said}, nor the kernel's audit says one\n\
             the scope \"user\" is shared by all programs of this user; {VARIABLE}=NAME in their \
             environment makes a login session of some"
        ))
    })
}

fn is_id(text: &str) -> bool {
    let fits = |letter: u8| letter.is_ascii_alphanumeric() || letter == b'_' || letter == b'-';
    (1..=MOST_BYTES).contains(&text.len()) && text.bytes().all(fits)
}

fn of_control_group() -> Option<String> {
    in_control_group(&read_to_string("/proc/self/cgroup").ok()?)
}

fn in_control_group(groups: &str) -> Option<String> {
    let parts = groups.lines().flat_map(|line| line.split('/'));
    let mut ids = parts.filter_map(|part| part.strip_prefix("session-")?.strip_suffix(".scope"));
    ids.rfind(|id| is_id(id)).map(str::to_owned)
}

fn of_environment() -> Option<String> {
    let id = std::env::var("XDG_SESSION_ID").ok().filter(|id| is_id(id))?;
    let sessions = Path::new(SESSIONS);
    let is_known = || {
        let facts = read_to_string(sessions.join(&id)).ok()?;
        let uid = facts.lines().find_map(|line| line.strip_prefix("UID="))?;
        Some(uid.trim() == own_uid().to_string())
    };
    (!sessions.is_dir() || is_known() == Some(true)).then_some(id)
}

fn of_audit() -> Option<String> {
    let id = read_to_string("/proc/self/sessionid").ok()?;
    let id = id.trim();
    (id != NO_AUDIT_SESSION && is_id(id)).then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_control_group_names_the_session_if_there_is_one() {
        let of_login = "0::/user.slice/user-1000.slice/session-7.scope\n";
        assert_eq!(in_control_group(of_login).as_deref(), Some("7"));
        let of_version_1 = "3:cpu:/\n1:name=systemd:/user.slice/user-0.slice/session-c2.scope\n";
        assert_eq!(in_control_group(of_version_1).as_deref(), Some("c2"));
        let of_service = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/a.scope\n";
        assert_eq!(in_control_group(of_service), None);
        assert_eq!(in_control_group("0::/session-../../x.scope\n"), None);
    }

    #[test]
    fn an_id_is_never_a_path() {
        for id in ["7", "c2", "a_b-c"] {
            assert!(is_id(id), "{id}");
        }
        for id in ["", ".", "..", "a/b", "a b", "ä", &"7".repeat(65)] {
            assert!(!is_id(id), "{id}");
        }
    }
}
