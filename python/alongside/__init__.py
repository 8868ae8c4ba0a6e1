"""Programs on one machine start each other and work together.

    editor = alongside.start(["python", "editor.py"], hello=picture)
    editor.send({"tool": "blur", "radius": 3})
    edited = editor.receive(timeout=5)

and in editor.py:

    session = alongside.session()
    for message in session: ...
"""

from ._core import Peer, Statistics
from ._errors import (
    AlongsideError,
    Busy,
    Closed,
    Corrupt,
    Denied,
    HandleLost,
    Incompatible,
    Invalid,
    NotStarted,
    PeerGone,
    SessionEnded,
    StartFailed,
    TimedOut,
    TooLarge,
    WouldBlock,
)
from ._session import Session, session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._start import DEVNULL, PIPE, STDOUT, start

__version__ = "0.1.0"

__all__ = [
    "DEVNULL",
    "PIPE",
    "STDOUT",
    "AlongsideError",
    "Busy",
    "Closed",
    "Corrupt",
    "Denied",
    "HandleLost",
    "Incompatible",
    "Invalid",
    "NotStarted",
    "Peer",
    "PeerGone",
    "Session",
    "SessionEnded",
    "StartFailed",
    "Statistics",
    "TimedOut",
    "TooLarge",
    "WouldBlock",
    "session",
    "start",
]


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Load `start` when asked for it: a program that is only started waits for this import."""
        if name not in {"DEVNULL", "PIPE", "STDOUT", "start"}:
            import sys

            msg = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(msg, name=name, obj=sys.modules[__name__])
        from . import _start

        found = globals()[name] = getattr(_start, name)
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
