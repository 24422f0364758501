"""The microphone as a source: a process captures, a thread fills a bounded buffer, and a lost device is awaited.

Nothing here waits for recognition. What is not taken in time is dropped, the oldest first, counted and reported.
"""

from __future__ import annotations

import importlib.util
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .audio import SAMPLE_RATE
from .capture_process import CAPTURE, OPEN_SECONDS, PYAUDIO_MISSING, CaptureProcess, explain, surroundings
from .errors import AudioError, RuntimeMissingError
from .features import Floats
from .settings import setting
from .sources import Gap, Item, Lost, Opened, Samples, Waiting

FIRST_RETRY = 0.5
STEADY_SECONDS = 30.0  # that a device is held before its loss counts as one of its own
FIRST_BLOCK_SECONDS = 5.0  # sound servers wake a sleeping device


@dataclass(frozen=True)
class MicrophoneConfig:
    """Which microphone, and how it is held."""

    device: str = setting(
        "", "Microphone: its name or a part of it (edge-stt listen --list-devices); else the default."
    )
    channel: int = setting(0, "Channel to hear, from 1; 0 mixes all of them.", "--use-channel", low=0, high=32)
    capture_rate: int = setting(0, "Hz to open the microphone at; 0 is its own rate.", low=0, high=384_000)
    capture_channels: int = setting(0, "Channels to open it with; 0 is as many as it has.", low=0, high=32)
    loss_timeout: float = setting(2.0, "Seconds without a sample after which it counts as lost.", low=0.2, high=60.0)
    retry_longest: float = setting(10.0, "Longest pause between tries to open it again.", low=0.5, high=3600.0)
    buffer: float = setting(
        30.0, "Seconds of audio that may wait to be recognised.", "--audio-buffer", low=1.0, high=600
    )


class Resampler:
    """int16 blocks of any rate and channels to float32 mono at 16 kHz, as a stream."""

    def __init__(self, rate: int, channels: int, channel: int = 0) -> None:
        """``channel`` counts from 1, 0 is their mean. Raises `AudioError` for one that is not there."""
        if channel > channels:
            raise AudioError(f"the microphone gives {channels} channels; there is no channel {channel}")
        self._channels, self._channel = channels, channel
        self._stream: Any = None
        if rate != SAMPLE_RATE:
            try:
                import soxr
            except ImportError as error:
                raise RuntimeMissingError(f"a microphone at {rate} Hz needs soxr: pip install soxr") from error
            self._stream = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")

    def __call__(self, data: bytes) -> Floats:
        """The samples that a block completes."""
        frames = np.frombuffer(data, dtype="<i2").reshape(-1, self._channels)
        chosen = frames[:, self._channel - 1] if self._channel else frames.mean(axis=1, dtype=np.float32)
        mono: Floats = chosen.astype(np.float32) * np.float32(1 / 32768)
        return mono if self._stream is None else self._stream.resample_chunk(mono)


class Buffer:
    """A bounded queue between two threads: blocks of audio, and items that are never dropped.

    `put` never waits; audio beyond ``seconds`` pushes out the oldest, which becomes one `Gap`.
    """

    def __init__(self, seconds: float) -> None:
        self._limit = seconds
        self._entries: deque[tuple[float, Any]] = deque()
        self._held = 0.0
        self._least = 0.0  # seconds of audio that who waits is waiting for
        self._condition = threading.Condition()

    def put(self, item: Any, seconds: float = 0.0) -> None:
        """Add an item; ``seconds`` above 0 makes it audio, which may be dropped."""
        with self._condition:
            self._entries.append((seconds, item))
            self._held += seconds
            if self._held > self._limit:
                self._drop()
            if self._ready():
                self._condition.notify()

    def _ready(self) -> bool:
        """Whether there is enough for who waits: audio, or anything else."""
        return bool(self._entries) and (self._held >= self._least or any(not seconds for seconds, _ in self._entries))

    def _drop(self) -> None:
        kept: list[tuple[float, Any]] = []
        lost = 0.0
        while self._held > self._limit:
            seconds, item = self._entries.popleft()
            self._held -= seconds
            if seconds:
                lost += seconds
            elif isinstance(item, Gap):
                lost += item.seconds
            else:
                kept.append((0.0, item))
        self._entries.appendleft((0.0, Gap(lost)))
        self._entries.extendleft(reversed(kept))

    def take(self, timeout: float, least: float = 0.0) -> list[Any]:
        """All that is there, waiting at most ``timeout`` seconds for ``least`` seconds of audio or something else."""
        with self._condition:
            self._least = least
            if not self._ready():
                self._condition.wait(timeout)
            taken = [item for _, item in self._entries]
            self._entries.clear()
            self._held = 0.0
            return taken


class Microphone:
    """A source that never ends: it opens the device, notices its loss, and opens it again, waiting ever longer."""

    def __init__(self, config: MicrophoneConfig, script: Path = CAPTURE) -> None:
        self.config = config
        self._script = script
        self._buffer = Buffer(config.buffer)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._resampler: Resampler | None = None

    @property
    def name(self) -> str:
        """What was asked for, for messages."""
        return self.config.device or "default"

    def open(self) -> None:
        """Start the thread; raises `RuntimeMissingError` without PyAudio."""
        if self._script == CAPTURE and importlib.util.find_spec("pyaudio") is None:
            raise RuntimeMissingError(PYAUDIO_MISSING)
        self._thread = threading.Thread(target=self._run, name="microphone", daemon=True)
        self._thread.start()

    def read(self, timeout: float, least: float = 0.0) -> list[Item]:
        """What has come, audio converted, blocks in a row joined."""
        items: list[Item] = []
        data: list[bytes] = []

        def convert() -> None:
            if data and self._resampler is not None:
                samples = self._resampler(b"".join(data))
                if len(samples):
                    items.append(Samples(samples))
            data.clear()

        for item in self._buffer.take(timeout, least):
            if isinstance(item, bytes):
                data.append(item)
                continue
            convert()
            if isinstance(item, Opened):
                self._resampler = Resampler(item.rate, item.channels, self.config.channel)
            items.append(item)
        convert()
        return items

    def close(self) -> None:
        """Stop the thread and the process."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(5.0)
            self._thread = None

    def _run(self) -> None:
        retry = FIRST_RETRY
        while not self._stopping.is_set():
            before, began = surroundings(), time.monotonic()
            opened, reason = self._capture()
            if self._stopping.is_set():
                break
            if opened and time.monotonic() - began >= STEADY_SECONDS:
                retry = FIRST_RETRY
            if opened:
                self._buffer.put(Lost(opened, reason))
            self._buffer.put(Waiting(self.name, reason, retry))
            self._wait(retry, before)
            retry = min(2 * retry, self.config.retry_longest)

    def _wait(self, seconds: float, before: Any) -> None:
        """Wait, but no longer than until the sound devices or servers are others than before."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self._stopping.wait(0.25):
            if surroundings() != before:
                self._stopping.wait(FIRST_RETRY / 2)  # a device that was just plugged in is not ready at once
                return

    def _capture(self) -> tuple[str, str]:
        """Open the device and hold it until it is lost: its name if it was opened, and what went wrong."""
        config = self.config
        request = {
            "device": config.device,
            "rate": config.capture_rate,
            "channels": config.capture_channels,
            "least_channels": config.channel,
        }
        try:
            process = CaptureProcess(request, self._script)
        except OSError as error:
            return "", f"the capturing process cannot be started ({error.strerror})"
        try:
            message = process.start(OPEN_SECONDS, self._stopping)
            if "error" in message:
                return "", explain(message, config.device)
            if message["channels"] < config.channel:
                return "", f"{message['device']} has no channel {config.channel}, but {message['channels']} in all"
            return self._hold(process, Opened(message["device"], message["rate"], message["channels"]))
        except AudioError as error:
            return "", str(error)
        except Exception as error:  # whatever it is, the daemon goes on to wait for its microphone
            return "", f"{type(error).__name__}: {error}"
        finally:
            process.kill()

    def _hold(self, process: CaptureProcess, opened: Opened) -> tuple[str, str]:
        """Fill the buffer from an open device."""
        announced = False
        patience = max(FIRST_BLOCK_SECONDS, self.config.loss_timeout)
        bytes_per_second = opened.rate * opened.channels * 2
        last = time.monotonic()
        while not self._stopping.is_set():
            try:
                block = process.read(0.25)
            except TimeoutError:
                silent = time.monotonic() - last
                if silent >= patience:
                    return opened.device if announced else "", f"no sample came for {silent:.1f} s"
                continue
            if block is None:
                return opened.device if announced else "", "the device or its sound server went away"
            overflow, data = block
            if not announced:  # a device that opens and gives nothing is none
                self._buffer.put(opened)
                announced, patience = True, self.config.loss_timeout
            now = time.monotonic()
            if overflow:  # how much was lost is not told: the time that has passed beyond this block's own
                self._buffer.put(Gap(max(0.0, now - last - len(data) / bytes_per_second)))
            last = now
            self._buffer.put(data, len(data) / bytes_per_second)
        return opened.device, "stopped"
