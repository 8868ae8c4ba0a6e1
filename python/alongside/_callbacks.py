"""The callbacks of a session: in order, one at a time, where the program wants them.

A session's callbacks run in one place, a *loop* (`alongside.loops`); which one is said with `on=`.
The loop watches the session and gives it turns; what happens in a turn is the same in all of them:
a bounded number of messages, then the end, once.
"""

from __future__ import annotations

import inspect
import logging
import os
import threading

from ._errors import Invalid, WouldBlock
from .loops._base import Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any

    from ._hub import Watched
    from ._session import Session

_log = logging.getLogger("alongside")


class _Ended:
    """What is found instead of a message at the end."""

    def __init__(self, reason: Exception | None) -> None:
        self.reason = reason


_NOTHING = object()


class Callbacks:
    """The callbacks of one session."""

    def __init__(self, session: Session, loop: Loop) -> None:
        self.session = session
        self.loop = loop
        self.message: Callable[[Any], object] | None = None
        self.close: Callable[[Any], object] | None = None
        self.error: Callable[[Any], object] | None = None
        self.watched: Watched | None = None
        self._is_busy = False

    # ---- watching ------------------------------------------------------------------------------

    def watch(self) -> None:
        """Have the loop watch for what there are callbacks for."""
        wanted: str | None = "messages" if self.message else "end" if self.close else None
        if wanted != (self.watched and self.watched.event):
            self.unwatch()
        if wanted is None or self.watched is not None:
            return
        try:
            self.watched = self.loop._watch(self, wanted)
        except BaseException:
            # Over, or no descriptors: then it has no callbacks, and can be received from.
            self.lay_down()
            raise

    def unwatch(self) -> None:
        watched, self.watched = self.watched, None
        if watched is not None:
            self.loop._unwatch(watched)

    def is_any(self) -> bool:
        return bool(self.message or self.close or self.error)

    def is_async(self) -> bool:
        return any(map(_is_async, (self.message, self.close, self.error)))

    def lay_down(self) -> bool:
        """Serve the session no longer; False if that is so already."""
        with _lock:
            if _all.get(id(self.session)) is not self:
                return False
            del _all[id(self.session)]
            self.unwatch()
        self.session._set_callback(False)
        return True

    # ---- a turn --------------------------------------------------------------------------------

    def ready(self, budget: int) -> None:
        """Run callbacks, at most `budget`; asynchronous ones in a task of the loop."""
        if not self.is_async():
            self.turn(budget)
        elif (watched := self.watched) is not None and not self._is_busy:
            self._is_busy = True
            self.loop._hub.unwatch(watched)
            self.loop._spawn(self)

    def turn(self, budget: int) -> None:
        for _ in range(budget):
            callback, found = self._next()
            if found is _NOTHING:
                return
            if isinstance(found, _Ended):
                if self.lay_down() and self.close is not None:
                    self._call(self.close, found.reason)
                return
            if callback is not None:
                self._call(callback, found)

    async def aturn(self, budget: int) -> None:
        """Do what `turn` does, and await what the callbacks give."""
        try:
            for _ in range(budget):
                callback, found = self._next()
                if found is _NOTHING:
                    return
                if isinstance(found, _Ended):
                    if self.lay_down() and self.close is not None:
                        await self._acall(self.close, found.reason)
                    return
                if callback is not None:
                    await self._acall(callback, found)
        finally:
            self._is_busy = False
            self._watch_again()

    def _watch_again(self) -> None:
        with _lock:
            watched = self.watched
            if watched is None or self._is_busy:
                return
            try:
                self.loop._hub.watch(watched)
            except Exception as error:
                self.lay_down()
                _log.error("callbacks end, in %r", self.session, exc_info=error)

    def _next(self) -> tuple[Callable[[Any], object] | None, object]:
        """Give the next message and whom to call with it, or `_NOTHING`, or the end.

        Nobody is to be called with a message that could not be decoded.
        """
        callback, session, watched = self.message, self.session, self.watched
        if watched is None or self.loop._is_stopping:
            return None, _NOTHING
        if watched.event == "end":
            reason = session._end_reason()
            return None, _NOTHING if reason is None else _Ended(reason)
        found: object = _NOTHING
        if callback is not None:
            try:
                found = session._take()
            except WouldBlock:
                pass
            except Invalid as error:
                self.report(error, "a message could not be decoded")
                return None, None
            except Exception as error:
                if session._end_reason() is not None:
                    return None, _Ended(error)
                # A shortage. The message stays receivable, so trying again would not end.
                self.lay_down()
                self.report(error, "a message cannot be taken; callbacks end")
        return callback, found

    def _call(self, callback: Callable[[Any], object], argument: object) -> None:
        try:
            callback(argument)
        except BaseException as error:
            self.report(error, f"{callback!r} raised")

    async def _acall(self, callback: Callable[[Any], Any], argument: object) -> None:
        try:
            result = callback(argument)
            if inspect.isawaitable(result):
                await result
        except Exception as error:
            await self._areport(error, f"{callback!r} raised")

    def report(self, error: BaseException, what: str) -> None:
        """Log what a callback raised, and tell the callback for that."""
        _log.error("%s, in %r", what, self.session, exc_info=error)
        handler = self.error
        if handler is None or _is_async(handler):
            return
        try:
            handler(error)
        except BaseException as second:
            _log.error("%r raised, in %r", handler, self.session, exc_info=second)

    async def _areport(self, error: BaseException, what: str) -> None:
        self.report(error, what)
        handler: Callable[[Any], Any] | None = self.error
        if handler is None or not _is_async(handler):
            return
        try:
            result: Awaitable[object] = handler(error)
            await result
        except Exception as second:
            _log.error("%r raised, in %r", handler, self.session, exc_info=second)


# ---- what sessions ask for -----------------------------------------------------------------------

_lock = threading.RLock()
_all: dict[int, Callbacks] = {}


def set_callback(
    session: Session,
    which: str,
    callback: Callable[[Any], object] | None,
    on: Loop | None,
) -> None:
    """Set the callback "message", "close" or "error" of a session, or take it away."""
    _check(callback, on)
    with _lock:
        served = _all.get(id(session))
        if served is None:
            if callback is None:
                return
            served = Callbacks(session, on or _default())
        elif on is not None and on != served.loop:
            _move(served, which, on)
        if callback is not None:
            served.loop._check()
            if _is_async(callback) and not served.loop._takes_coroutines:
                msg = f"{callback!r} is an async function, which {served.loop!r} does not await"
                raise TypeError(msg)
        _all[id(session)] = served
        setattr(served, which, callback)
        if which == "message":
            session._set_callback(callback is not None)
        served.watch()
        if not served.is_any():
            served.lay_down()


def _move(served: Callbacks, which: str, on: Loop) -> None:
    """Let callbacks run elsewhere, if there are no others that stay where they are."""
    if any(getattr(served, other) for other in ("message", "close", "error") if other != which):
        msg = (
            f"the callbacks of one session run in one place, and this session's run on "
            f"{served.loop!r}, not {on!r}\nname the same place for all of them"
        )
        raise ValueError(msg)
    served.unwatch()
    served.loop = on


def leave(session: Session) -> None:
    """Serve a session no longer: it is about to be closed from here."""
    served = _all.get(id(session))
    if served is not None:
        served.lay_down()


def check_not_served(session: Session) -> None:
    """Refuse to receive what goes to a callback; if the loop is closed it goes there no longer.

    Raises:
        RuntimeError: there is a callback.
    """
    served = _all.get(id(session))
    if served is None:
        return
    if served.loop._is_closed():
        give_up(served)
        return
    msg = (
        f"messages of this session go to its on_message callback, on {served.loop!r}\n"
        "on_message(None) takes the callback away"
    )
    raise RuntimeError(msg)


def give_up(served: Callbacks) -> None:
    """End the callbacks of a session whose loop is closed."""
    if served.lay_down():
        _log.error(
            "%r is closed; callbacks end, and messages can be received, in %r",
            served.loop,
            served.session,
        )


def _is_async(callback: object) -> bool:
    if callback is None:
        return False
    return inspect.iscoroutinefunction(callback) or inspect.iscoroutinefunction(
        getattr(callback, "__call__", None)  # noqa: B004 - asked for what it is, not whether it is
    )


def _check(callback: Any, on: object) -> None:
    """Refuse at once what could only fail at each message."""
    if callback is not None and not callable(callback):
        msg = f"{callback!r} cannot be called; a callback is a function, or None to take it away"
        raise TypeError(msg)
    if on is not None and not isinstance(on, Loop):
        msg = f"on={on!r} is no loop\nfrom alongside import loops; on=loops.Asyncio(), for example"
        raise TypeError(msg)


def _default() -> Loop:
    from .loops._polled import Thread

    return Thread()


def _begin_anew() -> None:
    """In a forked child: the loops, and whoever held the lock, are not there."""
    global _lock  # noqa: PLW0603 - the one place
    _lock = threading.RLock()
    _all.clear()


os.register_at_fork(after_in_child=_begin_anew)
