//! Plain data, as MessagePack.
//!
//! One walk over the data checks every type, remembers where it is, and writes the bytes. What
//! MessagePack has no word for goes as an extension of our own:
//!
//! | code | payload | Python |
//! |---|---|---|
//! | 1 | UTF-8 in which lone surrogates may stand (`surrogatepass`) | a str from a file name that is not UTF-8 |
//! | 2 | ISO 8601 text | a datetime, naive or with its UTC offset |
//! | 3 | lease, offset, data type, shape, order | an array that lies in lent memory |
//! | 4 | lease, offset, bytes | bytes that lie in lent memory |
//! | 5 | lease, offset, bytes, form | an Arrow stream that lies in lent memory |
//!
//! The lease is a number: the blocks that the program itself had filled come first, in the order met
//! here, and nil is the last lease of the message, into which the rest was copied.
//!
//! Decoding is msgspec's, in `_data.py`. (<https://github.com/msgpack/msgpack/blob/master/spec.md>)

use pyo3::exceptions::{PyOverflowError, PyTypeError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{
    PyBool, PyByteArray, PyBytes, PyDict, PyFloat, PyFrozenSet, PyInt, PyList, PyMemoryView, PySet,
    PyString, PyTuple, PyType,
};
use rmp::encode as mp;

use crate::body::{Loan, lends, type_name};
use crate::lease::{Block, Lent};
use crate::named::Named;

/// Payloads that are bytes themselves.
pub(crate) const RAW: u8 = 0;
/// Payloads in MessagePack.
pub(crate) const PACKED: u8 = 1;
/// Payloads in MessagePack, with arrays in the memory that is lent beside them.
pub(crate) const WITH_ARRAYS: u8 = 2;
/// The same, and the MessagePack lies in the last lease too: the payload is its offset and its length.
pub(crate) const BESIDE_ARRAYS: u8 = 3;
/// Bytes in lent memory: the payload is their offset and their length.
pub(crate) const LENT_BYTES: u8 = 4;
/// How the handling of a message ended, in MessagePack; for who has asked to be told.
pub(crate) const REPORT: u8 = 5;

const TEXT_WITH_SURROGATES: i8 = 1;
const DATETIME: i8 = 2;
pub(crate) const ARRAY: i8 = 3;
const BYTES: i8 = 4;
/// Bytes amid data travel beside it from this length on.
const LONG_BYTES: usize = 64 << 10;
/// So many blocks that the program has filled go with one message; what lies in more of them is copied.
const MOST_BLOCKS: usize = 1000;
/// Arrays begin at multiples of this many bytes, a cache line.
const ARRAY_ALIGNMENT: usize = 64;
/// How deep the description of a structured data type may be nested.
const NOTE_DEPTH: usize = 32;
/// Deeper data is refused; decoders bound their depth too.
const DEEPEST: usize = 256;

/// What was wrong, and where: the steps from the inside out.
struct Misfit {
    error: PyErr,
    steps: Vec<String>,
}

impl From<PyErr> for Misfit {
    fn from(error: PyErr) -> Misfit {
        Misfit { error, steps: Vec::new() }
    }
}

impl Misfit {
    fn at(mut self, step: impl FnOnce() -> String) -> Misfit {
        self.steps.push(step());
        self
    }

    /// The error, with the place in its text.
    fn named(self, py: Python<'_>) -> PyErr {
        let Misfit { error, steps } = self;
        let ours =
            error.is_instance_of::<PyTypeError>(py) || error.is_instance_of::<PyOverflowError>(py);
        if !ours {
            return error;
        }
        // A cycle, or very deep data: the way in is enough.
        let shown = steps.iter().rev().take(12);
        let more = if steps.len() > 12 { "…" } else { "" };
        let place = shown.fold(String::from("data"), |place, step| place + step) + more;
        PyTypeError::new_err(error.value(py).to_string().replace(PLACE, &place))
    }
}

/// Stands for the place in a text until the place is known.
const PLACE: &str = "\u{1}";

/// A message's payload, ready to be copied.
pub(crate) enum Payload<'py> {
    /// A bytes object, which does not change.
    Bytes(Bound<'py, PyBytes>),
    /// Somebody's buffer of bytes.
    Loan(Loan),
    /// Bytes that lie in memory which the session has lent to the program here.
    Lent(Place<'py>),
    /// Packed data.
    Packed(Packed<'py>),
}

impl<'py> Payload<'py> {
    /// Makes a payload of whatever can be sent.
    #[inline]
    pub(crate) fn of(data: &Bound<'py, PyAny>, lent: Option<&'py Lent>) -> PyResult<Payload<'py>> {
        if let Ok(bytes) = data.cast_exact::<PyBytes>() {
            return Ok(Payload::Bytes(bytes.clone()));
        }
        if is_byte_buffer(data) {
            if let Some(loan) = Loan::of_bytes(data)? {
                return Ok(match Place::of_bytes(data, &loan, lent) {
                    Some(place) => Payload::Lent(place),
                    None => Payload::Loan(loan),
                });
            }
        }
        Ok(Payload::Packed(pack(data, lent)?))
    }

    pub(crate) fn codec(&self) -> u8 {
        if matches!(self, Payload::Packed(_)) { PACKED } else { RAW }
    }

    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Payload::Bytes(bytes) => bytes.as_bytes(),
            Payload::Loan(loan) => loan.bytes(),
            Payload::Lent(_) => &[],
            Payload::Packed(packed) => &packed.bytes,
        }
    }
}

/// Raises what sending this would raise, whatever it is sent through.
#[pyfunction]
#[pyo3(signature = (data, /))]
pub(crate) fn check_message(data: &Bound<'_, PyAny>) -> PyResult<()> {
    Payload::of(data, None).map(drop)
}

/// Where something to be sent lies already: in memory that the session has lent to the program here.
pub(crate) struct Place<'py> {
    pub(crate) block: Bound<'py, Block>,
    /// What the program sends of it: an array, a memoryview.
    pub(crate) source: Bound<'py, PyAny>,
    pub(crate) offset: usize,
    pub(crate) bytes: usize,
}

impl<'py> Place<'py> {
    fn of(
        source: &Bound<'py, PyAny>,
        start: usize,
        bytes: usize,
        lent: Option<&'py Lent>,
    ) -> Option<Place<'py>> {
        let (block, offset) = lent?.find(source.py(), start, bytes)?;
        Some(Place { block, source: source.clone(), offset, bytes })
    }

    /// The place of an array that lies in one piece; `memory` is what its memory can be asked of.
    fn of_array(
        source: &Bound<'py, PyAny>,
        memory: &Bound<'py, PyAny>,
        bytes: usize,
        lent: Option<&'py Lent>,
    ) -> PyResult<Option<Place<'py>>> {
        static ADDRESS: Named = Named::new("alongside._arrays", "address");
        if memory.is_none() || !lent.is_some_and(Lent::has_any) {
            return Ok(None);
        }
        let address = match Loan::in_one_piece(memory) {
            Some(loan) => Some(loan.bytes().as_ptr().addr()),
            None => ADDRESS.get(source.py())?.call1((memory,))?.extract()?,
        };
        Ok(address.and_then(|address| Place::of(source, address, bytes, lent)))
    }

    fn of_bytes(
        source: &Bound<'py, PyAny>,
        loan: &Loan,
        lent: Option<&'py Lent>,
    ) -> Option<Place<'py>> {
        Place::of(source, loan.bytes().as_ptr().addr(), loan.bytes().len(), lent)
    }
}

/// What is copied to an offset in lent memory.
pub(crate) enum Copied<'py> {
    /// By a function of Python's, which takes a block and the offset.
    ByPython(Bound<'py, PyAny>),
    Bytes(Bound<'py, PyBytes>),
    Loan(Loan),
}

/// Data that was packed, and what travels beside it.
#[derive(Default)]
pub(crate) struct Packed<'py> {
    pub(crate) bytes: Vec<u8>,
    /// What has to be copied, and to which offsets.
    pub(crate) copied: Vec<(Copied<'py>, usize)>,
    /// Bytes of lent memory that this takes.
    pub(crate) copied_bytes: usize,
    /// How many bytes the receiver will copy out of lent memory, which may be named more than once.
    pub(crate) named_bytes: usize,
    /// What lies in lent memory already.
    pub(crate) placed: Vec<Place<'py>>,
    /// Further views of the same blocks.
    pub(crate) further: Vec<Bound<'py, PyAny>>,
    lent: Option<&'py Lent>,
}

impl<'py> Packed<'py> {
    /// Whether some of it travels beside the message.
    #[inline]
    pub(crate) fn needs_leases(&self) -> bool {
        !self.copied.is_empty() || !self.placed.is_empty()
    }

    /// Takes note that `bytes` bytes are to be copied; gives their offset.
    fn copy(&mut self, what: Copied<'py>, bytes: usize) -> usize {
        let offset = self.copied_bytes.next_multiple_of(ARRAY_ALIGNMENT);
        self.copied_bytes = offset + bytes;
        self.copied.push((what, offset));
        offset
    }

    /// Takes note of what lies in lent memory; gives the number of the lease.
    fn place(&mut self, place: Place<'py>) -> usize {
        let known = self.placed.iter().position(|other| other.block.is(&place.block));
        if let Some(number) = known {
            // Another view of the same block, to be made read-only with it.
            self.further.push(place.source);
            return number;
        }
        self.placed.push(place);
        self.placed.len() - 1
    }

    /// Whether another block can go with the message: the terms of all have to fit into one record.
    fn has_room_for(&self, place: &Place<'py>) -> bool {
        self.placed.len() < MOST_BLOCKS
            || self.placed.iter().any(|other| other.block.is(&place.block))
    }
}

fn pack<'py>(data: &Bound<'py, PyAny>, lent: Option<&'py Lent>) -> PyResult<Packed<'py>> {
    let mut out = Packed { bytes: Vec::with_capacity(256), lent, ..Packed::default() };
    put(data, &mut out, DEEPEST).map_err(|misfit| misfit.named(data.py()))?;
    Ok(out)
}

fn is_byte_buffer(data: &Bound<'_, PyAny>) -> bool {
    data.is_exact_instance_of::<PyByteArray>() || data.is_exact_instance_of::<PyMemoryView>()
}

fn put<'py>(data: &Bound<'py, PyAny>, out: &mut Packed<'py>, depth: usize) -> Result<(), Misfit> {
    if let Ok(text) = data.cast_exact::<PyString>() {
        return put_text(text, out);
    }
    if let Ok(number) = data.cast_exact::<PyInt>() {
        return put_int(number, out);
    }
    if let Ok(number) = data.cast_exact::<PyFloat>() {
        return written(mp::write_f64(&mut out.bytes, number.value()));
    }
    if data.is_none() {
        return written(mp::write_nil(&mut out.bytes));
    }
    if let Ok(truth) = data.cast_exact::<PyBool>() {
        return written(mp::write_bool(&mut out.bytes, truth.is_true()));
    }
    if let Ok(bytes) = data.cast_exact::<PyBytes>() {
        return put_own_bytes(bytes, out);
    }
    let Some(depth) = depth.checked_sub(1) else {
        return Err(PyTypeError::new_err(format!(
            "{PLACE} is nested more than {DEEPEST} levels deep, or contains itself"
        ))
        .into());
    };
    if let Ok(list) = data.cast_exact::<PyList>() {
        return put_items(list.len(), list.iter(), out, depth);
    }
    if let Ok(dict) = data.cast_exact::<PyDict>() {
        return put_dict(dict, out, depth);
    }
    if let Ok(tuple) = data.cast_exact::<PyTuple>() {
        return put_items(tuple.len(), tuple.iter(), out, depth);
    }
    put_rare(data, out, depth)
}

/// Writing to a vector does not fail; what rmp reports otherwise would be a length beyond u32.
fn written<T, E>(result: Result<T, E>) -> Result<(), Misfit> {
    result.map(drop).map_err(|_| too_long())
}

fn too_long() -> Misfit {
    PyTypeError::new_err(format!("{PLACE} has more than 2**32 - 1 bytes or items")).into()
}

fn short(length: usize) -> Result<u32, Misfit> {
    u32::try_from(length).map_err(|_| too_long())
}

fn put_text<'py>(text: &Bound<'py, PyString>, out: &mut Packed<'py>) -> Result<(), Misfit> {
    if let Ok(text) = text.to_str() {
        short(text.len())?;
        return written(mp::write_str(&mut out.bytes, text));
    }
    let escaped = text.call_method1("encode", ("utf-8", "surrogatepass"))?;
    put_extension(
        TEXT_WITH_SURROGATES,
        escaped.cast_exact::<PyBytes>().map_err(PyErr::from)?.as_bytes(),
        out,
    )
}

fn put_int(number: &Bound<'_, PyInt>, out: &mut Packed<'_>) -> Result<(), Misfit> {
    if let Ok(number) = number.extract::<i64>() {
        return written(mp::write_sint(&mut out.bytes, number));
    }
    match number.extract::<u64>() {
        Ok(number) => written(mp::write_uint(&mut out.bytes, number)),
        Err(_) => Err(PyTypeError::new_err(format!(
            "{PLACE} is an int of more than 64 bits\nsend it as a str"
        ))
        .into()),
    }
}

fn put_own_bytes<'py>(bytes: &Bound<'py, PyBytes>, out: &mut Packed<'py>) -> Result<(), Misfit> {
    let length = bytes.as_bytes().len();
    if length < LONG_BYTES {
        return put_bytes(bytes.as_bytes(), out);
    }
    let offset = out.copy(Copied::Bytes(bytes.clone()), length);
    note_bytes(None, offset, length, out)
}

fn put_loan<'py>(
    data: &Bound<'py, PyAny>,
    loan: Loan,
    out: &mut Packed<'py>,
) -> Result<(), Misfit> {
    let length = loan.bytes().len();
    if let Some(place) =
        Place::of_bytes(data, &loan, out.lent).filter(|place| out.has_room_for(place))
    {
        let offset = place.offset;
        let lease = out.place(place);
        return note_bytes(Some(lease), offset, length, out);
    }
    if length < LONG_BYTES {
        return put_bytes(loan.bytes(), out);
    }
    let offset = out.copy(Copied::Loan(loan), length);
    note_bytes(None, offset, length, out)
}

/// Says where bytes lie.
fn note_bytes(
    lease: Option<usize>,
    offset: usize,
    length: usize,
    out: &mut Packed<'_>,
) -> Result<(), Misfit> {
    out.named_bytes = out.named_bytes.saturating_add(length);
    let mut note = Vec::with_capacity(32);
    written(mp::write_array_len(&mut note, 3))?;
    put_lease(lease, &mut note)?;
    written(mp::write_uint(&mut note, offset as u64))?;
    written(mp::write_uint(&mut note, length as u64))?;
    put_extension(BYTES, &note, out)
}

fn put_lease(lease: Option<usize>, note: &mut Vec<u8>) -> Result<(), Misfit> {
    match lease {
        Some(number) => written(mp::write_uint(note, number as u64)),
        None => written(mp::write_nil(note)),
    }
}

fn put_bytes(bytes: &[u8], out: &mut Packed<'_>) -> Result<(), Misfit> {
    written(mp::write_bin_len(&mut out.bytes, short(bytes.len())?))?;
    out.bytes.extend_from_slice(bytes);
    Ok(())
}

fn put_extension(code: i8, payload: &[u8], out: &mut Packed<'_>) -> Result<(), Misfit> {
    written(mp::write_ext_meta(&mut out.bytes, short(payload.len())?, code))?;
    out.bytes.extend_from_slice(payload);
    Ok(())
}

fn put_items<'py>(
    length: usize,
    items: impl Iterator<Item = Bound<'py, PyAny>>,
    out: &mut Packed<'py>,
    depth: usize,
) -> Result<(), Misfit> {
    written(mp::write_array_len(&mut out.bytes, short(length)?))?;
    let mut count = 0;
    for item in items {
        put(&item, out, depth).map_err(|misfit| misfit.at(|| format!("[{count}]")))?;
        count += 1;
    }
    if count == length { Ok(()) } else { Err(changed()) }
}

fn changed() -> Misfit {
    PyTypeError::new_err(format!("{PLACE} was changed while it was being sent")).into()
}

fn put_dict<'py>(
    dict: &Bound<'py, PyDict>,
    out: &mut Packed<'py>,
    depth: usize,
) -> Result<(), Misfit> {
    written(mp::write_map_len(&mut out.bytes, short(dict.len())?))?;
    let length = dict.len();
    let mut count = 0;
    // Copied first: what is sent may run code (a property of a dataclass) that changes the dict.
    for (key, value) in dict.iter().collect::<Vec<_>>() {
        if let Ok(key) = key.cast_exact::<PyString>() {
            put_text(key, out)?;
        } else {
            put_key(&key, out)?;
        }
        put(&value, out, depth).map_err(|misfit| misfit.at(|| step(&key)))?;
        count += 1;
    }
    if count == length { Ok(()) } else { Err(changed()) }
}

fn step(key: &Bound<'_, PyAny>) -> String {
    key.repr().map_or_else(|_| "[?]".into(), |key| format!("[{}]", key.to_string_lossy()))
}

/// A key that is not a str: the other scalars, which arrive hashable.
fn put_key<'py>(key: &Bound<'py, PyAny>, out: &mut Packed<'py>) -> Result<(), Misfit> {
    let is_container = key.is_exact_instance_of::<PyTuple>()
        || key.hasattr("__dataclass_fields__").unwrap_or(false)
        || key.hasattr("__struct_fields__").unwrap_or(false);
    if is_container {
        let (shown, name) = (step(key), type_name(key));
        return Err(PyTypeError::new_err(format!(
            "{PLACE} has the key {} of type {name}, which would not arrive hashable",
            shown.trim_start_matches('[').trim_end_matches(']'),
        ))
        .into());
    }
    if let Ok(bytes) = key.cast_exact::<PyBytes>() {
        return put_bytes(bytes.as_bytes(), out);
    }
    put(key, out, 1).map_err(|misfit| misfit.at(|| format!(" key {}", step(key))))
}

/// The types that are not Python's own containers and scalars.
fn put_rare<'py>(
    data: &Bound<'py, PyAny>,
    out: &mut Packed<'py>,
    depth: usize,
) -> Result<(), Misfit> {
    if lends(data) && !is_byte_buffer(data) && put_plain_array(data, out)? {
        return Ok(());
    }
    if is_byte_buffer(data) {
        if let Some(loan) = Loan::of_bytes(data)? {
            return put_loan(data, loan, out);
        }
        return put_array(data, out);
    }
    let py = data.py();
    let class = data.get_type();
    static DATETIME_TYPE: Named = Named::new("datetime", "datetime");
    if class.is(DATETIME_TYPE.get(py)?) {
        let text = data.call_method0("isoformat")?.extract::<String>()?;
        return put_extension(DATETIME, text.as_bytes(), out);
    }
    if class.hasattr("__struct_config__")? {
        return put_struct(data, &class, out, depth);
    }
    if class.hasattr("__dataclass_fields__")? {
        return put_dataclass(data, out, depth);
    }
    let has = |name| class.hasattr(name);
    if lends(data) || has("__dlpack__")? || has("__arrow_c_stream__")? || has("__arrow_c_array__")?
    {
        return put_array(data, out);
    }
    Err(PyTypeError::new_err(format!(
        "{PLACE} is of type {}, which cannot be sent\n{}",
        type_name(data),
        way_out(data)
    ))
    .into())
}

/// An array of numpy's that lies in one piece and whose data type is known already: nothing of Python's
/// is asked. False if it is not one.
fn put_plain_array<'py>(data: &Bound<'py, PyAny>, out: &mut Packed<'py>) -> Result<bool, Misfit> {
    static KINDS: Named = Named::new("alongside._arrays", "_kinds");
    let py = data.py();
    let kinds = KINDS.get(py)?;
    let Ok(kinds) = kinds.cast_exact::<PyDict>() else { return Ok(false) };
    // Without any, numpy may not even be loaded.
    if kinds.is_empty() || !is_ndarray(data)? {
        return Ok(false);
    }
    let Some(kind) = kinds.get_item(data.getattr(intern!(py, "dtype"))?)? else {
        return Ok(false);
    };
    let (loan, order) = match Loan::in_order(data, true) {
        Some(loan) => (loan, "C"),
        None => match Loan::in_order(data, false) {
            Some(loan) => (loan, "F"),
            None => return Ok(false),
        },
    };
    let bytes = loan.bytes().len();
    let shape = loan.shape().to_vec();
    let place = Place::of_bytes(data, &loan, out.lent).filter(|place| out.has_room_for(place));
    let (lease, offset) = match place {
        Some(place) => {
            let offset = place.offset;
            (Some(out.place(place)), offset)
        }
        None => (None, out.copy(Copied::Loan(loan), bytes)),
    };
    let mut note = Packed { bytes: Vec::with_capacity(64), ..Packed::default() };
    written(mp::write_array_len(&mut note.bytes, 5))?;
    put_lease(lease, &mut note.bytes)?;
    written(mp::write_uint(&mut note.bytes, offset as u64))?;
    put(&kind, &mut note, NOTE_DEPTH)?;
    written(mp::write_array_len(&mut note.bytes, shape.len() as u32))?;
    for size in shape {
        written(mp::write_uint(&mut note.bytes, size as u64))?;
    }
    written(mp::write_str(&mut note.bytes, order))?;
    put_extension(ARRAY, &note.bytes, out)?;
    Ok(true)
}

/// Whether it is an array of numpy's own class; asked only where numpy is loaded.
fn is_ndarray(data: &Bound<'_, PyAny>) -> PyResult<bool> {
    static NDARRAY: Named = Named::new("numpy", "ndarray");
    Ok(data.get_type().is(NDARRAY.get(data.py())?))
}

/// An array or a table: a note of where it lies, and what it is.
fn put_array<'py>(data: &Bound<'py, PyAny>, out: &mut Packed<'py>) -> Result<(), Misfit> {
    static DESCRIBE: Named = Named::new("alongside._arrays", "describe");
    let py = data.py();
    let described = match DESCRIBE.get(py)?.call1((data,)) {
        Err(error) if error.is_instance_of::<PyTypeError>(py) => {
            return Err(PyTypeError::new_err(format!("{PLACE} {}", error.value(py))).into());
        }
        described => described?,
    };
    let (code, fill, bytes, facts, source): (
        i8,
        Bound<'py, PyAny>,
        usize,
        Bound<'py, PyTuple>,
        Bound<'py, PyAny>,
    ) = described.extract()?;
    let place = Place::of_array(data, &source, bytes, out.lent)?;
    let (lease, offset) = match place.filter(|place| out.has_room_for(place)) {
        Some(place) => {
            let offset = place.offset;
            (Some(out.place(place)), offset)
        }
        None => (None, out.copy(Copied::ByPython(fill), bytes)),
    };
    let mut note = Packed::default();
    written(mp::write_array_len(&mut note.bytes, 2 + short(facts.len())?))?;
    put_lease(lease, &mut note.bytes)?;
    written(mp::write_uint(&mut note.bytes, offset as u64))?;
    for fact in facts {
        put(&fact, &mut note, NOTE_DEPTH)?;
    }
    put_extension(code, &note.bytes, out)
}

/// What to send instead of something that cannot be sent.
fn way_out(data: &Bound<'_, PyAny>) -> String {
    let has = |name| data.get_type().hasattr(name).unwrap_or(false);
    if type_name(data) == "alongside.Lent" {
        return "send the array that it gives: with session.lend(...) as array".into();
    }
    if has("__members__") {
        return "send its .value; type=... makes it again".into();
    }
    if data.is_instance_of::<PySet>() || data.is_instance_of::<PyFrozenSet>() {
        return "send list(...) of it; type=set makes a set of it again".into();
    }
    if has("__fspath__") {
        return "send str(...) of it".into();
    }
    for (base, name) in [
        (data.is_instance_of::<PyString>(), "str"),
        (data.is_instance_of::<PyBytes>(), "bytes"),
        (data.is_instance_of::<PyInt>(), "int"),
        (data.is_instance_of::<PyFloat>(), "float"),
        (data.is_instance_of::<PyDict>(), "dict"),
        (data.is_instance_of::<PyList>() || data.is_instance_of::<PyTuple>(), "list"),
    ] {
        if base {
            return format!("send {name}(...) of it");
        }
    }
    if has("isoformat") {
        return "send .isoformat() of it; type=... makes it again".into();
    }
    "what can: None, bool, int, float, str, bytes, list, tuple, dict, datetime, dataclasses and msgspec \
     Structs, of these very types"
        .into()
}

/// A msgspec Struct as the dict that msgspec itself would make of it: renamed fields and the tag
/// included, unset fields left out; array-like ones as an array.
fn put_struct<'py>(
    data: &Bound<'py, PyAny>,
    class: &Bound<'py, PyType>,
    out: &mut Packed<'py>,
    depth: usize,
) -> Result<(), Misfit> {
    let names = class.getattr("__struct_fields__")?;
    let on_wire = class.getattr("__struct_encode_fields__")?;
    let config = class.getattr("__struct_config__")?;
    let tag = config.getattr("tag")?;
    let mut fields = Vec::new();
    for (name, on_wire) in names.try_iter()?.zip(on_wire.try_iter()?) {
        let (name, on_wire) = (name?, on_wire?);
        let value = data.getattr(name.cast::<PyString>().map_err(PyErr::from)?)?;
        fields.push((on_wire.cast_into::<PyString>().map_err(PyErr::from)?, value));
    }
    if config.getattr("array_like")?.is_truthy()? {
        let tag = (!tag.is_none()).then_some(tag);
        let items = fields.len() + usize::from(tag.is_some());
        let values = fields.into_iter().map(|(_, value)| value);
        return put_items(items, tag.into_iter().chain(values), out, depth);
    }
    fields.retain(|(_, value)| !value.get_type().name().is_ok_and(|name| name == "UnsetType"));
    if !tag.is_none() {
        let field = config.getattr("tag_field")?;
        fields.insert(0, (field.cast_into::<PyString>().map_err(PyErr::from)?, tag));
    }
    put_fields(&fields, out, depth)
}

fn put_dataclass<'py>(
    data: &Bound<'py, PyAny>,
    out: &mut Packed<'py>,
    depth: usize,
) -> Result<(), Misfit> {
    static FIELDS: Named = Named::new("dataclasses", "fields");
    let py = data.py();
    let mut fields = Vec::new();
    for field in FIELDS.get(py)?.call1((data,))?.try_iter()? {
        let name = field?.getattr("name")?.cast_into::<PyString>().map_err(PyErr::from)?;
        let value = data.getattr(&name)?;
        fields.push((name, value));
    }
    put_fields(&fields, out, depth)
}

fn put_fields<'py>(
    fields: &[(Bound<'py, PyString>, Bound<'py, PyAny>)],
    out: &mut Packed<'py>,
    depth: usize,
) -> Result<(), Misfit> {
    written(mp::write_map_len(&mut out.bytes, short(fields.len())?))?;
    for (name, value) in fields {
        put_text(name, out)?;
        put(value, out, depth).map_err(|misfit| misfit.at(|| format!(".{name}")))?;
    }
    Ok(())
}
