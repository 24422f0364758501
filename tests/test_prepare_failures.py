"""What `edge-stt train prepare` leaves behind when it fails, and that it works when called again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from edge_stt.errors import DataError

from .conftest import DEMO, ROOT

pytest.importorskip("pyroomacoustics", reason="needs the train extra")

from train import prepare as module
from train.prepare import PrepareConfig, PreparedSet, prepare

PLAIN = PrepareConfig(speeds=(), room_copies=0)


def write_manifest(path: Path, clips: int = 1, *more: dict[str, object]) -> Path:
    lines = [{"audio_filepath": str(DEMO), "text": "hello there", "id": str(i)} for i in range(clips)]
    path.write_text("".join(json.dumps(line) + "\n" for line in [*lines, *more]), encoding="utf-8")
    return path


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_what_fails_leaves_nothing_and_the_same_call_works_later(tmp_path: Path) -> None:
    (tmp_path / "junk.wav").write_text("no audio")
    manifest = write_manifest(tmp_path / "m.jsonl", 0, {"audio_filepath": "junk.wav", "text": "hello"})
    with pytest.raises(DataError, match="no usable clip"):
        prepare([manifest], tmp_path / "set", PLAIN, processes=1)
    assert names(tmp_path) == {"junk.wav", "m.jsonl"}
    write_manifest(manifest)
    prepare([manifest], tmp_path / "set", PLAIN, processes=1)
    assert len(PreparedSet(tmp_path / "set")) == 1
    assert names(tmp_path) == {"junk.wav", "m.jsonl", "set"}


def test_of_a_set_that_was_there_nothing_is_left_to_be_taken_for_one(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path / "m.jsonl", 2)
    prepare([manifest], tmp_path / "set", PLAIN, processes=1)
    (tmp_path / "set" / "notes.txt").write_text("mine")
    bad = write_manifest(tmp_path / "bad.jsonl", 1, {"audio_filepath": str(DEMO), "text": "word " * 500, "id": "much"})
    with pytest.raises(DataError, match="cannot be spoken"):
        prepare([bad], tmp_path / "set", PLAIN, processes=1, strict=True)
    assert names(tmp_path / "set") == {"notes.txt"}
    prepare([manifest], tmp_path / "set", PLAIN, processes=1)
    assert len(PreparedSet(tmp_path / "set")) == 2
    assert names(tmp_path) == {"m.jsonl", "bad.jsonl", "set"}


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(DataError, match=r"cannot write the set .*set: No space left on device"):
        prepare([write_manifest(tmp_path / "m.jsonl")], tmp_path / "set", PLAIN, processes=1)
    assert names(tmp_path) == {"m.jsonl"}
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError, match="is no folder"):
        prepare([tmp_path / "m.jsonl"], tmp_path / "file", PLAIN, processes=1)


def _die(_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_is_killed_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_work", _die)
    with pytest.raises(DataError, match="was killed"):
        prepare([write_manifest(tmp_path / "m.jsonl")], tmp_path / "set", PLAIN, processes=1)
    assert names(tmp_path) == {"m.jsonl"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_what_is_stopped_leaves_nothing_and_prints_no_traceback(number: signal.Signals, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path / "m.jsonl", 2000)
    command = [sys.executable, "-m", "edge_stt", "train", "prepare", manifest, "-o", tmp_path / "set", "--plain"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob(".set.*/set/plain.f16")) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1.0)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # as a terminal does it: to the processes of the pool, too
        else:
            process.terminate()
        assert process.wait(60) == 128 + number
        assert process.stderr is not None
        assert process.stderr.read() == ""  # which ends when the last process of the pool does
    assert names(tmp_path) == {"m.jsonl"}


def test_a_corpus_that_lies_where_the_set_shall_is_left_alone(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path / "clips.jsonl")
    before = manifest.read_text()
    with pytest.raises(DataError, match=r"has a clips\.jsonl that is none of a prepared set"):
        prepare([manifest], tmp_path, PLAIN, processes=1)
    assert manifest.read_text() == before


def test_a_damaged_description_is_no_prepared_set(tmp_path: Path) -> None:
    prepare([write_manifest(tmp_path / "m.jsonl")], tmp_path / "set", PLAIN, processes=1)
    for name, content in (("statistics.npz", b""), ("statistics.npz", b"PK\x03\x04"), ("report.json", b"{}")):
        path = tmp_path / "set" / name
        whole = path.read_bytes()
        path.write_bytes(content)
        with pytest.raises(DataError, match="is not a prepared set") as caught:
            PreparedSet(tmp_path / "set")
        assert "\n" not in str(caught.value)
        path.write_bytes(whole)
    assert len(PreparedSet(tmp_path / "set")) == 1


def test_noises_that_cannot_be_read_are_said(tmp_path: Path) -> None:
    from train.data import read_noises

    (tmp_path / "junk.wav").write_text("no audio")
    lines = [{"audio_filepath": "junk.wav"}, {"audio_filepath": str(DEMO)}, {"audio_filepath": "gone.wav"}]
    manifest = tmp_path / "noise.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    problems: list[str] = []
    assert read_noises(manifest, problems.append) == [DEMO]
    assert len(problems) == 2
    manifest.write_text(json.dumps(lines[0]) + "\n")
    with pytest.raises(DataError, match="names no noise that can be read"):
        read_noises(manifest, problems.append)


def test_a_far_field_set_does_not_replace_its_source(tmp_path: Path) -> None:
    from edge_stt.errors import UsageError
    from train.simulate import simulate

    manifest = write_manifest(tmp_path / "m.jsonl")
    before = manifest.read_text()
    with pytest.raises(UsageError, match="name another folder"):
        simulate(manifest, [DEMO], tmp_path, print)
    assert manifest.read_text() == before
