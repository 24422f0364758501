"""Where the daemon's audio comes from: what a source gives, and files and pipes as sources."""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from .audio import SAMPLE_RATE, read_stdin, stream_audio
from .byte_streams import ByteStream, printable_path
from .errors import EdgeSttError
from .features import Floats

BLOCK_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Samples:
    """float32 ``[n]``, mono, 16 kHz."""

    samples: Floats


@dataclass(frozen=True, slots=True)
class Gap:
    """Seconds of audio that were lost here."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Opened:
    """Audio begins to come, at the device's own ``rate`` and ``channels``."""

    device: str
    rate: int
    channels: int


@dataclass(frozen=True, slots=True)
class Lost:
    """It came, and does no more."""

    device: str
    reason: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """It could not be opened; the next try is in ``retry`` seconds, or when something changes."""

    device: str
    reason: str
    retry: float


@dataclass(frozen=True, slots=True)
class End:
    """There will be no more; ``error`` if that is one."""

    error: str = ""


Item = Samples | Gap | Opened | Lost | Waiting | End


class Source(Protocol):
    """Audio and what becomes of it, in order."""

    def open(self) -> None:
        """Begin; raises `EdgeSttError` for what can never work."""
        ...

    def read(self, timeout: float, least: float = 0.0) -> list[Item]:
        """What has come, waiting at most ``timeout`` seconds for the first; never more than a few seconds at once.

        Nobody is in a hurry for less than ``least`` seconds of audio: a source may wait until there is as much.
        """
        ...

    def close(self) -> None:
        """Let go of everything, at once."""
        ...


class FileSource:
    """A sound file, at the pace at which it was spoken, or as fast as it is asked for."""

    def __init__(self, path: str, real_time: bool) -> None:
        self.path, self.real_time = path, real_time
        self._blocks: Iterator[Floats] = iter(())
        self._begun = False
        self._due = 0.0

    def open(self) -> None:
        """Nothing is read yet."""
        self._blocks = stream_audio(self.path, BLOCK_SECONDS)

    def read(self, timeout: float, least: float = 0.0) -> list[Item]:
        """One block."""
        if not self._begun:
            self._begun, self._due = True, time.monotonic()
            first = self._next()  # before it is said that audio comes in: the file may not be there
            return first if isinstance(first[0], End) and first[0].error else [self._opened(), *first]
        if self.real_time:
            wait = self._due - time.monotonic()
            time.sleep(max(0.0, min(wait, timeout)))
            if wait > timeout:
                return []
        return self._next()

    def _opened(self) -> Item:
        return Opened(printable_path(self.path), SAMPLE_RATE, 1)

    def _next(self) -> list[Item]:
        try:
            block = next(self._blocks, None)
        except EdgeSttError as error:
            return [End(str(error))]
        if block is None:
            return [End()]
        self._due += len(block) / SAMPLE_RATE
        return [Samples(block)]

    def close(self) -> None:
        """Nothing is held that Python would not let go of."""


class _Stdin:
    """Standard input without a buffer: the thread that waits in it must not hold a lock that Python's end needs."""

    name = "<stdin>"

    def read(self, size: int, /) -> bytes:
        """At most ``size`` bytes; empty at the end."""
        return os.read(0, size)


class PipeSource:
    """Standard input: WAV, or raw PCM of ``rate`` and ``channels``, as it comes. A full queue holds it up.

    Other containers are read to their end first, into a temporary file.
    """

    def __init__(self, rate: int = SAMPLE_RATE, channels: int = 1, stream: ByteStream | None = None) -> None:
        self.rate, self.channels, self.stream = rate, channels, stream
        self._items: queue.Queue[Item] = queue.Queue(100)

    def open(self) -> None:
        """Start to read; raises `EdgeSttError` where there is nothing to read from."""
        if self.stream is None and (sys.stdin is None or sys.stdin.isatty()):
            raise EdgeSttError(
                "standard input is a terminal; pipe audio into it: arecord … | edge-stt listen --input -"
            )
        threading.Thread(target=self._run, name="stdin", daemon=True).start()

    def read(self, timeout: float, least: float = 0.0) -> list[Item]:
        """One block, or nothing if none comes in time."""
        try:
            return [self._items.get(timeout=timeout)]
        except queue.Empty:
            return []

    def close(self) -> None:
        """The thread ends with the process: a read cannot be interrupted."""

    def _run(self) -> None:
        try:
            blocks = read_stdin(self.stream or _Stdin(), self.rate, self.channels, BLOCK_SECONDS)
            self._items.put(Opened("standard input", self.rate, self.channels))
            for block in blocks:
                self._items.put(Samples(block))
            self._items.put(End())
        except EdgeSttError as error:
            self._items.put(End(str(error)))
