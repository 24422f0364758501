"""Augmentation: small seeded functions.

On samples (float32 ``[n]``, 16 kHz) or on log-mel (float32 ``[frames, mels]``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
import numpy.typing as npt
import soxr

from edge_stt.features import Floats

from .limits import check

RATE = 16_000


# ---- on samples ------------------------------------------------------------------------------------------------------
def change_speed(samples: Floats, factor: float) -> Floats:
    """Play ``factor`` times as fast, pitch included (T. Ko et al., Audio augmentation for ASR, Interspeech 2015)."""
    if factor == 1.0:
        return samples
    return np.asarray(soxr.resample(samples, RATE * factor, RATE, quality="MQ"), dtype=np.float32)


def change_gain(samples: Floats, decibels: float) -> Floats:
    """Make louder or quieter; what leaves -1..1 is clipped, as a converter would."""
    return np.clip(samples * np.float32(10.0 ** (decibels / 20.0)), -1.0, 1.0)


def add_noise(samples: Floats, noise: Floats, snr_db: float, rng: np.random.Generator) -> Floats:
    """Mix in a random stretch of ``noise`` (repeated when too short) at the given speech-to-noise ratio in dB."""
    if len(noise) == 0 or len(samples) == 0:
        return samples
    start = int(rng.integers(len(noise)))
    stretch = np.take(noise, np.arange(start, start + len(samples)), mode="wrap")
    speech_power, noise_power = float(np.mean(samples**2)), float(np.mean(stretch**2))
    if noise_power < 1e-12:
        return samples
    scale = np.sqrt(speech_power / noise_power * 10.0 ** (-snr_db / 10.0))
    return (samples + np.float32(scale) * stretch).astype(np.float32)


def babble(voices: Sequence[Floats], count: int, rng: np.random.Generator) -> Floats:
    """``count`` samples of people talking at once, all equally loud: noise for `add_noise`."""
    mixed = np.zeros(count, dtype=np.float32)
    for voice in voices:
        if len(voice) and (loudness := float(np.sqrt(np.mean(voice**2)))) > 1e-6:
            start = int(rng.integers(len(voice)))
            mixed += np.take(voice, np.arange(start, start + count), mode="wrap") / np.float32(loudness)
    return mixed / np.float32(max(1, len(voices)))


def add_room(samples: Floats, response: Floats) -> Floats:
    """Convolve with a room's impulse response; length, loudness and the place of the direct sound stay."""
    size = 1 << int(len(samples) + len(response) - 1).bit_length()
    wet = np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(response, size), size)
    delay = int(np.abs(response).argmax())
    wet = wet[delay : delay + len(samples)].astype(np.float32)
    loudness = np.sqrt(np.mean(samples**2) / max(float(np.mean(wet**2)), 1e-12))
    return (wet * loudness).astype(np.float32)


def band_limit(samples: Floats, low: float, high: float) -> Floats:
    """Keep ``low``..``high`` Hz only, edges 100 Hz wide: a telephone or a cheap microphone."""
    spectrum = np.fft.rfft(samples)
    frequency = np.fft.rfftfreq(len(samples), 1.0 / RATE)
    gain = np.clip((frequency - low) / 100.0 + 0.5, 0.0, 1.0) * np.clip((high - frequency) / 100.0 + 0.5, 0.0, 1.0)
    return np.fft.irfft(spectrum * gain, len(samples)).astype(np.float32)


def room_response(rng: np.random.Generator, distance: tuple[float, float] = (0.5, 4.0)) -> Floats:
    """Impulse response of a random shoebox room, reverberation time .2 to .7 s, by the image method.

    ``distance`` bounds the metres between speaker and microphone (J. Allen and D. Berkley, JASA 1979; pyroomacoustics).
    """
    import pyroomacoustics as pra

    while True:
        room_size = rng.uniform([3.0, 2.5, 2.3], [8.0, 6.0, 3.2])
        rt60 = rng.uniform(0.2, 0.7)
        microphone = rng.uniform(0.3, 1.0 - 0.3 / room_size, 3) * room_size
        microphone = np.clip(microphone, 0.3, room_size - 0.3)
        direction = rng.normal(size=3) * [1.0, 1.0, 0.2]
        speaker = microphone + direction / np.linalg.norm(direction) * rng.uniform(*distance)
        if np.all(speaker > 0.3) and np.all(speaker < room_size - 0.3):
            break
    absorption, order = pra.inverse_sabine(rt60, room_size)
    room = pra.ShoeBox(room_size, fs=RATE, materials=pra.Material(min(absorption, 0.99)), max_order=min(order, 24))
    room.add_source(speaker)
    room.add_microphone(microphone)
    room.compute_rir()
    response = np.asarray(room.rir[0][0], dtype=np.float32)[: int(RATE * rt60)]
    return response / np.abs(response).max()


# ---- on log-mel ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class SpecAugmentConfig:
    """D. Park et al., SpecAugment, Interspeech 2019: bands of mel bins and stretches of frames set to the mean.

    ``time_warp``: frames by which one moment of the utterance is moved, at most; what lies around it is stretched.
    """

    frequency_masks: int = 2
    frequency_width: int = 20
    time_masks_per_second: float = 0.4
    time_width: int = 25  # frames of 10 ms
    time_share: float = 0.3  # at most this share of an utterance is masked
    time_warp: int = 0

    def __post_init__(self) -> None:
        numbers = ("frequency_masks", "frequency_width", "time_masks_per_second", "time_width", "time_warp")
        check("spec_augment.", self, time_share=(0, 1), **dict.fromkeys(numbers, (0, inf)))


def move_frames(frames: Floats, config: SpecAugmentConfig, rng: np.random.Generator) -> Floats:
    """SpecAugment's time warp: some moment of the utterance comes earlier or later."""
    count = len(frames)
    if not config.time_warp or count <= 2 * config.time_warp + 1:
        return frames
    centre = int(rng.integers(config.time_warp, count - config.time_warp))
    return warp_time(frames, centre, int(rng.integers(1 - config.time_warp, config.time_warp)))


def mask_frames(frames: Floats, config: SpecAugmentConfig, rng: np.random.Generator) -> Floats:
    """SpecAugment's masks on a copy of normalised log-mel frames."""
    frames = frames.copy()
    count, mels = frames.shape
    for _ in range(config.frequency_masks):
        width = int(rng.integers(config.frequency_width + 1))
        start = int(rng.integers(mels - width + 1))
        frames[:, start : start + width] = 0.0
    budget = int(config.time_share * count)
    for _ in range(int(rng.poisson(config.time_masks_per_second * count / 100.0))):
        width = min(int(rng.integers(config.time_width + 1)), budget, count)
        start = int(rng.integers(count - width + 1))
        frames[start : start + width] = 0.0
        budget -= width
    return frames


def warp_time(frames: Floats, centre: int, shift: int) -> Floats:
    """Move frame ``centre`` by ``shift`` frames; both ends stay, and what lies between is stretched evenly.

    Linear between frames, for the sparse image warp of the SpecAugment paper, as ESPnet and others have it.
    """
    count = len(frames)
    position = np.interp(np.arange(count), [0, centre + shift, count - 1], [0, centre, count - 1])
    return _at(frames, position)


def change_tempo(frames: Floats, factor: float) -> Floats:
    """Log-mel of speech ``factor`` times as fast at the same pitch: frames are what time is made of here."""
    count = max(1, round(len(frames) / factor))
    return _at(frames, np.linspace(0.0, len(frames) - 1.0, count))


def _at(frames: Floats, position: npt.NDArray[np.float64]) -> Floats:
    """Frames at places between frames."""
    left = np.clip(position.astype(int), 0, max(0, len(frames) - 2))
    right = np.minimum(left + 1, len(frames) - 1)
    share = (position - left).astype(np.float32)[:, None]
    return frames[left] * (1.0 - share) + frames[right] * share


def warp_frequency(frames: Floats, factor: float) -> Floats:
    """Vocal tract length perturbation on log-mel bins: frequencies scaled by ``factor``, linear between bins.

    N. Jaitly and G. Hinton, Vocal Tract Length Perturbation, ICML workshop 2013; here on the mel axis, where a scaled
    frequency f moves by 1127 ln(factor) for f well above 700 Hz and less below.
    """
    mels = frames.shape[1]
    low, high = 1127.0 * np.log1p(20.0 / 700.0), 1127.0 * np.log1p(7600.0 / 700.0)
    centres = np.linspace(low, high, mels + 2)[1:-1]
    warped = 1127.0 * np.log1p((700.0 * np.expm1(centres / 1127.0)) * factor / 700.0)
    position = np.clip((warped - low) / (high - low) * (mels + 1) - 1.0, 0.0, mels - 1.0)
    left = np.minimum(position.astype(int), mels - 2)
    share = (position - left).astype(np.float32)
    return frames[:, left] * (1.0 - share) + frames[:, left + 1] * share
