"""Messages that are data: what arrives is decoded and, on request, checked against a type.

Encoding is native (`crates/python/src/encode.rs`, which also has the two extensions); decoding is
msgspec's, which bounds depth and lengths and can run no code. This module loads with the first
message that is data.
"""

from __future__ import annotations

import struct
from datetime import datetime

import msgspec

from ._errors import Corrupt, Invalid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar

    _T = TypeVar("_T")

_TEXT_WITH_SURROGATES = 1
_DATETIME = 2
_ARRAY = 3
_BYTES = 4
_ARROW = 5
_REMEMBERED = 1000


def _extension(code: int, payload: memoryview) -> object:
    if code == _TEXT_WITH_SURROGATES:
        return str(payload, "utf-8", "surrogatepass")
    if code == _DATETIME:
        return datetime.fromisoformat(str(payload, "utf-8"))
    msg = f"extension {code} is unknown to this program"
    raise ValueError(msg)


_decoder = msgspec.msgpack.Decoder(ext_hook=_extension)


def decode(body: bytes) -> object:
    """Give the object that `body` means."""
    try:
        return _decoder.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        msg = f"a message that is not data: {error}"
        raise Invalid(msg, data=body) from error


class _Leased:
    """A decoder for messages beside which memory is lent; making one takes long, so it is kept."""

    def __init__(self) -> None:
        self._leases: list[Any] = []
        # Bytes are copied, perhaps more than once, but to no more than a message may be.
        self._left = 0
        self._decoder = msgspec.msgpack.Decoder(ext_hook=self)

    def decode(self, data: bytes, leases: list[Any], most: int) -> object:
        self._leases, self._left = leases, most
        try:
            return self._decoder.decode(data)
        finally:
            self._leases = []

    def __call__(self, code: int, payload: memoryview) -> object:
        if code not in {_ARRAY, _BYTES, _ARROW}:
            return _extension(code, payload)
        number, *place = _decode_note(payload)
        lease = self._leases[-1 if number is None else number]
        if code == _ARRAY:
            return _arrays().make(lease, *place)
        offset, size, *form = place
        part = _part(lease, offset, size)
        if code == _BYTES:
            self._left -= len(part)
            if self._left < 0:
                msg = "more bytes than max_message allows"
                raise ValueError(msg)
            return bytes(part)
        from ._arrow import make_arrow

        return make_arrow(part, *form)


def _arrays() -> Any:
    """Give the module of arrays, once it is loaded whole."""
    global _arrays_module  # noqa: PLW0603 - loaded when first needed
    if _arrays_module is None:
        from . import _arrays as loaded

        _arrays_module = loaded
    return _arrays_module


_arrays_module: Any = None
_decode_note = msgspec.msgpack.Decoder().decode
# Those that nobody uses at the moment: a finalizer, or a signal's handler, may decode amid another.
_idle: list[_Leased] = []


def _part(lease: Any, offset: object, size: object) -> memoryview:
    """Give the bytes that lie there, all of them."""
    view = memoryview(lease)
    if type(offset) is not int or type(size) is not int or not 0 <= offset <= offset + size:
        msg = f"bytes at {offset!r}, {size!r} long"
        raise ValueError(msg)
    if offset + size > len(view):
        msg = f"bytes {offset} to {offset + size} of {len(view)}"
        raise ValueError(msg)
    return view[offset : offset + size]


def decode_leased(body: bytes, leases: list[Any], is_beside: bool, most: int) -> object:
    """Give the object that `body` means, or what it names in the last lease, with its arrays.

    Args:
        body: the message.
        leases: the lent memory that came with it.
        is_beside: `body` says where in the last lease the message lies.
        most: bytes that may be copied out of the leases.

    Raises:
        Corrupt: it means nothing, or what is not there. No honest program sends that.
    """
    data = body
    try:
        if is_beside:
            # A copy: what is decoded must not change under the decoder's hands.
            data = bytes(_part(leases[-1], *struct.unpack("<QQ", body)))
        decoder = _idle.pop() if _idle else _Leased()
        found = decoder.decode(data, leases, most)
    except (Corrupt, Invalid):
        raise
    except (
        msgspec.DecodeError,
        ValueError,
        TypeError,
        LookupError,
        struct.error,
        RecursionError,
    ) as error:
        msg = f"the other program sent a message that means nothing: {error}"
        raise Corrupt(msg) from error
    _idle.append(decoder)
    return found


_checked: dict[object, object] = {}


def check_type(to: object) -> None:
    """Raise TypeError for a type that no message can be checked against.

    Meant to be called before a message is taken: a slip in the type shall cost none.
    """
    try:
        if to in _checked:
            return
    except TypeError:
        # A type with something unhashable in it, like Annotated[int, {}].
        msgspec.msgpack.Decoder(to)
        return
    msgspec.msgpack.Decoder(to)
    if len(_checked) < _REMEMBERED:
        _checked[to] = None


def convert(data: object, to: type[_T], what: str = "the message") -> _T:
    """Give `data` as a `to`, checked; `what` it is, for the error."""
    try:
        return msgspec.convert(data, to, builtin_types=(bytes, bytearray, datetime))
    except msgspec.ValidationError as error:
        msg = f"{what} does not fit {_shown(to)}: {error}"
        raise Invalid(msg, data=data) from error


def _shown(to: object) -> str:
    """Give a type as people write it."""
    return to.__qualname__ if type(to) is type else str(to)
