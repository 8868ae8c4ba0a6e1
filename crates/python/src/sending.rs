//! Sending what travels beside its message, in lent memory: arrays, long bytes, and what the program
//! has filled in place.

use alongside_core as core;
use alongside_core::{Deadline, Error, Sent};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::body::LONG_COPY;
use crate::encode::{
    BESIDE_ARRAYS, Copied, LENT_BYTES, PACKED, Packed, Payload, Place, RAW, WITH_ARRAYS,
};
use crate::endpoint::{Endpoint, NO_ROOM, go_on};
use crate::lease::Block;
use crate::named::Named;

/// Longer data goes into the lent memory, too, instead of the ring.
const LONGEST_BESIDE_LEASES: usize = 16 << 10;
/// Bytes of this length are lent to a reader that looks at them where they lie.
const WORTH_LENDING: usize = 16 << 10;

/// What has not come to be when memory was waited for. Views here count as much as the other side's.
const NO_MEMORY: &str =
    "as much is lent as session.lend_limit allows, and nothing was let go, there or here,";

/// How a message goes out: its deadline, and whether it is the first data.
#[derive(Clone, Copy)]
pub(crate) struct Terms {
    pub(crate) is_hello: bool,
    pub(crate) until: Deadline,
}

impl Endpoint {
    /// Sends a message in whichever way it goes best.
    #[inline]
    pub(crate) fn send_payload(
        &self,
        py: Python<'_>,
        payload: &Payload<'_>,
        until: Deadline,
    ) -> PyResult<()> {
        let terms = Terms { is_hello: false, until };
        let codec = match payload {
            Payload::Packed(packed) if packed.needs_leases() => {
                return self.send_beside(py, packed, terms);
            }
            Payload::Lent(place) => return self.send_place(py, place, terms),
            Payload::Packed(_) => PACKED,
            _ => RAW,
        };
        let bytes = payload.bytes();
        if codec == RAW
            && bytes.len() >= WORTH_LENDING
            && self.core.peer_wants_views()
            && self.send_viewed(py, bytes, terms)?
        {
            return Ok(());
        }
        match self.core.try_send(codec, bytes) {
            Ok(Sent::Done) => return Ok(()),
            Ok(Sent::Long) => {}
            Err(error) => return Err(self.failed(py, error)),
        }
        if until == Deadline::Now {
            let sent = py.detach(|| self.core.send(codec, bytes, until, &mut || true));
            return sent.map_err(|error| self.failed_at(py, error, NO_ROOM));
        }
        self.wait(py, NO_ROOM, |raised| self.core.send(codec, bytes, until, &mut || go_on(raised)))
    }

    /// Copies what is not there yet into lent memory, once, and sends word of all of it.
    pub(crate) fn send_beside(
        &self,
        py: Python<'_>,
        packed: &Packed<'_>,
        terms: Terms,
    ) -> PyResult<()> {
        self.check_size(py, packed.named_bytes)?;
        let is_beside = packed.bytes.len() > LONGEST_BESIDE_LEASES;
        let at = packed.copied_bytes.next_multiple_of(8);
        let whole = if is_beside { at + packed.bytes.len() } else { packed.copied_bytes };
        let mut beside = Vec::new();
        let mut copy = None;
        if is_beside || !packed.copied.is_empty() {
            let block = self.wait(py, NO_MEMORY, |_| self.core.lend(whole, terms.until))?;
            fill(py, &block, packed)?;
            if is_beside {
                block.region().write(at, &packed.bytes);
                beside = place_of(at, packed.bytes.len());
            }
            copy = Some(block);
        }
        let (codec, body) = match is_beside {
            true => (BESIDE_ARRAYS, &beside),
            false => (WITH_ARRAYS, &packed.bytes),
        };
        self.send_leased(py, codec, body, &packed.placed, copy, terms)?;
        packed.further.iter().try_for_each(|view| MOVED.get(py)?.call1((view,)).map(drop))
    }

    /// Sends bytes that lie in lent memory already.
    fn send_place(&self, py: Python<'_>, place: &Place<'_>, terms: Terms) -> PyResult<()> {
        let body = place_of(place.offset, place.bytes);
        self.send_leased(py, LENT_BYTES, &body, std::slice::from_ref(place), None, terms)
    }

    /// Copies bytes into lent memory, for a reader that does not want them copied again; false where
    /// there is none: then they go as any others do.
    fn send_viewed(&self, py: Python<'_>, bytes: &[u8], terms: Terms) -> PyResult<bool> {
        let lent = self.wait(py, NO_ROOM, |_| self.core.lend_if_free(bytes.len(), terms.until))?;
        let Some(block) = lent else { return Ok(false) };
        copy_in(py, &block, 0, bytes);
        self.send_leased(py, LENT_BYTES, &place_of(0, bytes.len()), &[], Some(block), terms)?;
        Ok(true)
    }

    /// Sends a message with the memory that it speaks of: what the program has filled itself, and last
    /// what was copied.
    fn send_leased(
        &self,
        py: Python<'_>,
        codec: u8,
        body: &[u8],
        placed: &[Place<'_>],
        copy: Option<core::Block>,
        Terms { is_hello, until }: Terms,
    ) -> PyResult<()> {
        let filled: Vec<_> = placed.iter().map(|place| &place.block).collect();
        if !self.lent.claim(&filled) {
            return Err(PyValueError::new_err(
                "another thread has sent this lent memory at the same moment",
            ));
        }
        let mut blocks: Vec<_> = filled.iter().map(|block| block.get().core.clone()).collect();
        blocks.extend(copy);
        // What can be sent at once is, without letting the interpreter go.
        let sent = match self.core.try_send_leased(is_hello, codec, body, &blocks) {
            Sent::Done => Ok(()),
            Sent::Long => self.wait(py, NO_ROOM, |_| {
                self.core.send_leased(is_hello, codec, body, &blocks, until)
            }),
        };
        for place in placed {
            match &sent {
                Ok(()) => moved(place)?,
                Err(_) => self.lent.add(&place.block)?,
            }
        }
        sent
    }

    fn check_size(&self, py: Python<'_>, bytes: usize) -> PyResult<()> {
        let (bytes, limit) = (bytes as u64, self.core.max_message_bytes());
        if bytes > limit {
            return Err(self.failed(py, Error::TooLarge { bytes, limit }));
        }
        Ok(())
    }

    /// Memory to be filled in place.
    pub(crate) fn lend<'py>(
        &self,
        py: Python<'py>,
        bytes: usize,
        until: Deadline,
    ) -> PyResult<Bound<'py, Block>> {
        self.check_size(py, bytes)?;
        let block = self.wait(py, NO_MEMORY, |_| self.core.lend(bytes, until))?;
        let block = Bound::new(py, Block::new(block))?;
        self.lent.add(&block)?;
        Ok(block)
    }
}

static MOVED: Named = Named::new("alongside._lending", "moved");

/// Makes what the program filled read-only: it is the other program's to read now.
fn moved(place: &Place<'_>) -> PyResult<()> {
    let py = place.source.py();
    let moved = MOVED.get(py)?;
    moved.call1((&place.source,))?;
    match place.block.get().given(py) {
        Some(given) if !given.is(&place.source) => moved.call1((given,)).map(drop),
        _ => Ok(()),
    }
}

fn fill(py: Python<'_>, block: &core::Block, packed: &Packed<'_>) -> PyResult<()> {
    let mut seen_by_python = None;
    for (what, offset) in &packed.copied {
        match what {
            Copied::Bytes(bytes) => copy_in(py, block, *offset, bytes.as_bytes()),
            Copied::Loan(loan) => copy_in(py, block, *offset, loan.bytes()),
            Copied::ByPython(fill) => {
                let seen = match seen_by_python.take() {
                    Some(seen) => seen,
                    None => Bound::new(py, Block::new(block.clone()))?,
                };
                fill.call1(PyTuple::new(
                    py,
                    [seen.as_any(), &offset.into_pyobject(py)?.into_any()],
                )?)?;
                seen_by_python = Some(seen);
            }
        }
    }
    Ok(())
}

fn copy_in(py: Python<'_>, block: &core::Block, offset: usize, bytes: &[u8]) {
    if bytes.len() > LONG_COPY {
        py.detach(|| block.region().write(offset, bytes));
    } else {
        block.region().write(offset, bytes);
    }
}

/// The payload that says where bytes lie in the last lease.
fn place_of(offset: usize, bytes: usize) -> Vec<u8> {
    let mut payload = (offset as u64).to_le_bytes().to_vec();
    payload.extend((bytes as u64).to_le_bytes());
    payload
}
