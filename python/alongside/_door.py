"""Where later instances are let in: on the loop of the first one's handler.

Some loops take callbacks only from their own thread. So who comes is let in there, and not in the
library's thread; and if that loop ends, the library's thread takes the door over.
"""

from __future__ import annotations

import logging

from ._publish import Callers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ._publish import Registration
    from ._session import Session
    from .loops import Loop

_log = logging.getLogger("alongside")


class Door(Callers):
    """Lets later instances in, until it is stopped, or its loop ends."""

    def __init__(
        self,
        registration: Registration,
        loop: Loop,
        welcome: Callable[[Door, Session | None], None],
        ended: Callable[[Door], None],
    ) -> None:
        """Open it, in a thread that may set callbacks on this loop.

        Args:
            registration: what they call.
            loop: where they are let in.
            welcome: called there as `welcome(door, session)` for each; and with None when those are
                to be looked for that have waited.
            ended: called when the loop has ended.
        """
        self._welcome = welcome
        self._ended = ended
        super().__init__(registration, None, None, loop)

    def knock(self) -> None:
        """Have those looked for, on the loop, that have waited."""
        if self._served is not None:
            self._hub.poke(self._served)

    def give_up(self) -> None:
        """Let nobody in any more: the loop has ended."""
        _log.info("%r ends; later instances wait in %r", self.loop, self._registration)
        self.stop()
        self._ended(self)

    def _let_in(self, budget: int) -> None:
        super()._let_in(budget)
        self._welcome(self, None)

    def _greet(self, session: Session, wants_reports: bool) -> None:
        # None of them sends a message that is to be reported on.
        del wants_reports
        self._welcome(self, session)
