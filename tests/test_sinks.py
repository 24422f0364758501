"""Where events go: sockets with slow readers, commands that hang, audio that is kept, and metrics."""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import sys
import threading
import time
import wave
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import numpy as np
import pytest

from edge_stt.audio_keeper import AudioKeeper, RecentAudio
from edge_stt.errors import EdgeSttError
from edge_stt.events import FinalEvent, ListeningEvent, ReloadedEvent
from edge_stt.metrics import Metrics, MetricsConfig, MetricsOutput
from edge_stt.recogniser import Word
from edge_stt.sinks import QUEUE_EVENTS, ExecConfig, ExecSink, SocketSink, StdoutSink

WAIT = 90.0  # seconds: what takes longer is not slow but never comes
LISTENING = ListeningEvent(device="x", rate=48_000, channels=2)


def final(number: int, text: str = "turn on the light", start: float = 0.0) -> FinalEvent:
    words = tuple(Word(word, start, start + 1.0, 0.9) for word in text.split())
    return FinalEvent(utterance=number, text=text, start=start, end=start + 1.0, confidence=0.9, words=words)


def wait_until(condition: object, timeout: float = WAIT) -> None:
    end = time.monotonic() + timeout
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.02)


# --- the Unix socket ------------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)  # a short path, whatever pytest's folder is called
    return "events.sock"


def connect(path: str) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(WAIT)
    client.connect(path)
    return client


def lines(client: socket.socket) -> Iterator[dict[str, object]]:
    with client.makefile("rb") as file:
        for line in file:
            yield json.loads(line)


def test_every_client_reads_everything(path: str) -> None:
    sink = SocketSink(path)
    sink.open()
    sink.accept(LISTENING)
    clients = [connect(path) for _ in range(5)]
    wait_until(lambda: sink.clients == 5)
    for number in range(20):
        sink.accept(final(number))
    sink.close(WAIT)
    for client in clients:
        got = list(lines(client))
        assert [event["event"] for event in got] == ["listening"] + ["final"] * 20
        assert [event["utterance"] for event in got[1:]] == list(range(20))
    assert not Path(path).exists()


def test_a_client_that_does_not_read_is_dropped_and_the_others_go_on(path: str) -> None:
    sink = SocketSink(path)
    sink.open()
    slow, quick = connect(path), connect(path)
    got: list[dict[str, object]] = []
    wait_until(lambda: sink.clients == 2)
    reader = lines(quick)
    text = "word " * 400
    for number in range(60):
        sink.accept(final(number, text))
        got.append(next(reader))
    assert sink.dropped == 1
    assert sink.clients == 1
    assert len(got) == 60
    slow.close()
    sink.close(WAIT)


def test_clients_that_leave_or_talk_are_no_matter(path: str) -> None:
    sink = SocketSink(path)
    sink.open()
    talker = connect(path)
    talker.sendall(b"\xff" * 100_000)
    gone = connect(path)
    wait_until(lambda: sink.clients == 2)
    gone.close()
    wait_until(lambda: sink.clients == 1)
    sink.accept(final(1))
    assert next(lines(talker))["text"] == "turn on the light"
    sink.close(WAIT)


def test_clients_that_the_system_cannot_take_are_tried_again_but_not_all_the_time(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = SocketSink(path)
    tries: list[float] = []
    welcome = sink._welcome
    refused = True

    class Full:
        def accept(self) -> None:
            tries.append(time.monotonic())
            raise OSError(errno.EMFILE, "Too many open files")

    def try_to_welcome() -> None:
        with pytest.MonkeyPatch.context() as patch:
            if refused:
                patch.setattr(sink, "_server", Full())
            welcome()

    monkeypatch.setattr(sink, "_welcome", try_to_welcome)
    sink.open()
    client = connect(path)
    wait_until(lambda: len(tries) >= 3)
    assert tries[2] - tries[0] >= 0.4
    refused = False
    wait_until(lambda: sink.clients == 1)
    sink.accept(final(1))
    assert next(lines(client))["text"] == "turn on the light"
    sink.close(WAIT)


def test_a_socket_that_was_deleted_comes_back_when_the_settings_are_read_again(path: str) -> None:
    sink = SocketSink(path)
    sink.open()
    before = connect(path)
    wait_until(lambda: sink.clients == 1)
    first = sink._server
    Path(path).unlink()
    sink.accept(ReloadedEvent(changed=()))
    wait_until(lambda: sink._server is not first)
    after = connect(path)
    wait_until(lambda: sink.clients == 2)
    sink.accept(final(1))
    assert [next(lines(client))["event"] for client in (before, after)] == ["reloaded", "final"]
    sink.close(WAIT)
    assert not Path(path).exists()


def test_a_stale_socket_is_replaced_and_one_in_use_is_not(path: str) -> None:
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(path)
    stale.close()
    sink = SocketSink(path)
    sink.open()
    assert os.stat(path).st_mode & 0o777 == 0o660  # noqa: PTH116
    with pytest.raises(EdgeSttError, match="is in use by another program"):
        SocketSink(path).open()
    sink.close(1.0)
    Path(path).write_text("precious")
    with pytest.raises(EdgeSttError, match="is no socket"):
        SocketSink(path).open()
    assert Path(path).read_text() == "precious"
    with pytest.raises(EdgeSttError, match="cannot listen"):
        SocketSink("/proc/nowhere/x").open()


# --- standard output ------------------------------------------------------------------------------------------------


@pytest.fixture
def stuck() -> Iterator[tuple[int, TextIO]]:
    """A full pipe's end to read from, and that to write to."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(writer, b"\n" * 4096)
    os.set_blocking(writer, True)
    with os.fdopen(writer, "w") as stdout:
        yield reader, stdout


def test_what_was_heard_in_a_file_waits_for_a_slow_reader(
    stuck: tuple[int, TextIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the file has ended, and more of it than the queue holds."""
    end, stdout = stuck
    monkeypatch.setattr(sys, "stdout", stdout)
    sink = StdoutSink("json", patient=lambda: True)
    sink.open()
    many = QUEUE_EVENTS + 200

    def hear() -> None:
        for number in range(many):
            sink.accept(final(number))
        sink.close(0.0)
        stdout.close()

    hearing = threading.Thread(target=hear, daemon=True)
    hearing.start()
    hearing.join(0.5)
    assert hearing.is_alive()
    with os.fdopen(end) as reader:
        numbers = [json.loads(line)["utterance"] for line in reader if line != "\n"]
    assert numbers == list(range(many))
    hearing.join(WAIT)
    assert sink.lost == 0


def test_who_wants_the_end_waits_for_no_reader(stuck: tuple[int, TextIO], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", stuck[1])
    asked, gone = threading.Event(), threading.Event()
    sink = StdoutSink("json", lambda trouble: gone.set(), lambda: not asked.is_set())
    sink.open()

    def hear() -> None:
        for number in range(QUEUE_EVENTS + 200):
            sink.accept(final(number))
        sink.close(0.1)

    hearing = threading.Thread(target=hear, daemon=True)
    hearing.start()
    hearing.join(0.5)
    assert hearing.is_alive()
    asked.set()
    hearing.join(WAIT)
    assert not hearing.is_alive()
    assert sink.lost > 0
    os.close(stuck[0])
    assert gone.wait(WAIT)


# --- commands -------------------------------------------------------------------------------------------------------


def script(tmp_path: Path, body: str) -> tuple[str, str]:
    path = tmp_path / "command.py"
    path.write_text(f"import json, os, sys, time, subprocess\nout = {str(tmp_path)!r}\n{body}")
    return sys.executable, str(path)


def test_a_command_gets_the_event_and_the_text(tmp_path: Path) -> None:
    body = "event = json.load(sys.stdin)\nseen = os.environ['EDGE_STT_TEXT'] + os.environ['EDGE_STT_SLOT_THE_ROOM']\n"
    body += "open(f'{out}/{event[\"utterance\"]}', 'w').write(seen)"
    sink = ExecSink(ExecConfig(script(tmp_path, body)))
    sink.open()
    sink.accept(LISTENING)
    for number in range(4):
        sink.accept(replace(final(number, f"text ; rm -rf {number}"), slots={"the-room": "attic"}))
    sink.close(WAIT)
    assert [(tmp_path / str(n)).read_text() for n in range(4)] == [f"text ; rm -rf {n}attic" for n in range(4)]
    assert sink.lost == 0


def test_a_command_that_hangs_is_killed_with_its_children(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    body = "child = subprocess.Popen(['sleep', '60'])\nopen(f'{out}/pid', 'w').write(str(child.pid))\ntime.sleep(60)"
    sink = ExecSink(ExecConfig(script(tmp_path, body), timeout=6.0))
    sink.open()
    started = time.monotonic()
    sink.accept(final(1))
    assert time.monotonic() - started < 5.0
    wait_until(lambda: sink.lost == 1)
    sink.close(WAIT)
    assert "ran longer than 6 s and was killed" in caplog.text
    child = int((tmp_path / "pid").read_text())
    state = Path(f"/proc/{child}/stat")
    wait_until(lambda: not state.exists() or state.read_text().split()[2] == "Z")


def test_no_more_run_at_once_than_allowed_and_their_failures_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    body = "n = len([f for f in os.listdir(out) if f.startswith('run')])\nopen(f'{out}/run{os.getpid()}', 'w')\n"
    body += "time.sleep(0.5)\nos.remove(f'{out}/run{os.getpid()}')\nopen(f'{out}/seen', 'a').write(f'{n}')\nsys.exit(3)"
    sink = ExecSink(ExecConfig(script(tmp_path, body), concurrency=2))
    sink.open()
    for number in range(6):
        sink.accept(final(number))
    sink.close(WAIT)
    seen = (tmp_path / "seen").read_text()
    assert len(seen) == 6
    assert set(seen) <= {"0", "1"}
    assert "exited with 3" in caplog.text


def test_nothing_is_begun_once_its_time_is_over(tmp_path: Path) -> None:
    body = "n = json.load(sys.stdin)['utterance']\nopen(f'{out}/begun{n}', 'w')\ntime.sleep(60)"
    sink = ExecSink(ExecConfig(script(tmp_path, body), concurrency=1))
    sink.open()
    for number in range(3):
        sink.accept(final(number))
    wait_until((tmp_path / "begun0").exists)
    assert sink.busy
    sink.close(0.1)
    wait_until(lambda: sink.lost == 2)  # that which ran has ended, killed, and the two behind it were let go
    assert not (tmp_path / "begun1").exists()


def test_the_end_of_a_file_waits_for_all_commands(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """More than can wait; the time to end begins when somebody asks for the end."""
    asked = threading.Event()
    sink = ExecSink(ExecConfig(("/bin/true",), concurrency=1), lambda: not asked.is_set())
    sink.open()
    for number in range(120):
        sink.accept(final(number))
    sink.close(0.0)
    assert (sink.lost, sink.busy, caplog.messages) == (0, False, [])

    body = "n = json.load(sys.stdin)['utterance']\nopen(f'{out}/begun{n}', 'w')\ntime.sleep(60)"
    sink = ExecSink(ExecConfig(script(tmp_path, body), concurrency=1), lambda: not asked.is_set())
    sink.open()
    for number in range(3):
        sink.accept(final(number))
    closing = threading.Thread(target=sink.close, args=(0.0,), daemon=True)
    closing.start()
    wait_until((tmp_path / "begun0").exists)
    closing.join(0.5)
    assert closing.is_alive()
    asked.set()
    closing.join(WAIT)
    wait_until(lambda: sink.lost == 2)  # that which ran has ended, killed
    assert caplog.messages[0] == f"exec: {sys.executable}: at the end 3 runs were killed or not begun"


def test_a_script_that_does_not_say_what_runs_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    script = tmp_path / "on-speech"
    script.write_text("echo hello\n")
    script.chmod(0o755)
    sink = ExecSink(ExecConfig((str(script),)))
    sink.open()
    for number in (1, 2, 3):
        sink.accept(final(number))
    sink.close(WAIT)
    assert sink.lost == 3
    (line,) = {record.message.split(": ", 1)[1] for record in caplog.records}
    assert line == f"{script} cannot be run: Exec format error; the first line of a script says what runs it: #!/bin/sh"


def test_a_command_that_is_not_there_is_refused() -> None:
    with pytest.raises(EdgeSttError, match="no command that can be run"):
        ExecSink(ExecConfig(("/no/such/command",))).open()


# --- audio and metrics ----------------------------------------------------------------------------------------------


def test_the_newest_utterances_are_kept(tmp_path: Path) -> None:
    recent = RecentAudio(10.0)
    tone = np.sin(np.arange(16_000) / 20.0).astype(np.float32) * 0.5
    keeper = AudioKeeper(str(tmp_path / "kept"), 3, recent)
    keeper.open()
    for second in range(30):
        recent.add(float(second), tone * (second / 30.0))
        if second >= 20:
            keeper.accept(final(second, start=second - 1.0))
    keeper.close(WAIT)
    kept = sorted((tmp_path / "kept").iterdir())
    assert [path.stem[-2:] for path in kept] == ["27", "28", "29"]
    with wave.open(str(kept[-1])) as file:
        assert (file.getframerate(), file.getnchannels(), file.getnframes()) == (16_000, 1, 16_000)
        samples = np.frombuffer(file.readframes(16_000), "<i2") / 32767
    assert np.abs(samples - tone * (28 / 30.0)).max() < 1e-3
    assert recent._held <= 11 * 16_000


@pytest.fixture
def far_east(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Local time 13 hours ahead of UTC."""
    monkeypatch.setenv("TZ", "XYZ-13")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def keep(folder: Path, count: int, finals: list[FinalEvent]) -> list[str]:
    """Write these, and keep so many; returns the names that are left."""
    keeper = AudioKeeper(str(folder), count, RecentAudio(1.0))
    keeper.open()
    for event in finals:
        keeper.accept(event)
    keeper.close(WAIT)
    assert keeper.lost == 0
    return sorted(path.name for path in folder.iterdir())


def test_a_clock_that_is_set_back_costs_no_recording(tmp_path: Path) -> None:
    """First all are as old as they are written; then the clock goes back by a year, and the newest are still kept."""
    year, now = 365 * 86_400.0, 1_700_000_000.0
    before = [replace(final(n), at=now + n) for n in range(3)]
    after = [replace(final(n), at=now - year + n) for n in range(10, 13)]
    assert keep(tmp_path, 3, [*before, after[0]]) == [
        "utterance-20221114T221330Z-000010.wav",
        "utterance-20231114T221321Z-000001.wav",
        "utterance-20231114T221322Z-000002.wav",
    ]
    assert [name[-8:-4] for name in keep(tmp_path, 3, after)] == ["0010", "0011", "0012"]


@pytest.mark.usefixtures("far_east")
def test_names_of_earlier_versions_count_at_their_time(tmp_path: Path) -> None:
    """In local time, which looks later than it is; of names of other kinds nothing is removed."""
    old = ["utterance-20231115T100000-000007.wav", "utterance-20231115T110000-1000007.wav"]  # 21:00 and 22:00 UTC
    others = ["utterance-20231115T100000-7.wav", "utterance.wav", "utterance-x.part"]
    for name in [*old, *others]:
        (tmp_path / name).touch()
    new = [replace(final(n), at=1_700_000_000.0 + n) for n in range(2)]
    names = ["utterance-20231114T221320Z-000000.wav", "utterance-20231114T221321Z-000001.wav"]
    assert keep(tmp_path, 3, new[:1]) == sorted([*old, names[0], *others])
    assert keep(tmp_path, 3, new[1:]) == sorted([old[1], *names, *others])
    (tmp_path / "utterance-20231399T996199-000007.wav").touch()  # no time at all
    assert keep(tmp_path, 3, [replace(final(2), at=1_700_000_002.0)]) == sorted(
        [*names, "utterance-20231114T221322Z-000002.wav", *others]
    )


def test_the_millionth_utterance_is_kept_and_removed_as_all_are(tmp_path: Path) -> None:
    found = keep(tmp_path, 2, [replace(final(n), at=1_700_000_000.0) for n in range(999_997, 1_000_003)])
    assert [name[-11:-4] for name in found] == ["1000001", "1000002"]


def test_nothing_is_left_of_what_could_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither after the failure nor, should the machine have lost its power, after the next start."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    stale = ["utterance-20231114T221320-000007.part", "utterance-20231114T221320Z-1000007.part"]
    for name in [*stale, "other.part"]:
        (tmp_path / name).touch()
    keeper = AudioKeeper(str(tmp_path), 3, RecentAudio(1.0))
    keeper.open()
    assert [path.name for path in tmp_path.iterdir()] == ["other.part"]
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        keeper.accept(final(1))
        wait_until(lambda: keeper.lost == 1)
    assert [path.name for path in tmp_path.iterdir()] == ["other.part"]
    keeper.accept(final(2))
    keeper.close(WAIT)
    assert len(list(tmp_path.glob("utterance-*Z-000002.wav"))) == 1


def test_metrics_are_prometheus_text(tmp_path: Path, path: str) -> None:
    metrics = Metrics(audio_seconds=10.0, compute_seconds=0.5, utterances=2)
    metrics.observe_latency(0.03)
    metrics.observe_latency(9.0)
    output = MetricsOutput(MetricsConfig(file=str(tmp_path / "edge.prom"), socket=path), metrics, lambda: 7)
    output.open()
    with connect(path) as client:
        client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(65_536), b"")).decode()
    output.close()
    head, body = answer.split("\r\n\r\n")
    assert head.startswith("HTTP/1.0 200 OK")
    assert f"Content-Length: {len(body)}" in head
    assert (tmp_path / "edge.prom").read_text() == body
    values = dict(line.rsplit(" ", 1) for line in body.splitlines() if not line.startswith("#"))
    assert float(values["edge_stt_rtf"]) == 0.05
    assert values["edge_stt_lost_events_total"] == "7"
    assert values['edge_stt_final_compute_seconds_bucket{le="0.05"}'] == "1"
    assert values['edge_stt_final_compute_seconds_bucket{le="+Inf"}'] == "2"
    for line in body.splitlines():
        assert re.fullmatch(r"# (HELP|TYPE) edge_stt_\w+ .+|edge_stt_\w+(\{le=\"[^\"]+\"\})? [0-9.e+-]+", line), line
    assert not Path(path).exists()


def test_metrics_that_cannot_be_written_are_refused_at_the_start() -> None:
    with pytest.raises(EdgeSttError):
        MetricsOutput(MetricsConfig(file="/proc/nowhere/x"), Metrics()).open()
