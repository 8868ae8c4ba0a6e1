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
    from ._lending import Lent
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
    "Lent",
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
    _LATER = {"DEVNULL": "_start", "PIPE": "_start", "STDOUT": "_start", "start": "_start"}
    _LATER["Lent"] = "_lending"

    def __getattr__(name: str) -> object:
        """Load what a program that is only started does not need: it waits for this import."""
        import importlib
        import sys

        if name not in _LATER:
            msg = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(msg, name=name, obj=sys.modules[__name__])
        module = importlib.import_module(f".{_LATER[name]}", __name__)
        found = globals()[name] = getattr(module, name)
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
