"""The microphone: PyAudio on a real PulseAudio server, and what capturing does when things go wrong."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edge_stt import capture
from edge_stt.audio import read_audio
from edge_stt.capture_process import explain
from edge_stt.errors import AudioError
from edge_stt.events import EventStream
from edge_stt.listener import Listener, Signals, Utterances
from edge_stt.metrics import Metrics
from edge_stt.microphone import Buffer, Microphone, MicrophoneConfig, Resampler
from edge_stt.notify import Notifier
from edge_stt.sources import Gap, Lost, Opened, Samples, Waiting

from .daemon import MODERN, MODERN_TEXT, WAIT, Daemon

needs_pyaudio = pytest.mark.skipif(
    importlib.util.find_spec("pyaudio") is None,
    reason="needs PyAudio: apt-get install portaudio19-dev, pip install 'edge-stt[mic]'",
)
needs_pulse = pytest.mark.skipif(
    shutil.which("pulseaudio") is None or shutil.which("paplay") is None,
    reason="needs PulseAudio: apt-get install pulseaudio pulseaudio-utils libasound2-plugins",
)


class Pulse:
    """A PulseAudio server of its own, whose only source is what is played into its null sink."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.socket = folder, folder / "native"
        (folder / "asound.conf").write_text(
            "</usr/share/alsa/alsa.conf>\npcm.!default { type pulse }\nctl.!default { type pulse }\n"
        )
        (folder / "default.pa").write_text(
            f"load-module module-native-protocol-unix auth-anonymous=1 socket={self.socket}\n"
            "load-module module-null-sink sink_name=mic rate=48000 channels=2 format=s16le\n"
            "set-default-source mic.monitor\n"
        )
        self.env = {
            "XDG_RUNTIME_DIR": str(folder),
            "HOME": str(folder),
            "ALSA_CONFIG_PATH": str(folder / "asound.conf"),
            "PULSE_SERVER": f"unix:{self.socket}",
        }
        self.server: subprocess.Popen[bytes] | None = None
        self.awake: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = ["pulseaudio", "-n", "-F", str(self.folder / "default.pa"), "--daemonize=no", "--exit-idle-time=-1"]
        env = {k: v for k, v in {**os.environ, **self.env}.items() if k != "PULSE_SERVER"}
        self.server = subprocess.Popen(
            [*command, "--realtime=no", "--high-priority=no"],
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        end = time.monotonic() + WAIT
        while subprocess.run(["pactl", "info"], env=self._env(), capture_output=True, check=False).returncode:
            assert time.monotonic() < end, "PulseAudio does not start"
            time.sleep(0.1)
        # A null sink that nobody listens to sleeps, and loses a second or two when it wakes.
        command = ["parec", "-d", "mic.monitor", "--latency-msec=20", "--raw"]
        self.awake = subprocess.Popen(command, env=self._env(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def _env(self) -> dict[str, str]:
        return {**os.environ, **self.env}

    def play(self, path: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen(["paplay", "--device=mic", str(path)], env=self._env())

    def kill(self, number: int = signal.SIGKILL) -> None:
        assert self.server is not None
        self.server.send_signal(number)
        if number == signal.SIGKILL:
            self.server.wait()

    def stop(self) -> None:
        for process in (self.awake, self.server):
            if process is not None:
                with suppress(OSError):
                    process.kill()
                process.wait()


@pytest.fixture
def pulse() -> Iterator[Pulse]:
    folder = Path(subprocess.check_output(["mktemp", "-d", "/tmp/edge-stt-XXXXXX"], text=True).strip())
    server = Pulse(folder)  # not in tmp_path, which is too long for a Unix socket
    server.start()
    yield server
    server.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence as a 48 kHz stereo WAV with a second of silence before it."""
    samples, rate = soundfile.read(MODERN, dtype="float32")
    path = tmp_path_factory.mktemp("speech") / "spoken.wav"
    padded = np.concatenate([np.zeros(rate // 2, np.float32), samples, np.zeros(rate // 2, np.float32)])
    wide = np.repeat(padded, 48_000 // rate)[:, None].repeat(2, axis=1)
    soundfile.write(path, wide, 48_000, subtype="PCM_16")
    return path


@needs_pyaudio
@needs_pulse
def test_a_sentence_and_a_sound_server_that_dies(pulse: Pulse, spoken: Path) -> None:
    """Played in, a sentence comes out; then the server is killed in the middle of another, and comes back."""
    with Daemon("--socket", pulse.folder / "events", "--loss-timeout", "10", env=pulse.env) as daemon:
        at = daemon.wait_for("listening")
        assert daemon.events[at - 1]["rate"] == 48_000
        time.sleep(1.5)
        for attempt in range(3):  # player and server have no real-time priority: on a busy machine sound drops out
            pulse.play(spoken)
            at = daemon.wait_for("final", after=at)
            if daemon.events[at - 1]["text"] == MODERN_TEXT:
                break
            assert attempt < 2, daemon.events
            time.sleep(3.0)
            at = len(daemon.events)
        assert daemon.events[at - 1]["reason"] == "pause"
        daemon.process.send_signal(signal.SIGHUP)  # the microphone is kept
        at = daemon.wait_for("reloaded", after=at)
        player = pulse.play(spoken)
        at = daemon.wait_for("speech", after=at)
        assert "listening" not in [event["event"] for event in daemon.events[1:at]]
        pulse.kill()
        player.kill()
        at = daemon.wait_for("device-lost", after=at)
        daemon.wait_for("waiting", after=at)
        pulse.start()
        back = time.monotonic()
        at = daemon.wait_for("listening", after=at)
        busy = os.getloadavg()[0] > (os.cpu_count() or 1)
        assert daemon.arrived[at - 1] - back < (30.0 if busy else 5.0)
        assert daemon.stop() == 0
        assert daemon.events[-1] == {**daemon.events[-1], "event": "stopped", "reason": "SIGTERM"}
        assert "ALSA" not in daemon.errors
        assert "Traceback" not in daemon.errors


@needs_pyaudio
@needs_pulse
def test_a_frozen_sound_server(pulse: Pulse) -> None:
    with Daemon("--loss-timeout", "1", env=pulse.env) as daemon:
        at = daemon.wait_for("listening")
        pulse.kill(signal.SIGSTOP)
        at = daemon.wait_for("device-lost", after=at)
        assert "no sample came" in daemon.events[at - 1]["reason"]
        pulse.kill(signal.SIGCONT)
        daemon.wait_for("listening", after=at)
        assert daemon.stop() == 0


@needs_pyaudio
@needs_pulse
def test_a_name_that_is_not_there(pulse: Pulse) -> None:
    with Daemon("--device", "puls3", env=pulse.env) as daemon:
        at = daemon.wait_for("waiting")
        assert "no microphone is called 'puls3'; there are: 'pulse'" in daemon.events[at - 1]["reason"]
        assert daemon.stop() == 0
    command = [sys.executable, "-m", "edge_stt.cli", "listen", "--list-devices"]
    listed = subprocess.run(
        command, env={**os.environ, **pulse.env}, capture_output=True, text=True, timeout=WAIT, check=True
    )
    assert "pulse\t" in listed.stdout
    assert listed.stderr == ""


@needs_pyaudio
@pytest.mark.skipif(any(Path("/dev/snd").glob("pcm*c")), reason="this machine has a microphone")
def test_no_microphone_at_all(tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path), "PULSE_SERVER": "unix:/nonexistent"}
    with Daemon(env=env) as daemon:
        at = daemon.wait_for("waiting")
        assert daemon.events[at - 1]["reason"] == "no microphone was found; plug one in"
        assert daemon.stop(signal.SIGINT) == 0
        assert daemon.errors.count("\n") == 1


@needs_pyaudio
def test_portaudio_that_aborts_takes_nobody_along(tmp_path: Path) -> None:
    """With an empty configuration of ALSA an assertion in PortAudio 19.6 fails, which ends its process."""
    (tmp_path / "asound.conf").write_text("")
    with Daemon(env={"ALSA_CONFIG_PATH": str(tmp_path / "asound.conf"), "HOME": str(tmp_path)}) as daemon:
        daemon.wait_for("waiting")
        assert daemon.stop() == 0


# --- without a sound server -----------------------------------------------------------------------------------------

SCRIPT = """
import json, os, sys, time
sys.path.insert(0, {root!r})
from edge_stt.capture import HEADER
out = os.fdopen(1, "wb", buffering=0)
def send(data, overflow=0): out.write(HEADER.pack(len(data), overflow, 0, 0.0) + data)
request = json.loads(sys.argv[1])
{body}
"""


def fake(tmp_path: Path, body: str) -> Path:
    """A capturing process that does what the test wants instead of PortAudio."""
    path = tmp_path / "capture.py"
    path.write_text(SCRIPT.format(root=str(Path(capture.__file__).parent.parent), body=body))
    return path


def items_of(microphone: Microphone, until: type, timeout: float = WAIT) -> list[object]:
    found: list[object] = []
    end = time.monotonic() + timeout
    while not any(isinstance(item, until) for item in found):
        assert time.monotonic() < end, found
        found += microphone.read(0.2)
    return found


OPEN = 'out.write(json.dumps({"device": "fake", "rate": 16000, "channels": 1}).encode() + b"\\n")\n'


def test_a_stream_that_overflows_is_counted(tmp_path: Path) -> None:
    body = OPEN + "send(bytes(3200))\ntime.sleep(2)\nsend(bytes(3200), 1)\nsend(bytes(3200))\n"
    began = time.monotonic()
    microphone = Microphone(MicrophoneConfig(loss_timeout=60.0), fake(tmp_path, body))
    microphone.open()
    found = items_of(microphone, Lost)
    microphone.close()
    assert found[0] == Opened("fake", 16_000, 1)
    (gap,) = [item for item in found if isinstance(item, Gap)]
    assert 0.3 < gap.seconds < time.monotonic() - began  # the time that passed, less the block's own
    assert sum(len(item.samples) for item in found if isinstance(item, Samples)) == 4_800


def test_a_device_that_goes_away_is_tried_again(tmp_path: Path) -> None:
    microphone = Microphone(MicrophoneConfig(loss_timeout=60.0), fake(tmp_path, OPEN + "send(bytes(3200))\n"))
    microphone.open()
    found = items_of(microphone, Lost)
    found += items_of(microphone, Opened)
    microphone.close()
    kinds = [type(item) for item in found if not isinstance(item, Samples)]
    assert kinds[:4] == [Opened, Lost, Waiting, Opened]


def test_a_device_that_goes_away_again_and_again_is_tried_less_and_less(tmp_path: Path) -> None:
    microphone = Microphone(MicrophoneConfig(loss_timeout=60.0), fake(tmp_path, OPEN + "send(bytes(3200))\n"))
    microphone.open()
    found: list[object] = []
    while len(waits := [item.retry for item in found if isinstance(item, Waiting)]) < 3:
        found += items_of(microphone, Waiting)
    microphone.close()
    assert waits[:3] == [0.5, 1.0, 2.0]


def test_a_channel_that_is_not_there_is_waited_for_and_said(tmp_path: Path) -> None:
    microphone = Microphone(MicrophoneConfig(channel=2), fake(tmp_path, OPEN + "send(bytes(3200))\n"))
    microphone.open()
    found = items_of(microphone, Waiting)
    microphone.close()
    (waiting,) = [item for item in found if isinstance(item, Waiting)]
    assert waiting.reason == "fake has no channel 2, but 1 in all"


@pytest.mark.parametrize("body", ["os._exit(9)", "out.write(b'nonsense\\n')", "os.kill(os.getpid(), 11)"])
def test_libraries_that_crash_are_survived(tmp_path: Path, body: str) -> None:
    microphone = Microphone(MicrophoneConfig(loss_timeout=60.0), fake(tmp_path, body))
    microphone.open()
    assert isinstance(items_of(microphone, Waiting)[-1], Waiting)
    microphone.close()


def test_capture_does_not_wait_for_recognition() -> None:
    buffer = Buffer(2.0)
    buffer.put(Opened("x", 16_000, 1))
    for second in range(10):  # nobody takes any: if this waited, it would for ever
        buffer.put(bytes([second]), 1.0)
    taken = buffer.take(0.0)
    assert taken == [Opened("x", 16_000, 1), Gap(8.0), b"\x08", b"\x09"]
    assert buffer.take(0.0) == []


def test_the_buffer_wakes_who_waits() -> None:
    buffer = Buffer(2.0)
    threading.Timer(0.2, buffer.put, [b"x", 0.1]).start()
    assert buffer.take(WAIT) == [b"x"]


def test_who_is_in_no_hurry_is_woken_for_enough_audio_or_anything_else() -> None:
    buffer = Buffer(5.0)
    buffer.put(b"x", 0.1)
    began = time.monotonic()
    assert buffer.take(0.2, 0.25) == [b"x"]  # what there is when the time is over
    assert time.monotonic() - began >= 0.2
    for item, seconds, taken in ((b"z", 0.2, [b"y", b"z"]), (Lost("usb", "gone"), 0.0, [b"y", Lost("usb", "gone")])):
        buffer.put(b"y", 0.1)
        threading.Timer(0.1, buffer.put, (item, seconds)).start()
        assert buffer.take(WAIT, 0.25) == taken


def test_a_stereo_device_at_another_rate_is_heard_as_the_file() -> None:
    speech = read_audio(MODERN)
    stereo = (np.stack([np.repeat(speech, 3), 0 * np.repeat(speech, 3)], axis=1) * 32767).astype("<i2")
    for channel, gain in ((0, 0.5), (1, 1.0)):
        resampler = Resampler(48_000, 2, channel)
        heard = np.concatenate([resampler(stereo[i : i + 2_400].tobytes()) for i in range(0, len(stereo), 2_400)])
        n = min(len(heard), len(speech)) - 400
        lag = int(np.correlate(heard[1_000:9_000], speech[800:9_200], "valid").argmax()) - 200
        assert abs(lag) <= 10
        assert np.corrcoef(heard[20 : n - 20], speech[20 + lag : n - 20 + lag])[0, 1] > 0.95
        assert np.std(heard) / np.std(speech) == pytest.approx(gain, rel=0.1)
    with pytest.raises(AudioError, match="no channel 3"):
        Resampler(48_000, 2, 3)


DEVICES = [
    {"index": 0, "name": "HDA Intel PCH: ALC269VC Analog (hw:0,0)", "rate": 44_100, "channels": 2, "default": False},
    {"index": 1, "name": "USB PnP Sound Device: Audio (hw:1,0)", "rate": 48_000, "channels": 1, "default": False},
    {"index": 2, "name": "pulse", "rate": 44_100, "channels": 32, "default": False},
    {"index": 3, "name": "default", "rate": 44_100, "channels": 32, "default": True},
]


@pytest.mark.parametrize(
    ("wanted", "index"), [("", 3), ("usb pnp", 1), ("PULSE", 2), ("hw:0,0", 0), ("nothing", None), ("default", 3)]
)
def test_devices_are_found_by_name(wanted: str, index: int | None) -> None:
    chosen = capture.choose(DEVICES, wanted)
    assert (chosen["index"] if chosen else None) == index


def test_the_devices_own_format_is_tried_first() -> None:
    assert capture.formats(DEVICES[1], 0, 0)[0] == (48_000, 1)
    assert capture.formats(DEVICES[0], 0, 0)[:2] == [(44_100, 2), (44_100, 1)]
    assert capture.formats(DEVICES[2], 0, 0)[0] == (48_000, 1)  # a server gives what is asked for
    assert capture.formats(DEVICES[0], 16_000, 1) == [(16_000, 1)]


def test_a_channel_that_is_asked_for_is_there_where_the_device_has_it() -> None:
    assert capture.formats(DEVICES[2], 0, 0, least=2)[0] == (48_000, 2)  # else a server mixes them
    assert capture.formats(DEVICES[0], 0, 0, least=2)[0] == (44_100, 2)
    assert capture.formats(DEVICES[1], 0, 0, least=2)[0] == (48_000, 1)


@pytest.mark.parametrize(
    ("number", "text", "kind"),
    [
        (-9997, "Invalid sample rate", "format"),
        (-9998, "Invalid number of channels", "format"),
        (-9985, "Device unavailable", "busy"),
        (-9999, "Unanticipated host error", "other"),
    ],
)
def test_errors_of_portaudio_are_told_apart(number: int, text: str, kind: str) -> None:
    assert capture.kind_of(OSError(number, text)) == kind
    said = explain({"error": text, "kind": kind, "devices": [], "device": "X"}, "X")
    assert "'X'" in said
    assert "\n" not in said


def test_permission_names_the_group() -> None:
    assert "audio" in explain({"error": "", "kind": "permission", "devices": []}, "")


def test_the_loop_tells_of_lost_audio_once_a_second() -> None:
    class Lossy:
        """Loses a little in each of many blocks."""

        def __init__(self) -> None:
            self.reads = 0

        def open(self) -> None:
            pass

        def read(self, timeout: float, least: float = 0.0) -> list[object]:
            self.reads += 1
            if self.reads > 50:
                signals.stop = "done"
            return [Gap(0.1)]

        def close(self) -> None:
            pass

    signals, metrics, stream = Signals(), Metrics(), EventStream()
    told: list[object] = []

    class Keep:
        name = "keep"

        def open(self) -> None:
            pass

        def accept(self, event: object) -> None:
            told.append(event)

        def close(self, timeout: float) -> None:
            pass

    stream.sinks.append(Keep())
    utterances = Utterances(stream.publish, metrics)
    began = time.monotonic()
    Listener(Lossy(), stream, utterances, metrics, Notifier({}), signals).run()
    overflows = [event for event in told if event.kind == "overflow"]
    assert 1 <= len(overflows) <= 3 + time.monotonic() - began
    assert sum(event.seconds for event in overflows) == pytest.approx(5.1)
    assert metrics.lost_seconds == pytest.approx(5.1)
    assert metrics.overflows == 51
    assert utterances.clock == pytest.approx(5.1)
