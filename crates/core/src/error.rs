//! Every way in which a call can end without its result, split by what the caller can do about it.

use std::path::{Path, PathBuf};

use alongside_shm::{Corrupt, FINGERPRINT, LayoutError, VERSION};
use alongside_sys::memory::BadFile;
use alongside_sys::{Errno, WaitEnd, is_shortage};

/// Why a call did not do what it was asked to.
#[derive(Clone, Debug, PartialEq)]
pub enum Error {
    /// The session was closed, by this side or the other.
    Closed {
        /// Whether it was this side.
        by_me: bool,
    },
    /// The other program is gone without having closed; how it ended, if that is known.
    PeerGone {
        /// As `subprocess` says it: the exit code, or minus the signal.
        exit_status: Option<i32>,
    },
    /// The deadline came first.
    TimedOut,
    /// It would have to wait, and was told not to.
    WouldBlock,
    /// A signal arrived whose handler wants to run; nothing was done.
    Interrupted,
    /// It cannot be done now, and waiting would not help: nothing was done.
    Busy(&'static str),
    /// The message is longer than the session allows.
    TooLarge {
        /// Its length in bytes.
        bytes: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// More memory than this side may ever lend.
    BeyondLimit {
        /// What was asked for, in bytes.
        bytes: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The message does not fit the buffer it was to be received into; it can still be received.
    BufferTooSmall {
        /// Its length in bytes.
        bytes: u64,
        /// The buffer's length in bytes.
        space: u64,
    },
    /// The message is not of the codec that was asked for; it can still be received.
    OtherCodec(u8),
    /// The two sides do not speak the same version.
    Incompatible(String),
    /// The other side wrote what no honest one would.
    Corrupt(String),
    /// The other side is not who it has to be.
    Denied(String),
    /// The session belongs to the process that forked this one.
    Forked,
    /// A descriptor of the session was closed behind its back.
    HandleLost(Errno),
    /// The kernel refused: what was tried, and its answer. The session goes on.
    Os(&'static str, Errno),
    /// The kernel refused, and what the other side had sent is lost with it; the session has ended.
    Lost(&'static str, Errno),
    /// The kernel refused something with a file: the file, and its answer.
    File(PathBuf, Errno),
    /// There is no such thing in the directory; the text says what there is.
    NotFound(String),
    /// There is no such scope here; the text says why.
    NoScope(String),
    /// Somebody else is in the middle of something short, and does not go on; the text says who and what.
    Stuck(String),
    /// What this program shares with others was taken away; the text says how to share it anew.
    ScopeLost(String),
    /// This process is about to end and has let go of all that it shares; the text says what came too late.
    Ending(String),
    /// What was asked for breaks a rule, which the text says.
    Rule(String),
    /// No memory for a message of so many bytes; it can still be received.
    NoMemory(u64),
    /// Memory that cannot be lent, and why.
    NotLendable(&'static str),
}

impl Error {
    /// Whether a session cannot go on after it.
    pub(crate) fn ends_the_session(&self) -> bool {
        use Error::{Corrupt, HandleLost, Incompatible, Lost};
        matches!(self, Corrupt(_) | Incompatible(_) | HandleLost(_) | Lost(..))
    }

    /// Whether something is short, as descriptors, and not missing.
    pub(crate) fn is_shortage(&self) -> bool {
        matches!(self, Error::Os(_, errno) | Error::File(_, errno) if is_shortage(*errno))
    }

    /// Names the file with which the kernel refused something.
    pub(crate) fn file(path: &Path) -> impl Fn(Errno) -> Error {
        move |errno| Error::File(path.to_owned(), errno)
    }

    /// Names what was tried when the kernel refused.
    pub(crate) fn os(what: &'static str) -> impl Fn(Errno) -> Error {
        move |errno| match errno {
            Errno::BADF => Error::HandleLost(errno),
            errno => Error::Os(what, errno),
        }
    }
}

impl From<WaitEnd> for Error {
    fn from(end: WaitEnd) -> Error {
        match end {
            WaitEnd::TimedOut => Error::TimedOut,
            WaitEnd::Interrupted => Error::Interrupted,
        }
    }
}

impl From<Corrupt> for Error {
    fn from(Corrupt { what, found, expected }: Corrupt) -> Error {
        Error::Corrupt(format!(
            "the other program wrote a {what} of {found} where {expected} is the bound"
        ))
    }
}

impl From<LayoutError> for Error {
    fn from(error: LayoutError) -> Error {
        match error {
            LayoutError::Absent => Error::Corrupt("the shared memory is empty".into()),
            LayoutError::Unfinished => Error::Corrupt("the shared memory is unfinished".into()),
            LayoutError::Foreign(word) => Error::Corrupt(format!(
                "the shared memory is not a session's: it begins with {word:#018x}"
            )),
            LayoutError::OtherVersion(version) => Error::Incompatible(format!(
                "the other program's memory has layout {version}, this program knows {VERSION}"
            )),
            LayoutError::OtherFingerprint(found) => Error::Incompatible(format!(
                "the other program's memory has fingerprint {found:#018x}, this program's has \
                 {FINGERPRINT:#018x}"
            )),
            LayoutError::Torn { what, found, expected } => Error::Corrupt(format!(
                "the shared memory has a {what} of {found} where {expected} is expected"
            )),
        }
    }
}

impl From<BadFile> for Error {
    fn from(error: BadFile) -> Error {
        match error {
            BadFile::Kernel(errno) => Error::Lost("mapping the other program's memory", errno),
            BadFile::Property(what, found, expected) => Error::Corrupt(format!(
                "the other program's memory file has {what} {found:#x} where {expected:#x} is expected"
            )),
        }
    }
}
