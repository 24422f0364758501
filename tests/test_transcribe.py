"""`edge-stt transcribe` as a person meets it: long audio, folders with junk in them, signals, pipes and terminals."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import io
import itertools
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import edge_stt
from edge_stt.audio import read_audio
from edge_stt.errors import AudioError, DecodingError, EdgeSttError
from edge_stt.features import Floats, FrontEndConfig, StreamingLogMel
from edge_stt.live import CLEAR_LINE
from edge_stt.recogniser import Segment, Word
from edge_stt.scoring import count_edits
from edge_stt.segments import SegmentConfig, cut_at_silences

from .conftest import DEMO, ROOT
from .test_budget import measured
from .test_cli import assert_one_line_error, run

RATE = 16_000
SHORT = ROOT / "tests" / "data" / "LJ001-0002.opus"
PAUSE = 0.6  # seconds between the clips of long recordings
WAIT = 60.0  # seconds until a test gives up waiting
COMMAND = [sys.executable, "-m", "edge_stt.cli", "transcribe"]


def texts(words: tuple[Word, ...]) -> list[str]:
    return [word.text for word in words]


def until(condition: Callable[[], object]) -> None:
    """Wait for something that another process does."""
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


def start(*arguments: object, **options: object) -> subprocess.Popen[str]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen([*COMMAND, *map(str, arguments)], text=True, **pipes)  # type: ignore[call-overload,no-any-return]


def children_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def opened(pid: int) -> set[Path]:
    """The files that a process or its children have open."""
    found = set()
    for process in (str(pid), *children_of(pid)):
        with contextlib.suppress(FileNotFoundError):  # closed, or ended, meanwhile
            found |= {link.readlink() for link in Path("/proc", process, "fd").iterdir()}
    return found


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def pcm(samples: Floats) -> bytes:
    return (samples * 32_767).astype("<i2").tobytes()


@pytest.fixture(scope="module")
def transcriber() -> edge_stt.Transcriber:
    return edge_stt.load_model()


@pytest.fixture(scope="module")
def clips() -> list[Floats]:
    return [read_audio(path) for path in (DEMO, *sorted((ROOT / "tests" / "data").glob("*.opus")))]


@pytest.fixture(scope="module")
def spoken(transcriber: edge_stt.Transcriber) -> dict[str, str]:
    """What transcribing gives for the clips that tests use."""
    return {path.name: transcriber.transcribe(path).text for path in (DEMO, SHORT)}


@pytest.fixture(scope="module")
def long(clips: list[Floats]) -> Floats:
    """A minute of speech: the clips over and over with pauses, and a little noise."""
    pause = np.zeros(int(PAUSE * RATE), np.float32)
    joined = np.concatenate([part for clip in itertools.islice(itertools.cycle(clips), 15) for part in (clip, pause)])
    return joined + np.random.default_rng(0).normal(0, 1e-4, len(joined)).astype(np.float32)


@pytest.fixture(scope="module")
def hours(long: Floats, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Recordings of 2 and 10 minutes; "hours" to a test."""
    folder = tmp_path_factory.mktemp("hours")
    for minutes in (2, 10):
        samples = np.tile(long, 1 + minutes * 60 * RATE // len(long))[: minutes * 60 * RATE]
        soundfile.write(folder / f"{minutes}.wav", samples, RATE)
    return {minutes: folder / f"{minutes}.wav" for minutes in (2, 10)}


# --- long audio -----------------------------------------------------------------------------------------------------


def test_stretches_are_the_input_in_pieces() -> None:
    """Nothing lost, nothing doubled, whatever the sizes of the blocks; and each as long as it may be."""
    config, front_end = SegmentConfig(), FrontEndConfig()
    rng = np.random.default_rng(1)
    frames = rng.normal(0, 1, (20_001, 4)).astype(np.float32)
    found = []
    for size in (1_000, 20_001, 313):
        pieces = (frames[first : first + size] for first in range(0, len(frames), size))
        stretches = list(cut_at_silences(pieces, front_end, config))
        np.testing.assert_array_equal(np.concatenate(stretches), frames)
        found.append([len(stretch) for stretch in stretches])
    assert found[0] == found[1] == found[2]
    assert all(1_200 <= length <= 2_400 for length in found[0][:-1])
    assert list(cut_at_silences([], front_end, config)) == []


@pytest.mark.parametrize("noise", [0.0, 1e-4, 1e-2])
def test_cuts_lie_in_pauses(clips: list[Floats], noise: float) -> None:
    parts, pauses, at = [], [], 0.0
    for clip in itertools.islice(itertools.cycle(clips), 24):
        parts += [clip, np.zeros(int(PAUSE * RATE), np.float32)]
        at += len(clip) / RATE
        pauses.append((at, at + PAUSE))
        at += PAUSE
    audio = np.concatenate(parts)
    audio += np.random.default_rng(2).normal(0, noise, len(audio)).astype(np.float32)
    front_end = FrontEndConfig()
    frames = StreamingLogMel(front_end).accept(audio)
    *stretches, _ = cut_at_silences([frames], front_end, SegmentConfig())
    cuts = np.cumsum([len(stretch) for stretch in stretches]) / front_end.frames_per_second
    assert len(cuts) >= 3
    for cut in cuts:
        assert any(first < cut < last for first, last in pauses), f"{cut} s is in a word"


def test_long_audio_has_the_words_of_the_whole(
    transcriber: edge_stt.Transcriber, clips: list[Floats], long: Floats
) -> None:
    """Against one stretch without cuts: by clip, so that a word lost or doubled at a cut shows."""
    cut = transcriber.transcribe(long)
    whole_model = edge_stt.Transcriber(transcriber.package, segments=SegmentConfig(longest=1e6))
    whole = whole_model.transcribe(long)
    assert len(whole.words) > 120
    if importlib.util.find_spec("jiwer") is not None:
        # Another mean is subtracted, so that a word here and there is heard otherwise.
        assert count_edits(texts(whole.words), texts(cut.words)).errors < 0.1 * len(whole.words)
    begin = 0.0
    for clip in itertools.islice(itertools.cycle(clips), 15):
        end = begin + len(clip) / RATE + PAUSE
        here = [[w for w in t.words if begin - 0.2 <= w.start < end - 0.2] for t in (whole, cut)]
        assert abs(len(here[0]) - len(here[1])) <= 1, (texts(tuple(here[0])), texts(tuple(here[1])))
        begin = end
    assert all(a.end <= b.start + 0.001 for a, b in itertools.pairwise(cut.words))
    assert cut.duration == pytest.approx(len(long) / RATE)
    assert [len(s.words) > 0 and s.text == " ".join(texts(s.words)) for s in cut.segments] == [True] * len(cut.segments)


def test_utterances_are_divided_at_pauses(transcriber: edge_stt.Transcriber, clips: list[Floats]) -> None:
    parts = [clips[0], np.zeros(2 * RATE, np.float32), clips[2]]
    first, second = transcriber.transcribe(np.concatenate(parts)).segments
    assert first.end < len(clips[0]) / RATE + 0.3
    assert second.start > len(clips[0]) / RATE + 1.7


def test_memory_does_not_grow_with_length(hours: dict[int, Path]) -> None:
    _, two = measured("transcribe", hours[2])
    cpu, ten = measured("transcribe", hours[10])
    assert ten - two < 15, (two, ten)
    assert ten < 200
    assert cpu / 600 < 0.03


def test_utterances_come_as_soon_as_they_are_certain(transcriber: edge_stt.Transcriber, long: Floats) -> None:
    read = 0

    def blocks() -> Iterator[Floats]:
        nonlocal read
        for begin in range(0, len(long), RATE):
            read += RATE
            yield long[begin : begin + RATE]

    segment = next(iter(transcriber.utterances(blocks())))
    assert isinstance(segment, Segment)
    assert read <= 26 * RATE


def test_no_samples_and_no_speech_are_no_words(transcriber: edge_stt.Transcriber, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "empty.wav", np.zeros(0, np.float32), RATE)
    soundfile.write(tmp_path / "still.wav", np.zeros(2 * RATE, np.float32), RATE)
    soundfile.write(tmp_path / "blip.wav", np.ones(20, np.float32) / 2, RATE)
    assert transcriber.transcribe(tmp_path / "empty.wav") == edge_stt.Transcript("", (), 0.0)
    done = run("transcribe", "--json", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert [json.loads(line)["text"] for line in done.stdout.splitlines()] == ["", "", ""]


# --- many files -----------------------------------------------------------------------------------------------------


def test_a_folder_of_junk(tmp_path: Path, spoken: dict[str, str]) -> None:
    """What is sound is transcribed, what cannot be is named at the end, and nothing else is touched."""
    memos, out = tmp_path / "memos", tmp_path / "out"
    (memos / "deep").mkdir(parents=True)
    shutil.copy(DEMO, memos / "a.opus")
    shutil.copy(SHORT, memos / "deep" / "Z.OPUS")
    (memos / "empty.wav").write_bytes(b"")
    (memos / "lies.flac").write_text("this is not sound")
    (memos / "damaged.opus").write_bytes(DEMO.read_bytes()[:300])
    (memos / "gone.wav").symlink_to("nowhere")
    (memos / "notes.txt").write_text("x")
    (memos / "voice.m4a").write_bytes(b"x")
    os.mkfifo(memos / "pipe.wav")
    locked = memos / "locked.wav"
    shutil.copy(DEMO, locked)
    locked.chmod(0)
    failing = ["damaged.opus", "empty.wav", "gone.wav", "lies.flac"]
    if os.geteuid() == 0:  # who may read everything
        locked.unlink()
    else:
        failing.append("locked.wav")
    done = run("transcribe", memos, "--output-dir", out)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    note, *failures, last = done.stderr.splitlines()
    assert "1 .m4a" in note
    assert sorted(Path(line.split(": ")[1]).name for line in failures) == sorted(failing)
    assert last == f"edge-stt: 2 of {2 + len(failing)} files transcribed, {len(failing)} failed"
    assert names(out) == ["a.txt", "deep/Z.txt"]
    assert (out / "a.txt").read_text() == spoken["demo.opus"] + "\n"
    assert (out / "deep" / "Z.txt").read_text() == spoken[SHORT.name] + "\n"


def test_processes_give_what_one_gives(tmp_path: Path) -> None:
    """The same results in the same order, failures with them; an odd name, and twice as many files as processes."""
    for index in range(6):
        shutil.copy((DEMO, SHORT)[index % 2], tmp_path / f"{index}.opus")
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9 \n.opus"))
    shutil.copy(SHORT, odd)
    (tmp_path / "3.opus").write_text("not sound")
    alone, together = run("transcribe", "--json", tmp_path), run("transcribe", "--json", "--jobs", 3, tmp_path)
    assert together.stdout == alone.stdout
    assert together.stderr == alone.stderr
    assert alone.returncode == together.returncode == 1
    results = [json.loads(line) for line in alone.stdout.splitlines()]
    assert [Path(result["file"]).name for result in results] == [
        *(f"{i}.opus" for i in (0, 1, 2, 4, 5)),
        "caf\\xe9 \n.opus",
    ]
    assert "3.opus: not audio" in alone.stderr


def test_a_process_that_dies_costs_its_file_only(tmp_path: Path, spoken: dict[str, str]) -> None:
    os.mkfifo(tmp_path / "waits.wav")
    shutil.copy(SHORT, tmp_path / "b.opus")
    process = start(tmp_path / "waits.wav", tmp_path / "b.opus", "--jobs", 2)
    try:
        until(lambda: len(children_of(process.pid)) == 2)
        until(lambda: len(children_of(process.pid)) == 1)  # the other one has no more to do
        os.kill(int(children_of(process.pid)[0]), signal.SIGKILL)
        stdout, stderr = process.communicate(timeout=WAIT)
    finally:
        process.kill()
    assert process.returncode == 1
    assert stdout == f"{tmp_path}/b.opus: {spoken[SHORT.name]}\n"
    assert "waits.wav: the process that worked on it died (signal 9)" in stderr


def test_a_file_that_disappears(tmp_path: Path, spoken: dict[str, str]) -> None:
    pipe, gone, last = tmp_path / "first.opus", tmp_path / "gone.opus", tmp_path / "last.opus"
    os.mkfifo(pipe)
    for path in (gone, last):
        shutil.copy(SHORT, path)
    process = start(pipe, gone, last)
    with pipe.open("wb") as file:  # opens when the process has come so far
        gone.unlink()
        file.write(SHORT.read_bytes())
    stdout, stderr = process.communicate(timeout=WAIT)
    assert process.returncode == 1
    assert stdout.splitlines() == [f"{path}: {spoken[SHORT.name]}" for path in (pipe, last)]
    assert "gone.opus: there is no such file" in stderr
    assert "2 of 3 files transcribed, 1 failed" in stderr


def test_what_is_there_stays_unless_it_is_to_go(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for name in ("a", "b"):
        shutil.copy(SHORT, tmp_path / f"{name}.opus")
    out.mkdir()
    (out / "a.txt").write_text("mine")
    call = ["transcribe", tmp_path / "a.opus", tmp_path / "b.opus", "--output-dir", out]
    done = run(*call)
    assert done.returncode == 1
    assert "a.txt exists; --overwrite replaces it, --resume leaves it" in done.stderr
    assert (out / "a.txt").read_text() == "mine"
    written = (out / "b.txt").stat()
    done = run(*call, "--resume", "--format", "txt", "--format", "tsv")
    assert (done.returncode, done.stderr) == (0, "")
    assert names(out) == ["a.tsv", "a.txt", "b.tsv", "b.txt"]
    assert (out / "a.txt").read_text() == "mine"
    assert (out / "b.txt").stat().st_mtime_ns == written.st_mtime_ns
    assert run(*call, "--overwrite").returncode == 0
    assert (out / "a.txt").read_text() == (out / "b.txt").read_text() != "mine"


def test_two_files_of_one_name(tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copy(SHORT, tmp_path / "a.opus")
    soundfile.write(tmp_path / "a.wav", np.zeros(RATE, np.float32), RATE)
    done = run("transcribe", tmp_path, "--output-dir", out)
    assert done.returncode == 1
    assert "--keep-suffix" in done.stderr
    assert names(out) == ["a.txt"]
    assert run("transcribe", tmp_path, "--output-dir", out, "--keep-suffix").returncode == 0
    assert names(out) == ["a.opus.txt", "a.txt", "a.wav.txt"]


def test_names_that_are_not_utf8(tmp_path: Path, spoken: dict[str, str]) -> None:
    folder = os.fsencode(tmp_path)
    path = Path(os.fsdecode(folder + b"/caf\xe9.opus"))
    shutil.copy(SHORT, path)
    done = subprocess.run(
        [*COMMAND, path, path.with_name("other"), "--output-dir", tmp_path], capture_output=True, check=False
    )
    assert done.returncode == 1
    assert b"other: there is no such file" in done.stderr
    assert Path(os.fsdecode(folder + b"/caf\xe9.txt")).read_text() == spoken[SHORT.name] + "\n"


# --- no room --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2])
def test_standard_output_that_is_full(count: int) -> None:
    with Path("/dev/full").open("w") as full:
        process = start(*[DEMO, SHORT][:count], stdout=full)
        _, stderr = process.communicate(timeout=WAIT)
    assert process.returncode == 1
    assert stderr == "edge-stt: cannot write to standard output: No space left on device\n"


def test_streams_that_are_closed(tmp_path: Path, spoken: dict[str, str]) -> None:
    def shell(line: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "RUN": f"{sys.executable} -m edge_stt.cli transcribe", "CLIP": str(SHORT)}
        return subprocess.run(
            line, shell=True, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )

    assert_one_line_error(shell("$RUN $CLIP >&-"), 1, "standard output is closed")
    assert shell("$RUN $CLIP --output-dir . >&-").returncode == 0
    assert names(tmp_path) == ["LJ001-0002.txt"]
    assert_one_line_error(shell("$RUN - <&-"), 1, "nothing is piped")
    done = shell("$RUN $CLIP missing.wav 2>&-")
    assert (done.returncode, done.stdout) == (1, f"{SHORT}: {spoken[SHORT.name]}\n")


def test_a_reader_that_goes_away_is_no_error() -> None:
    process = start(SHORT, DEMO)
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    _, stderr = process.communicate(timeout=WAIT)
    assert stderr == ""


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, for a small file system")
    out = tmp_path / "out"
    out.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={2 * os.sysconf('SC_PAGE_SIZE')}", "tmpfs", str(out)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount, for a small file system")
    try:
        for name in "abc":
            shutil.copy(SHORT, tmp_path / f"{name}.opus")
        done = run("transcribe", tmp_path, "--output-dir", out)
        assert names(out) == ["a.txt", "b.txt"]
        assert (out / "a.txt").read_bytes() == (out / "b.txt").read_bytes() != b""
    finally:
        subprocess.run(["umount", out], check=True)
    assert done.returncode == 1
    assert "c.txt: No space left on device" in done.stderr
    assert "2 of 3 files transcribed, 1 failed" in done.stderr


# --- signals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "jobs"), [(signal.SIGINT, 1), (signal.SIGTERM, 1), (signal.SIGINT, 2), (signal.SIGTERM, 2)]
)
def test_a_signal_in_the_middle(number: signal.Signals, jobs: int, hours: dict[int, Path], tmp_path: Path) -> None:
    """What is done is whole, the rest is not there, no process stays behind; and it goes on from there."""
    out = tmp_path / "out"
    shutil.copy(SHORT, tmp_path / "a.opus")
    for name in ("b", "c"):
        (tmp_path / f"{name}.wav").hardlink_to(hours[10])
    order = ["a.opus", "b.wav", "c.wav"] if jobs == 1 else ["b.wav", "a.opus", "c.wav"]
    call = [*(tmp_path / name for name in order), "--output-dir", out, "--jobs", jobs]
    process = start(*call, start_new_session=True)
    started = tmp_path / order[jobs]  # when this is open, the first file is done, and known to be
    until(lambda: started in opened(process.pid))
    children = children_of(process.pid)
    assert len(children) == (jobs if jobs > 1 else 0)
    process.send_signal(number)
    began = time.monotonic()
    _, stderr = process.communicate(timeout=WAIT)
    assert time.monotonic() - began < 10
    assert process.returncode == 128 + number
    assert stderr == f"edge-stt: stopped by {number.name}: 1 of 3 files done, --resume goes on from here\n"
    assert names(out) == ["a.txt"]
    assert (out / "a.txt").read_text().strip()
    until(lambda: not any(Path("/proc", child).exists() for child in children))
    for name in ("b", "c"):
        (tmp_path / f"{name}.wav").unlink()
        shutil.copy(SHORT, tmp_path / f"{name}.wav")  # shorter, to be quick
    done = run("transcribe", *call, "--resume")
    assert (done.returncode, done.stderr) == (0, "")
    assert len({(out / f"{name}.txt").read_text() for name in "abc"}) == 1


# --- pipes and terminals --------------------------------------------------------------------------------------------


def lines_of(process: subprocess.Popen[str], descriptor: int, wanted: Callable[[str], object]) -> str:
    """What it writes, until that is what is wanted."""
    text = ""
    end = time.monotonic() + WAIT
    while not wanted(text):
        assert time.monotonic() < end, text
        if select.select([descriptor], [], [], 0.1)[0]:
            try:
                data = os.read(descriptor, 65_536)
            except OSError as error:
                if error.errno != errno.EIO:  # a terminal that nobody holds any more
                    raise
                data = b""
            if not data:
                break
            text += data.decode()
    return text


def test_a_pipe_gets_utterances_while_it_is_open(clips: list[Floats]) -> None:
    """Each when it has ended, not before; no partial results among them. Ctrl-C ends the recording, not the text."""
    process = start("-", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    sound, output = process.stdin.buffer, process.stdout.fileno()  # type: ignore[attr-defined]
    sound.write(pcm(clips[0]) + bytes(2 * 3 * RATE))
    sound.flush()
    first = lines_of(process, output, lambda text: text.endswith("\n"))
    assert len(first.split()) > 10
    sound.write(pcm(clips[2]))
    sound.flush()
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    rest = lines_of(process, output, lambda _: False)
    assert process.wait(WAIT) == 130
    assert len(rest.splitlines()) == 1
    assert len(rest.split()) > 3
    assert CLEAR_LINE not in first + rest
    assert process.stderr is not None
    assert process.stderr.read() == "edge-stt: stopped by SIGINT\n"


def test_a_terminal_gets_partial_results(clips: list[Floats]) -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "40"}
    process = start("-", stdout=theirs, env=environment)
    os.close(theirs)
    assert process.stdin is not None
    sound = process.stdin.buffer  # type: ignore[attr-defined]
    sound.write(pcm(clips[0]))
    sound.close()
    process.stdin = None
    shown = lines_of(process, ours, lambda _: False)
    os.close(ours)
    assert process.wait(WAIT) == 0
    lines = shown.split(CLEAR_LINE)[1:]
    final = lines[-1]
    partials = [line for line in lines if not line.endswith("\r\n")]
    assert len(partials) > 5
    assert all(len(partial) < 40 and "\n" not in partial for partial in partials)
    assert any(partial.startswith("…") for partial in partials)
    assert final.endswith("\r\n")
    assert len(final.split()) > 10


def test_a_container_on_standard_input_gives_every_format(tmp_path: Path, spoken: dict[str, str]) -> None:
    def call(*options: object) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [*COMMAND, "-", *map(str, options)], input=DEMO.read_bytes(), capture_output=True, check=False
        )

    srt = call("--format", "srt").stdout.decode()
    assert re.match(r"1\n00:00:0\d,\d{3} --> ", srt)
    assert call("--output-dir", tmp_path, "--format", "txt", "--json").returncode == 0
    assert names(tmp_path) == ["stdin.json", "stdin.txt"]
    assert (tmp_path / "stdin.txt").read_text() == spoken["demo.opus"] + "\n"
    streamed = [json.loads(line) for line in call("--json").stdout.decode().splitlines()]
    assert all(line["file"] == "stdin" and line["segments"] for line in streamed)


def test_standard_input_that_cannot_be_used(tmp_path: Path) -> None:
    assert_one_line_error(run("transcribe", "-", stdin=subprocess.DEVNULL), 1, "nothing came in")
    assert_one_line_error(run("transcribe", "-", DEMO, stdin=subprocess.DEVNULL), 2, "give it alone")
    ours, theirs = pty.openpty()
    try:
        assert_one_line_error(run("transcribe", "-", stdin=theirs), 1, "nothing is piped into standard input")
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_bar_on_a_terminal_and_a_summary(tmp_path: Path) -> None:
    for name in ("a.opus", "b.opus"):
        shutil.copy(DEMO, tmp_path / name)
    ours, theirs = pty.openpty()
    process = start(tmp_path, stderr=theirs, env={**os.environ, "TERM": "xterm", "COLUMNS": "100"})
    os.close(theirs)
    shown = lines_of(process, ours, lambda _: False)
    os.close(ours)
    assert process.wait(WAIT) == 0
    assert "Transcribing" in shown
    assert "100 %" in shown
    assert "s of audio a second" in shown
    assert process.stdout is not None
    assert len(process.stdout.read().splitlines()) == 2


# --- decoding -------------------------------------------------------------------------------------------------------


def test_hot_words_are_favoured(tmp_path: Path, spoken: dict[str, str]) -> None:
    """Of two words that sound alike the one that is asked for; named one by one or in a file."""
    assert "sat their" not in spoken["demo.opus"]
    (tmp_path / "words.tsv").write_text("# names\nsat their\t20\n")
    for options in (
        ["--hotword-file", tmp_path / "words.tsv", "--hotword", "county"],
        ["--hotword", "county", "--hotword", "sat their", "--hotword-weight", 20],
    ):
        done = run("transcribe", DEMO, *options)
        assert done.returncode == 0, done.stderr
        assert "who sat their" in done.stdout


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (["--hotword", "county", "--decoder", "greedy"], 2, "cannot favour hot words"),
        (["--hotword-file", __file__, "--decoder", "greedy", "--jobs", "2", SHORT], 2, "cannot favour hot words"),
        (["--hotword", "county", "--phrases", "any"], 2, "hot words make nothing likelier"),
        (["--hotword", "жж"], 2, "'жж' has no letter"),
        (["--hotword", " "], 2, "empty"),
        (["--hotword-weight", "3"], 2, "needs --hotword"),
        (["--hotword", "county", "--hotword-weight", "0"], 2, "above 0"),
        (["--hotword-file", "/nowhere"], 1, "/nowhere"),
        (["--lm-weight", "1", "--decoder", "greedy"], 2, "--lm-weight"),
        (["--lm-weight", "1", "--decoder", "greedy", "--jobs", "2", SHORT], 2, "--lm-weight"),
        (["--lm-weight", "nan"], 2, "lm_weight must lie between 0 and 100"),
        (["--beam-width", "4", "--decoder", "greedy"], 2, "--beam-width"),
        (["--beam-width", "5000"], 2, "beam_width must lie between 1 and 4096"),
        (["--decoder", "magic"], 2, "unknown decoder 'magic'; choose greedy, beam or lexicon"),
        (["--decoder", "lexikon", "--model", "none"], 2, "unknown decoder 'lexikon'; did you mean 'lexicon'?"),
        (["--decoder", "phrases"], 2, "the decoder phrases is not chosen by name"),
        (["--rate", "8000"], 2, "--rate is for raw PCM on standard input"),
        ([""], 2, "the name of a file is empty"),
        (["--format", "nonsense"], 2, "choose of txt, json, srt, vtt, tsv, ctm"),
    ],
)
def test_options_that_cannot_be(options: list[object], code: int, text: str) -> None:
    done = run("transcribe", DEMO, *options)
    assert_one_line_error(done, code, text)
    assert len(done.stderr.splitlines()) == 1


def test_python_takes_paths_open_files_and_samples_of_many_kinds() -> None:
    model = edge_stt.load_model(decoder="greedy")
    samples = read_audio(SHORT)
    wanted = model.transcribe(SHORT).text
    assert wanted
    integers = (samples * 32_767).round().astype("<i2")
    for source in (str(SHORT), io.BytesIO(SHORT.read_bytes()), samples, samples.tolist(), integers):
        assert len(model.transcribe(source).text) > 0.8 * len(wanted), type(source)
    for source in (integers.tobytes(), None, 3, [integers.tobytes()]):
        with pytest.raises(AudioError):
            model.transcribe(source)  # type: ignore[arg-type]
    with pytest.raises(AudioError, match="the name of a file is empty"):
        model.transcribe("")
    for source in (None, 3, iter([0.0])):
        with pytest.raises(AudioError, match="is no sound; give a path, an open file, or samples"):
            model.transcribe(source)  # type: ignore[arg-type]


def test_blocks_that_are_none_are_refused_in_python() -> None:
    model = edge_stt.load_model(decoder="greedy")
    samples = read_audio(SHORT)
    text = model.transcribe(samples).text
    for blocks in ([samples], iter([samples[:9_000], samples[9_000:]]), [samples.astype(np.float64)]):
        assert model.transcribe_blocks(blocks).text == text
    wrong: list[Any] = [None, 3, "talk.wav", b"RIFF", [5], samples, [samples[:, None]], [(samples * 9).astype(int)]]
    for blocks in wrong:
        with pytest.raises(AudioError, match=r"float32 \[n\]") as caught:
            model.transcribe_blocks(blocks)
        assert "\n" not in str(caught.value)


def test_hot_words_and_phrases_of_the_wrong_type_are_refused_in_python() -> None:
    for hot_words in (["kitchen light"], [("kitchen light", 5.0)], "kitchen light"):
        with pytest.raises(DecodingError, match=r"hot_words are HotWords\(.*, not "):
            edge_stt.load_model(hot_words=hot_words)  # type: ignore[arg-type]
    for phrases in (["lights on"], 5):
        with pytest.raises(DecodingError, match=r"phrases are a Grammar, .*, not "):
            edge_stt.load_model(phrases=phrases)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"path": 5}, "named by its path, not by 5"),
        ({"decoder": 5}, "unknown decoder 5"),
        ({"beam_width": "x"}, "beam_width must lie between 1 and 4096, not x"),
        ({"beam_width": 1.5}, r"beam_width must be a whole number, not 1\.5"),
    ],
)
def test_settings_of_the_wrong_type_are_refused_in_python(wrong: dict[str, Any], text: str) -> None:
    with pytest.raises(EdgeSttError, match=text):
        edge_stt.load_model(**wrong)


def test_the_file_in_json_is_the_name_as_it_is(tmp_path: Path) -> None:
    """Only bytes that are not UTF-8, which JSON cannot hold, are written as escapes."""
    for name in (b"new\nline.opus", "mühle.opus".encode(), b"caf\xe9.opus"):
        path = os.fsdecode(os.fsencode(tmp_path) + b"/" + name)
        Path(path).write_bytes(SHORT.read_bytes())
        done = run("transcribe", "--json", "--decoder", "greedy", path)
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)["file"]
        assert said == str(tmp_path) + "/" + name.decode("utf-8", "backslashreplace")
