"""Ctrl-C and SIGTERM at moments that leave nothing half done.

A signal during work is remembered, and raised as `Interrupted` before the next piece of audio; while waiting for audio,
which may take for ever, it is raised at once. So no file is ever left half written, and no lock or file handle behind.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from types import FrameType, TracebackType
from typing import Any, Self, TypeVar

T = TypeVar("T")

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """A signal came; ``number`` is which. Not an `Exception`, so that no handler of those swallows it."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Interrupts:
    """While entered, signals become `Interrupted`. Outside the main thread, where Python has none, it does nothing.

    ``insist``: for work whose pieces take long. A Ctrl-C after another signal is a `KeyboardInterrupt` at once.
    """

    def __init__(self, insist: bool = False) -> None:
        self._insist = insist
        self._pending: int | None = None
        self._waiting = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has set SIGHUP
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: FrameType | None) -> None:
        # Only Ctrl-C insists: a terminal that closes may send SIGHUP twice by itself.
        if self._insist and self._pending is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._pending = number
        if self._waiting:
            self._waiting = False
            raise Interrupted(number)

    def check(self) -> None:
        """Raise `Interrupted` if a signal came."""
        if self._pending is not None:
            raise Interrupted(self._pending)

    def wait(self, function: Callable[[], T]) -> T:
        """What ``function`` gives; it may wait, and is interrupted at once."""
        self._waiting = True
        try:
            self.check()  # only now: a signal between a check before and the waiting would be missed
            return function()
        finally:
            self._waiting = False

    def watch(self, items: Iterable[T]) -> Iterator[T]:
        """The items, interrupted while waiting for the next one and before it, not while one is worked on."""
        iterator = iter(items)
        end: Any = object()
        while (item := self.wait(lambda: next(iterator, end))) is not end:
            yield item
