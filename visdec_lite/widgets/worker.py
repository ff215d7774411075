"""Latest wins: a thread that works on the newest request and forgets the ones in between.

A slider that is dragged asks for fifty answers a second, and only the last one is wanted. So a new request replaces the
one that waits, if any; that the one under way is no longer wanted, its work can see for itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Request = TypeVar("Request")


class Cancelled(Exception):
    """A newer request has come, or somebody pressed stop: nothing went wrong."""


class LatestWins(Generic[Request]):
    """Runs `work(request)` in a thread that lives as long as there is something to do.

    Args:
        work: must look between its steps whether its request is still wanted, and let no exception out.
    """

    def __init__(self, work: Callable[[Request], None]) -> None:
        self._work = work
        self._changed = threading.Condition()
        self._pending: list[Request] = []  # none or one
        self._thread: threading.Thread | None = None

    def submit(self, request: Request) -> None:
        """Answer this one next; returns at once."""
        with self._changed:
            self._pending = [request]
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="visdec-widget", daemon=True)
                self._thread.start()

    def wait(self, timeout: float | None = None) -> bool:
        """Until nothing is left to do; False if that took longer than `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._thread is None, timeout)

    @property
    def busy(self) -> bool:
        return self._thread is not None

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._pending:
                    self._thread = None
                    self._changed.notify_all()
                    return
                request = self._pending.pop()
            self._work(request)
