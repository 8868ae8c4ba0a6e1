"""What all loops are: a hub of sessions, and a way to be told that it has something to do."""

from __future__ import annotations

import os
import threading

from .._hub import Hub

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .._types import Tenant, Turns


_making = threading.RLock()


def making() -> threading.RLock:
    """Give the lock under which what there is once is made."""
    return _making


def _begin_anew() -> None:
    """In a forked child: whoever held the lock is not there."""
    global _making  # noqa: PLW0603 - the one place
    _making = threading.RLock()


os.register_at_fork(after_in_child=_begin_anew)


class Loop:
    """Where callbacks run: what `on=` takes.

    Two loops are equal if they stand for the same place.
    """

    _takes_coroutines = False
    _is_stopping = False
    # What callbacks may raise without the loop being told; the rest, as Ctrl-C, is its business.
    _survives: type[BaseException] = Exception
    # What is raised where a task that runs here is cancelled, if a callback may survive that.
    _cancellation: type[BaseException] | tuple[()] = ()

    def __init__(self) -> None:
        self._made_hub: Hub | None = None

    @property
    def _hub(self) -> Hub:
        """The sessions that are served here."""
        if self._made_hub is None:
            with making():
                # Another thread may have been first.
                if self._made_hub is None:
                    hub = Hub()
                    self._begin(hub)
                    self._made_hub = hub
        return self._made_hub

    def _begin(self, hub: Hub) -> None:
        """Have `hub.dispatch` called, here, whenever its descriptor is readable."""
        raise NotImplementedError

    def _check(self) -> None:
        """Refuse what cannot be done here, or not any more.

        Raises:
            RuntimeError: the loop is closed, or belongs to another thread.
        """
        if self._is_closed():
            msg = f"{self!r} is closed; callbacks cannot run there"
            raise RuntimeError(msg)

    def _is_closed(self) -> bool:
        return False

    def _is_cancelled(self) -> bool:
        """Tell whether the task that runs here has been cancelled itself."""
        return True

    def _take_up(self, _tenant: Tenant) -> None:
        """Get ready to run callbacks, in the thread of whoever sets them.

        What follows, watching and no longer watching it, may be done by any thread.
        """
        # It is made here, and begins.
        self._hub.fileno()

    def _let_go(self, _tenant: Tenant) -> None:
        """Run them no longer."""

    def _keep(self, _tenant: Tenant) -> object:
        """Have its `give_up` called when the loop ends, if that is told here.

        Returns:
            What `_keep_no_longer` takes.
        """
        return None

    def _keep_no_longer(self, kept: object) -> None:
        """Do not: it has ended by itself."""

    def _spawn(self, served: Turns) -> None:
        """Run `served.aturn` in a task."""
        raise NotImplementedError


class OwnThreadLoop(Loop):
    """A window's loop, which nobody may touch but the thread that it runs in."""

    def __init__(self) -> None:
        super().__init__()
        self._owner = threading.get_ident()

    def _is_here(self) -> bool:
        return threading.get_ident() == self._owner

    def _check(self) -> None:
        if not self._is_here():
            msg = f"{self!r} takes callbacks only from the thread that it runs in"
            raise RuntimeError(msg)
        super()._check()
