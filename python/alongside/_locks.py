"""Locks with a name, which the death of their owner frees.

Loads when a program first makes one.
"""

from __future__ import annotations

import os
import sys
from _thread import get_ident
from weakref import ref

from . import _core
from ._errors import TimedOut

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Self

    from ._in_line import Line
    from ._types import Scope


class Lock(_core.Lock):
    """A lock that one thread, or task, of one program has at a time.

        with alongside.Lock("transfer"):
            ...

    It is freed by `release()`, at the end of its `with`, and by the death of the process, within
    milliseconds; dropping the object frees nothing. Threads and tasks of one program exclude each
    other as programs do. It does not count: who has it must not ask for it again.

    In asyncio and trio, `async with lock` waits without holding up the loop; the owner is then the
    task.

    Args:
        name: parts joined by slashes, at most 200 bytes of UTF-8, without control characters and
            "@".
        scope: who shares it: the programs of this user, or of this login session. (In the scope
            "machine" each user has locks of its own.)

    Attributes:
        name: the name.
        abandoned: whether the process that had it before ended while it did, killed or not; what
            the lock protects may be half done. It is about the last time that this object got
            the lock.

    Raises:
        ValueError: the name breaks a rule.
        NoScope: there is no login session.
        Corrupt: its file is none of this library's, or of another version.
        Denied: the scope's directory is not this user's alone.
        TimedOut: another process is stopped in the middle of opening it.
        OSError: it cannot be made, or nothing more can be opened.

    Example:
        >>> import alongside
        >>> lock = alongside.Lock("example/lock")
        >>> with lock:
        ...     lock.owner().pid == __import__("os").getpid()
        True
        >>> lock.owner() is None
        True
    """

    _line: Line | None = None

    def __init__(self, _name: str, /, *, scope: Scope = "user") -> None:
        # What it was made from is `__new__`'s business.
        del scope

    async def __aenter__(self) -> Self:
        await self.aacquire()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave_for(_this_task())

    async def aacquire(self, *, timeout: float | None = None) -> None:
        """Take the lock for this task of asyncio or trio; `async with` does, and releases it."""
        from . import _tasks

        until = _tasks.deadline(timeout)
        task = _this_task()
        if self._is_taken_by(task):
            self._acquire_for(task, 0)
        if self._try_acquire_for(task):
            return
        from ._in_line import ToHave

        wants = ToHave(self)
        if not await _line(self).wait(wants, until):
            raise self._not_free()
        self._pass_on(id(wants), task)

    def arelease(self) -> None:
        """Give it back, as the task that took it."""
        self._release_for(_this_task())

    def __repr__(self) -> str:
        return f"<alongside.Lock {self.name!r}>"

    def __reduce__(self) -> Any:
        msg = "a lock cannot be pickled\nopen it by its name in the other process"
        raise TypeError(msg)


Lock.__module__ = "alongside"


def _line(lock: Lock | RWLock) -> Line:
    """Give the tasks that wait for a lock."""
    if lock._line is None:
        from ._in_line import Line

        lock._line = Line(lock.name)
    return lock._line


def this_task() -> int:
    """Give what stands for the task that runs here; 0 where neither asyncio nor trio runs."""
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_task():
        return id(trio.lowlevel.current_task())
    asyncio = sys.modules.get("asyncio")
    if asyncio is None or asyncio._get_running_loop() is None:
        return 0
    # A callback of the loop is none, and belongs to its thread.
    task = asyncio.current_task()
    return 0 if task is None else id(task)


def _this_task() -> int:
    """Give what stands for the task that runs here.

    Raises:
        RuntimeError: neither asyncio nor trio runs.
    """
    task = this_task()
    if not task:
        msg = "this has to be awaited in asyncio or trio, and neither runs here"
        raise RuntimeError(msg)
    return task


class RWLock(_core.RWLock):
    """A lock that many readers have at a time, or one writer.

        with alongside.RWLock("index").reading():
            ...

    A writer that waits keeps out readers that come later. A hold ends with its `with` and with its
    process.

    Args:
        name, scope: as for `Lock`, whose names do not meet these.
    """

    _line: Line | None = None

    def __init__(self, _name: str, /, *, scope: Scope = "user") -> None:
        # What it was made from is `__new__`'s business.
        del scope

    def reading(self, *, timeout: float | None = None) -> Hold:
        """Give what is held while one reads: `with lock.reading():`, or `async with`.

        Args:
            timeout: seconds to wait for a writer; None for ever. Then it is `TimedOut`. A thread,
                or task, that would wait for itself gets a `RuntimeError`.
        """
        return Hold(self, timeout, is_writer=False)

    def writing(self, *, timeout: float | None = None) -> Hold:
        """Give what is held while one writes: `with lock.writing():`, or `async with`.

        Args:
            timeout: seconds to wait for all others; None for ever. Then it is `TimedOut`. A thread,
                or task, that would wait for itself gets a `RuntimeError`.
        """
        return Hold(self, timeout, is_writer=True)

    def __repr__(self) -> str:
        return f"<alongside.RWLock {self.name!r}>"

    def __reduce__(self) -> Any:
        msg = "a lock cannot be pickled\nopen it by its name in the other process"
        raise TypeError(msg)


RWLock.__module__ = "alongside"


# What is held in this process, or was, by number; each is there as long as somebody has it. (A dict
# changes and is copied in one step.)
_held: dict[int, ref[Hold]] = {}


class Hold(_core.RwHold):
    """What a reader or a writer has of an `RWLock`, from `with` to its end.

    Attributes:
        abandoned: whether the last writer ended while it had the lock.
    """

    # Whether somebody waits for it.
    _waits = False
    # Who has it, or waits: process, thread, task, and the lock.
    _who = (0, 0, 0, "")

    def __init__(  # pyright: ignore[reportInconsistentConstructor] - `__new__` takes anything
        self, lock: RWLock, timeout: float | None, *, is_writer: bool
    ) -> None:
        self._lock = lock
        self._timeout = timeout
        self._is_writer = is_writer

    def __enter__(self) -> Self:
        self._begin()
        try:
            is_inside = self._is_inside(is_task=False)
            self._enter(self._lock, self._is_writer, self._timeout, is_inside)
            self._note()
        except BaseException:
            # Ctrl-C may have come when it was there already.
            self.__exit__()
            raise
        finally:
            self._waits = False
        return self

    async def __aenter__(self) -> Self:
        self._begin()
        try:
            await self._enter_as_task()
            self._note()
        except BaseException:
            self.__exit__()
            raise
        finally:
            self._waits = False
        return self

    async def _enter_as_task(self) -> None:
        from . import _tasks

        until, is_inside = _tasks.deadline(self._timeout), self._is_inside(is_task=True)
        try:
            self._enter(self._lock, self._is_writer, 0, is_inside)
        except TimedOut as error:
            from ._in_line import ToEnter

            wants = ToEnter(self._lock, is_writer=self._is_writer)
            found = await _line(self._lock).wait(wants, until)
            if not found:
                raise error.with_traceback(None) from None
            self._adopt(found[0])

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__exit__()

    def _begin(self) -> None:
        if self._waits or self._is_held:
            msg = "this hold is in use\nask the lock for another one"
            raise RuntimeError(msg)
        self._waits = True
        self._who = (os.getpid(), get_ident(), this_task(), self._lock._path)

    def _note(self) -> None:
        """Have it found by who asks for the same lock, as long as it is held."""
        # The end of a `with` only lets go. At the program's end the module's names are gone.
        number, held = id(self), _held
        held[number] = ref(self, lambda _: held.pop(number, None))

    def _is_inside(self, *, is_task: bool) -> bool:
        """Tell whether who asks for this reads already.

        A task waits for itself if it asks for what it has; a thread that waits as a whole, for all
        that its tasks have.

        Raises:
            RuntimeError: it would wait for itself, for ever.
        """
        pid, thread, task, path = self._who
        mine = [
            hold
            for hold in (known() for known in list(_held.values()))
            if hold is not None
            and hold._is_held
            and (hold._who[0], hold._who[3]) == (pid, path)
            and (hold._who[2] == task if is_task else hold._who[1] == thread)
        ]
        is_alone = self._is_writer or any(hold._is_writer for hold in mine)
        if mine and is_alone:
            msg = (
                f'the lock "{self._lock.name}" is held by this very thread or task, and would be '
                "waited for for ever"
            )
            raise RuntimeError(msg)
        return bool(mine)

    def __repr__(self) -> str:
        how = "writing" if self._is_writer else "reading"
        state = "held" if self._is_held else "waits" if self._waits else "not held"
        return f"<alongside.RWLock {self._lock.name!r}, {how}, {state}>"
