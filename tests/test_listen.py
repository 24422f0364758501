"""The daemon as a process: events from files and pipes, signals, systemd's protocol, reloading, and long hours."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edge_stt import events, load_model
from edge_stt.audio import read_audio
from edge_stt.daemon_config import DaemonConfig
from edge_stt.events import Event, EventStream, FinalEvent, PartialEvent, SpeechEvent
from edge_stt.grammar import Grammar
from edge_stt.listen_process import START
from edge_stt.listener import RELOAD_WAITS, Listener, Signals, Utterances
from edge_stt.metrics import Metrics
from edge_stt.notify import Notifier
from edge_stt.settings import apply
from edge_stt.sources import End, Gap, Item, Lost, Opened, Samples, Waiting

from .conftest import DEMO, ROOT
from .daemon import MODERN, MODERN_TEXT, WAIT, Daemon

RATE = 16_000


def listen(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edge_stt.cli", "listen", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]


# --- files and pipes ------------------------------------------------------------------------------------------------


def test_a_file_as_events() -> None:
    done = listen("--input", DEMO, "--fast")
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["event"] for event in found][:2] == ["listening", "speech"]
    assert found[-1]["event"] == "stopped"
    (final,) = [event for event in found if event["event"] == "final"]
    assert final["reason"] == "end"
    assert final["text"].split() == [word["text"] for word in final["words"]]
    partials = [event for event in found if event["event"] == "partial"]
    assert len(partials) > 10
    for partial in partials:
        assert partial["utterance"] == final["utterance"]
        assert partial["text"].startswith(partial["stable"])
        assert final["text"].startswith(partial["stable"])


def test_a_pipe_as_text() -> None:
    pcm = (read_audio(MODERN) * 32767).astype("<i2").tobytes()
    command = [sys.executable, "-m", "edge_stt.cli", "listen", "--input", "-", "--stdout", "text"]
    done = subprocess.run(command, input=pcm, capture_output=True, check=False)
    assert (done.stdout.decode(), done.returncode) == (MODERN_TEXT + "\n", 0)


NEEDS_MQTT = pytest.mark.skipif(importlib.util.find_spec("paho") is None, reason="needs the mqtt extra")
MQTT = ["--mqtt-host", "x", "--mqtt-username", "u", "--mqtt-password-file", "/no/such"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--input", "none.wav"], 1, "there is no such file"),
        (["--input", DEMO, "--channels", "2"], 2, "--channels is for raw PCM on standard input"),
        (["--input", "-", "--rate", "100"], 2, "--rate 100 cannot be; 4000 to 384000 Hz are read"),
        (["--input", "-", "--channels", "99"], 2, "--channels 99 cannot be; 1 to 32 are read"),
        (["--exec", "/no/such/command", "--check-config"], 1, "no command that can be run"),
        (["--lm-weight", "nan"], 2, "--lm-weight must be a number, not nan"),
        (["--decoder", "phrases", "--check-config"], 2, "the decoder phrases is not chosen by name"),
        (["--decoder", "greedy", "--hotword-file", __file__, "--check-config"], 2, "cannot favour hot words"),
        (["--fast"], 2, "--fast needs --input FILE"),
        (["--endpoint", "quick"], 2, "--endpoint must be one of"),
        (["--exec", "'unfinished"], 2, "No closing quotation"),
        (["--exec", "/no/such/command", "--input", DEMO], 1, "no command that can be run"),
        (["--model", "/no/such/model", "--check-config"], 1, "no model package"),
        (["--wake", "привет", "--check-config"], 1, "'привет' cannot be pronounced"),
        pytest.param([*MQTT, "--check-config"], 1, "/no/such", marks=NEEDS_MQTT),
        (["--socket", "/proc/x/y", "--input", DEMO], 1, "cannot listen on /proc/x/y"),
        (["--save-audio", "/proc/x", "--input", DEMO], 1, "cannot keep audio in /proc/x"),
        (["--config", "none.toml"], 2, "there is no such file"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[object], code: int, said: str, tmp_path: Path) -> None:
    done = listen(*arguments, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == code
    complaints = [line for line in done.stderr.splitlines() if "listening to" not in line]
    assert len(complaints) == 1
    assert said in complaints[0]


def test_a_file_that_is_not_there_is_never_listened_to(tmp_path: Path) -> None:
    done = listen("--input", tmp_path / "none.wav", "--fast")
    assert "listening" not in done.stdout + done.stderr


def test_whoever_reads_standard_output_may_go() -> None:
    command = [sys.executable, "-m", "edge_stt.cli", "listen", "--input", str(DEMO)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(WAIT) == 0
    assert process.stderr is not None
    assert "Traceback" not in process.stderr.read()


@pytest.mark.parametrize("form", ["json", "text"])
def test_standard_output_that_takes_nothing_is_an_error(form: str) -> None:
    """Also where the only line is the last."""
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "edge_stt.cli", "listen", "--input", str(MODERN), "--fast", "--stdout", form]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    complaints = [line for line in done.stderr.splitlines() if "listening to" not in line]
    assert len(complaints) == 1
    assert complaints[0].startswith("edge-stt: cannot write to standard output: No space left on device; ")


def test_without_a_standard_output_there_is_one_line() -> None:
    command = [sys.executable, "-m", "edge_stt.cli", "listen", "--input", str(MODERN), "--fast"]
    done = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", *command], stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "edge-stt: standard output is closed; --stdout none writes nothing there\n"


# --- signals, systemd -----------------------------------------------------------------------------------------------


class Manager:
    """The socket that systemd would give."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(folder / "notify"))
        self.socket.settimeout(0.2)
        self.env = {"NOTIFY_SOCKET": str(folder / "notify"), "WATCHDOG_USEC": "400000"}
        self.heard: list[str] = []

    def listen(self, until: str, daemon: Daemon) -> None:
        end = time.monotonic() + WAIT
        while not any(until in message for message in self.heard):
            assert time.monotonic() < end, (self.heard, daemon.errors)
            assert "STOPPING" in until or daemon.process.poll() is None, daemon.errors
            try:
                self.heard.append(self.socket.recv(4_096).decode())
            except TimeoutError:
                continue


@pytest.fixture
def manager() -> Iterator[Manager]:
    folder = Path(subprocess.check_output(["mktemp", "-d", "/tmp/edge-stt-XXXXXX"], text=True).strip())
    found = Manager(folder)
    yield found
    found.socket.close()
    shutil.rmtree(folder)


def heard(metrics_socket: str) -> float:
    """Seconds of audio that the daemon has recognised, as its metrics say."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(WAIT)
        client.connect(metrics_socket)
        client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(65_536), b"")).decode()
    found = re.search(r"^edge_stt_audio_seconds_total (\S+)$", answer, re.MULTILINE)
    assert found
    return float(found[1])


def test_systemd_is_told_and_sigterm_finishes_the_utterance(manager: Manager, tmp_path: Path) -> None:
    """A pipe that stays open with an unfinished sentence in it; the settings are changed, well and badly, meanwhile."""
    config = tmp_path / "config.toml"
    config.write_text("[endpoint]\npreset = 'relaxed'\n")
    reader, writer = os.pipe()
    metrics = str(manager.folder / "metrics")
    with Daemon(
        "--input", "-", "--config", config, "--metrics-socket", metrics, env=manager.env, stdin=reader
    ) as daemon:
        os.close(reader)
        os.write(writer, bytes(RATE))
        manager.listen("READY=1", daemon)
        manager.listen("WATCHDOG=1", daemon)
        assert any(message == "STATUS=listening to standard input" for message in manager.heard)
        before = [message for message in manager.heard if message.startswith("READY")]
        assert len(before) == 1

        config.write_text("[endpoint]\npreset = 'relaxed'\ntrailing_silence = 10.0\n")
        Path(metrics).unlink()  # which comes back, as `heard` below needs
        daemon.process.send_signal(signal.SIGHUP)
        at = daemon.wait_for("reloaded")
        assert daemon.events[at - 1]["changed"] == ["endpoint.trailing_silence"]
        manager.listen("RELOADING=1\nMONOTONIC_USEC=", daemon)
        config.write_text("[endpoint]\npreset = 'never'\n")
        daemon.process.send_signal(signal.SIGHUP)
        end = time.monotonic() + WAIT
        while "the settings stay as they were" not in daemon.errors:
            assert time.monotonic() < end
            time.sleep(0.05)

        speech = (read_audio(MODERN) * 32767).astype("<i2").tobytes()
        written = RATE + len(speech) + 2 * RATE  # with a second of silence, which for ten ends nothing
        os.write(writer, speech + bytes(2 * RATE))
        end = time.monotonic() + WAIT
        while heard(metrics) < written / RATE / 2 - 0.5:
            assert time.monotonic() < end
            time.sleep(0.05)
        assert daemon.stop(signal.SIGTERM) == 0
        os.close(writer)
        final, stopped = daemon.events[-2:]
        assert (final["text"], final["reason"]) == (MODERN_TEXT, "end")
        assert stopped["reason"] == "SIGTERM"
        manager.listen("STOPPING=1", daemon)


def test_outputs_come_and_go_at_a_reload(manager: Manager, tmp_path: Path) -> None:
    """A command that is not there changes nothing; a socket in use is tried again; who comes late is told the state."""
    config, path = tmp_path / "config.toml", str(manager.folder / "events")
    config.write_text("")
    reader, writer = os.pipe()
    with Daemon("--input", "-", "--config", config, env=manager.env, stdin=reader) as daemon:
        os.close(reader)
        daemon.wait_for("listening")

        def reload(settings: str) -> None:
            config.write_text(settings)
            daemon.process.send_signal(signal.SIGHUP)

        def wait_for_error(text: str) -> None:
            end = time.monotonic() + WAIT
            while text not in daemon.errors:
                assert time.monotonic() < end, daemon.errors
                time.sleep(0.05)

        reload(f"[output]\nsocket = '{path}'\n[exec]\ncommand = ['/no/such/command']\n")
        wait_for_error("the settings stay as they were: exec: '/no/such/command'")
        assert not Path(path).exists()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(path)
            other.listen()
            reload(f"[output]\nsocket = '{path}'\n")
            at = daemon.wait_for("reloaded")
            wait_for_error("in use")
        reload(f"[output]\nsocket = '{path}'\n")
        at = daemon.wait_for("reloaded", after=at)
        assert daemon.events[at - 1]["changed"] == []
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(WAIT)
            client.connect(path)
            assert json.loads(client.makefile().readline())["event"] == "listening"
        assert daemon.stop(signal.SIGTERM) == 0
        os.close(writer)


def test_a_reload_while_it_starts_does_not_end_it(manager: Manager) -> None:
    """A hangup that nobody handles ends a process, and systemd takes that for what was wanted."""
    reader, writer = os.pipe()
    with Daemon("--input", "-", env=manager.env, stdin=reader) as daemon:
        os.close(reader)
        manager.listen("STATUS=loading the model", daemon)
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_for("reloaded")
        assert daemon.stop() == 0
        os.close(writer)


def test_ctrl_c_while_it_starts_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "edge_stt").mkdir()
    (tmp_path / "edge_stt" / "__init__.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    command = [sys.executable, "-c", START.format(path=[str(tmp_path), *sys.path])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


def test_a_loop_that_hangs_feeds_no_watchdog(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("edge_stt.notify.time.monotonic", lambda: now)
    notifier = Notifier(manager.env)
    for _ in range(3):
        notifier.alive()
    assert manager.socket.recv(100) == b"WATCHDOG=1"
    now += 0.3  # nobody called `alive`
    with pytest.raises(TimeoutError):
        manager.socket.recv(100)
    notifier.alive()
    assert manager.socket.recv(100) == b"WATCHDOG=1"
    Notifier({**manager.env, "WATCHDOG_PID": "1"}).alive()  # the variable was meant for another process
    with pytest.raises(TimeoutError):
        manager.socket.recv(100)
    Notifier({}).ready()  # without systemd nothing happens


def test_a_notify_socket_may_be_abstract() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind("\0edge-stt-test-notify")
        server.settimeout(5.0)
        Notifier({"NOTIFY_SOCKET": "@edge-stt-test-notify"}).status("well")
        assert server.recv(100) == b"STATUS=well"


UNITS = sorted((ROOT / "systemd").glob("*.service"))
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")


@needs_systemd
@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_units_are_well_formed(unit: Path, tmp_path: Path) -> None:
    for path in (*UNITS, *(ROOT / "systemd").glob("*.socket")):  # units name each other
        (tmp_path / path.name).write_text(path.read_text().replace("/usr/bin/edge-stt", sys.executable))
    command = ["systemd-analyze", "verify", "--man=no", str(tmp_path / unit.name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, [line for line in done.stderr.splitlines() if unit.name in line]) == (0, [])


@needs_systemd
def test_the_service_is_in_a_sandbox() -> None:
    unit = str(ROOT / "systemd" / "edge-stt.service")
    command = ["systemd-analyze", "security", "--offline=yes", "--no-pager", "--threshold=20", unit]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


# --- the loop -------------------------------------------------------------------------------------------------------


class Script:
    """A source that gives what it was told to."""

    def __init__(self, items: Iterator[Item]) -> None:
        self.items = items

    def open(self) -> None:
        pass

    def read(self, timeout: float, least: float = 0.0) -> list[Item]:
        return list(itertools.islice(self.items, 5)) or [End()]

    def close(self) -> None:
        pass


class Keep:
    name = "keep"

    def __init__(self) -> None:
        self.events: list[Event] = []

    def open(self) -> None:
        pass

    def accept(self, event: Event) -> None:
        self.events.append(event)

    def close(self, timeout: float) -> None:
        pass

    def of(self, kind: str) -> list[Event]:
        return [event for event in self.events if event.kind == kind]


def run(items: Iterator[Item], **settings: object) -> tuple[Keep, Metrics, Utterances]:
    config = apply(DaemonConfig(), {name.replace("__", "."): value for name, value in settings.items()})
    keep, metrics = Keep(), Metrics()
    stream = EventStream([keep])
    utterances = Utterances(stream.publish, metrics)
    utterances.use(load_model(decoder="greedy"), config)
    Listener(Script(items), stream, utterances, metrics, Notifier({}), Signals()).run()
    return keep, metrics, utterances


def pieces(samples: np.ndarray) -> Iterator[Item]:
    for start in range(0, len(samples), 1_600):
        yield Samples(samples[start : start + 1_600])


def test_a_device_lost_in_a_sentence_ends_it_and_the_clock_goes_on() -> None:
    speech = read_audio(MODERN)

    def items() -> Iterator[Item]:
        yield Opened("usb", 48_000, 1)
        yield from pieces(speech[:24_000])
        yield Lost("usb", "gone")
        yield Opened("usb", 48_000, 1)
        yield Gap(10.0)
        yield from pieces(speech)

    keep, metrics, utterances = run(items())
    kinds = [event.kind for event in keep.events if event.kind != "partial"]
    assert kinds[:5] == ["listening", "speech", "final", "device-lost", "listening"]
    assert sorted(kinds[5:]) == ["final", "overflow", "speech", "stopped"]
    first, second = keep.of("final")
    assert (first.reason, second.reason) == ("gap", "end")
    assert (first.utterance, second.utterance) == (1, 2)
    assert second.words[0].start > 11.5
    assert metrics.device_losses == 1
    assert utterances.clock == pytest.approx(1.5 + 10.0 + len(speech) / RATE, abs=0.01)


def test_a_short_gap_leaves_the_sentence_whole() -> None:
    speech = read_audio(MODERN)
    middle = 16_000

    def items() -> Iterator[Item]:
        yield from pieces(speech[:middle])
        yield Gap(0.1)
        yield from pieces(speech[middle:])

    keep, _, _ = run(items())
    assert len(keep.of("final")) == 1


def test_times_before_lost_audio_stay_and_those_after_it_are_later() -> None:
    speech = read_audio(MODERN)
    whole, _, _ = run(pieces(speech))

    def items() -> Iterator[Item]:
        for number, piece in enumerate(pieces(speech)):
            if number in (11, 13, 15):
                yield Gap(0.3)
            yield piece

    broken, _, utterances = run(items())
    (begun,), (final,), (before,) = broken.of("speech"), broken.of("final"), whole.of("final")
    assert isinstance(final, FinalEvent)
    assert isinstance(before, FinalEvent)
    assert isinstance(begun, SpeechEvent)
    assert final.start == begun.start == before.start
    assert all(event.start == begun.start for event in broken.of("partial") if isinstance(event, PartialEvent))
    assert final.text == before.text
    for word, unbroken in zip(final.words, before.words, strict=True):
        lost = sum(0.3 for number in (11, 13, 15) if unbroken.start >= number / 10)
        assert word.start == pytest.approx(unbroken.start + lost, abs=0.002)
    assert utterances.clock == pytest.approx(len(speech) / RATE + 0.9, abs=0.001)


class Told(Notifier):
    """What the status was."""

    def __init__(self) -> None:
        super().__init__({})
        self.statuses: list[str] = []

    def status(self, text: str) -> None:
        if self.statuses[-1:] != [text]:
            self.statuses.append(text)


def test_a_reload_waits_for_the_longest_utterance_and_no_longer() -> None:
    """Somebody speaks without a pause, and the next utterance has begun before all audio that came is taken."""
    speech = read_audio(MODERN)[3_200:-3_200]
    endless = np.concatenate([speech] * 5)
    config = apply(DaemonConfig(), {"endpoint.longest": 3.0})
    signals, told = Signals(), Told()
    reloads: list[list[str]] = []

    class Asking(Keep):
        """A reload is asked for once somebody speaks."""

        def accept(self, event: Event) -> None:
            super().accept(event)
            signals.reload = signals.reload or (event.kind == "speech" and not reloads)

    keep = Asking()
    stream = EventStream([keep])
    utterances = Utterances(stream.publish, Metrics())
    utterances.use(load_model(decoder="greedy"), config)
    items: list[Item] = [Opened("usb", 48_000, 1), *(Samples(block) for block in np.array_split(endless, 4))]

    def reload() -> None:
        reloads.append([event.kind for event in keep.events if event.kind in ("speech", "final")])

    Listener(Script(iter(items)), stream, utterances, Metrics(), told, signals, reload).run()
    assert reloads == [["speech", "final"]]
    first = keep.of("final")[0]
    assert isinstance(first, FinalEvent)
    assert first.reason == "longest"
    assert told.statuses == ["listening to usb", RELOAD_WAITS, "listening to usb"]


def test_a_microphone_that_is_awaited_is_not_heard() -> None:
    _, metrics, _ = run(iter([Opened("usb", 48_000, 1), Waiting("usb", "busy", 1.0)]))
    assert not metrics.listening


def test_doubtful_utterances_are_left_out() -> None:
    speech = read_audio(MODERN)
    keep, metrics, _ = run(pieces(speech), recogniser__min_confidence=1.0)
    assert keep.of("final") == []
    assert [event.utterance for event in keep.of("nothing")] == [1]
    assert metrics.rejected == 1


def memory() -> float:
    """Resident megabytes."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


@pytest.mark.slow
def test_half_an_hour_leaves_memory_flat_and_loses_no_utterance() -> None:
    """Thirty minutes of speech, silence and noise, as fast as they can be recognised: each sentence gives its final."""
    speech, rng = read_audio(MODERN), np.random.default_rng(0)
    noise = rng.normal(0, 0.003, 16 * RATE).astype(np.float32)
    silence = np.zeros(8 * RATE, np.float32)
    cycle = np.concatenate([noise[: 2 * RATE], speech + noise[: len(speech)], noise, speech, silence])
    rounds = round(1_800 / (len(cycle) / RATE))
    resident: list[float] = []

    def items() -> Iterator[Item]:
        yield Opened("long", RATE, 1)
        for _ in range(rounds):
            yield from pieces(cycle)
            resident.append(memory())

    keep, metrics, _ = run(items())
    assert metrics.audio_seconds == pytest.approx(1_800, rel=0.02)
    finals, begun = keep.of("final"), keep.of("speech")
    assert len(finals) + len(keep.of("nothing")) == len(begun)
    assert sum(len(final.words) >= 3 for final in finals) == 2 * rounds
    assert metrics.gated_seconds > 0.5 * metrics.audio_seconds
    kept = len(keep.events) * 2e-3  # MB: the events that this test itself keeps
    assert resident[-1] - resident[5] - kept < 1.0


# --- docs/daemon.md -------------------------------------------------------------------------------------------------


def block(language: str) -> str:
    """The first block of a language on the page."""
    page = (ROOT / "docs" / "daemon.md").read_text(encoding="utf-8")
    found = re.search(rf"^```{language}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert found
    return found[1]


def test_the_pages_settings_and_phrases_are_good(tmp_path: Path) -> None:
    (tmp_path / "phrases.txt").write_text(block("text"))
    settings = block("toml").replace("/etc/edge-stt/phrases.txt", str(tmp_path / "phrases.txt"))
    settings = settings.replace("/usr/local/bin/on-speech", "/bin/sh")
    (tmp_path / "config.toml").write_text(settings)
    done = listen("--config", tmp_path / "config.toml", "--check-config")
    assert (done.returncode, done.stderr) == (0, "")
    grammar = Grammar.from_file(tmp_path / "phrases.txt")
    assert grammar.accepts("turn on the kitchen light")
    assert not grammar.accepts("turn on the kitchen")


def test_the_pages_script_does_what_it_says(tmp_path: Path) -> None:
    script = tmp_path / "on-speech"
    script.write_text(block("bash"))
    script.chmod(0o755)
    env = {**os.environ, "EDGE_STT_SLOT_ROOM": "kitchen", "EDGE_STT_SLOT_STATE": "on"}
    done = subprocess.run([script], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "light at pin 17: on\n"
    done = subprocess.run([script], env={**env, "EDGE_STT_SLOT_ROOM": ""}, capture_output=True, text=True, check=True)
    assert done.stdout == ""


def test_the_page_lists_every_event() -> None:
    page = (ROOT / "docs" / "daemon.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| [^|]+ \| ([^|]*) \|$", page, re.MULTILINE))
    del rows["event"]  # the head of the table
    kinds = {c.kind: c for c in vars(events).values() if isinstance(c, type) and issubclass(c, Event) and c.kind}
    assert set(rows) == set(kinds)
    for kind, event in kinds.items():
        assert re.findall(r"`(\w+)`", rows[kind]) == [f.name for f in dataclasses.fields(event) if f.name != "at"]
