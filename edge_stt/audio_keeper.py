"""Audio of utterances on disk, where that is asked for: the newest so many, as WAV files. Nothing is written else."""

from __future__ import annotations

import calendar
import io
import logging
import re
import time
import wave
from collections import deque
from pathlib import Path

import numpy as np

from .audio import SAMPLE_RATE
from .errors import EdgeSttError
from .events import Event, FinalEvent
from .features import Floats
from .sinks import QueuedSink

logger = logging.getLogger(__name__)

# Earlier versions wrote local time, without the Z.
NAME = re.compile(r"utterance-(\d{8}T\d{6})(Z?)-(\d{6,})\.(wav|part)", re.ASCII)
STAMP = "%Y%m%dT%H%M%S"


class RecentAudio:
    """The last ``seconds`` of the daemon's audio, to cut utterances from."""

    def __init__(self, seconds: float) -> None:
        self._limit = round(seconds * SAMPLE_RATE)
        self._blocks: deque[tuple[float, Floats]] = deque()
        self._held = 0

    def add(self, start: float, samples: Floats) -> None:
        """Samples that begin ``start`` seconds into the daemon's audio."""
        self._blocks.append((start, samples))
        self._held += len(samples)
        while self._held - len(self._blocks[0][1]) >= self._limit:
            self._held -= len(self._blocks.popleft()[1])

    def cut(self, start: float, end: float) -> Floats:
        """What is there of ``start`` to ``end``, in seconds."""
        parts = []
        for at, samples in self._blocks:
            first, last = (round((moment - at) * SAMPLE_RATE) for moment in (start, end))
            parts.append(samples[max(0, first) : max(0, last)])
        return np.concatenate([np.empty(0, np.float32), *parts])


class AudioKeeper(QueuedSink):
    """Writes each final's audio, in a thread of its own, and removes what is too old.

    What it wrote itself is newer than all else there, in the order of writing, whatever the clock says meanwhile.
    """

    name = "save-audio"

    def __init__(self, folder: str, keep: int, recent: RecentAudio) -> None:
        super().__init__(size=20)
        self.folder, self.keep, self.recent = Path(folder), keep, recent
        self._audio: dict[int, Floats] = {}
        self._written: deque[str] = deque(maxlen=keep)

    def open(self) -> None:
        """Make the folder, and remove what was not written whole; raises `EdgeSttError` when it cannot be."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o750)
            for path in self._ours("part"):
                path.unlink(missing_ok=True)
        except OSError as error:
            raise EdgeSttError(f"cannot keep audio in {self.folder}: {error.strerror or error}") from error
        super().open()

    def accept(self, event: Event) -> None:
        """Cut out a final's audio before it is gone."""
        if isinstance(event, FinalEvent):
            self._audio[event.utterance] = self.recent.cut(event.start, event.end)
            before = self.lost
            super().accept(event)
            if self.lost > before:
                del self._audio[event.utterance]

    def deliver(self, event: Event) -> None:
        """Write one file whole, then count."""
        assert isinstance(event, FinalEvent)
        samples = self._audio.pop(event.utterance)
        stamp = time.strftime(STAMP, time.gmtime(event.at))  # UTC: local time is set back once a year
        path = self.folder / f"utterance-{stamp}Z-{event.utterance:06d}.wav"
        temporary = path.with_suffix(".part")
        try:
            temporary.write_bytes(_wav(samples))
            temporary.replace(path)
        except BaseException:  # a full disk must not keep what was said longer than is asked for
            temporary.unlink(missing_ok=True)
            raise
        self._written.append(path.name)
        self._remove_old()

    def _ours(self, suffix: str) -> list[Path]:
        """Files in the folder that a keeper wrote."""
        found = ((path, NAME.fullmatch(path.name)) for path in self.folder.iterdir())
        return [path for path, match in found if match and match[4] == suffix]

    def _remove_old(self) -> None:
        there = self._ours("wav")
        if len(there) <= self.keep:
            return
        order = {name: number for number, name in enumerate(self._written)}
        there.sort(key=lambda path: (order[path.name], 0.0, 0) if path.name in order else (-1, *_age(path.name)))
        for old in there[: -self.keep]:
            old.unlink(missing_ok=True)


def _wav(samples: Floats) -> bytes:
    """As a file, of 16-bit samples."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((np.clip(samples, -1.0, 1.0) * 32767).astype("<i2").tobytes())
    return buffer.getvalue()


def _age(name: str) -> tuple[float, int]:
    """Unix time and utterance of a file, for the order; what is no time at all is oldest."""
    match = NAME.fullmatch(name)
    assert match is not None
    try:
        stamp = time.strptime(match[1], STAMP)
        at = calendar.timegm(stamp) if match[2] else time.mktime(stamp)
    except (ValueError, OverflowError):
        at = 0.0
    return at, int(match[3])
