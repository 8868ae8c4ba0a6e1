"""`alongside listen`: a name, and what is done with the messages that arrive under it.

Handlers run in the main thread, one at a time: so Ctrl-C ends a command that runs, too, and what is
printed stays in order.
"""

from __future__ import annotations

import logging
import os
import subprocess

from .. import loops
from .._publish import publish
from ._printing import Reader, as_bytes, note, printable, say_json, say_message, tell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from typing import Any

    from .._publish import Registration
    from .._session import Session


# A caller that takes no answers shall not hold up the others for ever.
_ANSWER_TIMEOUT = 10.0


class CommandFailed(Exception):
    """The command of --exec failed; the sender reads this name."""


class HasEnded(Exception):
    """As many messages as were asked for have come; the sender reads this name."""


def listen(options: Namespace) -> int:
    """Publish a name and serve it until Ctrl-C, or until enough messages have come."""
    if options.reply and not options.exec:
        msg = "--reply sends back what a command prints: say which with --exec"
        raise ValueError(msg)
    logging.getLogger("alongside").addHandler(_Log(logging.WARNING))
    _Listener(options).serve()
    return 0


class _Log(logging.Handler):
    """Tells in a line what the library logs: a handler that raised, a caller who was not let in."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, (HasEnded, BrokenPipeError)):
            # This program's own end, of which it says nothing.
            return
        tell(error if isinstance(error, Exception) else record.getMessage())


class _Listener:
    """Takes messages, and ends when enough have come or nobody reads what is printed."""

    def __init__(self, options: Namespace) -> None:
        self._options = options
        self._left: int | None = options.count
        self._is_unread = False
        # Sessions whose other end waits for an answer that will not come.
        self._unanswered: list[Session] = []
        self._loop = loops.Manual()
        self._registration = self._publish()

    def _publish(self) -> Registration:
        options = self._options
        return publish(
            options.name,
            self._take,
            on=self._loop,
            unique=options.unique,
            about=options.about,
            scope=options.scope,
            allow=options.allow,
        )

    def serve(self) -> None:
        # A revoked registration has no name, and the last message comes amid revoking.
        self._name = self._registration.name
        note(f"listening as {printable(self._name)}")
        reader = None if self._options.exec else Reader()
        try:
            while self._left != 0:
                if reader is None:
                    self._loop.dispatch(timeout=None)
                else:
                    reader.wait_until_readable(self._loop.fileno())
                    self._loop.dispatch()
                self._close_unanswered()
                if self._is_unread:
                    raise BrokenPipeError
        finally:
            self._registration.revoke()
            for session in self._registration.sessions:
                # What was answered stays receivable; nobody waits for it to be received.
                session.close(timeout=0)

    def _close_unanswered(self) -> None:
        """Tell those who wait for an answer; not amid the handler, after which it is reported."""
        while self._unanswered:
            self._unanswered.pop().close(timeout=0)

    def _take(self, data: Any, session: Session) -> None:
        """Handle a message; what this raises is told to a sender that waits."""
        if self._left == 0:
            msg = "as many messages as were asked for have come before this one"
            raise HasEnded(msg)
        try:
            self._handle(data, session)
        except BrokenPipeError:
            self._is_unread = True
            raise
        except Exception:
            if self._options.reply:
                self._unanswered.append(session)
            raise
        finally:
            self._count()

    def _count(self) -> None:
        if self._left is not None:
            self._left -= 1
            if self._left == 0:
                # Whoever looks the name up from now on finds out that nobody listens.
                self._registration.revoke()

    def _handle(self, data: Any, session: Session) -> None:
        if self._options.exec:
            printed = self._execute(data, session)
            if self._options.reply:
                session.send(self._answer(printed), timeout=_ANSWER_TIMEOUT)
        elif self._options.json:
            say_json(self._with_sender(data, session))
        else:
            say_message(data, as_json=False)

    def _with_sender(self, data: Any, session: Session) -> dict[str, Any]:
        return {"pid": session.peer.pid, "uid": session.peer.uid, "data": data}

    # ---- --exec ----------------------------------------------------------------------------------

    def _execute(self, data: Any, session: Session) -> bytes:
        """Run the command with a message on its standard input; give what it printed for us."""
        options, peer = self._options, session.peer
        message = as_bytes(self._with_sender(data, session) if options.json else data)
        environment = {
            "ALONGSIDE_NAME": self._name,
            "ALONGSIDE_PEER_PID": str(peer.pid),
            "ALONGSIDE_PEER_UID": str(peer.uid),
        }
        done = subprocess.run(
            ["/bin/sh", "-c", options.exec],
            input=message,
            stdout=subprocess.PIPE if options.reply else None,
            env=os.environ | environment,
            check=False,
        )
        if done.returncode != 0:
            raise CommandFailed(_failure(options.exec, done.returncode))
        return done.stdout or b""

    def _answer(self, printed: bytes) -> Any:
        if self._options.json:
            import json

            try:
                return json.loads(printed)
            except ValueError as error:
                msg = f"{self._options.exec!r} has answered what is no JSON: {error}"
                raise CommandFailed(msg) from None
        try:
            return printed.decode()
        except UnicodeDecodeError:
            return printed


def _failure(command: str, status: int) -> str:
    if status < 0:
        return f"{command!r} was ended by signal {-status}"
    return f"{command!r} ended with status {status}"
