"""How tasks wait in trio: each for an event of its own, set by a task of the system's."""

from __future__ import annotations

import trio

from ._tasks import Tasks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeVar

    from . import _core
    from ._tasks import Queue

    _T = TypeVar("_T")

_of_this_run: trio.lowlevel.RunVar[TrioTasks | None] = trio.lowlevel.RunVar("alongside", None)


class TrioTasks(Tasks):
    """The tasks of one run of trio that wait."""

    def __init__(self) -> None:
        super().__init__()
        trio.lowlevel.spawn_system_task(self._serve)

    async def _serve(self) -> None:
        while True:
            await trio.lowlevel.wait_readable(self.hub.fileno())
            self.hub.dispatch()

    def now(self) -> float:
        return trio.current_time()

    async def breathe(self, is_due: bool) -> None:
        """Give every await the chance to end: that is trio's way."""
        if is_due:
            await trio.lowlevel.checkpoint()
        else:
            await trio.lowlevel.checkpoint_if_cancelled()

    def wake(self, waiter: trio.Event) -> bool:
        waiter.set()
        return True

    async def readable(self, fd: int, deadline: float | None) -> bool:
        with trio.CancelScope(deadline=float("inf") if deadline is None else deadline) as scope:
            await trio.lowlevel.wait_readable(fd)
        return not scope.cancelled_caught

    async def changed(self, changes: _core.Changes, deadline: float | None) -> bool:
        event = trio.Event()
        served = self.hub.serve(changes, lambda _: event.set())
        limit = float("inf") if deadline is None else deadline
        try:
            with trio.CancelScope(deadline=limit):
                await event.wait()
            return event.is_set()
        finally:
            self.hub.dismiss(served)

    async def sleep(self, until: float) -> None:
        await trio.sleep_until(until)

    async def in_thread(self, work: Callable[[], _T]) -> _T:
        return await trio.to_thread.run_sync(work, abandon_on_cancel=True)

    async def wait(self, queues: Sequence[Queue], deadline: float | None) -> bool:
        event = trio.Event()
        for queue in queues:
            queue.waiters.append(event)
        limit = float("inf") if deadline is None else deadline
        try:
            with trio.CancelScope(deadline=limit):
                await event.wait()
            return event.is_set()
        finally:
            for queue in queues:
                if event in queue.waiters:
                    queue.waiters.remove(event)


def tasks() -> TrioTasks:
    """Give the tasks of the run that this task belongs to."""
    found = _of_this_run.get()
    if found is None:
        found = TrioTasks()
        _of_this_run.set(found)
    return found
