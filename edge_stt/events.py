"""What the voice daemon says: one stream of events, and the sinks that carry it out of the process.

Every event is a frozen dataclass that becomes one JSON object on one line (`Event.to_json`): ``event`` is its kind,
``at`` the Unix time in seconds, the rest its fields. Times called ``start`` and ``end`` are seconds of audio since the
daemon began to listen. Consumers must pass over kinds and fields that they do not know: later versions add some.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, ClassVar, Protocol

from .recogniser import Word

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Event:
    """Base of all events. ``at``: Unix time in seconds at which it came about."""

    kind: ClassVar[str] = ""
    at: float = field(default_factory=lambda: round(time.time(), 3))

    def to_dict(self) -> dict[str, Any]:
        """Plain data: ``event`` and ``at`` first, then the fields in order."""
        data = asdict(self)
        return {"event": self.kind, "at": data.pop("at"), **data}

    def to_json(self) -> str:
        """The same on one line, without a newline."""
        return json.dumps(self.to_dict(), ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True, kw_only=True)
class ListeningEvent(Event):
    """Audio comes in from ``device``, as ``rate`` Hz and ``channels``: at the start, and after each loss."""

    kind = "listening"
    device: str
    rate: int
    channels: int


@dataclass(frozen=True, kw_only=True)
class WaitingEvent(Event):
    """There is no audio, and ``reason`` says why; ``device`` is tried again in ``retry`` seconds, for ever."""

    kind = "waiting"
    device: str
    reason: str
    retry: float


@dataclass(frozen=True, kw_only=True)
class DeviceLostEvent(Event):
    """Audio came in from ``device`` and stopped."""

    kind = "device-lost"
    device: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class OverflowEvent(Event):
    """``seconds`` of audio were lost because they were not taken in time; ``total`` since the daemon began."""

    kind = "overflow"
    seconds: float
    total: float


@dataclass(frozen=True, kw_only=True)
class WakeEvent(Event):
    """The wake phrase was said, with a ``score`` of 0..1; what follows it is recognised."""

    kind = "wake"
    text: str
    start: float
    end: float
    score: float


@dataclass(frozen=True, kw_only=True)
class SpeechEvent(Event):
    """Somebody speaks: the first unit of ``utterance`` was heard. Its final follows, or a `NothingEvent`.

    ``start`` is where the utterance's audio begins.
    """

    kind = "speech"
    utterance: int
    start: float


@dataclass(frozen=True, kw_only=True)
class NothingEvent(Event):
    """What seemed to be ``utterance`` gave no words."""

    kind = "nothing"
    utterance: int


@dataclass(frozen=True, kw_only=True)
class PartialEvent(Event):
    """What was said so far. ``stable`` is the part of ``text``, from its beginning, that no later result changes."""

    kind = "partial"
    utterance: int
    text: str
    stable: str
    start: float


@dataclass(frozen=True, kw_only=True)
class FinalEvent(Event):
    """A whole utterance: ``text`` and its ``words`` with times and confidences (0..1), ``confidence`` their mean.

    ``reason`` says what ended it: ``pause``, ``longest`` (the hard maximum), ``gap`` (audio was lost), ``end`` (of the
    audio, or the daemon stops). ``delay`` is the seconds of audio between its last word and its end being seen,
    ``compute`` the seconds from there to this event. Where only phrases can be said, ``score`` is the probability that
    this one was, and ``slots`` what stands in its named places.
    """

    kind = "final"
    utterance: int
    text: str
    start: float
    end: float
    confidence: float
    words: tuple[Word, ...]
    reason: str = "pause"
    delay: float = 0.0
    compute: float = 0.0
    score: float | None = None
    slots: dict[str, str | int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ReloadedEvent(Event):
    """The settings were read again; ``changed`` are the keys with new values."""

    kind = "reloaded"
    changed: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class StoppedEvent(Event):
    """The last event: the daemon ends, for this ``reason`` (a signal's name, ``end`` of the audio)."""

    kind = "stopped"
    reason: str


class Sink(Protocol):
    """Where events go: standard output, sockets, commands, a broker.

    `accept` is called from the recognising thread, which also feeds the watchdog: it must neither wait nor raise. What
    takes time belongs in a thread of the sink's own (see `edge_stt.sinks.QueuedSink`), with a bounded queue.
    """

    name: str

    def open(self) -> None:
        """Begin; raises `EdgeSttError` for what can never work. What may come right later is retried within."""
        ...

    def accept(self, event: Event) -> None:
        """Take one event, at once."""
        ...

    def close(self, timeout: float) -> None:
        """Deliver what was accepted, for at most ``timeout`` seconds, and let go of everything. May come twice."""
        ...


class EventStream:
    """Gives each event to every sink. A sink that fails is logged once for each kind of failure, and kept."""

    def __init__(self, sinks: Iterable[Sink] = ()) -> None:
        self.sinks = list(sinks)
        self._state: Event | None = None  # whether the microphone is heard
        self._failures: set[tuple[str, str]] = set()

    def add(self, sink: Sink) -> None:
        """Open a sink, tell it whether the microphone is heard, and give it what follows.

        Raises `EdgeSttError` where it cannot be opened.
        """
        sink.open()
        self.sinks.append(sink)
        if self._state is not None:
            self._guarded(sink, "accept", partial(sink.accept, self._state))

    def publish(self, event: Event) -> None:
        """Give an event to every sink."""
        if isinstance(event, ListeningEvent | WaitingEvent):
            self._state = event
        for sink in self.sinks:
            self._guarded(sink, "accept", partial(sink.accept, event))

    def close(self, timeout: float = 5.0) -> None:
        """Close all sinks within ``timeout`` seconds altogether."""
        end = time.monotonic() + timeout
        for sink in self.sinks:
            self._guarded(sink, "close", partial(sink.close, max(0.0, end - time.monotonic())))

    def _guarded(self, sink: Sink, verb: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # one sink's failure must reach neither the others nor the recogniser
            failure = sink.name, f"{verb}: {type(error).__name__}: {error}"
            if failure not in self._failures and len(self._failures) < 100:
                self._failures.add(failure)
                logger.error("%s: %s", *failure)
