"""The exceptions of the library, split by what a program can do about them."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal


class AlongsideError(Exception):
    """The root of this library's exceptions."""


class SessionEnded(AlongsideError):
    """The session is over, in one way or another."""


class Closed(SessionEnded):
    """The session was closed in order.

    Attributes:
        by: "me" if it was closed here, "peer" if the other program closed it.
    """

    def __init__(self, text: str, /, *, by: "Literal['me', 'peer']") -> None:
        super().__init__(text)
        self.by: "Literal['me', 'peer']" = by

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.args, {"by": self.by})


class PeerGone(SessionEnded, ConnectionError):
    """The other program is gone without having closed the session.

    Attributes:
        exit_status: how it ended, as `subprocess` says it: its exit status, or minus the signal.
            None if that is not known.
    """

    def __init__(self, text: str, /, *, exit_status: int | None = None) -> None:
        super().__init__(text)
        self.exit_status = exit_status

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.args, {"exit_status": self.exit_status})


class TimedOut(AlongsideError, TimeoutError):
    """The deadline came first. What was asked for was not done."""


class WouldBlock(AlongsideError, BlockingIOError):
    """A call that never waits would have had to."""


class Busy(AlongsideError):
    """It cannot be done now and was not done; trying again later may help."""


class StartFailed(AlongsideError):
    """A started program ended before it took up its session.

    Attributes:
        exit_status: how it ended, as `subprocess` says it. None if it has not ended.
        stderr: the end of what it wrote to its standard error, with `start(..., stderr=PIPE)`;
            else None.
    """

    def __init__(
        self, text: str, /, *, exit_status: int | None = None, stderr: bytes | None = None
    ) -> None:
        super().__init__(text)
        self.exit_status = exit_status
        self.stderr = stderr

    def __reduce__(self) -> tuple[object, ...]:
        named = {"exit_status": self.exit_status, "stderr": self.stderr}
        return _rebuild, (type(self), self.args, named)


class NotStarted(AlongsideError):
    """This program was not started by one that waits for it."""


class NotFound(AlongsideError, LookupError):
    """No running program has this name."""


class NoScope(AlongsideError):
    """There is no such scope here: no login session, or a machine that is not set up for it."""


class Denied(AlongsideError, PermissionError):
    """The other program is not one that may take part."""


class Incompatible(AlongsideError):
    """The two programs speak different versions."""


class Corrupt(AlongsideError):
    """The other program wrote what no honest one would; the session has ended."""


class TooLarge(AlongsideError, ValueError):
    """A message is longer than the session allows, or a value than its cell has room for."""


class Invalid(AlongsideError, ValueError):
    """A message, or a cell's value, is not what was asked for.

    Attributes:
        data: the message as it came; None if it is still to be received.
        version: which of a cell's values it is; 0 if it is none, or was not set.
    """

    def __init__(self, text: str, /, *, data: object = None, version: int = 0) -> None:
        super().__init__(text)
        self.data = data
        self.version = version

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.args, {"data": self.data, "version": self.version})


class RemoteError(AlongsideError):
    """What was sent has arrived, and its handler there raised.

    Attributes:
        kind: the class of what it raised, as "ValueError".
        traceback: where it was raised there, as text.
    """

    def __init__(self, text: str, /, *, kind: str = "", traceback: str = "") -> None:
        super().__init__(text)
        self.kind = kind
        self.traceback = traceback
        if traceback:
            self.add_note(f"in the other program:\n{traceback}")

    def __reduce__(self) -> tuple[object, ...]:
        named = {"kind": self.kind, "traceback": self.traceback}
        return _rebuild, (type(self), self.args, named)


class ScopeLost(AlongsideError):
    """Somebody has removed what this program shares with others, who share another one by now."""


class HandleLost(AlongsideError):
    """What the session holds is not this process's, or was taken from it."""


def _rebuild(
    kind: "type[AlongsideError]", args: tuple[object, ...], named: dict[str, object]
) -> "AlongsideError":
    """Make an exception again from its pickled parts."""
    return kind(*args, **named)


def _as_public(kind: "type[AlongsideError]") -> None:
    kind.__module__ = "alongside"
    for further in kind.__subclasses__():
        _as_public(further)


_as_public(AlongsideError)
