"""Data as it is given on the command line."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Any

_MOST_SHOWN = 60


def given(text: str, *, is_json: bool) -> Any:
    """Give what is meant: text, the bytes of a file or of standard input, or what JSON means."""
    source: str | bytes = text
    if text == "-":
        source = sys.stdin.buffer.read()
    elif text.startswith("@"):
        source = Path(text[1:]).read_bytes()
    if not is_json:
        return source
    try:
        return json.loads(source)
    except ValueError as error:
        msg = f"{_start(text)} is no JSON: {error}\nwithout --json it is text, or bytes"
        raise ValueError(msg) from None
    except RecursionError:
        msg = f"{_start(text)} is JSON, but too deep"
        raise ValueError(msg) from None


@contextlib.contextmanager
def given_on() -> Generator[None]:
    """Have data that cannot be sent be wrong usage: JSON knows more numbers, for one."""
    try:
        yield
    except TypeError as error:
        raise ValueError(str(error)) from None


def _start(text: str) -> str:
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 1]}…"
