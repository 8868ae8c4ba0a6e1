#![allow(unsafe_code)]
//! Users by name.

use std::ffi::CString;
use std::mem::MaybeUninit;

use rustix::io::Errno;

/// What the system needs for one user's record, at most.
const MOST_BYTES: usize = 1 << 20;

/// The number of the user who is called so; none if there is none.
pub fn user_id(name: &str) -> Result<Option<u32>, Errno> {
    let Ok(name) = CString::new(name) else { return Ok(None) };
    let mut space = vec![0; 4 << 10];
    loop {
        let mut record = MaybeUninit::<libc::passwd>::uninit();
        let mut found = std::ptr::null_mut();
        // SAFETY: the name ends with a zero, and the record and the space are written within their sizes.
        let failed = unsafe {
            libc::getpwnam_r(
                name.as_ptr(),
                record.as_mut_ptr(),
                space.as_mut_ptr(),
                space.len(),
                &raw mut found,
            )
        };
        match failed {
            0 if found.is_null() => return Ok(None),
            // SAFETY: `found` points to the record, which was filled.
            0 => return Ok(Some(unsafe { (*found).pw_uid })),
            libc::ERANGE if space.len() < MOST_BYTES => space.resize(space.len() * 4, 0),
            // What some systems answer for "there is none".
            libc::ENOENT | libc::ESRCH => return Ok(None),
            errno => return Err(Errno::from_raw_os_error(errno)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_zero_and_nobody_is_called_so() {
        assert_eq!(user_id("root"), Ok(Some(0)));
        assert_eq!(user_id("no such user here"), Ok(None));
        assert_eq!(user_id("a\0b"), Ok(None));
    }
}
