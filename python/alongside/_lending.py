"""Memory that a program fills in place and then sends, so that nothing is moved."""

from __future__ import annotations

import math
import operator
import struct
import sys
from typing import Generic, TypeVar

from ._arrays import _FORMATS, typed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Any, Never

    from . import _core

_T = TypeVar("_T")

_HINT = "lend() gives no array, but memory that does: with session.lend(...) as array"


class Lent(Generic[_T]):
    """Memory of this session, to be filled and sent; `Session.lend` gives it.

    As a context manager it gives the array, and lets the memory go at the end of the block if it
    was not sent: then nothing else has to look at it any more.

    Attributes:
        memory: the array, or memoryview, to fill. None once it was let go.
    """

    def __init__(self, block: _core.Block, memory: _T) -> None:
        block._give(memory)
        self.memory: _T | None = memory

    def __enter__(self) -> _T:
        memory = self.memory
        if memory is None:
            msg = "this memory was let go\nlend() gives new memory"
            raise ValueError(msg)
        return memory

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        memory, self.memory = self.memory, None
        if isinstance(memory, memoryview):
            # Sent or not: what was to be filled is done with. (An array cannot be taken back.)
            moved(memory)

    def __getitem__(self, _: object) -> Never:
        raise TypeError(_HINT)

    def __setitem__(self, _: object, value: object) -> None:
        raise TypeError(_HINT)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> object:
            raise AttributeError(f"{name}: {_HINT}", name=name, obj=self)

    def __repr__(self) -> str:
        return f"<alongside.Lent {'let go' if self.memory is None else type(self.memory).__name__}>"


Lent.__module__ = "alongside"


def lend(session: _core.Session, shape: int | Sequence[int], dtype: Any, timeout: Any) -> Lent[Any]:
    """Do what `Session.lend` says."""
    try:
        given: Any = shape
        sizes = tuple(map(operator.index, given if hasattr(given, "__len__") else (given,)))
    except TypeError:
        msg = f"shape {shape!r}, expected a size or a tuple of sizes, in items"
        raise TypeError(msg) from None
    if any(size < 0 for size in sizes):
        msg = f"shape {sizes}, expected sizes of at least 0"
        raise ValueError(msg)
    try:
        import numpy
    except ImportError:
        code = _format(dtype)
        size = math.prod(sizes) * struct.calcsize(code)
        block = _block(session, size, timeout)
        flat: Any = memoryview(block)  # type: ignore[arg-type]  # lends a buffer, natively
        return Lent(block, typed(flat, code, sizes))
    kind = numpy.dtype(dtype)
    if kind.hasobject:
        msg = f"dtype {kind} has Python objects in it, which cannot be sent\nlend numbers"
        raise TypeError(msg)
    block = _block(session, math.prod(sizes) * kind.itemsize, timeout)
    return Lent(block, numpy.ndarray(sizes, kind, block))  # type: ignore[arg-type]  # lends a buffer, natively


def _block(session: _core.Session, size: int, timeout: Any) -> _core.Block:
    # What no number of 64 bits holds is as much too large as the largest of them.
    return session._lend(min(size, (1 << 64) - 1), timeout)


def _format(dtype: Any) -> str:
    """Give the letter of `struct` for a data type, where numpy is not installed."""
    name = str(dtype).lstrip("<=|@")
    code = _FORMATS.get(name, name)
    try:
        if code in _FORMATS.values():
            typed(memoryview(bytes(struct.calcsize(code))), code, [1])
            return code
    except ValueError:
        # Python 3.11's memoryviews do not know floats of 16 bits.
        pass
    known = ", ".join(_FORMATS)
    msg = f"dtype {dtype!r} needs numpy, which is not installed here\nwithout it: {known}"
    raise TypeError(msg)


def lend_bytes(session: _core.Session, size: int, timeout: Any) -> Lent[memoryview]:
    """Do what `Session.lend_bytes` says."""
    size = operator.index(size)
    if size < 0:
        msg = f"size {size}, expected at least 0"
        raise ValueError(msg)
    block = _block(session, size, timeout)
    return Lent(block, memoryview(block))  # type: ignore[arg-type]  # lends a buffer, natively


def moved(memory: Any) -> None:
    """Make read-only what was sent: an array; a memoryview is released, for it cannot be."""
    if isinstance(memory, memoryview):
        try:
            memory.release()
        except BufferError:
            # Something looks at it still, an array made from it perhaps.
            return
    elif (numpy := sys.modules.get("numpy")) is not None and isinstance(memory, numpy.ndarray):
        memory.flags.writeable = False
