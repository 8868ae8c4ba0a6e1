"""How the surface looks to a type checker; mypy and pyright read this strictly, nothing runs it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, assert_type

import alongside
from alongside import Session


@dataclass
class Request:
    """What the other program asks for."""

    tool: str


def begin() -> None:
    assert_type(alongside.session(), Session | None)
    assert_type(alongside.session(required=True), Session)
    alongside.start("editor")
    alongside.start(Path("editor.py"), hello={"any": "thing"}, timeout=None, cwd=Path())
    alongside.start(["python", Path("editor.py")], env={"A": "b"}, stderr=alongside.PIPE)


def work(session: Session) -> None:
    assert_type(session.receive(), Any)
    assert_type(session.receive(timeout=5), Any)
    assert_type(session.receive(type=Request), Request)
    assert_type(session.receive(type=dict[str, int], timeout=1.5), dict[str, int])
    assert_type(session.receive_into(bytearray(10)), int)
    whole: int | None = session.receive(type=int | None)
    assert whole is None or whole.bit_length()
    assert_type(session.receive_nowait(), Any)
    assert_type(session.receive_nowait(type=Request), Request)
    assert_type(session.messages(Request), Iterator[Request])
    assert_type(session.messages(Request | None), Iterator[Any])
    assert_type(session.ping(), float)
    assert_type(session.wait(), int | None)
    assert_type(session.close(), int)
    assert_type(session.exit_status, int | None)
    assert_type(session.peer, alongside.Peer)
    assert_type(session.peer.executable, str | None)
    assert_type(session.statistics().messages_sent, int)
    for request in session.messages(Request):
        assert_type(request.tool, str)
    for message in session:
        assert_type(message, Any)
    session.on_message(print)
    session.on_message(None)
    session.on_close(ended)
    with session as same:
        assert_type(same, Session)


def ended(reason: alongside.SessionEnded) -> None:
    assert_type(reason, alongside.SessionEnded)


def fail(session: Session) -> None:
    try:
        session.send(b"x", timeout=1)
    except alongside.Closed as error:
        by = error.by
        assert by in {"me", "peer"}
    except alongside.PeerGone as error:
        assert_type(error.exit_status, int | None)
    except alongside.StartFailed as error:
        assert_type(error.stderr, bytes | None)
    except (TimeoutError, BlockingIOError, ConnectionError, PermissionError):
        raise
