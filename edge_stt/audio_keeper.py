"""Audio of utterances on disk, where that is asked for: the newest so many, as WAV files. Nothing is written else."""

from __future__ import annotations

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

NAME = re.compile(r"utterance-\d{8}T\d{6}-\d{6}\.wav")


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
    """Writes each final's audio, in a thread of its own, and removes what is too old."""

    name = "save-audio"

    def __init__(self, folder: str, keep: int, recent: RecentAudio) -> None:
        super().__init__(size=20)
        self.folder, self.keep, self.recent = Path(folder), keep, recent
        self._audio: dict[int, Floats] = {}

    def open(self) -> None:
        """Make the folder; raises `EdgeSttError` when it cannot be."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o750)
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
        stamp = time.strftime("%Y%m%dT%H%M%S", time.localtime(event.at))
        path = self.folder / f"utterance-{stamp}-{event.utterance:06d}.wav"
        temporary = path.with_suffix(".part")
        with wave.open(str(temporary), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(SAMPLE_RATE)
            file.writeframes((np.clip(samples, -1.0, 1.0) * 32767).astype("<i2").tobytes())
        temporary.replace(path)
        kept = sorted(p for p in self.folder.iterdir() if NAME.fullmatch(p.name))
        for old in kept[: -self.keep]:
            old.unlink()
