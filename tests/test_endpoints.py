"""Measuring endpoints: the end of clean speech, noise at its level, and the table that the command prints."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edge_stt import load_model
from edge_stt.audio import read_audio
from edge_stt.endpoint_bench import BEFORE, mix, score, score_noise, speech_end
from edge_stt.endpointing import PRESETS, EndpointConfig, EnergyGate, GateConfig
from edge_stt.features import FrontEndConfig, log_mel

from .daemon import MODERN

RATE = 16_000


def test_the_end_of_speech_is_where_the_sound_ends() -> None:
    tone = np.sin(np.arange(2 * RATE) / 5.0).astype(np.float32) * 0.3
    hiss = np.random.default_rng(0).normal(0, 1e-4, RATE).astype(np.float32)
    assert speech_end(np.concatenate([hiss, tone, hiss])) / RATE == pytest.approx(3.0, abs=0.03)


def test_noise_is_mixed_at_the_ratio_asked_for() -> None:
    rng = np.random.default_rng(0)
    speech = np.sin(np.arange(2 * RATE) / 5.0).astype(np.float32) * 0.1
    noise = rng.normal(0, 0.5, RATE).astype(np.float32)
    before = round(BEFORE * RATE)
    for ratio in (20.0, 5.0):
        mixed = mix(speech, noise, ratio, rng)
        alone = mixed[:before]
        measured = 10 * np.log10(np.mean(speech**2) / np.mean(alone**2))
        assert measured == pytest.approx(ratio, abs=0.3)
        assert np.corrcoef(mixed[before : before + len(speech)], speech)[0, 1] > 0.8


def test_cut_off_and_delay_are_counted() -> None:
    """A pause in the middle is an end for the impatient and none for the patient."""
    speech = read_audio(MODERN)
    pause = np.zeros(round(0.9 * RATE), np.float32)
    clip = np.concatenate([speech, pause, speech])
    noise = np.random.default_rng(0).normal(0, 1.0, 4 * RATE).astype(np.float32)
    transcriber = load_model(decoder="greedy")
    hasty = score(transcriber, EndpointConfig(trailing_silence=0.4), [clip], [noise], 30.0)
    patient = score(transcriber, EndpointConfig(trailing_silence=1.6), [clip], [noise], 30.0)
    assert (hasty.cut_off, patient.cut_off) == (1, 0)
    assert hasty.missed == patient.missed == 0
    assert 0.2 < hasty.delay(50) < 1.0 < patient.delay(50) < 2.4
    silent = score_noise(transcriber, PRESETS["default"], [noise])
    assert silent.words == 0
    assert silent.seconds == 4.0
    spoken = score_noise(transcriber, PRESETS["default"], [speech])  # taken for noise: all its words are made up
    assert (spoken.utterances, spoken.rejected) == (1, 0)
    assert spoken.words > 2
    assert spoken.per_minute(1) == pytest.approx(60 * RATE / len(speech))
    doubted = score_noise(transcriber, PRESETS["default"], [speech], min_confidence=1.0)
    assert (doubted.words, doubted.utterances, doubted.rejected) == (0, 0, 1)
    doubted_speech = score(transcriber, PRESETS["default"], [speech], [noise], 30.0, min_confidence=1.0)
    assert doubted_speech.doubtful == doubted_speech.words > 2


def test_the_gate_tells_speech_from_a_fan_and_learns_the_fan() -> None:
    front_end = FrontEndConfig()
    rng = np.random.default_rng(0)
    fan = rng.normal(0, 0.01, 12 * RATE).astype(np.float32)
    speech = read_audio(MODERN)
    for loudness, opens in ((1.0, True), (0.0, False)):
        audio = fan.copy()
        audio[10 * RATE : 10 * RATE + len(speech)] += loudness * speech
        gate = EnergyGate(GateConfig(), front_end)
        states = []
        for frame in log_mel(audio, front_end).reshape(-1, 1, front_end.n_mels):
            gate.accept(frame, False)
            states.append(gate.open)
        assert states[100]  # whatever comes first is sound
        assert not any(states[600:1_000])
        assert any(states[1_000:]) is opens


def test_the_command_prints_the_table(tmp_path: Path) -> None:
    for name in ("clip", "noise"):
        (tmp_path / name).mkdir()
    (tmp_path / "clip" / "a.opus").write_bytes(MODERN.read_bytes())
    noise = np.random.default_rng(0).normal(0, 0.01, 3 * RATE).astype(np.float32)
    soundfile.write(tmp_path / "noise" / "n.wav", noise, RATE)
    lines = {"clip": [("a.opus", "")], "noise": [("n.wav", "fan"), ("n.wav", "speech")]}
    for name, items in lines.items():
        rows = [
            {"audio_filepath": f, "duration": 1.0, "text": "x", "speaker": "", "label": label} for f, label in items
        ]
        (tmp_path / name / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [sys.executable, "-m", "edge_stt.cli", "endpoints", "clip/m.jsonl", "--noise", "noise/m.jsonl", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["preset"] for row in rows] == list(PRESETS)
    assert all(row["clips"] == 1 and row["cut_off"] == 0.0 for row in rows)
    assert rows[0]["delay_p50"] < rows[1]["delay_p50"] < rows[2]["delay_p50"]
    assert rows[0]["noise_minutes"] == 0.05  # that labelled speech was left out
    assert rows[0]["noise_words_per_minute"] == 0.0
    alone = [*command[:4], *command[5:-1], "--preset", "default"]  # noise without speech, as a table
    done = subprocess.run(alone, cwd=tmp_path, capture_output=True, text=True, check=True)
    head, row = (line.split("  ") for line in done.stdout.splitlines())
    assert [cell.strip() for cell in head if cell.strip()][:2] == ["preset", "noise, min"]
    assert [cell.strip() for cell in row if cell.strip()][:3] == ["default", "0.05", "0.0"]
    for option, name, said in (
        ("--preset", "quick", "unknown preset 'quick'"),
        ("--decoder", "bem", "unknown decoder 'bem'; did you mean 'beam'?"),
        ("--snr", "nan", "--snr must be between"),
    ):
        wrong = [*command[:4], "none.jsonl", "--noise", "none.jsonl", option, name]  # said before anything is read
        refused = subprocess.run(wrong, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (refused.returncode, said in refused.stderr) == (2, True), refused.stderr
    for snr in ("nan", "inf", "-1000"):
        refused = subprocess.run([*command, "--snr", snr], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (refused.returncode, "--snr must be between" in refused.stderr) == (2, True)
