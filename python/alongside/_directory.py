"""The directory: names under which running programs are found.

Loads when a program first publishes, or looks a name up.
"""

import atexit
import json

from . import _core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType
    from typing import Any, Literal, Self, TypeAlias

    _Scope: TypeAlias = Literal["user"]

Entry = _core.Entry


class Registration(_core.Registration):
    """A name that this program has published; `publish` gives it.

    It belongs to the process: it ends with `revoke()`, at the end of its `with`, or when the
    process ends, however that comes about.
    """

    @property
    def name(self) -> str:
        """The name.

        Raises:
            ValueError: it is revoked.
        """
        return self.entry.name

    @property
    def instance(self) -> str:
        """What tells this registration from all others, also of the same name."""
        return self.entry.instance

    @property
    def entry(self) -> Entry:
        """What others see of it.

        Raises:
            ValueError: it is revoked.
        """
        entry = self._entry()
        if entry is None:
            msg = "this registration is revoked\npublish the name again"
            raise ValueError(msg)
        return entry

    def update(self, *, about: str | None = None, info: "Mapping[str, Any] | None" = None) -> None:
        """Say something else; others see all of it at once, or nothing yet.

        Args:
            about: in words; None leaves it as it is.
            info: as data that JSON knows; None leaves it as it is.

        Raises:
            ValueError: it is revoked, or that is more than an entry has room for.
            OSError: the directory is gone, or full.
        """
        self._update(about, None if info is None else _json(info))

    def revoke(self) -> None:
        """Take the name away; a second time does nothing."""
        self._revoke()

    def __enter__(self) -> "Self":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: "TracebackType | None",
    ) -> None:
        self.revoke()

    def __repr__(self) -> str:
        entry = self._entry()
        if entry is None:
            return "<alongside.Registration, revoked>"
        return f"<alongside.Registration {entry.name!r}, instance {entry.instance}>"


Registration.__module__ = "alongside"


def publish(
    name: str,
    /,
    *,
    about: str = "",
    info: "Mapping[str, Any] | None" = None,
    scope: "_Scope" = "user",
) -> Registration:
    """Publish a name, under which other programs find this one.

    Any number of programs may publish the same name; each registration is an entry of its own.

    Args:
        name: parts joined by slashes, as "viewer/42"; at most 200 bytes of UTF-8, without control
            characters and "@".
        about: what others shall read, as the title of what is shown.
        info: what other programs shall read: an object that JSON knows, of about 3 KiB.
        scope: who shares the name; "user" for all programs of this user.

    Raises:
        ValueError: the name breaks a rule, or an entry has no room for all of it.
        Denied: the scope's directory is not this user's alone.
        OSError: the directory cannot be made, or is full; `filename` says which.

    Example:
        >>> import alongside
        >>> with alongside.publish("viewer/42", about="plan.png"):
        ...     [entry.about for entry in alongside.running("viewer/*")]
        ['plan.png']
    """
    registration = Registration(_text(name), scope, about, "{}" if info is None else _json(info))
    atexit.unregister(_core.leave_directories)
    atexit.register(_core.leave_directories)
    return registration


def running(pattern: str = "*", /, *, scope: "_Scope" = "user") -> list[Entry]:
    """Give the running programs whose name fits, the oldest registration first.

    Args:
        pattern: "*" stands for any text, slashes included, "?" for one character.
        scope: who shares the names.

    Raises:
        OSError: the scope's directory cannot be read; `filename` says which.
    """
    return _core.running(_text(pattern), scope)


def find(name: str, /, *, scope: "_Scope" = "user", instance: str | None = None) -> Entry | None:
    """Give the oldest registration of a name, or None.

    Args:
        name: the name.
        scope: who shares it.
        instance: this registration and no other.

    Raises:
        ValueError: the name breaks a rule.
        OSError: the scope's directory cannot be read; `filename` says which.
    """
    return _core.find(_text(name), scope, instance)


def _text(name: str) -> str:
    """Refuse what cannot be written as UTF-8, with a word of why."""
    try:
        name.encode()
    except UnicodeEncodeError:
        msg = f"{name!r} is no name: it has a lone surrogate in it, which is no character"
        raise ValueError(msg) from None
    return name


def _json(info: "Mapping[str, Any]") -> str:
    try:
        text = json.dumps(dict(info), allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        msg = f"info is an object that JSON knows; this one is not: {error}"
        raise TypeError(msg) from error
    return text
