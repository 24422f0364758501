"""What `edge-stt transcribe -` makes of a file and of a pipe, beside what it makes of a file that is named."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from edge_stt.audio import read_audio

from .conftest import DEMO, ROOT
from .test_transcribe import COMMAND

OTHER = ROOT / "tests" / "data" / "LJ002-0044.opus"


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two utterances with two seconds between them."""
    path = tmp_path_factory.mktemp("sound") / "two.wav"
    parts = [read_audio(DEMO), np.zeros(32_000, np.float32), read_audio(OTHER)]
    soundfile.write(path, np.concatenate(parts), 16_000)
    return path


def transcribe(source: object, *options: str, **given: Any) -> str:
    command = [*COMMAND, str(source), "--decoder", "greedy", *options]
    done = subprocess.run(command, capture_output=True, check=False, **given)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


def test_a_file_on_standard_input_is_transcribed_like_one_that_is_named(recording: Path) -> None:
    for options in (["--json"], ["--format", "ctm"], []):
        with recording.open("rb") as file:
            redirected = transcribe("-", *options, stdin=file)
        assert redirected.replace("stdin", recording.stem) == transcribe(recording, *options).replace(
            str(recording), recording.stem
        )


def test_a_pipe_gives_an_object_like_that_of_a_file_for_each_utterance(recording: Path) -> None:
    whole = json.loads(transcribe(recording, "--json"))
    lines = [json.loads(line) for line in transcribe("-", "--json", input=recording.read_bytes()).splitlines()]
    assert len(lines) == len(whole["segments"]) == 2
    for line, segment in zip(lines, whole["segments"], strict=True):
        assert line.keys() == whole.keys()
        (only,) = line["segments"]
        assert only.keys() == segment.keys()
        assert (only["start"], only["end"]) == (only["words"][0]["start"], only["words"][-1]["end"])
        assert abs(only["start"] - segment["start"]) < 0.5
        assert abs(only["end"] - segment["end"]) < 0.5
        assert line["text"] == only["text"]
        assert only["end"] - only["start"] < line["duration"] < whole["duration"]
