"""Callbacks on a thread of the library, or whenever the program asks for them."""

from __future__ import annotations

import logging
import os
import threading

from .._hub import Hub
from ._base import Loop, making

_FAREWELL_S = 1.0


class Thread(Loop):
    """The library's own thread, one for all sessions: what is used if nothing else is said.

    It sleeps until something arrives, and does not keep the program from ending.
    """

    # Nobody is behind it whom an exception would reach.
    _survives = BaseException
    _the: Thread | None = None
    _thread: threading.Thread | None

    def __new__(cls) -> Thread:
        """Give the one that there is."""
        with making():
            if cls._the is None:
                made = super().__new__(cls)
                Loop.__init__(made)
                made._thread = None
                # Not before it is whole: other threads may find it now.
                cls._the = made
            return cls._the

    def __init__(self) -> None:
        """Leave the one that there is as it is."""

    def __repr__(self) -> str:
        return "loops.Thread()"

    def _begin(self, hub: Hub) -> None:
        thread = threading.Thread(target=self._run, args=[hub], name="alongside", daemon=True)
        thread.start()
        self._thread = thread

    def _run(self, hub: Hub) -> None:
        while not self._is_stopping:
            try:
                # Under a flood the interpreter is let go only when another thread asks: one that
                # waits for it is woken at every letting go, comes too late, and does not ask.
                if not hub.dispatch(0):
                    hub.dispatch(None)
            except BaseException:
                logging.getLogger("alongside").exception("the callbacks' thread goes on after this")

    def _stop(self) -> None:
        """End the thread, after the callback that runs now."""
        self._is_stopping = True
        if self._made_hub is not None:
            self._made_hub.wake()
        if self._thread is not None and self._thread is not threading.current_thread():
            # A callback that waits for ever shall not keep the program from ending.
            self._thread.join(_FAREWELL_S)


def stop() -> None:
    """End the library's thread, if there is one."""
    if Thread._the is not None:
        Thread._the._stop()


class Manual(Loop):
    """Callbacks run when the program calls `dispatch`, in the thread that calls it.

        loop = loops.Manual()
        session.on_message(show, on=loop)
        while window.is_open():
            window.poll_events()
            loop.dispatch()

    For loops that this library does not know: watch `fileno()`, and call `dispatch()` when it is
    readable.
    """

    def __init__(self) -> None:
        super().__init__()
        # At once: several threads may ask for it first.
        self._made_hub = Hub()

    def __repr__(self) -> str:
        return f"<loops.Manual at {id(self):#x}>"

    def fileno(self) -> int:
        """Give a descriptor that is readable while there is something to dispatch."""
        return self._hub.fileno()

    def dispatch(self, *, timeout: float | None = 0) -> None:
        """Run callbacks for what has arrived, at most 64, each session in turn.

        Args:
            timeout: seconds to wait if nothing has; None for ever. It may return earlier, and have
                run nothing.
        """
        self._hub.dispatch(timeout)


def _begin_anew() -> None:
    """In a forked child there is no thread."""
    Thread._the = None


os.register_at_fork(after_in_child=_begin_anew)
