"""Programs on one machine start each other and work together.

    editor = alongside.start(["python", "editor.py"], hello=picture)
    editor.send({"tool": "blur", "radius": 3})
    edited = editor.receive(timeout=5)

and in editor.py:

    session = alongside.session()
    for message in session: ...
"""

import atexit as _atexit

from . import _core
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
    from ._distant import DistantCell
    from ._instances import Instance, Visit, aonly, only
    from ._lending import Lent
    from ._locks import Lock, RWLock
    from ._ports import SharedPort, listening_socket, shared_port
    from ._publish import Registration, publish
    from ._start import DEVNULL, PIPE, STDOUT, start
    from ._tasks import astart
    from ._watch import Watch, watch
    from ._whichever import astart_or_connect, start_or_connect

__version__ = "0.1.0"

# What is registered first runs last: what a program does at its end may use what it holds.
_atexit.register(_core.leave_shared)

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
    "DistantCell",
    "Entry",
    "HandleLost",
    "Incompatible",
    "Instance",
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
    "SharedPort",
    "StartFailed",
    "Statistics",
    "TimedOut",
    "TooLarge",
    "Visit",
    "Watch",
    "WouldBlock",
    "aconnect",
    "aonly",
    "asend_to",
    "astart",
    "astart_or_connect",
    "connect",
    "find",
    "listening_socket",
    "loops",
    "only",
    "publish",
    "running",
    "send_to",
    "session",
    "shared_port",
    "start",
    "start_or_connect",
    "watch",
]


if not TYPE_CHECKING:
    _OF_SHARING = {
        "Cell",
        "DistantCell",
        "Instance",
        "Lock",
        "RWLock",
        "SharedPort",
        "Visit",
        "aonly",
        "astart_or_connect",
        "listening_socket",
        "only",
        "shared_port",
        "start_or_connect",
    }

    def _sharing(name: str) -> object:
        """Give the module of what programs share."""
        if name == "Cell":
            from . import _cells as module
        elif name == "DistantCell":
            from . import _distant as module
        elif name in {"Lock", "RWLock"}:
            from . import _locks as module
        elif name in {"SharedPort", "listening_socket", "shared_port"}:
            from . import _ports as module
        elif name in {"astart_or_connect", "start_or_connect"}:
            from . import _whichever as module
        else:
            from . import _instances as module
        return module

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
        elif name == "astart":
            from . import _tasks as module
        elif name == "Lent":
            from . import _lending as module
        elif name == "loops":
            # Not `from . import`: that would ask here again.
            import alongside.loops

            return alongside.loops
        elif name in _OF_SHARING:
            module = _sharing(name)
        else:
            import sys

            msg = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(msg, name=name, obj=sys.modules[__name__])
        found = globals()[name] = getattr(module, name)
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
