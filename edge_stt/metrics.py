"""Counters of the daemon as Prometheus text: in a file for node_exporter, or on a Unix socket that speaks HTTP.

Format: Prometheus exposition format 0.0.4.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from .errors import EdgeSttError
from .files import write_atomically
from .settings import setting
from .unix_socket import listen_on, remove

logger = logging.getLogger(__name__)

LATENCY_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)


@dataclass(frozen=True)
class MetricsConfig:
    """Where metrics go."""

    file: str = setting(
        "", "File for Prometheus metrics, as node_exporter's textfile collector reads.", "--metrics-file"
    )
    socket: str = setting("", "Unix socket that gives Prometheus metrics over HTTP.", "--metrics-socket")
    interval: float = setting(15.0, "Seconds between writings of the file.", "--metrics-interval", low=1.0, high=3600.0)


@dataclass
class Metrics:
    """What is counted. Written by the recognising loop alone; others only read."""

    started: float = field(default_factory=time.time)
    audio_seconds: float = 0.0
    gated_seconds: float = 0.0
    compute_seconds: float = 0.0
    utterances: int = 0
    words: int = 0
    rejected: int = 0
    overflows: int = 0
    lost_seconds: float = 0.0
    device_losses: int = 0
    listening: bool = False
    reloads: int = 0
    latencies: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BUCKETS) + 1))
    latency_sum: float = 0.0

    def observe_latency(self, seconds: float) -> None:
        """Seconds of work between the end of an utterance and its final."""
        index = next((i for i, bound in enumerate(LATENCY_BUCKETS) if seconds <= bound), len(LATENCY_BUCKETS))
        self.latencies[index] += 1
        self.latency_sum += seconds

    @property
    def rtf(self) -> float:
        """Seconds of work for a second of audio, silence included."""
        return self.compute_seconds / self.audio_seconds if self.audio_seconds else 0.0

    def lines(self, lost_events: int = 0) -> Iterable[str]:
        """The exposition, line by line."""
        simple = (
            ("audio_seconds_total", "counter", "Seconds of audio heard.", self.audio_seconds),
            ("gated_seconds_total", "counter", "Of these, seconds in which the network slept.", self.gated_seconds),
            ("compute_seconds_total", "counter", "Seconds of work on them.", self.compute_seconds),
            ("rtf", "gauge", "Work per second of audio.", self.rtf),
            ("utterances_total", "counter", "Finals given.", self.utterances),
            ("words_total", "counter", "Words in them.", self.words),
            ("rejected_total", "counter", "Utterances that gave no words, or too doubtful ones.", self.rejected),
            ("overflows_total", "counter", "Times that audio was lost.", self.overflows),
            ("lost_seconds_total", "counter", "Seconds of audio lost.", self.lost_seconds),
            ("lost_events_total", "counter", "Events that slow outputs did not take.", lost_events),
            ("device_losses_total", "counter", "Times that the microphone went away.", self.device_losses),
            ("listening", "gauge", "Whether audio comes in.", int(self.listening)),
            ("reloads_total", "counter", "Times that the settings were read again.", self.reloads),
            ("start_time_seconds", "gauge", "Unix time of the start.", self.started),
        )
        for name, kind, text, value in simple:
            yield from (
                f"# HELP edge_stt_{name} {text}",
                f"# TYPE edge_stt_{name} {kind}",
                f"edge_stt_{name} {value:.10g}",
            )
        name = "edge_stt_final_compute_seconds"
        yield from (f"# HELP {name} Work between the end of an utterance and its final.", f"# TYPE {name} histogram")
        total = 0
        for bound, count in zip((*LATENCY_BUCKETS, "+Inf"), self.latencies, strict=True):
            total += count
            yield f'{name}_bucket{{le="{bound}"}} {total}'
        yield from (f"{name}_sum {self.latency_sum:.6g}", f"{name}_count {total}")


class MetricsOutput:
    """Writes metrics to where they are wanted, in a thread of its own."""

    def __init__(self, config: MetricsConfig, metrics: Metrics, lost_events: Callable[[], int] = lambda: 0) -> None:
        """``lost_events`` tells how many events slow outputs did not take."""
        self.config, self.metrics, self._lost_events = config, metrics, lost_events
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._server: socket.socket | None = None

    def text(self) -> str:
        """The whole exposition."""
        return "\n".join(self.metrics.lines(self._lost_events())) + "\n"

    def open(self) -> None:
        """Begin; raises `EdgeSttError` when the file cannot be written or the socket is in use."""
        if self.config.file:
            write_atomically(Path(self.config.file), [self.text()])
            self._start(self._write)
        if self.config.socket:
            self._server = listen_on(self.config.socket)
            self._start(self._serve)

    @property
    def deleted(self) -> bool:
        """Whether somebody has deleted the socket's file, so that nobody can ask any more."""
        return self._server is not None and not os.path.lexists(self.config.socket)

    def close(self) -> None:
        """Write the file a last time, and end."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(2.0)
        if self._server is not None:
            self._server.close()
            remove(self.config.socket)
            self._server = None

    def _start(self, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target, name="metrics", daemon=True)
        thread.start()
        self._threads.append(thread)

    def _write(self) -> None:
        failed = False
        while True:
            ended = self._stopping.wait(self.config.interval)
            try:
                write_atomically(Path(self.config.file), [self.text()])
                failed = False
            except EdgeSttError as error:
                if not failed:
                    logger.error("metrics: %s", error)
                failed = True
            if ended:
                return

    def _serve(self) -> None:
        assert self._server is not None
        self._server.settimeout(0.5)
        while not self._stopping.is_set():
            with contextlib.suppress(OSError):  # TimeoutError is one
                client, _ = self._server.accept()
                with client:
                    client.settimeout(1.0)
                    client.recv(65_536)
                    body = self.text().encode()
                    head = f"HTTP/1.0 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {len(body)}"
                    client.sendall(head.encode() + b"\r\n\r\n" + body)
