"""Arrays: what one is on the wire, and how it becomes one again in the memory it arrived in.

An array is described by its data type, its shape and the order of its items in memory. numpy is
used where it is: on the sending side if the array is one of numpy's, on the receiving side if it
is installed. Without it other buffers can be sent, and memoryviews arrive.
"""

from __future__ import annotations

import math
import re
import struct
import sys

from ._errors import Corrupt, Invalid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, TypeAlias

    _Kind: TypeAlias = str | list[Any] | dict[str, Any]
    _Described: TypeAlias = tuple[int, Callable[[Any, int], None], int, tuple[object, ...], object]

# So many data types are known by heart: to spell one takes numpy longer than to send it.
_REMEMBERED = 1000
# The extension of MessagePack that stands for an array.
ARRAY = 3
# Of DLPack's devices, those whose memory every program of the machine can read: CPU, and CPU
# memory that is pinned for a graphics card.
_CPU_DEVICES = {1, 3}

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
# What numpy writes of a data type that has no fields. It would read more: lists of types, whose
# sizes it adds up without care, and names that it evaluates.
_PLAIN = re.compile(r"[<>|]?[biufcSUVMm][0-9]*(\[[0-9]*[a-zA-Zμ]+(/[0-9]+)?\])?", re.ASCII)


def describe(data: Any) -> _Described:
    """Give what an array or a table is on the wire, and how it gets there.

    Returns:
        The code of its extension; a function that copies it to an offset of a block; how many
        bytes that takes; what the receiver is told beside the place; the array whose memory it is,
        or None.

    Raises:
        TypeError: it is no array of plain values.
    """
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(data, numpy.ndarray):
        return _describe_numpy(numpy, data)
    if numpy is not None and isinstance(data, numpy.generic):
        msg = "is a number of numpy's\nsend .item() of it"
        raise TypeError(msg)
    if _is_arrow(data):
        from . import _arrow

        return _arrow.describe(data)
    if hasattr(data, "__dlpack__"):
        return _describe_tensor(data)
    view: Any = memoryview(data)
    return _describe_buffer(view)


def _is_arrow(data: Any) -> bool:
    """Tell Arrow's things: pyarrow's own, and what says of itself that it can become one."""
    if data.__class__.__module__.startswith("pyarrow."):
        return True
    return hasattr(data, "__arrow_c_stream__") or hasattr(data, "__arrow_c_array__")


def _describe_buffer(view: Any) -> _Described:
    code = view.format.lstrip("@=")
    if code.startswith(_NATIVE):
        code = code[1:]
    if code not in _KINDS and code != "?":
        msg = f"has items of the format {view.format!r}, expected numbers\nsend .tolist() of it"
        raise TypeError(msg)
    order = "C" if view.c_contiguous or not view.f_contiguous else "F"
    size = view.itemsize
    kind = _KINDS.get(code, "b") + str(size)
    facts = (kind if size == 1 else _NATIVE + kind, view.shape, order)

    def fill(block: Any, offset: int) -> None:
        flat = view if view.c_contiguous else memoryview(view.tobytes(order))
        memoryview(block)[offset : offset + view.nbytes] = flat.cast("B")

    return ARRAY, fill, view.nbytes, facts, view


def _describe_numpy(numpy: Any, data: Any) -> _Described:
    dtype = data.dtype
    kind = _kinds.get(dtype) or _kind_of(numpy, dtype)
    if type(data) is not numpy.ndarray and not isinstance(data, numpy.memmap):
        name = type(data).__name__
        way_out = "numpy.asarray(...) of it"
        if isinstance(data, numpy.ma.MaskedArray):
            way_out = ".filled(...) of it, or its .data and its .mask"
        msg = f"is a {name}, of which a plain array would arrive\nsend {way_out}"
        raise TypeError(msg)
    flags = data.flags
    order = "F" if not flags.c_contiguous and flags.f_contiguous else "C"

    def fill(block: Any, offset: int) -> None:
        place = numpy.ndarray(data.shape, data.dtype, block, offset, order=order)
        numpy.copyto(place, data)

    return ARRAY, fill, data.nbytes, (kind, data.shape, order), data


def address(data: Any) -> int | None:
    """Give where an array lies that lends no buffer (one of dates), if that is in one piece."""
    if not hasattr(data, "__array_interface__") or not data.flags.forc:
        return None
    found: int = data.__array_interface__["data"][0]
    return found


_kinds: dict[Any, _Kind] = {}


def _kind_of(numpy: Any, dtype: Any) -> _Kind:
    """Give what a data type is on the wire."""
    if dtype.hasobject:
        msg = f"has items of the type {dtype}, which are Python objects\nsend .tolist() of it"
        raise TypeError(msg)
    kind: _Kind
    try:
        kind = numpy.lib.format.dtype_to_descr(dtype)
    except ValueError:
        # Fields that overlap or are out of order: a list of fields does not say where they lie.
        kind = _placed(dtype)
    if len(_kinds) < _REMEMBERED:
        _kinds[dtype] = kind
    return kind


def _placed(dtype: Any) -> Any:
    """Spell a data type with the place of each of its fields."""
    if dtype.subdtype is not None:
        inner, shape = dtype.subdtype
        return [_placed(inner), shape]
    if dtype.names is None:
        return dtype.str
    fields = [dtype.fields[name] for name in dtype.names]
    return {
        "names": dtype.names,
        "formats": [_placed(inner) for inner, *_ in fields],
        "offsets": [offset for _, offset, *_ in fields],
        "titles": [title[0] if title else None for _, _, *title in fields],
        "itemsize": dtype.itemsize,
    }


def _describe_tensor(data: Any) -> _Described:
    """Describe a tensor of another library, by the DLPack protocol."""
    device, number = data.__dlpack_device__()
    if device not in _CPU_DEVICES:
        msg = f"lies on the device {device}:{number}, not in memory\nsend a copy of it on the CPU"
        raise TypeError(msg)
    numpy = _numpy()
    if numpy is None:
        msg = "is a tensor, for which numpy is needed, which is not installed here"
        raise TypeError(msg)
    try:
        array = numpy.from_dlpack(data)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        msg = f"is a tensor that numpy does not take: {error}"
        raise TypeError(msg) from error
    return _describe_numpy(numpy, array)


def make(lease: Any, offset: int, kind: _Kind, shape: list[int], order: str) -> object:
    """Give the array that lies in lent memory, read-only.

    Raises:
        Corrupt: the description is that of no array, or of one that does not fit.
        Invalid: it is an array that only numpy knows, which is not installed.
    """
    try:
        _check(offset, shape, order)
        numpy = _numpy()
        if numpy is None:
            return _view(lease, offset, kind, shape, order)
        dtype = _dtype(numpy, kind)
        _check_fits(lease, offset, shape, dtype.itemsize)
        return numpy.ndarray(shape, dtype, lease, offset, order=order)
    except Invalid:
        raise
    except Exception as error:
        # Whatever numpy says of a description, no honest program has sent it.
        msg = f"the other program sent an array that is none: {error}"
        raise Corrupt(msg) from error


def _check(offset: object, shape: list[int], order: str) -> None:
    """Refuse what numpy would take: to it a negative offset is one before the buffer."""
    is_right = type(offset) is int and offset >= 0
    for number in shape:
        is_right = is_right and type(number) is int and number >= 0
    if not is_right:
        msg = f"offset {offset!r}, shape {shape!r}"
        raise ValueError(msg)
    if order not in {"C", "F"}:
        msg = f"order {order!r}"
        raise ValueError(msg)


def _check_fits(lease: Any, offset: int, shape: list[int], itemsize: int) -> None:
    """Refuse what lies beyond the memory: numpy adds up in 64 bits, and wraps."""
    end, size = offset + math.prod(shape) * itemsize, memoryview(lease).nbytes
    if end > size:
        msg = f"bytes {offset} to {end} of {size}"
        raise ValueError(msg)


_dtypes: dict[str, Any] = {}


def _dtype(numpy: Any, kind: _Kind) -> Any:
    if type(kind) is str and (found := _dtypes.get(kind)) is not None:
        return found
    if isinstance(kind, dict):
        dtype = _with_places(numpy, kind)
    else:
        dtype = numpy.lib.format.descr_to_dtype(_as_numpy_says(kind))
    if dtype.hasobject or not _is_whole(dtype):
        msg = f"data type {kind!r}"
        raise ValueError(msg)
    if type(kind) is str and len(_dtypes) < _REMEMBERED:
        _dtypes[kind] = dtype
    return dtype


def _with_places(numpy: Any, kind: _Kind) -> Any:
    """Make the data type again that `_placed` has spelled."""
    if isinstance(kind, str):
        return numpy.dtype(_as_numpy_says(kind))
    if not isinstance(kind, dict):
        inner, shape = kind
        return numpy.dtype((_with_places(numpy, inner), tuple(shape)))
    _check(kind["itemsize"], kind["offsets"], "C")
    formats = [_with_places(numpy, inner) for inner in kind["formats"]]
    return numpy.dtype({**kind, "formats": formats, "aligned": False})


def _is_whole(dtype: Any) -> bool:
    """Tell whether all that a data type consists of lies within it."""
    if dtype.subdtype is not None:
        inner, shape = dtype.subdtype
        return inner.itemsize * math.prod(shape) == dtype.itemsize and _is_whole(inner)
    fields: dict[str, Any] = dtype.fields or {}
    for field in fields.values():
        inner, offset = field[:2]
        if not (0 <= offset <= offset + inner.itemsize <= dtype.itemsize and _is_whole(inner)):
            return False
    return bool(dtype.itemsize >= 0)


def _as_numpy_says(kind: Any) -> Any:
    """Make tuples again of what arrived as lists: the fields of a structured data type."""
    if isinstance(kind, str):
        if _PLAIN.fullmatch(kind) is None:
            msg = f"data type {kind!r}"
            raise ValueError(msg)
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
        raise Invalid(msg, data=bytes(lease))
    size = math.prod(shape) * struct.calcsize(code)
    _check_fits(lease, offset, shape, struct.calcsize(code))
    flat = memoryview(lease)[offset : offset + size]
    try:
        return typed(flat, code, shape)
    except ValueError as error:
        msg = f"data type {kind!r} needs numpy, which is not installed here: {error}"
        raise Invalid(msg, data=bytes(flat)) from error


def typed(flat: Any, code: str, shape: Sequence[int]) -> Any:
    """Give bytes as items of a format and a shape; an empty view has one dimension only.

    Raises:
        ValueError: this Python's memoryviews do not know the format.
    """
    return flat.cast(code, shape) if flat.nbytes else flat.cast(code)


_numpy_module: Any = None


def _numpy() -> Any:
    """Give numpy, or None where it is not installed."""
    global _numpy_module  # noqa: PLW0603 - loaded when first needed
    if _numpy_module is None:
        try:
            import numpy
        except ImportError:
            return None
        _numpy_module = numpy
    return _numpy_module
