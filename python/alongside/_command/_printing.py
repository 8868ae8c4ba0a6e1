"""What a command prints, and how: for people on a terminal, for programs in a pipe.

Names, texts and messages come from other programs. Where they go to a terminal, whatever is no
printable character is escaped, so that nobody else moves its cursor, sets its title or turns the
direction of writing round.
"""

from __future__ import annotations

import os
import select
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

_GONE = select.POLLERR | select.POLLHUP | select.POLLNVAL


def printable(text: str, *, kept: str = "") -> str:
    """Escape what is no printable character, as Python does, but for those to be kept."""
    if text.isprintable():
        return text
    return "".join(_escaped(each) if each not in kept else each for each in text)


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    return character.encode("unicode_escape").decode()


# ---- lines ---------------------------------------------------------------------------------------


def say(line: str) -> None:
    """Print a line at once: whoever reads it may be waiting for it."""
    _write(f"{line}\n".encode(sys.stdout.encoding, "backslashreplace"))


def say_json(data: Any) -> None:
    """Print data as one line of JSON, which is UTF-8 whatever the terminal's letters are."""
    _write(f"{json_of(data)}\n".encode())


def note(line: str) -> None:
    """Print a line that is no result."""
    print(line, file=sys.stderr, flush=True)


def tell(error: Exception | str) -> None:
    """Print what went wrong: one line, and what to do about it below."""
    if isinstance(error, str):
        lines = error.splitlines()
    else:
        lines = [*words(error).splitlines(), *_notes(error)]
    first, *further = lines or [type(error).__name__]
    note(f"alongside: {printable(first)}")
    for line in further:
        note(f"  {printable(line)}")


def words(error: Exception) -> str:
    """Give what an error says; of one of the system's, without its number."""
    if isinstance(error, OSError) and error.strerror is not None:
        place = "" if error.filename is None else f"{error.filename}: "
        return f"{place}{error.strerror}"
    return str(error)


def _notes(error: Exception) -> list[str]:
    """Give what is known beside; but where in the other program's source it was is its own."""
    if getattr(error, "traceback", ""):
        return []
    notes: list[str] = getattr(error, "__notes__", [])
    return [line for note in notes for line in note.splitlines()]


def say_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows: aligned under a head on a terminal, separated by tabs in a pipe."""
    shown: list[Sequence[str]] = [[printable(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for row in shown:
            print("\t".join(row))
        return
    widths = [max(map(len, column)) for column in zip(head, *shown, strict=True)]
    for row in (head, *shown):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


# ---- messages ------------------------------------------------------------------------------------


def say_message(data: Any, *, as_json: bool) -> None:
    """Print a message: text and bytes as they are, everything else as JSON."""
    if as_json:
        say_json(data)
    elif isinstance(data, (str, bytes)) and sys.stdout.isatty():
        shown = data if isinstance(data, str) else data.decode(errors="backslashreplace")
        _write(_line(printable(shown, kept="\n\t").encode()))
    elif isinstance(data, bytes):
        _write(data)
    else:
        _write(_line(as_bytes(data)))


def as_bytes(data: Any) -> bytes:
    """Give a message as bytes: what it is if it is text or bytes, else JSON."""
    if isinstance(data, bytes):
        return data
    return _encoded(data) if isinstance(data, str) else json_of(data).encode()


def _encoded(text: str) -> bytes:
    """Give text as UTF-8; file names that are none come out as the bytes that they are."""
    try:
        return text.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return text.encode(errors="backslashreplace")


def _line(encoded: bytes) -> bytes:
    return encoded if encoded.endswith(b"\n") else encoded + b"\n"


def _write(encoded: bytes) -> None:
    """Write past the buffers: in them, what could not be written would wait for the next time."""
    sys.stdout.flush()
    left = memoryview(encoded)
    while left:
        left = left[os.write(sys.stdout.fileno(), left) :]


def json_of(data: Any) -> str:
    """Give data as one line of JSON, all of whose characters are printable."""
    import json

    text = json.dumps(_plain(data), ensure_ascii=False, allow_nan=False)
    if text.isprintable():
        return text
    # Such characters stand inside of strings only.
    return "".join(
        each if each.isprintable() else json.dumps(each).removeprefix('"').removesuffix('"')
        for each in text
    )


def _plain(data: object) -> Any:
    """Give data as what JSON knows."""
    return _MAKERS.get(type(data), _special)(data)


def _as_it_is(data: Any) -> Any:
    return data


def _number(data: float) -> float | None:
    """Give a number; what is none JSON has no word for, and JavaScript writes null as well."""
    return data if abs(data) < float("inf") else None


def _object(data: dict[Any, Any]) -> dict[str, Any]:
    return {_key(key): _plain(value) for key, value in data.items()}


def _key(key: Any) -> str:
    return key if isinstance(key, str) else json_of(key)


def _items(data: Iterable[Any]) -> list[Any]:
    return [_plain(item) for item in data]


def _bytes(data: bytes) -> dict[str, str]:
    import base64

    return {"bytes": base64.b64encode(data).decode()}


def _special(data: Any) -> Any:
    """Give a datetime, a table or an array as what JSON knows."""
    if hasattr(data, "isoformat"):
        return data.isoformat()
    if hasattr(data, "to_pylist"):
        return {"table": _plain(data.to_pylist())}
    if hasattr(data, "tolist"):
        # numpy's, or a memoryview where that is not installed.
        kind = str(data.dtype) if hasattr(data, "dtype") else data.format
        return {"dtype": kind, "shape": list(data.shape), "values": _plain(data.tolist())}
    # A complex number of an array, for one.
    return repr(data)


_MAKERS: dict[type, Callable[[Any], Any]] = {
    **dict.fromkeys((type(None), bool, int, str), _as_it_is),
    # Tuples are the records of an array.
    **dict.fromkeys((list, tuple), _items),
    float: _number,
    dict: _object,
    bytes: _bytes,
}


# ---- waiting -------------------------------------------------------------------------------------


class Reader:
    """Whoever reads what is printed: a command that waits ends when nobody does any more.

    Else it would be found out by the next line, which may never come.
    """

    def __init__(self) -> None:
        self._poll = select.poll()
        self._poll.register(sys.stdout.fileno(), 0)

    def wait_until_readable(self, descriptor: int) -> None:
        """Wait until there is something to read.

        Raises:
            BrokenPipeError: nobody reads the output any more.
        """
        self._poll.register(descriptor, select.POLLIN)
        if any(state & _GONE and ready != descriptor for ready, state in self._poll.poll()):
            raise BrokenPipeError
