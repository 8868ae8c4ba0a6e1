"""`alongside send`: one message to a running program, and perhaps its answer."""

from __future__ import annotations

from .._directory import connect, find, send_to
from .._errors import SessionEnded, TimedOut
from .._session import limit
from .._until import Until
from ._data import given, given_on
from ._printing import say_message
from ._processes import why_it_waits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from typing import Any


def send(options: Namespace) -> int:
    """Send what the command line says."""
    data = given(options.data, is_json=options.json)
    chosen = {name: getattr(options, name) for name in ("scope", "instance", "owner")}
    try:
        with given_on():
            answer = _deliver(options, data, chosen)
    except TimedOut as error:
        _add_reason(error, options.name, chosen)
        raise
    if options.reply:
        say_message(answer, as_json=options.json)
    return 0


def _deliver(options: Namespace, data: Any, chosen: dict[str, Any]) -> Any:
    """Send a message, and give the answer if one is asked for."""
    if options.reply:
        return _ask(options.name, data, options.timeout, chosen)
    send_to(options.name, data, wait=options.wait, timeout=options.timeout, **chosen)
    return None


def _ask(name: str, data: Any, timeout: float | None, chosen: dict[str, Any]) -> Any:
    """Send a message, and wait for one."""
    until = Until(limit(timeout))
    session = connect(name, timeout=until.left(), **chosen)
    try:
        session.send(data, timeout=until.left())
        return session.receive(timeout=until.left())
    except TimedOut:
        msg = f'the message has been sent, but "{name}" has not answered before the deadline'
        raise TimedOut(msg) from None
    except SessionEnded as error:
        error.add_note("it has not answered")
        raise
    finally:
        session.close(timeout=0)


def _add_reason(error: TimedOut, name: str, chosen: dict[str, Any]) -> None:
    """Add why the other program does not answer, if that can be known."""
    found = find(name, **chosen)
    reason = None if found is None else why_it_waits(found.peer.pid)
    if reason is not None:
        error.add_note(f"it {reason.text}")
        error.add_note(reason.mend)
