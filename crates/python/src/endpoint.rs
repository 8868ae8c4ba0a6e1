//! A session's native half. `alongside.Session` adds what is plain Python: iteration, callbacks, the
//! context manager.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use alongside_core::{Deadline, EndSignal, Error, Message, Received, Session, Target};
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyMemoryView};

use crate::body::{Body, Loan};
use crate::decode::{View, leases};
use crate::encode::{LENT_BYTES, Payload, RAW, REPORT};
use crate::errors::{raise, to_python};
use crate::lease::{Block, Lease, Lent};
use crate::named::Named;
use crate::peer::{Peer, Statistics};
use crate::sending::Terms;

/// Coming back to the interpreter takes this long only if another thread computes.
const CONTENDED: Duration = Duration::from_micros(500);
/// So long a message is waited for with the interpreter lock held where coming back is dear: a turn of
/// the other thread costs 5 ms.
const HOLD_ON: Duration = Duration::from_micros(200);

const NO_MESSAGE: &str = "no message has arrived";
pub(crate) const NO_ROOM: &str = "the other program has made no room for the message";
const NO_ANSWER: &str = "no answer has come";
const NOT_ENDED: &str = "the other program has not ended";

type Core = Arc<Session<Body>>;
/// How the first data is to be read, its bytes, and what it borrows.
type Hello = Option<(u8, Py<PyBytes>, Vec<Py<Lease>>)>;

/// A session that has been established and waits to become an object.
#[pyclass(frozen, module = "alongside._core")]
pub(crate) struct Connection {
    parts: Mutex<Option<(Core, Hello)>>,
    /// Whether the first data has yet to be sent: it has arrays in it.
    #[pyo3(get)]
    needs_hello: bool,
}

impl Connection {
    pub(crate) fn started(core: Core, needs_hello: bool) -> Connection {
        Connection { parts: Mutex::new(Some((core, None))), needs_hello }
    }

    pub(crate) fn adopted(
        py: Python<'_>,
        core: Core,
        hello: Message<Body>,
    ) -> PyResult<Connection> {
        let (codec, leases) = (hello.codec, leases(py, hello.leases)?);
        let hello = Some((codec, hello.body.into_bytes(py).unbind(), leases));
        Ok(Connection { parts: Mutex::new(Some((core, hello))), needs_hello: false })
    }
}

/// One end of a session.
#[pyclass(name = "Session", subclass, frozen, weakref, module = "alongside._core")]
pub(crate) struct Endpoint {
    pub(crate) core: Core,
    /// What of this side's memory the program is filling.
    pub(crate) lent: Lent,
    hello: Hello,
    decoded_hello: PyOnceLock<Py<PyAny>>,
    has_callback: AtomicBool,
    /// What came while a report is waited for, and is for those who receive later.
    set_aside: Mutex<Vec<Message<Body>>>,
}

/// A number of seconds from now; None is never.
pub(crate) fn deadline(timeout: Option<f64>) -> PyResult<Deadline> {
    let Some(seconds) = timeout else { return Ok(Deadline::Never) };
    if seconds.is_nan() || seconds < 0.0 {
        return Err(PyValueError::new_err(format!(
            "timeout is {seconds}, it must be at least 0 seconds, or None for ever"
        )));
    }
    // What the clock cannot count is never.
    Ok(Deadline::after(Duration::try_from_secs_f64(seconds).ok()))
}

/// Runs the handlers of signals that have arrived; false, and the error kept, if one raised.
///
/// In the main thread, which alone runs handlers. Others had better not ask: the interpreter may have
/// ended under a daemon thread, and asking it anything would be the end of the process.
pub(crate) fn go_on(raised: &mut Option<PyErr>) -> bool {
    if !alongside_sys::is_main_thread() {
        return true;
    }
    let checked = Python::try_attach(|py| py.check_signals());
    if let Some(Err(error)) = checked {
        *raised = Some(error);
        return false;
    }
    true
}

impl Endpoint {
    pub(crate) fn failed(&self, py: Python<'_>, error: Error) -> PyErr {
        self.failed_at(py, error, "nothing came of it")
    }

    /// The exception; `missing` says what has not come to be when the time was over.
    pub(crate) fn failed_at(&self, py: Python<'_>, error: Error, missing: &str) -> PyErr {
        let pid = self.core.peer().pid;
        match error {
            Error::TimedOut => {
                raise(py, "TimedOut", &format!("{missing} before the deadline (pid {pid})"))
            }
            Error::WouldBlock => raise(py, "WouldBlock", &format!("{missing} yet (pid {pid})")),
            error => to_python(py, error, Some(pid)),
        }
    }

    /// The session, if its messages are to be received from here and do not go to a callback.
    #[inline]
    fn free<'a>(slf: &'a Bound<'_, Self>) -> PyResult<&'a Endpoint> {
        static CHECK: Named = Named::new("alongside._callbacks", "check_not_served");
        if slf.get().has_callback.load(Ordering::Relaxed) {
            CHECK.get(slf.py())?.call1((slf,))?;
        }
        Ok(slf.get())
    }

    /// Runs something that may wait without the interpreter lock, again and again as long as only
    /// signals end it whose handlers do not raise. It may run handlers itself, with `go_on`, and leave
    /// what they raised.
    pub(crate) fn wait<T: Send>(
        &self,
        py: Python<'_>,
        missing: &str,
        mut wait: impl FnMut(&mut Option<PyErr>) -> Result<T, Error> + Send,
    ) -> PyResult<T> {
        // A timer costs a short wait a tenth of its time. Where messages come quickly, a signal that
        // was missed is looked for at the next.
        if missing != NO_MESSAGE || self.core.expects_long_wait() {
            alongside_sys::look_again_soon();
        } else {
            alongside_sys::look_again_later();
        }
        loop {
            let mut raised = None;
            let (result, done) = py.detach(|| {
                let result = wait(&mut raised);
                (result, Instant::now())
            });
            self.core.set_contended(done.elapsed() > CONTENDED);
            match (result, raised) {
                (_, Some(error)) => return Err(error),
                (Ok(result), None) => return Ok(result),
                (Err(Error::Interrupted), None) => py.check_signals()?,
                (Err(error), None) => return Err(self.failed_at(py, error, missing)),
            }
        }
    }

    #[inline]
    fn next(&self, py: Python<'_>, until: Deadline) -> PyResult<Message<Body>> {
        match self.core.try_receive(true, None) {
            Ok(Received::Message(message)) => return Ok(message),
            Ok(_) => {}
            Err(error) => return Err(self.failed(py, error)),
        }
        if let Some(Received::Message(message)) = self.hold_on(None) {
            return Ok(message);
        }
        match self.wait(py, NO_MESSAGE, |_| self.core.receive(until, None))? {
            Received::Message(message) => Ok(message),
            _ => Err(PyRuntimeError::new_err("received nothing without an error")),
        }
    }

    /// Waits for a moment without letting the interpreter go, if that is dear now. An error comes
    /// again when the call waits in earnest.
    fn hold_on(&self, into: Option<Target<'_>>) -> Option<Received<Body>> {
        if !self.core.is_contended() {
            return None;
        }
        match self.core.receive_briefly(HOLD_ON, into) {
            Ok(received @ (Received::Message(_) | Received::Filled(_))) => Some(received),
            _ => None,
        }
    }

    fn next_now(&self, py: Python<'_>) -> PyResult<Message<Body>> {
        let found = self.found_now(py)?;
        found.ok_or_else(|| self.failed_at(py, Error::WouldBlock, NO_MESSAGE))
    }

    fn found_now(&self, py: Python<'_>) -> PyResult<Option<Message<Body>>> {
        let first = self.core.try_receive(false, None);
        let received = match first {
            Ok(Received::Message(message)) => return Ok(Some(message)),
            Ok(_) => py.detach(|| self.core.receive_now(None)),
            Err(error) => Err(error),
        };
        match received {
            Ok(Received::Message(message)) => Ok(Some(message)),
            Ok(_) => Ok(None),
            Err(error) => Err(self.failed(py, error)),
        }
    }

    fn fill(&self, py: Python<'_>, loan: &mut Loan, until: Deadline) -> PyResult<usize> {
        let first = self.core.try_receive(true, Some(Target { space: loan.space(), codec: RAW }));
        let received = match first {
            Ok(Received::Nothing | Received::Long) | Err(Error::OtherCodec(LENT_BYTES)) => {
                let target = Some(Target { space: loan.space(), codec: RAW });
                match self.hold_on(target) {
                    Some(received) => received,
                    None => self.wait(py, NO_MESSAGE, |_| {
                        let target = Target { space: loan.space(), codec: RAW };
                        match self.core.receive(until, Some(target)) {
                            // Bytes all the same: they are copied from where they lie.
                            Err(Error::OtherCodec(LENT_BYTES)) => self.core.receive(until, None),
                            received => received,
                        }
                    })?,
                }
            }
            Ok(received) => received,
            Err(error) => return Err(self.failed(py, error)),
        };
        match received {
            Received::Filled(bytes) => Ok(bytes),
            Received::Message(message) => self.copy_in(py, loan, message),
            _ => Err(PyRuntimeError::new_err("received nothing without an error")),
        }
    }

    /// A message that was already in this process's memory goes into the caller's buffer.
    fn copy_in(
        &self,
        py: Python<'_>,
        loan: &mut Loan,
        mut message: Message<Body>,
    ) -> PyResult<usize> {
        use alongside_core::Buffer;
        let view = match message.codec {
            LENT_BYTES => Some(View::of(&mut message).ok_or_else(|| self.misplaced(py))?),
            _ => None,
        };
        let bytes = view.as_ref().map_or(message.body.bytes().len(), |view| view.bytes);
        let space = loan.space();
        let error = if message.codec != RAW && view.is_none() {
            Error::OtherCodec(message.codec)
        } else if bytes > space.len() {
            Error::BufferTooSmall { bytes: bytes as u64, space: space.len() as u64 }
        } else if let Some(view) = view {
            view.copy(py, &mut space[..bytes]);
            return Ok(bytes);
        } else {
            for (to, from) in space.iter_mut().zip(message.body.bytes()) {
                to.write(*from);
            }
            return Ok(bytes);
        };
        message.leases.extend(view.map(|view| view.lease));
        py.detach(|| self.core.put_back(message));
        Err(self.failed(py, error))
    }

    /// Calls `with` the descriptor to watch for messages.
    pub(crate) fn with_descriptor<T: Send>(
        &self,
        py: Python<'_>,
        with: impl FnOnce(BorrowedFd<'_>) -> T + Send,
    ) -> PyResult<T> {
        py.detach(|| self.core.with_descriptor(with)).map_err(|error| self.failed(py, error))
    }

    /// Calls `with` what to watch for the started program's end, if there is anything to watch.
    pub(crate) fn with_exit<T: Send>(
        &self,
        py: Python<'_>,
        with: impl FnOnce(BorrowedFd<'_>) -> T + Send,
    ) -> PyResult<Option<T>> {
        py.detach(|| self.core.with_exit(with)).map_err(|error| self.failed(py, error))
    }

    /// Whether this side started the other program.
    pub(crate) fn has_started(&self) -> bool {
        self.core.started_pid().is_some()
    }

    /// Calls `with` what may be watched from outside, whatever the session's state.
    pub(crate) fn with_watched(&self, with: impl FnOnce(BorrowedFd<'_>, BorrowedFd<'_>)) {
        self.core.with_watched(with);
    }

    /// Calls `with` the descriptor to watch for the end.
    pub(crate) fn with_end_descriptor<T: Send>(
        &self,
        py: Python<'_>,
        with: impl FnOnce(BorrowedFd<'_>) -> T + Send,
    ) -> PyResult<T> {
        py.detach(|| self.core.with_end_descriptor(with)).map_err(|error| self.failed(py, error))
    }
}

/// Raises for a type that no message can be checked against, before one is taken.
pub(crate) fn check_type(to: &Bound<'_, PyAny>) -> PyResult<()> {
    static CHECK: Named = Named::new("alongside._data", "check_type");
    CHECK.get(to.py())?.call1((to,)).map(drop)
}

/// The object, checked against a type.
fn converted<'py>(
    data: Bound<'py, PyAny>,
    to: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    static CONVERT: Named = Named::new("alongside._data", "convert");
    match to {
        None => Ok(data),
        Some(to) => CONVERT.get(data.py())?.call1((data, to)),
    }
}

#[pymethods]
impl Endpoint {
    #[new]
    #[pyo3(signature = (connection, /, hello=None))]
    fn new(
        py: Python<'_>,
        connection: &Connection,
        hello: Option<Py<PyAny>>,
    ) -> PyResult<Endpoint> {
        let parts = connection.parts.lock().ok().and_then(|mut parts| parts.take());
        let Some((core, received)) = parts else {
            return Err(PyValueError::new_err("this connection is a session already"));
        };
        let decoded_hello = PyOnceLock::new();
        if let (Some(hello), None) = (hello, &received) {
            let _ = decoded_hello.set(py, hello);
        }
        let (lent, set_aside, has_callback) = Default::default();
        Ok(Endpoint { core, lent, hello: received, decoded_hello, has_callback, set_aside })
    }

    /// The first data, given to `start`: what was given there, what has arrived here. None if
    /// nothing was given.
    #[getter]
    fn hello<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        if let Some(decoded) = self.decoded_hello.get(py) {
            return Ok(decoded.bind(py).clone());
        }
        let decoded = match &self.hello {
            None => py.None(),
            Some((RAW, bytes, _)) => bytes.clone_ref(py).into_any(),
            Some((codec, bytes, leases)) => {
                self.unpacked(py, *codec, bytes.bind(py), leases)?.unbind()
            }
        };
        // Decoding ran Python, and with it maybe another who asked; every caller gets the same object.
        let _ = self.decoded_hello.set(py, decoded.clone_ref(py));
        Ok(self.decoded_hello.get(py).unwrap_or(&decoded).bind(py).clone())
    }

    /// Who is at the other end, as the kernel says.
    #[getter]
    fn peer(&self) -> Peer {
        Peer::from(self.core.peer())
    }

    /// Whether the other process exists and the session is open on both sides. `ping` says whether
    /// it answers.
    #[getter]
    fn alive(&self, py: Python<'_>) -> bool {
        py.detach(|| self.core.is_alive())
    }

    /// How the started program ended, as `subprocess` says it: its exit status, or minus the signal
    /// that ended it. None as long as it runs, or if the kernel does not tell.
    #[getter]
    fn exit_status(&self, py: Python<'_>) -> Option<i32> {
        py.detach(|| self.core.exit_status())
    }

    /// Bytes of this side's memory in which arrays lie that the other program still looks at, or that are
    /// being filled here.
    #[getter]
    fn lent_bytes(&self, py: Python<'_>) -> PyResult<u64> {
        py.detach(|| self.core.lent_bytes()).map_err(|error| self.failed(py, error))
    }

    /// How much of this side's memory may be lent at a time, in bytes; 1 GiB if nothing else is set.
    /// Beyond it `send` and `lend` wait until the other program has let something go.
    #[getter]
    fn lend_limit(&self) -> u64 {
        self.core.lend_limit()
    }

    #[setter]
    fn set_lend_limit(&self, bytes: &Bound<'_, PyAny>) -> PyResult<()> {
        let limit: u64 = bytes.extract().map_err(|_| {
            let text = format!("lend_limit is a number of bytes, at least 0, not {bytes}");
            PyValueError::new_err(text)
        })?;
        self.core.set_lend_limit(limit);
        Ok(())
    }

    /// Send a message. It is in the other program's memory when this returns.
    ///
    /// Args:
    ///     data: bytes, or plain data: None, bool, int of 64 bits, float, str, list, tuple, dict,
    ///         datetime, dataclass, msgspec Struct, in any nesting; and arrays of numbers at any
    ///         place in it, of numpy or with the buffer protocol.
    ///     timeout: seconds to wait for space if the other program does not keep up; None for ever.
    ///
    /// Raises:
    ///     TypeError: something in `data` cannot be sent; the text says where it is.
    ///     TooLarge: longer than the session's `max_message`.
    ///     TimedOut: no space before the deadline. Nothing was sent.
    ///     Busy: both programs wait for space and neither receives. Nothing was sent.
    ///     Closed: the session is closed. PeerGone: the other program is gone.
    #[pyo3(signature = (data, /, *, timeout=None))]
    fn send(&self, py: Python<'_>, data: &Bound<'_, PyAny>, timeout: Option<f64>) -> PyResult<()> {
        let until = deadline(timeout)?;
        self.send_payload(py, &Payload::of(data, Some(&self.lent))?, until)
    }

    /// Send a message if that can be done without waiting.
    ///
    /// Raises:
    ///     WouldBlock: there is no space now. Nothing was sent.
    ///     Busy: as much memory is lent as `lend_limit` allows. Nothing was sent.
    ///     and what `send` raises.
    #[pyo3(signature = (data, /))]
    fn send_nowait(&self, py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        self.send_payload(py, &Payload::of(data, Some(&self.lent))?, Deadline::Now)
    }

    /// Receive the next message, waiting for it.
    ///
    /// Args:
    ///     timeout: seconds to wait; None for ever.
    ///     type: what the data shall be, as msgspec understands types; it is checked and converted.
    ///
    /// Returns:
    ///     What was sent; a tuple arrives as a list, a dataclass or Struct as a dict unless `type`
    ///     asks for it. An array is read-only and lies in the sender's memory, which is its own for
    ///     as long as anything here looks at it; a memoryview where numpy is not installed.
    ///
    /// Raises:
    ///     TimedOut: nothing arrived before the deadline.
    ///     Invalid: the message is not of that type; its `data` is what it was.
    ///     Closed: the session is closed, and all that was sent before has been received.
    ///     PeerGone: the other program is gone, and all that was sent before has been received.
    ///     Corrupt: the other program wrote nonsense into the shared memory; the session has ended.
    #[pyo3(signature = (*, timeout=None, r#type=None))]
    fn receive<'py>(
        slf: &Bound<'py, Self>,
        py: Python<'py>,
        timeout: Option<f64>,
        r#type: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let this = Self::free(slf)?;
        let until = deadline(timeout)?;
        r#type.map_or(Ok(()), check_type)?;
        let message = this.next(py, until)?;
        converted(this.decoded(py, message)?, r#type)
    }

    /// Receive the next message if it has arrived already.
    ///
    /// Args:
    ///     type: as for `receive`.
    ///
    /// Raises:
    ///     WouldBlock: there is none now.
    ///     and what `receive` raises.
    #[pyo3(signature = (*, r#type=None))]
    fn receive_nowait<'py>(
        slf: &Bound<'py, Self>,
        py: Python<'py>,
        r#type: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let this = Self::free(slf)?;
        r#type.map_or(Ok(()), check_type)?;
        converted(this.decoded(py, this.next_now(py)?)?, r#type)
    }

    /// Receive the next message, which has to be bytes, into memory of your own.
    ///
    /// Args:
    ///     buffer: any writable, contiguous buffer: a bytearray, a memoryview, an array.
    ///     timeout: seconds to wait; None for ever.
    ///
    /// Returns:
    ///     How many bytes were written, from the beginning of the buffer.
    ///
    /// Raises:
    ///     ValueError: the message is longer than the buffer. It can still be received.
    ///     Invalid: the message is data, not bytes. It can still be received.
    ///     and what `receive` raises.
    #[pyo3(signature = (buffer, /, *, timeout=None))]
    fn receive_into<'py>(
        slf: &Bound<'py, Self>,
        py: Python<'_>,
        buffer: &Bound<'_, PyAny>,
        timeout: Option<f64>,
    ) -> PyResult<usize> {
        let this = Self::free(slf)?;
        let until = deadline(timeout)?;
        let mut loan = Loan::to_fill(buffer)?;
        this.fill(py, &mut loan, until)
    }

    /// Receive the next message, which has to be bytes, and look at them where they lie.
    ///
    /// From the first call on the other program puts long messages where they can be looked at, so
    /// that they are copied once, by the sender, or not at all if it has filled lent memory.
    ///
    /// Args:
    ///     timeout: seconds to wait; None for ever.
    ///
    /// Returns:
    ///     The bytes, read-only. The sender uses the memory again when the last view of it is gone.
    ///
    /// Raises:
    ///     Invalid: the message is data, not bytes. It can still be received.
    ///     and what `receive` raises.
    #[pyo3(signature = (*, timeout=None))]
    fn receive_view<'py>(
        slf: &Bound<'py, Self>,
        py: Python<'py>,
        timeout: Option<f64>,
    ) -> PyResult<Bound<'py, PyMemoryView>> {
        let this = Self::free(slf)?;
        let until = deadline(timeout)?;
        this.core.want_views();
        let message = this.next(py, until)?;
        this.viewed(py, message)
    }

    /// Ask the other program for a sign of life. It answers from within any call that receives, so
    /// this tells a program that works from one that hangs.
    ///
    /// Args:
    ///     timeout: seconds to wait.
    ///
    /// Returns:
    ///     Seconds that the answer took.
    ///
    /// Raises:
    ///     TimedOut: no answer. Closed, PeerGone: there will be none.
    #[pyo3(signature = (timeout=1.0))]
    fn ping(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<f64> {
        let until = deadline(timeout)?;
        Ok(self.wait(py, NO_ANSWER, |_| self.core.ping(until))?.as_secs_f64())
    }

    /// What the session has done so far.
    fn statistics(&self, py: Python<'_>) -> PyResult<Statistics> {
        let all = py.detach(|| self.core.statistics());
        all.map(Statistics::from).map_err(|error| self.failed(py, error))
    }

    /// A descriptor that is readable exactly while `receive_nowait` would give a message or the
    /// session's end. For select, poll and event loops; it stays the session's own.
    fn fileno(&self, py: Python<'_>) -> PyResult<i32> {
        self.with_descriptor(py, |fd| fd.as_raw_fd())
    }

    /// Ask the started program, or its process group, to end (SIGTERM).
    fn terminate(&self, py: Python<'_>) -> PyResult<()> {
        self.core.signal(EndSignal::Terminate).map_err(|error| self.failed(py, error))
    }

    /// End the started program, or its process group, at once (SIGKILL).
    fn kill(&self, py: Python<'_>) -> PyResult<()> {
        self.core.signal(EndSignal::Kill).map_err(|error| self.failed(py, error))
    }

    /// Memory to be filled in place, for `lend`.
    fn _lend<'py>(
        &self,
        py: Python<'py>,
        bytes: usize,
        timeout: Option<f64>,
    ) -> PyResult<Bound<'py, Block>> {
        self.lend(py, bytes, deadline(timeout)?)
    }

    /// Refuses what a signal's handler may not do amid a large send of the thread it interrupted.
    fn _check_not_amid_a_send(&self, py: Python<'_>) -> PyResult<()> {
        self.core.check_not_amid_a_send().map_err(|error| self.failed(py, error))
    }

    /// Sends first data with arrays in it.
    fn _send_hello(
        &self,
        py: Python<'_>,
        hello: &Bound<'_, PyAny>,
        timeout: Option<f64>,
    ) -> PyResult<()> {
        let until = deadline(timeout)?;
        match Payload::of(hello, None)? {
            Payload::Packed(packed) if packed.needs_leases() => {
                self.send_beside(py, &packed, Terms { is_hello: true, until })
            }
            _ => Err(PyValueError::new_err("this first data has no arrays in it")),
        }
    }

    /// Has every other call say that the session is closed; `_close` has to follow.
    fn _begin_close(&self) {
        self.core.begin_close();
    }

    /// `close` without its defaults.
    fn _close(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<u64> {
        let until = if timeout == Some(0.0) { Deadline::Now } else { deadline(timeout)? };
        self.wait(py, "it was not closed", |_| self.core.close(until))
    }

    /// `wait` without its deadline's meaning.
    fn _wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Option<i32>> {
        let until = deadline(timeout)?;
        self.wait(py, NOT_ENDED, |_| self.core.wait(until))
    }

    /// Whether `close` was called here, or the session failed here.
    #[getter]
    fn _is_closed(&self) -> bool {
        self.core.is_ended()
    }

    /// Whether the session was made in this process, not in the one that forked it.
    #[getter]
    fn _is_ours(&self) -> bool {
        self.core.is_ours()
    }

    /// The next message, in a tuple, if it has arrived already; None if there is none. For those who
    /// watch the descriptor.
    #[pyo3(signature = (r#type=None))]
    fn _try_receive<'py>(
        slf: &Bound<'py, Self>,
        py: Python<'py>,
        r#type: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Option<(Bound<'py, PyAny>,)>> {
        let this = Self::free(slf)?;
        let found = match this.core.try_receive(false, None) {
            Ok(Received::Message(message)) => Some(message),
            // The end makes the descriptor readable, too, so it need not be looked for.
            Ok(Received::Nothing) => None,
            Ok(_) => this.found_now(py)?,
            Err(error) => return Err(this.failed(py, error)),
        };
        match found {
            Some(message) => Ok(Some((converted(this.decoded(py, message)?, r#type)?,))),
            None => Ok(None),
        }
    }

    /// Tells the other program how the handling of its message ended, if there is room for that.
    fn _send_report(&self, py: Python<'_>, report: &Bound<'_, PyAny>) -> PyResult<()> {
        match Payload::of(report, None)? {
            Payload::Packed(packed) if !packed.needs_leases() => {
                let (codec, bytes, until) = (REPORT, &packed.bytes, Deadline::Now);
                let sent = py.detach(|| self.core.send(codec, bytes, until, &mut || true));
                sent.map_err(|error| self.failed_at(py, error, NO_ROOM))
            }
            _ => Err(PyValueError::new_err("a report is plain data")),
        }
    }

    /// How the handling of a message ended, in a tuple, waiting for that; what else arrives is dropped, or
    /// kept for those who receive later.
    #[pyo3(signature = (timeout, keep=false))]
    fn _receive_report<'py>(
        &self,
        py: Python<'py>,
        timeout: Option<f64>,
        keep: bool,
    ) -> PyResult<(Bound<'py, PyAny>,)> {
        let until = deadline(timeout)?;
        let mut others = Vec::new();
        let found = loop {
            match self.next(py, until) {
                Ok(message) if keep && message.codec != REPORT => others.push(message),
                Ok(message) => match self.report(py, message) {
                    Ok(None) => {}
                    Ok(Some(report)) => break Ok((report,)),
                    Err(error) => break Err(error),
                },
                Err(error) => break Err(error),
            }
        };
        py.detach(|| others.into_iter().rev().for_each(|message| self.core.put_back(message)));
        found
    }

    /// The same if it has arrived already; else None. What is kept comes back with the report, or with the end.
    #[pyo3(signature = (keep=false))]
    fn _try_report<'py>(
        &self,
        py: Python<'py>,
        keep: bool,
    ) -> PyResult<Option<(Bound<'py, PyAny>,)>> {
        let aside = || self.set_aside.lock().unwrap_or_else(PoisonError::into_inner);
        let found = loop {
            match self.found_now(py) {
                Ok(None) => return Ok(None),
                Ok(Some(message)) if keep && message.codec != REPORT => aside().push(message),
                Ok(Some(message)) => match self.report(py, message) {
                    Ok(None) => {}
                    found => break found,
                },
                Err(error) => break Err(error),
            }
        };
        let others = std::mem::take(&mut *aside());
        py.detach(|| others.into_iter().rev().for_each(|message| self.core.put_back(message)));
        Ok(found?.map(|report| (report,)))
    }

    /// Whether the other program has taken everything, or is gone.
    fn _is_delivered(&self, py: Python<'_>) -> PyResult<bool> {
        py.detach(|| self.core.is_delivered()).map_err(|error| self.failed(py, error))
    }

    /// Reserves arriving messages for a callback, or no longer.
    fn _set_callback(&self, has_callback: bool) {
        self.has_callback.store(has_callback, Ordering::Relaxed);
        self.core.set_served(false);
    }

    /// `receive_nowait` for the callback's thread.
    fn _take<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.core.set_served(true);
        self.decoded(py, self.next_now(py)?)
    }

    /// Lets the session end without a word: the process dies of an error.
    fn _disown(&self) {
        self.core.disown();
    }

    /// Why the session is over, as an exception; None if it is not.
    fn _end_reason(&self, py: Python<'_>) -> Option<PyErr> {
        py.detach(|| self.core.end_reason()).map(|error| self.failed(py, error))
    }

    fn __reduce__(&self) -> PyResult<()> {
        Err(PyTypeError::new_err(
            "a session belongs to its process and cannot be pickled\n\
             start one in the other process",
        ))
    }
}
