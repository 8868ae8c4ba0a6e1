"""Programs on one machine start each other and work together.

    editor = alongside.start(["python", "editor.py"], hello=picture)
    editor.send({"tool": "blur", "radius": 3})
    edited = editor.receive(timeout=5)

and in editor.py:

    session = alongside.session()
    for message in session: ...
"""

from ._core import Change, Entry, Peer, Statistics
from ._errors import (
    AlongsideError,
    Busy,
    Closed,
    Corrupt,
    Denied,
    HandleLost,
    Incompatible,
    Invalid,
    NoScope,
    NotFound,
    NotStarted,
    PeerGone,
    RemoteError,
    ScopeLost,
    SessionEnded,
    StartFailed,
    TimedOut,
    TooLarge,
    WouldBlock,
)
from ._session import Session, session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from . import loops
    from ._cells import Cell
    from ._directory import aconnect, asend_to, connect, find, running, send_to
    from ._lending import Lent
    from ._locks import Lock, RWLock
    from ._publish import Registration, publish
    from ._start import DEVNULL, PIPE, STDOUT, start
    from ._tasks import astart
    from ._watch import Watch, watch

__version__ = "0.1.0"

__all__ = [
    "DEVNULL",
    "PIPE",
    "STDOUT",
    "AlongsideError",
    "Busy",
    "Cell",
    "Change",
    "Closed",
    "Corrupt",
    "Denied",
    "Entry",
    "HandleLost",
    "Incompatible",
    "Invalid",
    "Lent",
    "Lock",
    "NoScope",
    "NotFound",
    "NotStarted",
    "Peer",
    "PeerGone",
    "RWLock",
    "Registration",
    "RemoteError",
    "ScopeLost",
    "Session",
    "SessionEnded",
    "StartFailed",
    "Statistics",
    "TimedOut",
    "TooLarge",
    "Watch",
    "WouldBlock",
    "aconnect",
    "asend_to",
    "astart",
    "connect",
    "find",
    "loops",
    "publish",
    "running",
    "send_to",
    "session",
    "start",
    "watch",
]


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Load what a program that is only started does not need: it waits for this import."""
        if name in {"DEVNULL", "PIPE", "STDOUT", "start"}:
            from . import _start as module
        elif name in {"aconnect", "asend_to", "connect", "find", "running", "send_to"}:
            from . import _directory as module
        elif name in {"Registration", "publish"}:
            from . import _publish as module
        elif name in {"Watch", "watch"}:
            from . import _watch as module
        elif name == "Cell":
            from . import _cells as module
        elif name in {"Lock", "RWLock"}:
            from . import _locks as module
        elif name == "astart":
            from . import _tasks as module
        elif name == "Lent":
            from . import _lending as module
        elif name == "loops":
            # Not `from . import`: that would ask here again.
            import alongside.loops

            return alongside.loops
        else:
            import sys

            msg = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(msg, name=name, obj=sys.modules[__name__])
        found = globals()[name] = getattr(module, name)
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
