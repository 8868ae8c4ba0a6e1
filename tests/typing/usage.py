"""How the surface looks to a type checker; mypy and pyright read this strictly, nothing runs it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, assert_type

import alongside
from alongside import Session, loops


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
    session.on_message(print, on=loops.Thread())
    assert_type(session.receive_view(), memoryview)
    with session.lend_bytes(10) as space:
        assert_type(space, memoryview)
    with session.lend((3, 4), "f4") as array:
        assert_type(array, Any)
    assert_type(session.lend(5), alongside.Lent[Any])
    session.lend_limit = 1 << 20
    limit: int = session.lend_limit
    assert limit
    with session as same:
        assert_type(same, Session)


async def later(session: Session) -> None:
    async with await alongside.astart(["editor"], hello=1, timeout=None) as other:
        assert_type(other, Session)
    await session.asend([1], timeout=1)
    assert_type(await session.areceive(), Any)
    assert_type(await session.areceive(type=Request, timeout=1), Request)
    assert_type(await session.aclose(), int)
    assert_type(await session.await_exit(), int | None)
    async for message in session:
        assert_type(message, Any)
    session.on_message(later, on=loops.Asyncio())


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


def check_directory(name: str) -> None:
    """Names, calls, watches."""

    def take(data: object, session: alongside.Session) -> None:
        session.send(data)

    async def take_async(data: object, session: alongside.Session) -> None:
        await session.asend(data)

    assert_type(alongside.publish(name, take, unique=True), alongside.Registration)
    place = loops.Asyncio()
    alongside.publish(name, on_message=take_async, on=place, scope="machine", allow=["bob", 1000])
    # No such scope: if a checker does not say so, it complains of the ignoring.
    alongside.publish(name, info={"port": 80}, scope="galaxy")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type(alongside.running(), list[alongside.Entry])
    found = alongside.find(name, owner="bob", scope="machine")
    assert_type(found, alongside.Entry | None)
    if found is not None:
        assert_type(found.peer.executable, str | None)
        assert_type(alongside.connect(found), alongside.Session)
    alongside.send_to(name, {"a": [1]}, wait=True, timeout=None)
    with alongside.watch("*") as watch:
        for change in watch:
            assert_type(change, alongside.Change)
            assert_type(change.entry.name, str)


async def check_async_directory(name: str) -> None:
    """The same, awaited."""
    assert_type(await alongside.aconnect(name), alongside.Session)
    await alongside.asend_to(name, b"x", wait=True)
    async for change in alongside.watch(name):
        assert_type(change.initial, bool)
