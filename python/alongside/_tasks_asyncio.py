"""How tasks wait on asyncio's loops, uvloop's among them.

A future's waiter goes on in the loop's next round, which means one more look for events before it
does. Here the task goes on in the round that has found the event: the reader's callback is no
task's, so a task may take its step there. That is a tenth of a round trip.
"""

from __future__ import annotations

import asyncio
import weakref

from ._tasks import Tasks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from contextvars import Context
    from typing import Any, TypeVar

    from . import _core
    from ._tasks import Queue

    _T = TypeVar("_T")

    _Then = tuple[Callable[["Waiter"], object], Context | None]

_all: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncioTasks]
_all = weakref.WeakKeyDictionary()
# Whose turn it was last, found without a look-up; most programs have one loop.
_last: weakref.ref[AsyncioTasks] | None = None


class Waiter(asyncio.Future[bool]):
    """A future whose task can take its step at once, where no other task is amid its own."""

    _then: _Then | None = None

    def add_done_callback(
        self, fn: Callable[[Waiter], object], /, *, context: Context | None = None
    ) -> None:
        """Remember how the task goes on; more than that is a future's usual business."""
        if self._then is None and context is not None and not self.done():
            self._then = (fn, context)
        else:
            super().add_done_callback(fn, context=context)

    def remove_done_callback(self, fn: Callable[[Waiter], object], /) -> int:
        """Forget what was to be called."""
        if self._then is not None and self._then[0] == fn:
            self._then = None
            return 1 + super().remove_done_callback(fn)
        return super().remove_done_callback(fn)

    def cancel(self, msg: Any = None) -> bool:
        """End the wait; the task hears of it in the loop's next round."""
        if not super().cancel(msg):
            return False
        self._go_on_soon()
        return True

    def end(self, result: bool) -> None:
        """End the wait, and let the task take its step."""
        self.set_result(result)
        if asyncio.current_task(self.get_loop()) is not None:
            self._go_on_soon()
            return
        then, self._then = self._then, None
        if then is not None:
            function, context = then
            assert context is not None, "it is not kept without"
            context.run(function, self)

    def _go_on_soon(self) -> None:
        then, self._then = self._then, None
        if then is not None:
            function, context = then
            self.get_loop().call_soon(function, self, context=context)


class AsyncioTasks(Tasks):
    """The tasks of one loop that wait."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        # Not the loop itself: this is found by it, and shall end with it.
        self.loop = weakref.ref(loop)
        loop.add_reader(self.hub.fileno(), self.hub.dispatch)

    def now(self) -> float:
        return self._running().time()

    def _running(self) -> asyncio.AbstractEventLoop:
        loop = self.loop()
        assert loop is not None, "it runs this"
        return loop

    async def breathe(self, is_due: bool) -> None:
        if is_due:
            await asyncio.sleep(0)

    def wake(self, waiter: Waiter) -> bool:
        if waiter.done():
            return False
        waiter.end(True)
        return True

    async def readable(self, fd: int, deadline: float | None) -> bool:
        loop = self._running()
        waiter = Waiter(loop=loop)
        loop.add_reader(fd, self.wake, waiter)
        try:
            return await _until(waiter, loop, deadline, ())
        finally:
            loop.remove_reader(fd)

    async def changed(self, changes: _core.Changes, deadline: float | None) -> bool:
        loop = self._running()
        waiter = Waiter(loop=loop)
        served = self.hub.serve(changes, lambda _: self.wake(waiter))
        try:
            return await _until(waiter, loop, deadline, ())
        finally:
            self.hub.dismiss(served)

    async def sleep(self, until: float) -> None:
        await asyncio.sleep(until - self.now())

    async def in_thread(self, work: Callable[[], _T]) -> _T:
        return await self._running().run_in_executor(None, work)

    def wait(self, queues: Sequence[Queue], deadline: float | None) -> Awaitable[bool]:
        loop = self._running()
        waiter = Waiter(loop=loop)
        for queue in queues:
            queue.waiters.append(waiter)
        if deadline is None and queues[0].is_passed_on:
            # Whoever waits here passes its turn on when it leaves, and so takes this out.
            return waiter
        return _until(waiter, loop, deadline, queues)


async def _until(
    waiter: Waiter,
    loop: asyncio.AbstractEventLoop,
    deadline: float | None,
    queues: Sequence[Queue],
) -> bool:
    timer = None if deadline is None else loop.call_at(deadline, _expire, waiter)
    try:
        return await waiter
    finally:
        if timer is not None:
            timer.cancel()
        for queue in queues:
            if waiter in queue.waiters:
                queue.waiters.remove(waiter)


def _expire(waiter: Waiter) -> None:
    if not waiter.done():
        waiter.end(False)


def tasks(loop: asyncio.AbstractEventLoop) -> AsyncioTasks:
    """Give the tasks of a loop."""
    global _last  # noqa: PLW0603 - see there
    found = None if _last is None else _last()
    if found is None or found.loop() is not loop:
        found = _all.get(loop)
        if found is None:
            found = _all[loop] = AsyncioTasks(loop)
        _last = weakref.ref(found)
    return found
