"""The one thread on which callbacks run when nothing else is said.

It sleeps in a poller that watches all sessions with callbacks, and delivers a bounded number of
messages per turn so that one busy session does not starve the others. It starts with the first
callback and keeps the sessions that it serves.
"""

from __future__ import annotations

import logging
import os
import threading

from . import _core
from ._errors import Invalid, WouldBlock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ._session import Session

_PER_TURN = 64
_FAREWELL_S = 1.0
_COROUTINE = 0x80  # inspect.CO_COROUTINE, without importing inspect
_log = logging.getLogger("alongside")


class _Served:
    """The callbacks of one session."""

    def __init__(self, session: Session, number: int) -> None:
        self.session = session
        self.number = number
        self.message: Callable[[Any], object] | None = None
        self.close: Callable[[Any], object] | None = None
        self.error: Callable[[Any], object] | None = None
        self.watched: str | None = None


class Service:
    """Serves the callbacks of all sessions of this process."""

    def __init__(self) -> None:
        self.begin_anew()

    def begin_anew(self) -> None:
        """Forget everything; in a forked child the thread, and who held the lock, are not there."""
        self._lock = threading.RLock()
        self._served: dict[int, _Served] = {}
        self._numbers: dict[int, int] = {}
        self._next = 1
        self._poller: _core.Poller | None = None
        self._thread: threading.Thread | None = None
        self._stopping = False

    # ---- what sessions ask for ---------------------------------------------------------------

    def on_message(self, session: Session, callback: Callable[[Any], object] | None) -> None:
        _check(callback)
        with self._lock:
            served = self._serve(session)
            session._set_callback(callback is not None)
            served.message = callback
            self._watch(served)

    def on_close(self, session: Session, callback: Callable[[Any], object] | None) -> None:
        _check(callback)
        with self._lock:
            served = self._serve(session)
            served.close = callback
            self._watch(served)

    def on_error(self, session: Session, callback: Callable[[Any], object] | None) -> None:
        _check(callback)
        with self._lock:
            served = self._serve(session)
            served.error = callback
            self._watch(served)

    def leave(self, session: Session) -> None:
        """Serve a session no longer: it is about to be closed from here."""
        with self._lock:
            served = self._served.get(self._numbers.get(id(session), 0))
            if served is not None:
                self._lay_down(served)

    def stop(self) -> None:
        """End the thread, after the callback that runs now."""
        with self._lock:
            thread, poller = self._thread, self._poller
            self._stopping = True
        if poller is not None:
            poller.wake()
        if thread is not None and thread is not threading.current_thread():
            # A callback that waits for ever shall not keep the program from ending.
            thread.join(_FAREWELL_S)

    # ---- bookkeeping -------------------------------------------------------------------------

    def _serve(self, session: Session) -> _Served:
        number = self._numbers.get(id(session))
        if number is None:
            number = self._next
            self._next += 1
            self._numbers[id(session)] = number
            self._served[number] = _Served(session, number)
        return self._served[number]

    def _watch(self, served: _Served) -> None:
        wanted = "messages" if served.message else "end" if served.close else None
        if wanted != served.watched:
            self._unwatch(served)
        if wanted is None and served.error is None:
            self._drop(served)
        if wanted in {served.watched, None}:
            return
        try:
            poller = self._poller = self._poller or _core.Poller()
            add = poller.add if wanted == "messages" else poller.add_end
            add(served.session, served.number)
        except BaseException:
            # Over, or no descriptors: then it has no callbacks, and can be received from.
            self._lay_down(served)
            raise
        served.watched = wanted
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="alongside", daemon=True)
            self._thread.start()

    def _unwatch(self, served: _Served) -> None:
        if self._poller is not None and served.watched is not None:
            self._poller.remove(served.session)
        served.watched = None

    def _drop(self, served: _Served) -> None:
        self._served.pop(served.number, None)
        self._numbers.pop(id(served.session), None)

    # ---- the thread --------------------------------------------------------------------------

    def _run(self) -> None:
        poller = self._poller
        assert poller is not None
        while not self._stopping:
            for number in poller.wait():
                self._turn(number)

    def _turn(self, number: int) -> None:
        served = self._served.get(number)
        if served is None or self._stopping:
            return
        if served.watched == "end":
            reason = served.session._end_reason()
            if reason is not None:
                self._end(served, reason)
            return
        for _ in range(_PER_TURN):
            callback = served.message
            if callback is None or self._stopping:
                return
            try:
                message = served.session._take()
            except WouldBlock:
                return
            except Invalid as error:
                self._report(served, error, "a message could not be decoded")
                continue
            except Exception as error:
                if served.session._end_reason() is None:
                    # A shortage. The message stays receivable, so trying again would not end.
                    self._lay_down(served)
                    self._report(served, error, "a message cannot be taken; callbacks end")
                else:
                    self._end(served, error)
                return
            self._call(served, callback, message)

    def _lay_down(self, served: _Served) -> bool:
        """Serve it no longer; False if that is so already."""
        with self._lock:
            if served.number not in self._served:
                return False
            self._unwatch(served)
            self._drop(served)
        served.session._set_callback(False)
        return True

    def _end(self, served: _Served, reason: Exception) -> None:
        if self._lay_down(served) and served.close is not None:
            self._call(served, served.close, reason)

    def _call(self, served: _Served, callback: Callable[[Any], object], argument: object) -> None:
        try:
            callback(argument)
        except BaseException as error:
            self._report(served, error, f"{callback!r} raised")

    def _report(self, served: _Served, error: BaseException, what: str) -> None:
        _log.error("%s, in %r", what, served.session, exc_info=error)
        if served.error is None:
            return
        try:
            served.error(error)
        except BaseException as second:
            _log.error("%r raised, in %r", served.error, served.session, exc_info=second)


def _check(callback: Callable[[Any], object] | None) -> None:
    """Refuse at once what could only fail at each message."""
    if callback is not None and not callable(callback):
        msg = f"{callback!r} cannot be called; a callback is a function, or None to take it away"
        raise TypeError(msg)
    code = getattr(callback, "__code__", None)
    if code is not None and code.co_flags & _COROUTINE:
        msg = f"{callback!r} is an async function, which nobody here would await"
        raise TypeError(msg)


the_service = Service()
os.register_at_fork(after_in_child=the_service.begin_anew)
