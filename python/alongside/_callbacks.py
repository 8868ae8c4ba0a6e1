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
import weakref

from ._errors import Invalid, WouldBlock
from .loops._base import Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator
    from typing import Any

    from ._hub import Watched
    from ._session import Session
    from ._types import Tenant

_log = logging.getLogger("alongside")


class _Ended:
    """What is found instead of a message at the end."""

    def __init__(self, reason: Exception | None) -> None:
        self.reason = reason


class _Failed:
    """What is found instead of a message that cannot be had."""

    def __init__(self, error: Exception, what: str) -> None:
        self.error = error
        self.what = what


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
        # Amid a turn; whatever is asked for meanwhile takes effect when it is over.
        self._is_busy = False
        # The loop does not look at the session, so as not to be told again and again.
        self._is_paused = False
        # What a callback has returned that has yet to be awaited.
        self._unfinished: Any = None
        # How many turns were handed over to tasks, and which of them has begun.
        self.turn = 0
        self._begun = 0
        _all.add(self)

    # ---- watching ------------------------------------------------------------------------------

    def watch(self) -> None:
        """Have the loop watch for what there are callbacks for."""
        wanted = "messages" if self.message else "end" if self.close else None
        if wanted != (self.watched and self.watched.event):
            self.unwatch()
        if wanted is None or self.watched is not None or self._is_busy:
            return
        try:
            self.watched = self.loop._hub.add(self.session, wanted, self.ready)
        except BaseException:
            # Over, or no descriptors: then it has no callbacks, and can be received from.
            self.lay_down()
            raise

    def unwatch(self) -> None:
        watched, self.watched, self._is_paused = self.watched, None, False
        if watched is not None:
            watched.leave()

    def is_any(self) -> bool:
        return bool(self.message or self.close or self.error)

    def is_async(self) -> bool:
        return any(map(is_async, (self.message, self.close, self.error)))

    def lay_down(self) -> bool:
        """Serve the session no longer; False if that is so already."""
        with _lock:
            if self.session._served is not self:
                return False
            self.session._served = None
            self.unwatch()
            self.loop._let_go(self)
            self.session._set_callback(False)
        return True

    def _pause(self) -> None:
        watched = self.watched
        if watched is not None and not self._is_paused:
            self._is_paused = True
            self.loop._hub.unwatch(watched)

    # ---- a turn --------------------------------------------------------------------------------

    def ready(self, budget: int) -> None:
        """Run callbacks, at most `budget`; asynchronous ones in a task of the loop."""
        with _lock:
            # Who has set the callback has let go by now, so what it watches stands here.
            if self.watched is None:
                return
            if self._is_busy:
                # A callback runs the loop itself, a dialog's perhaps. One at a time all the same.
                self._pause()
                return
            self._is_busy = True
            is_async = self.is_async()
            if is_async:
                self._pause()
        if is_async:
            self._hand_over()
            return
        try:
            self._turn(budget)
        finally:
            if self._unfinished is None:
                self._end_turn()
            else:
                self._pause()
                self._hand_over()

    def _hand_over(self) -> None:
        """Have a task of the loop go on with this turn."""
        self.turn += 1
        try:
            self.loop._spawn(self)
        except BaseException:
            self.give_up_unless_begun(self.turn)
            raise

    def give_up_unless_begun(self, turn: int) -> None:
        """End callbacks if the task for that turn is cancelled before it has begun."""
        if self._begun < turn:
            self.give_up()
            self._end_turn()

    def give_up(self) -> None:
        """End the callbacks: their loop is closed, or has cancelled them."""
        give_up(self)

    def _rounds(self, budget: int) -> Iterator[tuple[Callable[[Any], object] | None, Any]]:
        """Give whom to call, and with what, until something was changed meanwhile.

        Nobody is to be called with a message that failed.
        """
        watched, loop, is_async = self.watched, self.loop, self.is_async()
        for _ in range(budget):
            # To take a message lets other threads go on: with the lock, so that none is taken for a
            # callback that was taken away before it came.
            with _lock:
                if self.watched is not watched or self.loop is not loop:
                    return
                if self.is_async() != is_async:
                    return
                callback, found = self._next()
            if found is _NOTHING:
                return
            if isinstance(found, _Ended):
                if self.lay_down() and self.close is not None:
                    yield self.close, found.reason
                return
            if isinstance(found, _Failed):
                yield None, found
            elif callback is not None:
                yield callback, found

    def _turn(self, budget: int) -> None:
        for callback, argument in self._rounds(budget):
            if callback is None:
                self.report(argument.error, argument.what)
                continue
            self._call(callback, argument)
            if self._unfinished is not None:
                return

    async def aturn(self, budget: int) -> None:
        """Do what a turn does, and await what the callbacks give."""
        self._begun = self.turn
        try:
            if self._unfinished is not None:
                unfinished, self._unfinished = self._unfinished, None
                await self._finish(unfinished, self.message)
            for callback, argument in self._rounds(budget):
                if callback is None:
                    await self._areport(argument.error, argument.what)
                    continue
                try:
                    result: Any = callback(argument)
                except Exception as error:
                    await self._areport(error, f"{_shown(callback)} raised")
                else:
                    await self._finish(result, callback)
        except BaseException:
            # The task is cancelled, the loop about to end: nothing more is taken.
            give_up(self)
            raise
        finally:
            self._end_turn()

    async def _finish(self, result: Any, callback: object) -> None:
        if not inspect.isawaitable(result):
            return
        try:
            await result
        except Exception as error:
            await self._areport(error, f"{_shown(callback)} raised")
        except self.loop._cancellation as error:
            if self.loop._is_cancelled():
                raise
            # The callback's own business: something that it had awaited was cancelled.
            await self._areport(error, f"{_shown(callback)} raised")

    def _end_turn(self) -> None:
        with _lock:
            failed = self._go_on_watching()
        # Not under the lock: whoever is told may wait for a thread that sets a callback.
        if failed is not None:
            self.report(failed, "callbacks end")

    def _go_on_watching(self) -> Exception | None:
        self._is_busy = False
        if self.watched is not None and not self._is_paused:
            return None
        if self.session._served is not self:
            return None
        if not self.is_any():
            self.lay_down()
            return None
        watched = self.watched
        try:
            if watched is None:
                self.watch()
            else:
                self._is_paused = False
                self.loop._hub.watch(watched)
        except Exception as error:
            if watched is not None and self.session._end_reason() is not None:
                # The end is told in a turn of its own.
                self.loop._hub.poke(watched)
                return None
            self.lay_down()
            return error
        return None

    def _next(self) -> tuple[Callable[[Any], object] | None, object]:
        """Give the next message and whom to call with it, or `_NOTHING`, or the end, or why not."""
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
                return None, _Failed(error, "a message could not be decoded")
            except Exception as error:
                if session._end_reason() is not None:
                    # Without the frames in which it was found, which have the session: a circle
                    # would keep its descriptors until the garbage is collected.
                    return None, _Ended(error.with_traceback(None))
                # A shortage. The message stays receivable, so trying again would not end.
                self.lay_down()
                return None, _Failed(error, "a message cannot be taken; callbacks end")
        return callback, found

    def _call(self, callback: Callable[[Any], object], argument: object) -> None:
        try:
            result: Any = callback(argument)
        except self.loop._survives as error:
            self.report(error, f"{_shown(callback)} raised")
            return
        if not inspect.isawaitable(result):
            return
        if self.loop._takes_coroutines:
            self._unfinished = result
            return
        if inspect.iscoroutine(result):
            result.close()
        msg = f"{_shown(callback)} returned something to await, which {self.loop!r} does not do"
        self.report(TypeError(msg), "a callback is asynchronous")

    def report(self, error: BaseException, what: str) -> None:
        """Log what a callback raised, and tell the callback for that."""
        _log.error("%s, in %s", what, _shown(self.session), exc_info=error)
        handler = self.error
        if handler is None or is_async(handler):
            return
        try:
            handler(error)
        except self.loop._survives as second:
            _log.error("%s raised, in %s", _shown(handler), _shown(self.session), exc_info=second)

    async def _areport(self, error: BaseException, what: str) -> None:
        self.report(error, what)
        handler: Callable[[Any], Any] | None = self.error
        if handler is None or not is_async(handler):
            return
        try:
            result: Awaitable[object] = handler(error)
            await result
        except Exception as second:
            _log.error("%s raised, in %s", _shown(handler), _shown(self.session), exc_info=second)


def _shown(thing: object) -> str:
    """Give something as people read it, also if it refuses."""
    try:
        return repr(thing)
    except Exception:
        return object.__repr__(thing)


# ---- what sessions ask for -----------------------------------------------------------------------

_lock = threading.RLock()
# A hub keeps those whose sessions it watches, and a session its own; nothing else does.
_all: weakref.WeakSet[Callbacks] = weakref.WeakSet()
# Those of registrations and watches.
_others: weakref.WeakSet[Tenant] = weakref.WeakSet()


def set_callback(
    session: Session,
    which: str,
    callback: Callable[[Any], object] | None,
    on: Loop | None,
) -> None:
    """Set the callback "message", "close" or "error" of a session, or take it away."""
    check(callback, on)
    with _lock:
        served = session._served
        if served is not None and on is not None and served.loop._is_closed():
            give_up(served)
            served = None
        if served is None:
            if callback is None:
                return
            served = Callbacks(session, on or default())
        loop = on or served.loop
        if callback is not None:
            loop._check()
            check_awaited(callback, loop)
        if loop != served.loop:
            _move(served, which, loop)
        if callback is not None:
            loop._take_up(served)
        session._served = served
        setattr(served, which, callback)
        if which == "message":
            session._set_callback(callback is not None)
        served.watch()
        if not served.is_any() and not served._is_busy:
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
    served.loop._let_go(served)
    served.loop = on


def all_on(loop: Loop) -> list[Tenant]:
    """Give those that run in a place."""
    with _lock:
        return [tenant for tenant in [*_all, *_others] if tenant.loop == loop]


def move_in(tenant: Tenant) -> object:
    """Run callbacks that are no session's in their loop, until that ends.

    Returns:
        What `move_out` takes.
    """
    tenant.loop._take_up(tenant)
    _others.add(tenant)
    return tenant.loop._keep(tenant)


def move_out(tenant: Tenant, kept: object) -> None:
    """Run them no longer."""
    _others.discard(tenant)
    tenant.loop._keep_no_longer(kept)
    tenant.loop._let_go(tenant)


def leave(session: Session) -> None:
    """Serve a session no longer: it is about to be closed from here."""
    served = session._served
    if served is not None:
        served.lay_down()


def check_not_served(session: Session) -> None:
    """Refuse to receive what goes to a callback; if the loop is closed it goes there no longer.

    Raises:
        RuntimeError: there is a callback.
    """
    served = session._served
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
    """End the callbacks of a session whose loop is closed, or has cancelled them."""
    # Of one that is over there was nothing more to come.
    if served.lay_down() and served.session._end_reason() is None:
        _log.error(
            "%r %s; callbacks end, and messages can be received, in %s",
            served.loop,
            "is closed" if served.loop._is_closed() else "has cancelled one",
            _shown(served.session),
        )


def is_async(callback: object) -> bool:
    if callback is None:
        return False
    return inspect.iscoroutinefunction(callback) or inspect.iscoroutinefunction(
        getattr(callback, "__call__", None)  # noqa: B004 - asked for what it is, not whether it is
    )


def check(callback: Any, on: object) -> None:
    """Refuse at once what could only fail at each message."""
    if callback is not None and not callable(callback):
        msg = f"{_shown(callback)} cannot be called\na callback is a function, or None"
        raise TypeError(msg)
    if on is not None and not isinstance(on, Loop):
        named = f"{on.__name__}(...)" if isinstance(on, type) else "Asyncio()"
        msg = f"on={on!r} is no loop\nfrom alongside import loops; on=loops.{named}, for example"
        raise TypeError(msg)


def check_awaited(callback: object, loop: Loop) -> None:
    """Refuse an async function where nothing is awaited."""
    if is_async(callback) and not loop._takes_coroutines:
        msg = (
            f"{_shown(callback)} is an async function, which {loop!r} does not await\n"
            "on=loops.Asyncio() does, or on=loops.Trio(nursery)"
        )
        raise TypeError(msg)


def place(on: Loop | None, *callbacks: object) -> Loop:
    """Give the loop in which callbacks shall run, if they can.

    Raises:
        TypeError: one of them is no callback, or none for that loop.
        RuntimeError: the loop is closed, or belongs to another thread.
    """
    for callback in callbacks:
        check(callback, on)
    loop = on or default()
    loop._check()
    for callback in callbacks:
        check_awaited(callback, loop)
    return loop


class Once:
    """One thing that is awaited in a task of a loop."""

    turn = 0

    def __init__(self, work: Coroutine[Any, Any, None], give_up: Callable[[], None]) -> None:
        """Say what is awaited, and what is to be done if that is cancelled."""
        self._work = work
        self._give_up = give_up
        self._has_begun = False

    async def aturn(self, _budget: int) -> None:
        self._has_begun = True
        try:
            await self._work
        except BaseException:
            self._give_up()
            raise

    def give_up_unless_begun(self, _turn: int) -> None:
        if not self._has_begun:
            self._work.close()
            self._give_up()


def default() -> Loop:
    from .loops._polled import Thread

    return Thread()


def _begin_anew() -> None:
    """In a forked child: the loops, and whoever held the lock, are not there."""
    global _lock  # noqa: PLW0603 - the one place
    _lock = threading.RLock()
    for served in list(_all):
        served.session._served = None


os.register_at_fork(after_in_child=_begin_anew)
