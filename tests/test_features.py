"""The front end against an independent reference, and streams against whole files."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_stt.audio import read_audio
from edge_stt.features import (
    FeatureStatistics,
    FrontEndConfig,
    NormalizationConfig,
    RunningNormaliser,
    StreamingLogMel,
    log_mel,
    mel_filters,
    normalise_utterance,
    without_silent_ends,
)

from .conftest import DEMO

CONFIG = FrontEndConfig()
chunks = st.lists(st.integers(0, 3_000), min_size=1, max_size=12)


def _reference(samples: np.ndarray) -> np.ndarray:
    """Log-mel by the definitions, one frame and one sum at a time, in float64."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    frequencies = np.arange(257) * 16_000 / 512

    def mel(f: float) -> float:
        return 2595.0 * np.log10(1.0 + f / 700.0)

    edges = np.linspace(mel(20.0), mel(7_600.0), 82)
    out = []
    for start in range(0, len(samples) - 399, 160):
        padded = np.zeros(512)
        padded[:400] = samples[start : start + 400] * window
        basis = np.exp(-2j * np.pi * np.outer(np.arange(257), np.arange(512)) / 512)
        power = np.abs(basis @ padded) ** 2
        row = []
        for low, centre, high in zip(edges, edges[1:], edges[2:], strict=False):
            energy = 0.0
            for frequency, p in zip(frequencies[1:], power[1:], strict=True):
                m = mel(frequency)
                energy += p * max(0.0, min((m - low) / (centre - low), (high - m) / (high - centre)))
            row.append(np.log(energy + 1e-6))
        out.append(row)
    return np.array(out)


def test_equals_the_definition() -> None:
    samples = read_audio(DEMO)[16_000 : 16_000 + 1_200]
    np.testing.assert_allclose(log_mel(samples, CONFIG), _reference(samples), atol=2e-3)


@pytest.mark.workstation
def test_equals_tf_signal() -> None:
    import tensorflow as tf

    samples = read_audio(DEMO)[:32_000]
    weights = tf.signal.linear_to_mel_weight_matrix(80, 257, 16_000, 20.0, 7_600.0)
    spectrum = tf.signal.stft(samples, 400, 160, 512)
    expected = np.log(np.asarray(tf.abs(spectrum) ** 2 @ weights) + 1e-6)
    np.testing.assert_allclose(log_mel(samples, CONFIG), expected, atol=1e-3)


@pytest.mark.parametrize(("samples", "frames"), [(0, 0), (399, 0), (400, 1), (559, 1), (560, 2), (16_000, 98)])
def test_frame_count(samples: int, frames: int) -> None:
    assert log_mel(np.zeros(samples, np.float32), CONFIG).shape == (frames, 80)
    assert CONFIG.frames_in(samples) == frames


def test_every_filter_passes_something() -> None:
    assert (mel_filters(CONFIG).sum(axis=0) > 0).all()
    assert (mel_filters(CONFIG)[0] == 0).all()


def test_a_tone_peaks_in_its_own_filter() -> None:
    tone = np.sin(2 * np.pi * 1_000 * np.arange(16_000) / 16_000).astype(np.float32)
    peak = log_mel(tone, CONFIG).mean(axis=0).argmax()
    assert peak == mel_filters(CONFIG)[32].argmax()  # bin 32 of 512 at 16 kHz is 1000 Hz


@settings(max_examples=30, deadline=None)
@given(chunks)
def test_a_stream_gives_the_frames_of_the_whole(sizes: list[int]) -> None:
    samples = np.random.default_rng(1).normal(0, 0.1, sum(sizes)).astype(np.float32)
    front_end, out, start = StreamingLogMel(CONFIG), [], 0
    for size in sizes:
        out.append(front_end.accept(samples[start : start + size]))
        start += size
    np.testing.assert_allclose(np.concatenate(out), log_mel(samples, CONFIG), atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 200), min_size=1, max_size=12), st.integers(0, 60), st.integers(60, 400))
def test_running_normalisation_does_not_depend_on_chunks(sizes: list[int], prior: int, memory: int) -> None:
    rng = np.random.default_rng(2)
    stats = FeatureStatistics(rng.normal(size=80).astype(np.float32), np.ones(80, np.float32))
    config = NormalizationConfig(prior, memory)
    frames = rng.normal(-5, 2, (sum(sizes), 80)).astype(np.float32)
    mean, expected = stats.mean.astype(np.float64), []
    for number, frame in enumerate(frames):  # the recursion of the docstring, one frame at a time
        mean = mean + (frame - mean) / max(1, min(prior + number + 1, memory))
        expected.append(frame - mean)
    normaliser, out, start = RunningNormaliser(stats, config), [], 0
    for size in sizes:
        out.append(normaliser(frames[start : start + size]))
        start += size
    np.testing.assert_allclose(np.concatenate(out), np.array(expected).reshape(-1, 80), atol=1e-5)


def test_offline_and_running_mean_agree_at_the_last_frame(statistics: FeatureStatistics) -> None:
    frames = log_mel(read_audio(DEMO), CONFIG)[:300]
    offline, running = normalise_utterance(frames, statistics), RunningNormaliser(statistics)(frames)
    np.testing.assert_allclose(offline[-1], running[-1], atol=1e-4)


def test_normalised_speech_is_centred() -> None:
    frames = log_mel(read_audio(DEMO), CONFIG)
    stats = FeatureStatistics(frames.mean(axis=0), frames.std(axis=0))
    normalised = normalise_utterance(frames, stats)
    np.testing.assert_allclose(normalised.mean(axis=0), 0.0, atol=1e-3)
    np.testing.assert_allclose(normalised.std(axis=0), 1.0, atol=1e-3)


@pytest.mark.parametrize("level", [0.0, 1e-4])
def test_silence_around_speech_changes_nothing_in_it(level: float) -> None:
    """It would move the mean by more than a deviation; a third of one is left, of what the margins hold."""
    samples = read_audio(DEMO)
    rng = np.random.default_rng(0)
    before, after = (rng.normal(0.0, level, 160 * count).astype(np.float32) for count in (1_000, 300))
    frames = log_mel(samples, CONFIG)
    stats = FeatureStatistics(frames.mean(axis=0), frames.std(axis=0))
    alone = normalise_utterance(frames, stats)
    among = normalise_utterance(log_mel(np.concatenate([before, samples, after]), CONFIG), stats)
    assert np.abs(among[1_010 : 1_000 + len(alone) - 10] - alone[10:-10]).max() < 0.4


def test_digital_silence_leaves_the_running_mean_as_it_is() -> None:
    frames = log_mel(read_audio(DEMO), CONFIG)
    stats = FeatureStatistics(frames.mean(axis=0), frames.std(axis=0))
    silence = log_mel(np.zeros(160_000, np.float32), CONFIG)
    normaliser = RunningNormaliser(stats)
    normaliser(silence)
    np.testing.assert_array_equal(normaliser(frames), RunningNormaliser(stats)(frames))


def hum(level: float, count: int) -> np.ndarray:
    """Log-mel frames of noise at ``level`` dB below full scale."""
    rng = np.random.default_rng(0)
    return log_mel(rng.normal(0.0, 10 ** (level / 20), 160 * count + 240).astype(np.float32), CONFIG)


@pytest.mark.parametrize("level", [-75.0, -70.0, -60.0])
def test_noise_before_speech_does_not_become_the_mean(level: float) -> None:
    """Seconds of it count no more than half a second does."""
    frames = log_mel(read_audio(DEMO), CONFIG)
    stats = FeatureStatistics(frames.mean(axis=0), frames.std(axis=0))
    half, long = (RunningNormaliser(stats)(np.concatenate([hum(level, count), frames]))[count:] for count in (50, 600))
    onset = 40  # frames, until it is known that somebody speaks
    assert np.abs(half[onset:] - long[onset:]).max() < 0.3  # of a deviation


def test_a_click_is_no_onset() -> None:
    frames = hum(-60.0, 400)
    stats = FeatureStatistics(frames.mean(axis=0) + 3.0, frames.std(axis=0))
    clicked = frames.copy()
    clicked[200:204] += 8.0
    difference = RunningNormaliser(stats)(clicked) - RunningNormaliser(stats)(frames)
    assert np.abs(difference[204:]).max() < 1.0  # four frames among hundreds, and no more


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 200), min_size=1, max_size=12), st.integers(0, 300))
def test_the_onset_of_speech_does_not_depend_on_chunks(sizes: list[int], noise: int) -> None:
    speech = log_mel(read_audio(DEMO), CONFIG)[:300]
    frames = np.concatenate([hum(-70.0, noise), speech])
    stats = FeatureStatistics(speech.mean(axis=0), speech.std(axis=0))
    normaliser, out, start = RunningNormaliser(stats), [], 0
    for size in [*sizes, len(frames)]:
        out.append(normaliser(frames[start : start + size]))
        start += size
    np.testing.assert_allclose(np.concatenate(out), RunningNormaliser(stats)(frames), atol=1e-4)


def test_a_click_is_not_taken_for_the_speech() -> None:
    frames = log_mel(read_audio(DEMO), CONFIG)
    loud = np.full((5, 80), frames.max() + 10.0, np.float32)
    clicked = np.concatenate([loud, frames])
    assert len(without_silent_ends(clicked, NormalizationConfig())) >= len(
        without_silent_ends(frames, NormalizationConfig())
    )


def test_no_frames_give_no_frames(statistics: FeatureStatistics) -> None:
    empty = np.empty((0, 80), np.float32)
    assert normalise_utterance(empty, statistics).shape == (0, 80)
    assert RunningNormaliser(statistics)(empty).shape == (0, 80)


def test_speed() -> None:
    """At most 1 ms per second of audio on an x86 core; the best of five, since the machine may be busy."""
    samples = np.random.default_rng(0).normal(0, 0.1, 160_000).astype(np.float32)
    log_mel(samples, CONFIG)
    times = []
    for _ in range(5):
        started = time.process_time()
        log_mel(samples, CONFIG)
        times.append((time.process_time() - started) / 10)
    assert min(times) < 2e-3, f"{1e3 * min(times):.2f} ms per second of audio"
