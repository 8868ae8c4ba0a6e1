"""What may wait, for asyncio and trio: `astart`, `areceive`, `asend`, `aclose`, `await_exit`.

A task that has to wait queues at its session, and the loop watches the session's descriptor for all
of them through one hub. Whoever is woken looks for itself; so a task that is cancelled, at whatever
moment, has either taken its message or left it for the next.

How tasks wait and are woken is the business of `_tasks_asyncio` and `_tasks_trio`.
"""

from __future__ import annotations

import functools
import itertools
import sys
import threading
import weakref
from collections import deque
from typing import Any, Generic, ParamSpec, TypeVar

from ._errors import Busy, SessionEnded, TimedOut, WouldBlock
from ._hub import Hub, Watched
from ._start import start

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Sequence

    from ._session import Session

_P = ParamSpec("_P")
_T = TypeVar("_T")

# So many messages that are there already are taken before other tasks get their turn.
_BREATH = 64
_turns = itertools.count(1)
# How soon to look again where something may happen that nobody tells.
_LOOK_AGAIN_S = 0.25


_all_tasks: weakref.WeakSet[Tasks] = weakref.WeakSet()


class Tasks:
    """The tasks of one event loop that wait, and how they do it."""

    def __init__(self) -> None:
        self.hub = Hub()
        self.queues: weakref.WeakKeyDictionary[Session, dict[str, Queue]]
        self.queues = weakref.WeakKeyDictionary()
        _all_tasks.add(self)

    def queue(self, session: Session, event: str) -> Queue:
        """Give the queue of those who wait here for something of a session."""
        queues = self.queues.get(session)
        if queues is None:
            queues = self.queues[session] = {}
        found = queues.get(event)
        if found is None:
            found = queues[event] = Queue(self, session, event)
        return found

    def now(self) -> float:
        raise NotImplementedError

    async def breathe(self, is_due: bool) -> None:
        """Let others go on if that is due; nothing is lost if that is where it ends."""
        raise NotImplementedError

    def wait(self, queues: Sequence[Queue], deadline: float | None) -> Awaitable[bool]:
        """Wait until one of the queues wakes this task; False if the deadline comes first."""
        raise NotImplementedError

    def wake(self, waiter: Any) -> bool:
        """Let one task go on that waits; False if it does not wait any more."""
        raise NotImplementedError

    async def in_thread(self, work: Callable[[], _T]) -> _T:
        """Give what `work` gives in another thread, which is left alone if this is cancelled."""
        raise NotImplementedError


class Queue:
    """Those who wait for one event of one session, in one loop."""

    def __init__(self, tasks: Tasks, session: Session, event: str) -> None:
        self.waiters: deque[Any] = deque()
        self._wake = tasks.wake
        self.hub = tasks.hub
        # A message is for one; everything else may be for all.
        self.is_passed_on = event == "once"
        ready = self.wake_next if self.is_passed_on else self.wake_all
        self._watched: Watched = tasks.hub.add(session, event, ready)

    def wake_next(self, _budget: int = 0) -> None:
        waiters, wake = self.waiters, self._wake
        while waiters:
            if wake(waiters.popleft()):
                return

    def wake_all(self, _budget: int = 0) -> None:
        waiters, wake = self.waiters, self._wake
        # Only those who are here: whoever is woken may queue again at once, for the next time.
        for _ in range(len(waiters)):
            if waiters:
                wake(waiters.popleft())

    def arm(self, session: Session) -> float | None:
        """Have everybody be woken at the next change; give how soon to look again anyway."""
        aside = self._watched.aside
        return None if aside is None else aside.arm(session)

    def leave(self) -> None:
        """Wake everybody, from whatever thread: the session is closed here."""
        self._watched.ready = self.wake_all
        self.hub.poke(self._watched)


# ---- which of them -------------------------------------------------------------------------------

_modules = sys.modules
_asyncio: Any = None
_trio: Any = None


def _tasks() -> Tasks:
    """Give the tasks of the event loop that runs here.

    Raises:
        RuntimeError: none does.
    """
    trio = _modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_task():
        return _of_trio()
    asyncio = _modules.get("asyncio")
    loop = None if asyncio is None else asyncio._get_running_loop()
    if loop is None:
        msg = "this has to be awaited in asyncio or trio, and neither runs here"
        raise RuntimeError(msg)
    return _of_loop(loop)


def _of_loop(loop: asyncio.AbstractEventLoop) -> Tasks:
    global _asyncio  # noqa: PLW0603 - loaded when first needed
    if _asyncio is None:
        from . import _tasks_asyncio as loaded

        _asyncio = loaded
    found: Tasks = _asyncio.tasks(loop)
    return found


def _of_trio() -> Tasks:
    global _trio  # noqa: PLW0603 - loaded when first needed
    if _trio is None:
        from . import _tasks_trio as loaded

        _trio = loaded
    found: Tasks = _trio.tasks()
    return found


def leave(session: Session) -> None:
    """Wake whoever waits for a session that is closed from here."""
    for tasks in list(_all_tasks):
        for queue in list(tasks.queues.get(session, {}).values()):
            queue.leave()


def _deadline(tasks: Tasks, timeout: float | None) -> float | None:
    if timeout is None:
        return None
    if not timeout >= 0:
        msg = f"timeout is {timeout}, it must be at least 0 seconds, or None for ever"
        raise ValueError(msg)
    return tasks.now() + timeout


# ---- what sessions can do ------------------------------------------------------------------------


async def areceive(session: Session, timeout: float | None, kind: object) -> Any:
    """Do what `Session.areceive` says."""
    # Which loop this is takes as long to find as a message: asked only where it matters.
    deadline = None if timeout is None else _deadline(_tasks(), timeout)
    turn = next(_turns) % _BREATH
    if not turn or "trio" in _modules:
        await _tasks().breathe(not turn)
    found = session._try_receive(kind)
    if found is not None:
        return found[0]
    tasks = _tasks()
    # Found again without a look-up, as long as it is of this loop.
    last = session._last_queue
    queue = None if last is None else last()
    if queue is None or queue.hub is not tasks.hub:
        queue = tasks.queue(session, "once")
        session._last_queue = weakref.ref(queue)
    try:
        while await tasks.wait((queue,), deadline):
            found = session._try_receive(kind)
            if found is not None:
                return found[0]
    finally:
        # There may be more, or the end, for whoever is next.
        queue.wake_next()
    msg = f"no message has arrived before the deadline (pid {session.peer.pid})"
    raise TimedOut(msg)


async def asend(session: Session, data: object, timeout: float | None) -> None:
    """Do what `Session.asend` says."""
    deadline = None if timeout is None else _deadline(_tasks(), timeout)
    turn = next(_turns) % _BREATH
    if not turn or "trio" in _modules:
        await _tasks().breathe(not turn)
    try:
        return session.send_nowait(data)
    except (WouldBlock, Busy):
        tasks = _tasks()
        queue = tasks.queue(session, "aside")
    while True:
        soon = queue.arm(session)
        try:
            return session.send_nowait(data)
        except WouldBlock:
            pass
        except Busy:
            # For memory, which this program itself may let go of, too, and that rings no bell.
            soon = soon or _LOOK_AGAIN_S
        if not await _wait_aside(tasks, [queue], deadline, soon):
            msg = f"the other program has made no room before the deadline (pid {session.peer.pid})"
            raise TimedOut(msg)


async def _wait_aside(
    tasks: Tasks, queues: Sequence[Queue], deadline: float | None, soon: float | None
) -> bool:
    """Wait for something other than a message; False if the deadline comes first."""
    limit = deadline
    if soon is not None:
        at = tasks.now() + soon
        limit = at if deadline is None else min(at, deadline)
    return await tasks.wait(queues, limit) or limit is not deadline


async def aclose(session: Session, timeout: float | None) -> int:
    """Do what `Session.aclose` says."""
    tasks = _tasks()
    deadline = _deadline(tasks, timeout)
    try:
        while not session._is_delivered():
            queue = tasks.queue(session, "aside")
            soon = queue.arm(session)
            if session._is_delivered():
                break
            if not await _wait_aside(tasks, [queue], deadline, soon):
                break
    except (SessionEnded, Busy):
        pass
    finally:
        delivered = session.close(timeout=0)
    return delivered


async def await_exit(session: Session, timeout: float | None) -> int | None:
    """Do what `Session.await_exit` says."""
    tasks = _tasks()
    deadline = _deadline(tasks, timeout)
    while True:
        try:
            return session._wait(0.0)
        except TimedOut:
            pass
        queues = [tasks.queue(session, "exit")]
        soon = None
        try:
            aside = tasks.queue(session, "aside")
            queues.append(aside)
            soon = aside.arm(session)
        except SessionEnded:
            # Only the program's own end is left to wait for.
            pass
        try:
            return session._wait(0.0)
        except TimedOut:
            pass
        if not await _wait_aside(tasks, queues, deadline, soon):
            msg = f"the other program has not ended before the deadline (pid {session.peer.pid})"
            raise TimedOut(msg)


# ---- starting ------------------------------------------------------------------------------------


class _Made(Generic[_T]):
    """What a thread makes for a task that may not wait for it to the end."""

    def __init__(self, make: Callable[[], _T], undo: Callable[[_T], object]) -> None:
        self._make = make
        self._undo = undo
        self._lock = threading.Lock()
        self._made: list[_T] = []
        self._is_abandoned = False

    def run(self) -> _T:
        made = self._make()
        with self._lock:
            self._made.append(made)
            is_abandoned = self._is_abandoned
        if is_abandoned:
            self._undo(made)
        return made

    def abandon(self) -> None:
        with self._lock:
            self._is_abandoned = True
            made = list(self._made)
        for one in made:
            self._undo(one)


def _in_a_thread(
    work: Callable[_P, _T], undo: Callable[[_T], object]
) -> Callable[_P, Awaitable[_T]]:
    """Give the asynchronous twin of a call that takes long; undone if nobody waits any more."""

    @functools.wraps(work)
    async def twin(*args: _P.args, **named: _P.kwargs) -> _T:
        made = _Made(functools.partial(work, *args, **named), undo)
        done: _T
        try:
            done = await _tasks().in_thread(made.run)
        except BaseException:
            made.abandon()
            raise
        return done

    twin.__name__ = twin.__qualname__ = "a" + work.__name__
    return twin


def _end(session: Session) -> None:
    session.kill()
    session.wait()
    session.close(timeout=0)


astart = _in_a_thread(start, _end)
