"""What each augmentation does to a signal."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edge_stt.audio import read_audio
from edge_stt.features import FrontEndConfig, log_mel

from .conftest import DATA, DEMO

pytest.importorskip("pyroomacoustics", reason="needs the train extra")
pytest.importorskip("matplotlib", reason="needs the bench extra")

from train.augment import (
    SpecAugmentConfig,
    add_noise,
    add_room,
    babble,
    band_limit,
    change_gain,
    change_speed,
    change_tempo,
    mask_frames,
    move_frames,
    room_response,
    warp_frequency,
    warp_time,
)
from train.data import read_corpus
from train.simulate import demonstrate, simulate

RATE = 16_000


def tone(frequency: float, seconds: float = 1.0) -> np.ndarray:
    return (0.1 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * RATE)) / RATE)).astype(np.float32)


def pitch(samples: np.ndarray) -> float:
    return float(np.abs(np.fft.rfft(samples)).argmax() * RATE / len(samples))


def power(samples: np.ndarray) -> float:
    return float(np.mean(samples.astype(np.float64) ** 2))


@pytest.mark.parametrize("factor", [0.9, 1.0, 1.1])
def test_speed_changes_length_and_pitch(factor: float) -> None:
    out = change_speed(tone(1_000), factor)
    assert len(out) == pytest.approx(RATE / factor, abs=2)
    assert pitch(out) == pytest.approx(1_000 * factor, abs=2)


def test_gain_is_in_decibels_and_clips() -> None:
    assert power(change_gain(tone(500), -6.0)) == pytest.approx(power(tone(500)) * 10**-0.6, rel=1e-3)
    assert np.abs(change_gain(tone(500), 40.0)).max() == 1.0


@pytest.mark.parametrize("snr", [0.0, 10.0, 20.0])
def test_noise_has_the_ratio_asked_for(snr: float) -> None:
    rng = np.random.default_rng(0)
    speech, noise = tone(700, 2.0), rng.normal(0, 0.3, 5_000).astype(np.float32)  # shorter than the speech: repeated
    mixed = add_noise(speech, noise, snr, rng)
    assert 10 * np.log10(power(speech) / power(mixed - speech)) == pytest.approx(snr, abs=0.5)


def test_silent_noise_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(add_noise(tone(500), np.zeros(100, np.float32), 5.0, rng), tone(500))


def test_a_room_adds_a_tail_and_keeps_loudness_and_place() -> None:
    click = np.zeros(RATE, np.float32)
    click[4_000] = 1.0
    response = room_response(np.random.default_rng(1), (2.0, 4.0))
    wet = add_room(click, response)
    assert len(wet) == len(click)
    assert abs(int(np.abs(wet).argmax()) - 4_000) <= 1
    assert power(wet) == pytest.approx(power(click), rel=1e-3)
    assert power(wet[4_800:8_000]) > 1e-4 * power(wet), "reverberation 50 ms and more after the click"


def test_rooms_are_seeded() -> None:
    first, second = (room_response(np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_band_limit_keeps_the_band_and_removes_the_rest() -> None:
    assert power(band_limit(tone(1_000), 300, 3_400)) == pytest.approx(power(tone(1_000)), rel=0.01)
    assert power(band_limit(tone(5_000), 300, 3_400)) < 1e-4 * power(tone(5_000))
    assert power(band_limit(tone(100), 300, 3_400)) < 1e-4 * power(tone(100))


def test_spec_augment_masks_within_its_budget() -> None:
    config = SpecAugmentConfig(frequency_masks=1, frequency_width=10, time_masks_per_second=2.0, time_share=0.2)
    for seed in range(20):
        frames = mask_frames(np.ones((400, 80), np.float32), config, np.random.default_rng(seed))
        assert (frames == 0).all(axis=1).sum() <= 80
        assert (frames == 0).all(axis=0).sum() <= 10
    assert (frames == 0).any()


def test_tempo_changes_length_and_not_pitch() -> None:
    frames = log_mel(read_audio(DEMO), FrontEndConfig())
    for factor in (0.8, 1.25):
        changed = change_tempo(frames, factor)
        assert len(changed) == pytest.approx(len(frames) / factor, abs=1)
        np.testing.assert_allclose(changed.mean(axis=0), frames.mean(axis=0), atol=0.1)  # each bin as loud as before
        np.testing.assert_array_equal(changed[[0, -1]], frames[[0, -1]])
    np.testing.assert_array_equal(change_tempo(frames, 1.0), frames)


def test_a_moment_is_moved_and_the_ends_stay() -> None:
    ramp = np.repeat(np.arange(100, dtype=np.float32)[:, None], 80, axis=1)
    warped = warp_time(ramp, 50, 10)
    assert warped[60, 0] == pytest.approx(50.0)
    np.testing.assert_array_equal(warped[[0, -1]], ramp[[0, -1]])
    assert (np.diff(warped[:, 0]) > 0).all()  # time goes forward
    config = SpecAugmentConfig(frequency_masks=0, time_masks_per_second=0.0, time_warp=20)
    moved = move_frames(ramp, config, np.random.default_rng(5))
    assert np.abs(moved - ramp).max() > 1.0
    short = ramp[:30]
    np.testing.assert_array_equal(move_frames(short, config, np.random.default_rng(5)), short)


def test_babble_is_everybody_equally_loud() -> None:
    rng = np.random.default_rng(1)
    voices = [0.01 * tone(300), 0.5 * tone(1_000), tone(3_000, 0.3), np.zeros(100, np.float32)]
    spectrum = np.abs(np.fft.rfft(babble(voices, 16_000, rng))) ** 2
    loudness = [spectrum[hz - 20 : hz + 20].sum() for hz in (300, 1_000, 3_000)]
    assert max(loudness) < 1.2 * min(loudness)
    assert len(babble([], 50, rng)) == 50


def test_warping_moves_a_tone_as_scaling_its_frequency_does() -> None:
    config = FrontEndConfig()
    warped = warp_frequency(log_mel(tone(2_000), config), 1.0 / 1.1).mean(axis=0)
    scaled = log_mel(tone(2_200), config).mean(axis=0)
    assert abs(int(warped.argmax()) - int(scaled.argmax())) <= 1
    frames = log_mel(read_audio(DEMO), config)
    np.testing.assert_allclose(warp_frequency(frames, 1.0), frames, atol=1e-3)


def test_simulated_rooms_are_the_same_every_time(tmp_path: Path) -> None:
    manifest = tmp_path / "clean.jsonl"
    text = (DATA / "demo.txt").read_text(encoding="utf-8").strip()
    manifest.write_text(json.dumps({"audio_filepath": str(DEMO), "text": text, "id": "demo"}) + "\n")
    problems: list[str] = []
    made = [simulate(manifest, [DEMO], tmp_path / name, problems.append) for name in ("a", "b")]
    assert not problems
    clips = [next(iter(read_corpus(path, problems.append))) for path in made]
    audio = [read_audio(clip.path) for clip in clips]
    np.testing.assert_array_equal(audio[0], audio[1])
    assert len(audio[0]) == len(read_audio(DEMO)) + 12_000
    assert clips[0].text == text


def test_demonstration_writes_clips_and_a_picture(tmp_path: Path) -> None:
    written = demonstrate(DEMO, tmp_path, None)
    assert written[0].name == "spectrograms.png"
    assert written[0].read_bytes().startswith(b"\x89PNG")
    assert all(len(read_audio(path)) > RATE for path in written[1:])
