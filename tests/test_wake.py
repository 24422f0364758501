"""The wake phrase: nothing is written before it, what follows is, and how well it is heard can be measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import edge_stt
from edge_stt.audio import read_audio
from edge_stt.endpointing import PRESETS, GateConfig
from edge_stt.settings import ConfigError
from edge_stt.streaming import Final, Partial
from edge_stt.wake import WakefulStream, Woken
from edge_stt.wake_bench import WakeScore
from edge_stt.wake_config import WakeConfig

from .daemon import MODERN

RATE = 16_000
SILENCE = np.zeros(2 * RATE, np.float32)


@pytest.fixture(scope="module")
def transcriber() -> edge_stt.recogniser.Transcriber:
    return edge_stt.load_model()


def heard(
    transcriber: edge_stt.recogniser.Transcriber, config: WakeConfig, audio: np.ndarray
) -> tuple[list[Partial | Final | Woken], WakefulStream]:
    stream = WakefulStream(transcriber, config, PRESETS["default"], GateConfig())
    found = [e for start in range(0, len(audio), 1_600) for e in stream.accept_audio(audio[start : start + 1_600])]
    return found, stream


def test_what_follows_the_phrase_is_written_and_what_does_not_is_not(
    transcriber: edge_stt.recogniser.Transcriber,
) -> None:
    """*In being* wakes, in the same breath as *comparatively modern*; each time anew."""
    speech = read_audio(MODERN)
    found, stream = heard(transcriber, WakeConfig("in being"), np.concatenate([speech, SILENCE, speech, SILENCE]))
    marks = [event for event in found if not isinstance(event, Partial)]
    assert [type(event) for event in marks] == [Woken, Final, Woken, Final]
    for woken, final in zip(marks[::2], marks[1::2], strict=True):
        assert isinstance(woken, Woken)
        assert isinstance(final, Final)
        assert (woken.text, final.text) == ("in being", "comparatively modern")
        assert 0.5 <= woken.score <= 1.0
        assert woken.start < woken.end <= final.words[0].start + 0.2
    second = len(speech) / RATE + 2.0
    assert marks[2].start == pytest.approx(marks[0].start + second, abs=0.2)
    assert stream.finish() == []
    found, _ = heard(transcriber, WakeConfig("hey computer"), np.concatenate([speech, SILENCE]))
    assert found == []


def test_without_a_command_the_phrase_is_waited_for_again(transcriber: edge_stt.recogniser.Transcriber) -> None:
    speech = read_audio(MODERN)
    config = WakeConfig("in being", threshold=0.2, timeout=4.0)
    found, _ = heard(transcriber, config, np.concatenate([speech, SILENCE]))
    assert isinstance(found[0], Woken)
    alone = speech[: round(found[0].end * RATE)]
    quiet = np.zeros(10 * RATE, np.float32)
    found, stream = heard(transcriber, config, np.concatenate([alone, quiet]))
    assert [type(event) for event in found] == [Woken]
    assert not stream.speaking
    found, _ = heard(transcriber, config, np.concatenate([alone, SILENCE[:RATE], speech, SILENCE]))
    assert [type(event) for event in found if not isinstance(event, Partial)] == [Woken, Final]
    found, _ = heard(transcriber, config, np.concatenate([alone, quiet, speech, SILENCE]))
    assert [type(event) for event in found if not isinstance(event, Partial)] == [Woken, Woken, Final]


def test_a_phrase_that_is_none() -> None:
    WakeConfig().check()
    WakeConfig("(hey|okay) computer").check()
    for phrase in ("(hey", "hey <computer>"):
        with pytest.raises(ConfigError, match="the wake phrase"):
            WakeConfig(phrase).check()


def listen(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edge_stt.cli", "listen", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_daemon_waits_for_it() -> None:
    done = listen("--input", MODERN, "--fast", "--wake", "in being")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [e["event"] for e in events if e["event"] != "partial"] == [
        "listening",
        "wake",
        "speech",
        "final",
        "stopped",
    ]
    (final,) = [event for event in events if event["event"] == "final"]
    assert final["text"] == "comparatively modern"
    done = listen("--input", MODERN, "--fast", "--wake", "hey computer")
    assert [json.loads(line)["event"] for line in done.stdout.splitlines()] == ["listening", "stopped"]
    done = listen("--input", MODERN, "--wake", "(hey")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_misses_and_false_accepts() -> None:
    score = WakeScore([0.9, 0.2, 0.6, 0.4], [0.7, 0.1], 1_800.0)
    assert (score.misses(0.5), score.false_accepts(0.5)) == (0.5, 2.0)
    assert (score.misses(0.0), score.false_accepts(0.9)) == (0.0, 0.0)


def test_the_command_measures_it(tmp_path: Path) -> None:
    clips = [("in being comparatively modern", "a.opus"), ("", "b.opus")]
    for _, name in clips:
        (tmp_path / name).write_bytes(MODERN.read_bytes())
    lines = [{"audio_filepath": name, "duration": 1.0, "text": text, "speaker": ""} for text, name in clips]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = [sys.executable, "-m", "edge_stt.cli", "wake", "in being", "m.jsonl", "--threshold", "0.5"]
    done = subprocess.run([*command, "--json"], cwd=tmp_path, capture_output=True, text=True, check=True)
    row = json.loads(done.stdout)
    assert (row["said"], row["missed"]) == (1, 0.0)
    assert row["false_accepts_per_hour"] > 0  # the second clip's text denies what it says
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 2
    unsaid = [*command[:4], "hey computer", *command[5:]]
    done = subprocess.run(unsaid, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1].split()[:3] == ["0.50", "0", "-"]  # nobody said it: there is no rate
    wrong = [*command[:4], "(in being", "m.jsonl", "--model", "none"]  # said before anything is loaded
    done = subprocess.run(wrong, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, "the wake phrase:1:1: '(' is never closed" in done.stderr) == (2, True), done.stderr
