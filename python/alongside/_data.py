"""Messages that are data: what arrives is decoded and, on request, checked against a type.

Encoding is native (`crates/python/src/encode.rs`, which also has the two extensions); decoding is
msgspec's, which bounds depth and lengths and can run no code. This module loads with the first
message that is data.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from ._errors import Invalid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar

    _T = TypeVar("_T")

_TEXT_WITH_SURROGATES = 1
_DATETIME = 2


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


def convert(data: object, to: type[_T]) -> _T:
    """Give `data` as a `to`, checked."""
    try:
        return msgspec.convert(data, to, builtin_types=(bytes, bytearray, datetime))
    except msgspec.ValidationError as error:
        msg = f"the message does not fit {getattr(to, '__name__', to)}: {error}"
        raise Invalid(msg, data=data) from error
