"""Programs on one machine start each other, find each other and share what they know.

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
from ._session import DEVNULL, PIPE, Session, session, start

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
