"""Places where callbacks can run: what `on=` takes.

    from alongside import loops

    session.on_message(show, on=loops.Tk(root))

`Thread` is used where nothing is said; `Asyncio` and `Trio` await async callbacks; `Tk` and `Qt`
run callbacks where widgets may be changed; `Manual` runs them when the program asks for it. Each
loads with the first use of its name.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._asyncio import Asyncio
    from ._base import Loop
    from ._polled import Manual, Thread
    from ._qt import Qt
    from ._tk import Tk
    from ._trio import Trio

__all__ = ["Asyncio", "Loop", "Manual", "Qt", "Thread", "Tk", "Trio"]

if not TYPE_CHECKING:
    _MODULES = {
        "Asyncio": "_asyncio",
        "Loop": "_base",
        "Manual": "_polled",
        "Qt": "_qt",
        "Thread": "_polled",
        "Tk": "_tk",
        "Trio": "_trio",
    }

    def __getattr__(name: str) -> object:
        """Load a loop with what it stands on when it is asked for."""
        import importlib
        import sys

        if name not in _MODULES:
            msg = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(msg, name=name, obj=sys.modules[__name__])
        found = getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
        found.__module__ = __name__
        globals()[name] = found
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
