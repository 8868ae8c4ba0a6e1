"""Callbacks in a Tk program's main loop, where they may change widgets."""

from __future__ import annotations

import time
import tkinter

from .._hub import Hub
from ._base import OwnThreadLoop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Tk draws when it is idle, which it never is under a flood of messages: so often it draws anyway.
_REDRAW_S = 0.02
# Tcl watches descriptors with select(), which knows those below this number only.
_MOST_DESCRIPTORS = 1024


class Tk(OwnThreadLoop):
    """The main loop of a Tk program.

        root = tkinter.Tk()
        session.on_message(lambda text: label.config(text=text), on=loops.Tk(root))
        root.mainloop()

    Args:
        root: the program's window. When it is destroyed callbacks end; messages can be received.
    """

    def __init__(self, root: tkinter.Misc) -> None:
        super().__init__()
        given: Any = root
        if not isinstance(given, tkinter.Misc):
            msg = f"{root!r} is no window of tkinter's\nloops.Tk(root), with root = tkinter.Tk()"
            raise TypeError(msg)
        self._root: Any = given

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tk) and other._root is self._root

    def __hash__(self) -> int:
        return hash(self._root)

    def __repr__(self) -> str:
        return f"loops.Tk({self._root!s})"

    @property
    def _hub(self) -> Hub:
        hub: Hub | None = getattr(self._root, "_alongside_hub", None)
        if hub is None:
            hub = Hub()
            self._begin(hub)
            self._root._alongside_hub = hub
        return hub

    def _begin(self, hub: Hub) -> None:
        fd = hub.fileno()
        if fd >= _MOST_DESCRIPTORS:
            msg = f"Tk watches descriptors below {_MOST_DESCRIPTORS}, and the next one free is {fd}"
            raise OSError(msg)
        root = self._root

        drawn = time.monotonic()

        def readable(_file: object, _mask: object) -> None:
            nonlocal drawn
            hub.dispatch()
            now = time.monotonic()
            if now - drawn > _REDRAW_S and not self._is_closed():
                drawn = now
                root.update_idletasks()

        root.tk.createfilehandler(fd, tkinter.READABLE, readable)

        def ended(event: Any) -> None:
            if event.widget is root:
                root.tk.deletefilehandler(fd)
                self._end()

        root.bind("<Destroy>", ended, add="+")

    def _end(self) -> None:
        from .._callbacks import all_on

        for tenant in all_on(self):
            tenant.give_up()

    def _is_closed(self) -> bool:
        if not self._is_here():
            return False
        try:
            return not self._root.winfo_exists()
        except tkinter.TclError:
            return True
