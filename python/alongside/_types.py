"""Types that stand in signatures; only type checkers load them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    from .loops import Loop

Scope: TypeAlias = Literal["login", "user", "machine"]


class Tenant(Protocol):
    """What runs callbacks in a loop: those of a session, of a registration, of a watch."""

    loop: Loop

    def give_up(self) -> None:
        """End them: the loop is closed, or has cancelled them."""


class Turns(Protocol):
    """What runs in tasks of a loop, a turn at a time."""

    # How many turns there have been.
    turn: int

    async def aturn(self, budget: int, /) -> None:
        """Do what there is to do, at most so much."""

    def give_up_unless_begun(self, turn: int, /) -> None:
        """End it if the task for that turn is cancelled before it has begun."""
