"""Data as it is given on the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


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
        msg = f"{text} is no JSON: {error}\nwithout --json it is sent as text, or as bytes"
        raise ValueError(msg) from None
    except RecursionError:
        msg = f"{text} is JSON, but too deep"
        raise ValueError(msg) from None
