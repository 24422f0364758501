"""The process that holds the microphone. Run as a script by `edge_stt.microphone`; standard library and PyAudio only.

PortAudio in the daemon's own process would bring its hundred lines of noise on stderr, a device list that is read only
once, and calls that never return when a sound server hangs. Here it can be killed and begun anew.

Asked with one line of JSON as its argument: ``device``, ``rate``, ``channels``, ``block`` (seconds), or ``list``. On
standard output comes one line of JSON: the list of devices; or ``device``, ``rate`` and ``channels`` as opened; or
``error`` with ``kind`` and ``devices``. After an opening come blocks: `HEADER`, then samples, int16 interleaved. It
ends when standard input does, or with an error line to standard error when the stream dies.
"""

from __future__ import annotations

import json
import os
import select
import struct
import sys
import threading
from typing import Any, BinaryIO

HEADER = struct.Struct("<IHHd")  # bytes of samples, 1 if input overflowed before them, 0, seconds (of the device)
INPUT_OVERFLOW = 2  # portaudio.h: paInputOverflow
CHECK_SECONDS = 0.5
BLOCK_SECONDS = 0.16  # fewer wake-ups are less work; the network takes as much at once
PREFERRED = ("pulse", "pipewire", "default")  # of devices that have no better claim
USUAL_RATES = (48_000, 44_100, 16_000, 32_000, 96_000, 8_000)
MANY_CHANNELS = 8  # more are those of a sound server, which gives as many as it is asked for, and any rate


def inputs(audio: Any) -> list[dict[str, Any]]:
    """Devices that record: ``index``, ``name``, ``rate``, ``channels``, ``default``."""
    try:
        default = int(audio.get_default_input_device_info()["index"])
    except OSError:
        default = -1
    found = []
    for index in range(audio.get_device_count()):
        info = audio.get_device_info_by_index(index)
        channels = int(info["maxInputChannels"])
        if channels > 0:
            name, rate = str(info["name"]), int(info["defaultSampleRate"])
            entry = {"index": index, "name": name, "rate": rate, "channels": channels, "default": index == default}
            found.append(entry)
    return found


def choose(devices: list[dict[str, Any]], wanted: str) -> dict[str, Any] | None:
    """The device of that name: equal, then beginning so, then containing it, case aside. Without one, the default."""
    if not wanted:
        ranked = [d for d in devices if d["default"]]
        ranked += [d for name in PREFERRED for d in devices if d["name"] == name]
        ranked += devices
        return ranked[0] if ranked else None
    name = wanted.casefold()
    tests = (lambda n: n == name, lambda n: n.startswith(name), lambda n: name in n)
    for test in tests:
        for device in devices:
            if test(device["name"].casefold()):
                return device
    return None


def formats(device: dict[str, Any], rate: int, channels: int, least: int = 0) -> list[tuple[int, int]]:
    """Rates and channel counts to try, the device's own first; ``rate`` and ``channels`` of 0 leave the choice.

    Of what is chosen here none has fewer than ``least`` channels, unless the device has.
    """
    most = device["channels"]
    server = most > MANY_CHANNELS
    least = max(1, min(least, most))
    counts = [channels] if channels else [count for count in (least if server else most, 1, 2, most) if count >= least]
    rates = [rate] if rate else [*USUAL_RATES[: 1 if server else 0], device["rate"], *USUAL_RATES]
    pairs = [(r, c) for r in rates for c in counts if c <= most or channels]
    return list(dict.fromkeys(pairs))


def kind_of(error: OSError) -> str:
    """What an error of PortAudio means: ``format``, ``busy``, ``permission`` or ``other``."""
    number = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    text = str(error)
    if number in (-9997, -9998, -9994):  # invalid sample rate, channel count, sample format
        return "format"
    if number == -9985 or "unavailable" in text or "busy" in text:
        return "busy"
    return "permission" if number == -9999 and "ermission" in text else "other"


def send(out: BinaryIO, message: dict[str, Any]) -> None:
    """One line of JSON."""
    out.write(json.dumps(message).encode() + b"\n")
    out.flush()


def sound_nodes() -> str:
    """``none``, ``closed`` (not for this user) or ``open``: the kernel's capture devices."""
    try:
        nodes = [f"/dev/snd/{name}" for name in os.listdir("/dev/snd") if name.endswith("c")]  # noqa: PTH208
    except OSError:
        return "none"
    if not nodes:
        return "none"
    return "open" if any(os.access(node, os.R_OK | os.W_OK) for node in nodes) else "closed"


class Capture:
    """An open stream whose blocks go to ``out``. ``lost`` is set when nobody takes them any more."""

    def __init__(self, out: BinaryIO) -> None:
        self.out, self.lost = out, threading.Event()

    def callback(self, data: bytes | None, frames: int, timing: Any, status: int) -> tuple[None, int]:
        """PortAudio's thread. Writing waits only if the daemon's reader does, which does nothing else."""
        import pyaudio

        data = data or b""
        header = HEADER.pack(len(data), 1 if status & INPUT_OVERFLOW else 0, 0, float(timing["input_buffer_adc_time"]))
        try:
            self.out.write(header + data)
            self.out.flush()
        except (OSError, ValueError):
            self.lost.set()
            return None, pyaudio.paAbort
        return None, pyaudio.paContinue


def run(request: dict[str, Any], out: BinaryIO) -> int:
    """Do what was asked; returns the exit code."""
    try:
        import pyaudio
    except ImportError as error:
        send(out, {"error": str(error), "kind": "pyaudio", "devices": []})
        return 1
    try:
        audio = pyaudio.PyAudio()
        devices = inputs(audio)
    except OSError:  # ALSA without a usable configuration
        devices = []
    if request.get("list"):
        send(out, {"devices": devices})
        return 0
    names = [d["name"] for d in devices]
    device = choose(devices, request.get("device", ""))
    if device is None:
        kind = "unknown" if devices else {"closed": "permission"}.get(sound_nodes(), "none")
        send(out, {"error": "no such device", "kind": kind, "devices": names})
        return 1
    capture = Capture(out)
    failure: OSError | None = None
    for rate, channels in formats(
        device, request.get("rate", 0), request.get("channels", 0), request.get("least_channels", 0)
    ):
        try:
            stream = audio.open(
                rate=rate,
                channels=channels,
                format=pyaudio.paInt16,
                input=True,
                input_device_index=device["index"],
                frames_per_buffer=max(64, int(rate * request.get("block", BLOCK_SECONDS))),
                stream_callback=capture.callback,
                start=False,
            )
        except (OSError, ValueError) as error:
            failure = error if isinstance(error, OSError) else OSError(str(error))
            if kind_of(failure) != "format":
                break
            continue
        send(out, {"device": device["name"], "rate": rate, "channels": channels})
        stream.start_stream()
        return watch(stream, capture)
    assert failure is not None
    kind = "permission" if sound_nodes() == "closed" else kind_of(failure)
    send(out, {"error": str(failure), "kind": kind, "devices": names, "device": device["name"]})
    return 1


def watch(stream: Any, capture: Capture) -> int:
    """Wait until the stream dies (2), or the daemon does or wants no more (0)."""
    while True:
        if not stream.is_active():  # callback mode raises nothing
            return 0 if capture.lost.is_set() else 2
        if select.select([0], [], [], CHECK_SECONDS)[0] and not os.read(0, 1):
            return 0


def main() -> None:
    """Keep standard output for the protocol alone, and silence what libraries print."""
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    code = run(json.loads(sys.argv[1]), out)
    os._exit(code)  # closing PortAudio may take for ever, and the system does it as well


if __name__ == "__main__":
    main()
