"""Callbacks in a trio nursery; they may be async functions."""

from __future__ import annotations

from typing import Any

import trio

from .._hub import Hub
from ._base import Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .._types import Tenant, Turns

_PER_TURN = 64


class Trio(Loop):
    """A trio nursery: callbacks run in its tasks, and end with it.

        async with trio.open_nursery() as nursery:
            session.on_message(show, on=loops.Trio(nursery))

    The nursery stays open as long as a session has callbacks there. An async callback is awaited
    before the next message is taken; other sessions go on meanwhile.

    Args:
        nursery: where the callbacks' tasks belong.

    Raises:
        RuntimeError: trio is not running here.
    """

    _takes_coroutines = True

    def __init__(self, nursery: trio.Nursery) -> None:
        super().__init__()
        if not trio.lowlevel.in_trio_run():
            msg = "trio does not run here\nmake loops.Trio(nursery) in an async function"
            raise RuntimeError(msg)
        given: Any = nursery
        if not isinstance(given, trio.Nursery):
            msg = f"{nursery!r} is no nursery\nasync with trio.open_nursery() as nursery"
            raise TypeError(msg)
        self._nursery: trio.Nursery = given
        self._token = trio.lowlevel.current_trio_token()
        self._tenants: set[Tenant] = set()
        self._has_task = False
        self._is_over = False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Trio) and other._nursery is self._nursery

    def __hash__(self) -> int:
        return hash(self._nursery)

    def __repr__(self) -> str:
        return f"loops.Trio({self._nursery!r})"

    def _check(self) -> None:
        super()._check()
        if not trio.lowlevel.in_trio_run() or trio.lowlevel.current_trio_token() != self._token:
            msg = f"{self!r} takes callbacks only from the thread in which its trio runs"
            raise RuntimeError(msg)

    def _is_closed(self) -> bool:
        return self._is_over or self._nursery._closed

    def _begin(self, hub: Hub) -> None:
        """Nothing to do: the task begins with the first session."""

    def _take_up(self, _tenant: Tenant) -> None:
        super()._take_up(_tenant)
        if not self._has_task:
            self._nursery.start_soon(self._serve)
            self._has_task = True
        self._tenants.add(_tenant)

    def _let_go(self, _tenant: Tenant) -> None:
        self._tenants.discard(_tenant)
        # The task may have nothing left to watch.
        self._hub.wake()

    async def _serve(self) -> None:
        hub = self._hub
        try:
            while self._tenants:
                await trio.lowlevel.wait_readable(hub.fileno())
                hub.dispatch()
        except BaseException:
            # Cancelled, or something that a callback has raised and that ends the nursery.
            self._is_over = True
            for tenant in list(self._tenants):
                tenant.give_up()
            raise
        finally:
            self._has_task = False

    def _spawn(self, served: Turns) -> None:
        run: Any = served.aturn
        self._nursery.start_soon(run, _PER_TURN)
