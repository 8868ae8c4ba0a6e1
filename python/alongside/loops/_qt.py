"""Callbacks in a Qt program's event loop, where they may change widgets. PySide6 or PyQt6."""

from __future__ import annotations

import importlib

from .._hub import Hub
from ._base import OwnThreadLoop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Qt(OwnThreadLoop):
    """The event loop of a Qt program.

        app = QApplication([])
        session.on_message(label.setText, on=loops.Qt(app))
        app.exec()

    Args:
        app: the program's QCoreApplication or QApplication, of PySide6 or PyQt6.
    """

    def __init__(self, app: object) -> None:
        super().__init__()
        self._app: Any = app
        binding = type(app).__module__.partition(".")[0]
        try:
            self._core: Any = importlib.import_module(f"{binding}.QtCore")
        except ImportError:
            msg = f"{app!r} is no application of PySide6 or PyQt6"
            raise TypeError(msg) from None
        if not isinstance(app, self._core.QCoreApplication):
            msg = f"{app!r} is no application of {binding}"
            raise TypeError(msg)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Qt) and other._app is self._app

    def __hash__(self) -> int:
        return id(self._app)

    def __repr__(self) -> str:
        return f"loops.Qt(<{type(self._app).__module__}.{type(self._app).__name__}>)"

    @property
    def _hub(self) -> Hub:
        hub: Hub | None = getattr(self._app, "_alongside_hub", None)
        if hub is None:
            hub = Hub()
            self._begin(hub)
            self._app._alongside_hub = hub
        return hub

    def _begin(self, hub: Hub) -> None:
        # The application owns the notifier, and it the hub.
        notifier = self._core.QSocketNotifier(
            hub.fileno(), self._core.QSocketNotifier.Type.Read, self._app
        )

        def readable(*_socket_and_type: object) -> None:
            hub.dispatch()

        notifier.activated.connect(readable)
        self._app._alongside_notifier = notifier

    def _is_here(self) -> bool:
        try:
            return bool(self._app.thread() == self._core.QThread.currentThread())
        except RuntimeError:
            return super()._is_here()

    def _is_closed(self) -> bool:
        try:
            self._app.objectName()
        except RuntimeError:
            # The binding's way to say that the object behind is gone.
            return True
        return False
