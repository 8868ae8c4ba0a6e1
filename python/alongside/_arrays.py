"""Arrays: what one is on the wire, and how it becomes one again in the memory it arrived in.

An array is described by its data type, its shape and the order of its items in memory. numpy is
used where it is: on the sending side if the array is one of numpy's, on the receiving side if it
is installed. Without it other buffers can be sent, and memoryviews arrive.
"""

from __future__ import annotations

import math
import struct
import sys

from ._errors import Invalid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, TypeAlias

    _Kind: TypeAlias = str | list[Any]

# What the format of a buffer's items (as in `struct`) means: signed, unsigned, floating, truth.
_KINDS = {
    **dict.fromkeys("bhilqn", "i"),
    **dict.fromkeys("BHILQN", "u"),
    **dict.fromkeys("efd", "f"),
}
_FORMATS = {
    "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I", "u8": "Q",
    "f2": "e", "f4": "f", "f8": "d", "b1": "?",
}  # fmt: skip
_NATIVE = "<" if sys.byteorder == "little" else ">"


def describe(data: Any) -> tuple[object, int, _Kind, Sequence[int], str]:
    """Give what is to be copied, its bytes, and the array's data type, shape and order.

    Raises:
        TypeError: it is no array of plain values.
    """
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(data, numpy.ndarray):
        return _describe_numpy(numpy, data)
    if numpy is not None and isinstance(data, numpy.generic):
        msg = "is a number of numpy's\nsend .item() of it"
        raise TypeError(msg)
    view: Any = memoryview(data)
    code = view.format.lstrip("@=")
    if code.startswith(_NATIVE):
        code = code[1:]
    if code not in _KINDS and code != "?":
        msg = f"has items of the format {view.format!r}, expected numbers\nsend .tolist() of it"
        raise TypeError(msg)
    order = "C" if view.c_contiguous or not view.f_contiguous else "F"
    size = view.itemsize
    kind = _KINDS.get(code, "b") + str(size)
    return view, view.nbytes, kind if size == 1 else _NATIVE + kind, view.shape, order


def _describe_numpy(numpy: Any, data: Any) -> tuple[object, int, _Kind, Sequence[int], str]:
    if data.dtype.hasobject:
        msg = f"has items of the type {data.dtype}, which are Python objects\nsend .tolist() of it"
        raise TypeError(msg)
    if type(data) is not numpy.ndarray and not isinstance(data, numpy.memmap):
        name = type(data).__name__
        msg = f"is a {name}, of which a plain array would arrive\nsend numpy.asarray(...) of it"
        raise TypeError(msg)
    kind = numpy.lib.format.dtype_to_descr(data.dtype)
    order = "F" if data.flags.f_contiguous and not data.flags.c_contiguous else "C"
    return data, data.nbytes, kind, data.shape, order


def fill(block: Any, arrays: list[tuple[Any, int, int, Sequence[int], str]]) -> None:
    """Copy arrays to their places in lent memory."""
    numpy = sys.modules.get("numpy")
    for source, offset, size, shape, order in arrays:
        if numpy is not None and isinstance(source, numpy.ndarray):
            place = numpy.ndarray(shape, source.dtype, block, offset, order=order)
            numpy.copyto(place, source)
        else:
            flat = source if source.c_contiguous else memoryview(source.tobytes(order))
            memoryview(block)[offset : offset + size] = flat.cast("B")


def make(lease: Any, offset: int, kind: _Kind, shape: list[int], order: str) -> object:
    """Give the array that lies in lent memory, read-only.

    Raises:
        Invalid: the description is that of no array, or of one that does not fit.
    """
    try:
        _check(offset, shape, order)
        numpy = _numpy()
        if numpy is None:
            return _view(lease, offset, kind, shape, order)
        return numpy.ndarray(shape, _dtype(numpy, kind), lease, offset, order=order)
    except (TypeError, ValueError, LookupError, OverflowError) as error:
        msg = f"a message with an array that is none: {error}"
        raise Invalid(msg) from error


def _check(offset: object, shape: list[int], order: str) -> None:
    """Refuse what numpy would take: to it a negative offset is one before the buffer."""
    if any(type(number) is not int or number < 0 for number in (offset, *shape)):
        msg = f"offset {offset!r}, shape {shape!r}"
        raise ValueError(msg)
    if order not in {"C", "F"}:
        msg = f"order {order!r}"
        raise ValueError(msg)


def _dtype(numpy: Any, kind: _Kind) -> Any:
    dtype = numpy.lib.format.descr_to_dtype(_as_numpy_says(kind))
    if dtype.hasobject:
        msg = f"data type {dtype}"
        raise ValueError(msg)
    return dtype


def _as_numpy_says(kind: Any) -> Any:
    """Make tuples again of what arrived as lists: the fields of a structured data type."""
    if isinstance(kind, str):
        return kind
    fields: list[object] = []
    for name, inner, *shape in kind:
        named: Any = name
        titled = tuple(named) if isinstance(name, list) else named
        fields.append((titled, _as_numpy_says(inner), *map(tuple, shape)))
    return fields


def _view(lease: Any, offset: int, kind: _Kind, shape: list[int], order: str) -> object:
    """Give a typed memoryview, which knows numbers of this machine in C's order."""
    code = _FORMATS.get(kind.lstrip(_NATIVE + "|")) if isinstance(kind, str) else None
    if code is None or (order == "F" and len(shape) > 1):
        msg = f"data type {kind!r} in order {order} needs numpy, which is not installed here"
        raise ValueError(msg)
    size = math.prod(shape) * struct.calcsize(code)
    flat: Any = memoryview(lease)[offset : offset + size]
    return flat.cast(code, shape)


def _numpy() -> Any:
    try:
        import numpy
    except ImportError:
        return None
    return numpy
