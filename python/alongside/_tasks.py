"""What may wait, for asyncio and trio: `astart`, `areceive`, `asend`, `aclose`, `await_exit`.

A task that has to wait queues at its session, and the loop watches the session's descriptor for all
of them through one hub. Whoever is woken looks for itself; so a task that is cancelled, at whatever
moment, has either taken its message or left it for the next.

How tasks wait and are woken is the business of `_tasks_asyncio` and `_tasks_trio`.
"""

from __future__ import annotations

import functools
import itertools
import logging
import sys
import threading
import weakref
from collections import deque
from typing import Any, Generic, ParamSpec, TypeVar

from . import _core
from ._errors import Busy, SessionEnded, TimedOut, WouldBlock
from ._hub import Hub, Watched
from ._start import _end, start, this_thread
from ._until import check_timeout

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Sequence

    from ._session import Session

_log = logging.getLogger("alongside")
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

    async def readable(self, fd: int, deadline: float | None) -> bool:
        """Wait until a descriptor, for which nobody else waits here, is readable.

        False if the deadline comes first.
        """
        raise NotImplementedError

    async def changed(self, changes: _core.Changes, deadline: float | None) -> bool:
        """Wait until a cell may have changed; False if the deadline comes first."""
        raise NotImplementedError

    async def sleep(self, until: float) -> None:
        """Wait until then."""
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

    def arm(self, session: Session, for_memory: bool = False) -> float | None:
        """Have everybody be woken at the next change; give how soon to look again anyway."""
        aside = self._watched.aside
        return None if aside is None else aside.arm(session, for_memory)

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
    check_timeout(timeout)
    return None if timeout is None else tasks.now() + timeout


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
    return (await _received(session, functools.partial(session._try_receive, kind), deadline))[0]


async def _received(
    session: Session, attempt: Callable[[], tuple[_T] | None], deadline: float | None
) -> tuple[_T]:
    """Wait until an attempt to receive, which has given nothing yet, gives something."""
    tasks = _tasks()
    # Found again without a look-up, as long as it is of this loop.
    last = session._last_queue
    queue = None if last is None else last()
    if queue is None or queue.hub is not tasks.hub:
        queue = tasks.queue(session, "once")
        session._last_queue = weakref.ref(queue)
    try:
        while await tasks.wait((queue,), deadline):
            found = attempt()
            if found is not None:
                return found
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
        pass
    return await _with_room(session, functools.partial(session.send_nowait, data), deadline)


async def alend(session: Session, lend: Callable[[], _T], timeout: float | None) -> _T:
    """Do what `Session.alend` says, by a `lend` that does not wait."""
    deadline = _deadline(_tasks(), timeout)
    try:
        return lend()
    except TimedOut:
        pass
    return await _with_room(session, lend, deadline)


async def _with_room(session: Session, attempt: Callable[[], _T], deadline: float | None) -> _T:
    """Wait until an attempt succeeds that needs space in the ring, or memory."""
    tasks = _tasks()
    queue = tasks.queue(session, "aside")
    for_memory = False
    while True:
        soon = queue.arm(session, for_memory)
        try:
            return attempt()
        except WouldBlock:
            for_memory = False
        except (Busy, TimedOut):
            # This program itself may let go of memory, too, and that rings no bell.
            for_memory = True
            soon = soon or _LOOK_AGAIN_S
        if not await _wait_aside(tasks, [queue], deadline, soon):
            missing = (
                "nothing that is lent was let go, there or here,"
                if for_memory
                else "no room was made"
            )
            msg = f"{missing} before the deadline (pid {session.peer.pid})"
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


# ---- names ---------------------------------------------------------------------------------------


def deadline(timeout: float | None) -> float | None:
    """Give when that many seconds will have gone by, as the running loop counts."""
    return _deadline(_tasks(), timeout)


async def readable(fd: int, until: float | None = None) -> bool:
    """Wait until a descriptor, for which nobody else waits here, is readable.

    False if the deadline comes first.
    """
    return await _tasks().readable(fd, until)


async def changed(changes: _core.Changes, until: float | None = None) -> bool:
    """Wait until a cell may have changed; False if the deadline comes first."""
    return await _tasks().changed(changes, until)


async def pause(seconds: float, until: float | None) -> bool:
    """Wait that long; False if the deadline comes first."""
    tasks = _tasks()
    end = tasks.now() + seconds
    if until is not None and until < end:
        await tasks.sleep(until)
        return False
    await tasks.sleep(end)
    return True


async def areceive_report(session: Session, timeout: float | None, *, keep: bool = False) -> Any:
    """Give how the handling of a message ended, waiting for that; `keep` what else comes."""
    deadline = _deadline(_tasks(), timeout)
    attempt = functools.partial(session._try_report, keep)
    found: tuple[Any] | None = attempt()
    return (found or await _received(session, attempt, deadline))[0]


class Handover(Generic[_T]):
    """Where a thread leaves something for a task, unless that has left; whichever comes first."""

    def __init__(self, undo: Callable[[_T], object]) -> None:
        """`undo` takes back what nobody waits for any more."""
        self._undo = undo
        self._beacon = _core.Beacon()
        # What was left, or why nothing was. A dictionary tells which came first without a lock,
        # which a thread that the program's end has stopped could have for ever.
        self._end: dict[int, tuple[list[_T], BaseException | None] | None] = {}

    @property
    def is_left(self) -> bool:
        """Whether nobody waits any more."""
        return self._end.get(0, self) is None

    def give(self, given: list[_T], error: BaseException | None) -> None:
        """Let the task go on, with one thing or none; in the thread."""
        end = (given, error)
        is_first = self._end.setdefault(0, end) is end
        self._beacon.light()
        if not is_first:
            self._take_back(given)

    async def wait(self, until: float | None) -> list[_T]:
        """Give what the thread has left; nothing if the deadline came first."""
        try:
            await _tasks().readable(self._beacon.fileno(), until)
        except BaseException:
            # Cancelled, maybe after it was given.
            self._take_back(self._leave()[0])
            raise
        given, error = self._leave()
        if error is not None:
            raise error
        return given

    def _leave(self) -> tuple[list[_T], BaseException | None]:
        return self._end.setdefault(0, None) or ([], None)

    def _take_back(self, given: list[_T]) -> None:
        for each in given:
            try:
                self._undo(each)
            except Exception:
                # Nobody is there to be told.
                _log.exception("%r cannot be given back", each)


async def in_thread(
    work: Callable[[], _T], undo: Callable[[_T], object], stop: Callable[[], object]
) -> _T:
    """Give what `work` gives in a thread of its own, which no end of a loop or program waits for.

    If nobody waits for it any more, `stop` is called, and what it gives all the same is undone.
    """
    handover = Handover(undo)

    def run() -> None:
        try:
            given, error = [work()], None
        except BaseException as raised:
            given, error = [], raised.with_traceback(None)
        handover.give(given, error)

    threading.Thread(target=run, name="alongside: task", daemon=True).start()
    try:
        return (await handover.wait(None))[0]
    except BaseException:
        stop()
        raise


# ---- starting ------------------------------------------------------------------------------------


class _Started:
    """A start in another thread, for a task that may not wait for it to the end."""

    def __init__(self, work: Callable[[], Session]) -> None:
        self._work = work
        self._canceller = _core.Canceller()
        self._lock = threading.Lock()
        self._session: Session | None = None
        self._is_abandoned = False
        self._is_over = threading.Event()

    def run(self) -> Session:
        this_thread.canceller = self._canceller
        try:
            session = self._work()
            with self._lock:
                self._session = session
                is_abandoned = self._is_abandoned
            if is_abandoned:
                _end(session)
        finally:
            this_thread.canceller = None
            self._is_over.set()
        return session

    def abandon(self) -> None:
        """End the program, wherever its start is; that takes moments."""
        with self._lock:
            self._is_abandoned = True
            session = self._session
        if session is not None:
            _end(session)
            return
        self._canceller.cancel()
        self._is_over.wait()


def _in_a_thread(work: Callable[_P, Session]) -> Callable[_P, Awaitable[Session]]:
    """Give the asynchronous twin of `start`; the program is ended if nobody waits any more."""

    @functools.wraps(work)
    async def twin(*args: _P.args, **named: _P.kwargs) -> Session:
        started = _Started(functools.partial(work, *args, **named))
        done: Session
        try:
            done = await _tasks().in_thread(started.run)
        except BaseException:
            started.abandon()
            raise
        return done

    twin.__name__ = twin.__qualname__ = "a" + work.__name__
    return twin


astart = _in_a_thread(start)
