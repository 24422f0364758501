"""The capturing process (`edge_stt.capture`) from the daemon's side, and plain words for what it complains of."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import select
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from .capture import HEADER
from .errors import AudioError, EdgeSttError, RuntimeMissingError
from .settings import nearest

CAPTURE = Path(__file__).parent / "capture.py"
OPEN_SECONDS = 15.0  # for PortAudio to list its devices and open one; a sound server that hangs takes for ever
MAX_BLOCK_BYTES = 1 << 22
READ_BYTES = 1 << 16
PYAUDIO_MISSING = (
    "PyAudio is not installed: apt-get install portaudio19-dev, then pip install 'edge-stt[mic]'; "
    "or feed audio with --input"
)


class CaptureProcess:
    """A running `edge_stt.capture`."""

    def __init__(self, request: dict[str, Any], script: Path = CAPTURE) -> None:
        # A session of its own: Ctrl-C is for the daemon, which ends this process itself. -P: our modules' names
        # must not hide those of the standard library.
        self._process = subprocess.Popen(
            [sys.executable, "-P", os.fspath(script), json.dumps(request)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self._fd = self._process.stdout.fileno()
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)
        self._arrived = bytearray()

    def start(self, timeout: float, stopping: threading.Event) -> dict[str, Any]:
        """The first line; raises `AudioError` when it does not come in time."""
        line = b""
        end = time.monotonic() + timeout
        while not line.endswith(b"\n"):
            if time.monotonic() > end or stopping.is_set():
                raise AudioError("the sound server does not answer")
            if self._poll.poll(200):
                byte = os.read(self._fd, 1)
                if not byte:
                    raise AudioError("the audio libraries crashed")
                line += byte
        message: dict[str, Any] = json.loads(line)
        return message

    def read(self, timeout: float) -> tuple[bool, bytes] | None:
        """A block, and whether audio was lost before it; None at the end. Raises `TimeoutError` without one in time."""
        while True:
            if len(self._arrived) >= HEADER.size:
                size, overflow, _, _ = HEADER.unpack_from(self._arrived)
                if size > MAX_BLOCK_BYTES:
                    return None
                if len(self._arrived) >= HEADER.size + size:
                    data = bytes(self._arrived[HEADER.size : HEADER.size + size])
                    del self._arrived[: HEADER.size + size]
                    return bool(overflow), data
            if not self._poll.poll(round(timeout * 1000)):
                raise TimeoutError
            part = os.read(self._fd, READ_BYTES)
            if not part:
                return None
            self._arrived += part

    def kill(self) -> None:
        """End it, whatever it waits for."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()
        self._process.wait()


def explain(message: dict[str, Any], wanted: str) -> str:
    """One line for what `edge_stt.capture` complained of: what is wrong and what to do."""
    kind, devices = message.get("kind"), message.get("devices", [])
    device = message.get("device", wanted)
    there = ", ".join(map(repr, nearest(wanted, devices, 3) or devices))
    texts = {
        "pyaudio": PYAUDIO_MISSING,
        "unknown": f"no microphone is called {wanted!r}; there are: {there}",
        "none": "no microphone was found; plug one in",
        "permission": "no permission for the sound devices; add the user to audio: sudo usermod -aG audio USER",
        "busy": f"{device!r} is in use by another program; stop that, or use the sound server's device",
        "format": f"{device!r} takes none of the usual rates and channels; give capture_rate and capture_channels",
    }
    return texts.get(str(kind), f"{device!r} cannot be opened ({message.get('error')})")


def surroundings() -> tuple[Any, ...]:
    """What changes when a microphone is plugged in or a sound server starts."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "/run/user/0")
    server = os.environ.get("PULSE_SERVER", "").removeprefix("unix:") or f"{runtime}/pulse/native"
    seen: list[Any] = []
    for path in ("/dev/snd", server, f"{runtime}/pipewire-0"):
        try:
            status = Path(path).stat()
            seen.append((status.st_ino, status.st_mtime_ns if path == "/dev/snd" else status.st_ctime_ns))
        except OSError:
            seen.append(None)
    return tuple(seen)


def list_devices() -> list[dict[str, Any]]:
    """Devices that record, as `edge_stt.capture.inputs` says; raises `EdgeSttError` when they cannot be listed."""
    if importlib.util.find_spec("pyaudio") is None:
        raise RuntimeMissingError(PYAUDIO_MISSING)
    process = CaptureProcess({"list": True})
    try:
        message = process.start(OPEN_SECONDS, threading.Event())
    finally:
        process.kill()
    if "error" in message:
        raise EdgeSttError(explain(message, ""))
    devices: list[dict[str, Any]] = message["devices"]
    return devices
