"""Callbacks on an asyncio event loop; they may be async functions."""

from __future__ import annotations

import asyncio
import contextlib
import weakref

from .._hub import Hub
from ._base import Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from typing import Any

    from .._types import Tenant, Turns

_PER_TURN = 64
# A hub belongs to its loop, which has it as a reader until it is closed.
_hubs: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, weakref.ref[Hub]]
_hubs = weakref.WeakKeyDictionary()


class Asyncio(Loop):
    """An asyncio event loop, uvloop's included.

        async def main():
            session.on_message(show, on=loops.Asyncio())

    An async callback is awaited before the next message is taken; other sessions go on meanwhile.

    Args:
        loop: the loop; the running one if none is named.

    Raises:
        RuntimeError: no loop is running, and none is named.
    """

    _takes_coroutines = True
    _cancellation = asyncio.CancelledError

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        super().__init__()
        found = loop or asyncio._get_running_loop()
        if found is None:
            msg = "no asyncio loop runs here\nmake loops.Asyncio() in a coroutine, or name the loop"
            raise RuntimeError(msg)
        self._loop = found
        self._tasks: set[asyncio.Task[None]] = set()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Asyncio) and other._loop is self._loop

    def __hash__(self) -> int:
        return hash(self._loop)

    def __repr__(self) -> str:
        return f"loops.Asyncio({self._loop!r})"

    @property
    def _hub(self) -> Hub:
        known = _hubs.get(self._loop)
        hub = None if known is None else known()
        if hub is None:
            hub = Hub()
            self._begin(hub)
            _hubs[self._loop] = weakref.ref(hub)
        return hub

    def _begin(self, hub: Hub) -> None:
        if asyncio._get_running_loop() is self._loop:
            self._begin_here(hub)
        else:
            self._loop.call_soon_threadsafe(self._begin_here, hub)

    def _begin_here(self, hub: Hub) -> None:
        self._loop.add_reader(hub.fileno(), hub.dispatch)

    def _is_closed(self) -> bool:
        return self._loop.is_closed()

    def _is_cancelled(self) -> bool:
        task = asyncio.current_task()
        return task is None or task.cancelling() > 0

    def _keep(self, tenant: Tenant) -> object:
        keeper = _until_the_end(tenant.give_up)
        if asyncio._get_running_loop() is self._loop:
            _advance(keeper)
        else:
            self._loop.call_soon_threadsafe(_advance, keeper)
        return keeper

    def _keep_no_longer(self, kept: Any) -> None:
        _advance(kept)

    def _spawn(self, served: Turns) -> None:
        task = self._loop.create_task(served.aturn(_PER_TURN))
        self._tasks.add(task)
        turn = served.turn

        def done(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            served.give_up_unless_begun(turn)

        task.add_done_callback(done)


async def _until_the_end(end: Callable[[], None]) -> AsyncGenerator[None, None]:
    """Call `end` when the loop ends: `asyncio.run` closes the generators that have begun there."""
    try:
        yield
    except GeneratorExit:
        end()
        raise


def _advance(keeper: AsyncGenerator[None, None]) -> None:
    """Let a generator that awaits nothing take its next step, unless it is amid its end."""
    with contextlib.suppress(StopIteration, StopAsyncIteration, RuntimeError):
        keeper.asend(None).send(None)
