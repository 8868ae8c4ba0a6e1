//! What a message means: bytes as they are, data through `_data.py`, and what it borrows.
//!
//! A message that says of the memory beside it what no honest sender would ends the session, like any
//! other scribbling.

use alongside_core as core;
use alongside_core::{Buffer, Error, Message};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyMemoryView, PySlice, PyTuple};
use rmp::decode as mp;

use crate::body::{Body, LONG_COPY};
use crate::encode::{ARRAY, BESIDE_ARRAYS, LENT_BYTES, PACKED, RAW, REPORT, WITH_ARRAYS};
use crate::endpoint::Endpoint;
use crate::errors::raise;
use crate::lease::Lease;
use crate::named::Named;

static DECODE: Named = Named::new("alongside._data", "decode");
static DECODE_LEASED: Named = Named::new("alongside._data", "decode_leased");
static CORRUPT: Named = Named::new("alongside._errors", "Corrupt");

/// The last codec that this program knows.
pub(crate) const LAST_CODEC: u8 = REPORT;

/// Bytes that lie in a lease.
pub(crate) struct View {
    pub(crate) lease: core::Lease,
    pub(crate) offset: usize,
    pub(crate) bytes: usize,
}

impl View {
    /// What a message of [`LENT_BYTES`] names; `None` if that is not there.
    pub(crate) fn of(message: &mut Message<Body>) -> Option<View> {
        let (offset, bytes) = message.body.bytes().split_at_checked(8)?;
        let offset = usize::try_from(u64::from_le_bytes(offset.try_into().ok()?)).ok()?;
        let bytes = usize::try_from(u64::from_le_bytes(bytes.try_into().ok()?)).ok()?;
        let lease = message.leases.last()?;
        let fits = offset.checked_add(bytes)? as u64 <= lease.bytes();
        let lease = fits.then(|| message.leases.pop())??;
        Some(View { lease, offset, bytes })
    }

    /// Copies them; all of `into` is written, which is as long.
    pub(crate) fn copy(&self, py: Python<'_>, into: &mut [std::mem::MaybeUninit<u8>]) {
        if self.bytes > LONG_COPY {
            py.detach(|| self.lease.region().read(self.offset, into));
        } else {
            self.lease.region().read(self.offset, into);
        }
    }
}

impl Endpoint {
    /// The object that a message means.
    #[inline]
    pub(crate) fn decoded<'py>(
        &self,
        py: Python<'py>,
        message: Message<Body>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if message.codec == RAW {
            return Ok(message.body.into_bytes(py).into_any());
        }
        if message.codec == LENT_BYTES {
            return self.copied(py, message).map(Bound::into_any);
        }
        // What cannot be decoded for want of the decoder is not lost.
        if let Err(error) = DECODE.get(py) {
            py.detach(|| self.core.put_back(message));
            return Err(error);
        }
        let codec = message.codec;
        let leases = leases(py, message.leases)?;
        if codec == WITH_ARRAYS
            && let Some(array) = sole_array(py, message.body.bytes(), &leases)
        {
            return Ok(array);
        }
        self.unpacked(py, codec, &message.body.into_bytes(py), &leases)
    }

    /// Lent bytes as bytes of this program's own.
    fn copied<'py>(
        &self,
        py: Python<'py>,
        mut message: Message<Body>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let view = View::of(&mut message).ok_or_else(|| self.misplaced(py))?;
        let Ok(mut body) = Body::with_length(view.bytes) else {
            let bytes = view.bytes as u64;
            message.leases.push(view.lease);
            py.detach(|| self.core.put_back(message));
            return Err(self.failed(py, Error::NoMemory(bytes)));
        };
        view.copy(py, body.space());
        Ok(body.into_bytes(py))
    }

    /// A memoryview of a message that is bytes, where they lie.
    pub(crate) fn viewed<'py>(
        &self,
        py: Python<'py>,
        mut message: Message<Body>,
    ) -> PyResult<Bound<'py, PyMemoryView>> {
        match message.codec {
            RAW => PyMemoryView::from(message.body.into_bytes(py).as_any()),
            LENT_BYTES => {
                let view = View::of(&mut message).ok_or_else(|| self.misplaced(py))?;
                let whole = view.lease.bytes();
                let lease = Bound::new(py, Lease::new(view.lease))?;
                let all = PyMemoryView::from(lease.as_any())?;
                if view.bytes as u64 == whole {
                    return Ok(all);
                }
                let end = (view.offset + view.bytes) as isize;
                let part = all.get_item(PySlice::new(py, view.offset as isize, end, 1))?;
                Ok(part.cast_into::<PyMemoryView>()?)
            }
            codec => {
                py.detach(|| self.core.put_back(message));
                Err(self.failed(py, Error::OtherCodec(codec)))
            }
        }
    }

    pub(crate) fn misplaced(&self, py: Python<'_>) -> PyErr {
        let text = "the other program sent bytes that do not lie in the memory it lent";
        self.core.condemn(text.into());
        raise(py, "Corrupt", text)
    }

    /// What a message says if it is a report; messages of other kinds are dropped: who asks for a
    /// report has no other use for them.
    pub(crate) fn report<'py>(
        &self,
        py: Python<'py>,
        message: Message<Body>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        if message.codec != REPORT {
            return Ok(None);
        }
        self.unpacked(py, PACKED, &message.body.into_bytes(py), &[]).map(Some)
    }

    pub(crate) fn unpacked<'py>(
        &self,
        py: Python<'py>,
        codec: u8,
        bytes: &Bound<'py, PyBytes>,
        leases: &[Py<Lease>],
    ) -> PyResult<Bound<'py, PyAny>> {
        let decoded = match codec {
            PACKED => DECODE.get(py)?.call1((bytes,)),
            WITH_ARRAYS | BESIDE_ARRAYS => {
                let most = self.core.max_message_bytes();
                DECODE_LEASED.get(py)?.call1((bytes, leases, codec == BESIDE_ARRAYS, most))
            }
            REPORT => {
                let text =
                    "the other program reports how a message was handled, which nobody asked";
                self.core.condemn(text.into());
                return Err(raise(py, "Corrupt", text));
            }
            _ => {
                let text =
                    format!("a message of codec {codec}, this program knows 0 to {LAST_CODEC}");
                return Err(raise(py, "Incompatible", &text));
            }
        };
        if let Err(error) = &decoded
            && error.matches(py, CORRUPT.get(py)?)?
        {
            self.core.condemn(error.value(py).to_string());
        }
        decoded
    }
}

/// The array that is all of a message, if its data type is known already and nothing is wrong with it:
/// made without a word of Python. Whatever else it is, the long way says.
fn sole_array<'py>(
    py: Python<'py>,
    body: &[u8],
    leases: &[Py<Lease>],
) -> Option<Bound<'py, PyAny>> {
    static DTYPES: Named = Named::new("alongside._arrays", "_dtypes");
    static NDARRAY: Named = Named::new("numpy", "ndarray");
    let note = Note::read(body)?;
    let dtypes = DTYPES.get(py).ok()?.cast_into_exact::<PyDict>().ok()?;
    let dtype = dtypes.get_item(note.kind).ok()??;
    let lease = match note.lease {
        Some(number) => leases.get(usize::try_from(number).ok()?)?,
        None => leases.last()?,
    };
    // Before numpy is asked, which adds up in 64 bits, and wraps.
    let itemsize = dtype.getattr(intern!(py, "itemsize")).ok()?.extract::<u64>().ok()?;
    if note.end(itemsize)? > lease.get().core.bytes() {
        return None;
    }
    let shape = PyTuple::new(py, note.shape).ok()?;
    let arguments = (shape, dtype, lease, note.offset, py.None(), note.order);
    NDARRAY.get(py).ok()?.call1(arguments).ok()
}

/// What an array's extension says.
struct Note<'b> {
    lease: Option<u64>,
    offset: u64,
    kind: &'b str,
    shape: Vec<u64>,
    order: &'b str,
}

impl Note<'_> {
    /// Where the array ends, as far as that can be counted.
    fn end(&self, itemsize: u64) -> Option<u64> {
        let bytes = self.shape.iter().try_fold(itemsize, |all, size| all.checked_mul(*size))?;
        self.offset.checked_add(bytes)
    }

    /// Reads a body that is such an extension and nothing else.
    fn read(body: &[u8]) -> Option<Note<'_>> {
        let mut rest = body;
        let head = mp::read_ext_meta(&mut rest).ok()?;
        if head.typeid != ARRAY || head.size as usize != rest.len() {
            return None;
        }
        if mp::read_array_len(&mut rest).ok()? != 5 {
            return None;
        }
        let lease = match rest.first()? {
            0xc0 => {
                rest = &rest[1..];
                None
            }
            _ => Some(mp::read_int(&mut rest).ok()?),
        };
        let offset = mp::read_int(&mut rest).ok()?;
        let (kind, mut rest) = mp::read_str_from_slice(rest).ok()?;
        let dimensions = mp::read_array_len(&mut rest).ok()?;
        if dimensions as usize > rest.len() {
            return None;
        }
        let shape = (0..dimensions).map(|_| mp::read_int(&mut rest).ok()).collect::<Option<_>>()?;
        let (order, rest) = mp::read_str_from_slice(rest).ok()?;
        let is_right = rest.is_empty() && matches!(order, "C" | "F");
        is_right.then_some(Note { lease, offset, kind, shape, order })
    }
}

/// What a message borrows, as Python's objects.
pub(crate) fn leases(py: Python<'_>, all: Vec<core::Lease>) -> PyResult<Vec<Py<Lease>>> {
    all.into_iter().map(|lease| Py::new(py, Lease::new(lease))).collect()
}
