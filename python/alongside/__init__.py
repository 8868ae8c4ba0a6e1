"""Programs on one machine start each other, find each other and share what they know.

    editor = alongside.start(["python", "editor.py"], hello=picture)
    editor.send({"tool": "blur", "radius": 3})
    edited = editor.receive(timeout=5)

and in editor.py:

    session = alongside.session()
    for message in session: ...
"""

from ._core import Peer, Statistics
from ._session import Session, session

TYPE_CHECKING = False
if TYPE_CHECKING:
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
    from ._start import DEVNULL, PIPE, start

__version__ = "0.1.0"

__all__ = [
    "DEVNULL",
    "PIPE",
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
        """Load what is asked for; a program's start waits for this module (0.4 of 1.2 ms)."""
        if name not in __all__:
            import sys

            msg = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(msg, name=name, obj=sys.modules[__name__])
        if name in {"DEVNULL", "PIPE", "start"}:
            from . import _start as home
        else:
            from . import _errors as home
        found = globals()[name] = getattr(home, name)
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
