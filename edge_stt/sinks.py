"""Sinks of the voice daemon: standard output, a Unix socket for any number of clients, a command for each final."""

from __future__ import annotations

import logging
import queue
import threading
import time

from .events import Event, FinalEvent

logger = logging.getLogger(__name__)

QUEUE_EVENTS = 1_000  # events that may wait for a slow sink: minutes of speech


class QueuedSink:
    """A sink with a thread of its own: `accept` puts events in a bounded queue, `deliver` takes them out.

    Subclasses write `deliver`, which may wait, and `setup` and `teardown`, which run in the same thread before the
    first and after the last event. A full queue loses events, partials first: they are counted in ``lost``.
    """

    name = "queued"

    def __init__(self, size: int = QUEUE_EVENTS) -> None:
        self.lost = 0
        self._queue: queue.Queue[Event] = queue.Queue(size)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name=f"sink-{self.name}", daemon=True)
        self._thread.start()

    def accept(self, event: Event) -> None:
        """Queue an event; the last tenth of the queue is for finals."""
        if not isinstance(event, FinalEvent) and self._queue.qsize() >= 0.9 * self._queue.maxsize:
            self.lost += 1
            return
        try:
            self._queue.put_nowait(event)
        except queue.Full:
            self.lost += 1

    def close(self, timeout: float) -> None:
        """Wait until the queue is empty, for ``timeout`` seconds."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout)
            self._thread = None

    @property
    def stopping(self) -> bool:
        """Whether `close` was called: what waits for something else should give up soon."""
        return self._stopping.is_set()

    def setup(self) -> None:
        """Before the first event, in the sink's thread."""

    def deliver(self, event: Event) -> None:
        """Carry one event out; may wait. What it raises is logged, and the event lost."""
        raise NotImplementedError

    def idle(self) -> None:
        """Called about four times a second while there is nothing to deliver."""

    def teardown(self) -> None:
        """After the last event, in the sink's thread."""

    def _run(self) -> None:
        last = ""
        try:
            self.setup()
            while True:
                try:
                    event = self._queue.get(timeout=0.25)
                except queue.Empty:
                    if self._stopping.is_set():
                        break
                    self.idle()
                    continue
                try:
                    self.deliver(event)
                except Exception as error:
                    self.lost += 1
                    if (said := f"{type(error).__name__}: {error}") != last:
                        logger.error("%s: %s", self.name, said)
                        last = said
                    time.sleep(0.01)
        finally:
            self.teardown()
