"""Events and sinks: one line of JSON each, and no sink that fails or is slow harms the others."""

from __future__ import annotations

import dataclasses
import json
import threading
import time

import pytest

from edge_stt import events
from edge_stt.errors import EdgeSttError
from edge_stt.events import Event, EventStream, FinalEvent, ListeningEvent, PartialEvent, StoppedEvent, WaitingEvent
from edge_stt.recogniser import Word
from edge_stt.sinks import QueuedSink

WORD = Word("hello", 0.1, 0.5, 0.9)
FINAL = FinalEvent(at=1.5, utterance=1, text="hello", start=0.0, end=0.6, confidence=0.9, words=(WORD,))


def test_an_event_is_one_line_of_json() -> None:
    line = FINAL.to_json()
    assert "\n" not in line
    data = json.loads(line)
    assert list(data)[:2] == ["event", "at"]
    assert data["event"] == "final"
    assert data["words"] == [{"text": "hello", "start": 0.1, "end": 0.5, "confidence": 0.9}]
    assert data["slots"] == {}


def test_kinds_are_distinct_and_events_frozen() -> None:
    kinds = [c.kind for c in vars(events).values() if isinstance(c, type) and issubclass(c, Event)]
    assert len(kinds) == len(set(kinds)) > 8
    with pytest.raises(dataclasses.FrozenInstanceError):
        FINAL.text = "other"  # type: ignore[misc]


def test_the_time_is_now() -> None:
    before = time.time()
    assert before - 0.1 <= StoppedEvent(reason="end").at <= time.time() + 0.1


class Collector:
    """A sink that fails on demand."""

    def __init__(self, fails: bool = False, refuses: bool = False) -> None:
        self.name, self.fails, self.refuses = "collector", fails, refuses
        self.got: list[Event] = []
        self.closed = False

    def open(self) -> None:
        if self.refuses:
            raise EdgeSttError("cannot be")

    def accept(self, event: Event) -> None:
        if self.fails:
            raise RuntimeError("broken")
        self.got.append(event)

    def close(self, timeout: float) -> None:
        self.closed = True


def test_a_failing_sink_is_logged_once_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    good = Collector()
    stream = EventStream()
    stream.add(Collector(fails=True))
    stream.add(good)
    for _ in range(3):
        stream.publish(FINAL)
    stream.close()
    assert good.got == [FINAL] * 3
    assert len(caplog.records) == 1


def test_a_sink_that_cannot_open_gets_nothing() -> None:
    first, second = Collector(), Collector(refuses=True)
    stream = EventStream([first])
    with pytest.raises(EdgeSttError):
        stream.add(second)
    stream.publish(FINAL)
    stream.close()
    assert first.closed
    assert (first.got, second.got) == ([FINAL], [])


def test_whoever_comes_late_is_told_whether_the_microphone_is_heard() -> None:
    stream, late = EventStream(), Collector()
    waiting = WaitingEvent(device="usb", reason="busy", retry=1.0)
    for event in (ListeningEvent(device="usb", rate=48_000, channels=1), FINAL, waiting, FINAL):
        stream.publish(event)
    stream.add(late)
    assert late.got == [waiting]


class Slow(QueuedSink):
    """Holds every event until it is let go."""

    name = "slow"

    def __init__(self) -> None:
        super().__init__(size=20)
        self.go = threading.Event()
        self.got: list[Event] = []

    def deliver(self, event: Event) -> None:
        self.go.wait(60)
        self.got.append(event)


def test_a_slow_sink_loses_partials_before_finals_and_never_waits() -> None:
    sink = Slow()
    sink.open()
    started = time.monotonic()
    partial = PartialEvent(utterance=1, text="h", stable="", start=0.0)
    for _ in range(100):
        sink.accept(partial)
    sink.accept(FINAL)
    assert time.monotonic() - started < 30.0  # waiting for the sink would take longer
    assert sink.lost >= 80
    sink.go.set()
    sink.close(5.0)
    assert sink.got[-1] == FINAL
    assert len(sink.got) + sink.lost == 101
