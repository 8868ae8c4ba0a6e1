"""Callbacks for what changes: names, cells, ports.

A source has a descriptor that is readable while there may be something new, and gives that, one
thing after the other. Here each is handed to a function, in a place of the program's choice.
"""

from __future__ import annotations

import inspect
import logging
from typing import Any

from ._callbacks import Once, move_in, move_out, place
from ._errors import Closed, Invalid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from . import _core
    from ._hub import Served
    from .loops import Loop

_log = logging.getLogger("alongside")
# What a source gives when there is nothing new; every other thing may be news.
NOTHING: Any = object()


class OnChange:
    """Calls a function with each change of one source."""

    def __init__(
        self,
        watched: _core.Watch | _core.Changes | None,
        take: Callable[[], Any],
        callback: Callable[[Any], object],
        on: Loop | None,
        of: object,
    ) -> None:
        """Begin.

        Args:
            watched: what the loop watches; None if it is poked instead.
            take: gives the next change, or `NOTHING` if there is none at the moment.
            callback: is called with each.
            on: where; the library's thread if nothing is said.
            of: what is named where something goes wrong.
        """
        self.loop = place(on, callback)
        self._watched = watched
        self._take = take
        self._callback = callback
        self._of = of
        self._is_over = False
        self._served: Served | None = None
        self._kept = move_in(self)
        try:
            self._hub = self.loop._hub
            self._begin()
        except BaseException:
            move_out(self, self._kept)
            raise

    def stop(self) -> None:
        """Call nobody any more."""
        if self._is_over:
            return
        self._is_over = True
        self._pause()
        move_out(self, self._kept)

    def give_up(self) -> None:
        """Call nobody any more: the loop has ended, or has cancelled that."""
        if not self._is_over:
            _log.info("%r ends, and with it the callback of %r", self.loop, self._of)
        self.stop()

    def poke(self) -> None:
        """Have a look, though nothing was told."""
        served = self._served
        if served is not None:
            self._hub.poke(served)

    def _begin(self) -> None:
        self._served = self._hub.serve(self._watched, self._ready)
        if self._is_over:
            # Stopped in the meantime, by another thread, which found nothing to dismiss.
            self._pause()

    def _pause(self) -> None:
        served, self._served = self._served, None
        if served is not None:
            self._hub.dismiss(served)

    def _ready(self, budget: int) -> None:
        for _ in range(budget):
            if self._is_over:
                return
            try:
                change = self._take()
            except (Closed, SystemExit):
                # Closed here, or by the program's end.
                self.stop()
                return
            except Invalid:
                _log.exception("a value is passed over, of %r", self._of)
                continue
            except Exception:
                # A shortage, or a scope that is gone. Told again and again it would be no news. At
                # the program's end cells are closed before the callbacks know.
                if not getattr(self._watched, "is_over", False):
                    _log.exception("changes cannot be seen; callbacks end, of %r", self._of)
                self.stop()
                return
            if change is NOTHING or self._is_over:
                return
            try:
                result: Any = self._callback(change)
            except self.loop._survives:
                _log.exception("%r raised", self._callback)
                continue
            if inspect.isawaitable(result) and self.loop._takes_coroutines:
                # Not looked at until this one is through: one at a time.
                self._pause()
                self.loop._spawn(Once(self._finish(result), self.give_up))
                return

    async def _finish(self, result: Awaitable[object]) -> None:
        try:
            await result
        except Exception:
            _log.exception("%r raised", self._callback)
        if not self._is_over:
            self._begin()
            # What came meanwhile may have been taken note of already.
            self.poke()
