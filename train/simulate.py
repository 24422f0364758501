"""Recordings as a device across the room hears them: clean clips played in simulated rooms, with noise."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from edge_stt.audio import SAMPLE_RATE, read_audio
from edge_stt.errors import AudioError, DataError, UsageError
from edge_stt.features import Floats, FrontEndConfig, log_mel

from .augment import (
    add_noise,
    add_room,
    babble,
    band_limit,
    change_gain,
    change_speed,
    change_tempo,
    room_response,
    warp_frequency,
    warp_time,
)
from .data import read_corpus


@dataclass(frozen=True)
class FarFieldConfig:
    """Metres between speaker and microphone, speech-to-noise ratio in dB; rooms have .2 to .7 s of reverberation."""

    distance: tuple[float, float] = (2.0, 4.0)
    snr_db: tuple[float, float] = (5.0, 15.0)
    rooms: int = 40
    seed: int = 2024


def simulate(
    manifest: Path, noises: list[Path], out: Path, report: Callable[[str], None], config: FarFieldConfig | None = None
) -> Path:
    """Write each clip of ``manifest`` as FLAC in the folder ``out``, and a manifest of them; returns its path.

    Each clip's room and noise follow from its id, so the set is the same wherever it is made.
    """
    config = config or FarFieldConfig()
    result = out / f"{manifest.stem}.jsonl"
    if result.exists() and manifest.exists() and result.samefile(manifest):
        raise UsageError(f"{result} is what is read; name another folder for what is written")
    clips = list(read_corpus(manifest, report))
    if not clips or not noises:
        raise DataError(f"{manifest if not clips else 'the noise manifest'} has no usable clip")
    rng = np.random.default_rng(config.seed)
    rooms = [room_response(rng, config.distance) for _ in range(config.rooms)]
    noise_audio = [read_audio(path) for path in noises]
    out.mkdir(parents=True, exist_ok=True)
    lines = []
    for clip in clips:
        try:
            samples = read_audio(clip.path)
        except AudioError as error:
            report(f"{clip.source}: {error}")
            continue
        own = np.random.default_rng([config.seed, zlib.crc32(clip.id.encode())])
        padded = np.concatenate([np.zeros(4_000, np.float32), samples, np.zeros(8_000, np.float32)])
        wet = add_room(padded, rooms[int(own.integers(len(rooms)))])
        noise = noise_audio[int(own.integers(len(noise_audio)))]
        noisy = add_noise(wet, noise, float(own.uniform(*config.snr_db)), own)
        name = f"{clip.id.replace('/', '_').replace(':', '_')}.flac"
        soundfile.write(out / name, noisy / max(1.0, float(np.abs(noisy).max())), SAMPLE_RATE)
        duration = round(len(noisy) / SAMPLE_RATE, 3)
        lines.append(
            json.dumps({"audio_filepath": name, "duration": duration, "text": clip.text, "speaker": clip.speaker})
        )
    result.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return result


def demonstrate(audio: Path, out: Path, noise: Path | None, seed: int = 0) -> list[Path]:
    """Write every augmentation of one clip as WAV, and one picture of their spectrograms, to hear and to see."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    rng = np.random.default_rng(seed)
    samples = read_audio(audio)
    background = read_audio(noise) if noise else rng.normal(0.0, 0.1, SAMPLE_RATE).astype(np.float32)
    versions: dict[str, Floats] = {
        "plain": samples,
        "speed-0.9": change_speed(samples, 0.9),
        "speed-1.1": change_speed(samples, 1.1),
        "gain+6dB": change_gain(samples, 6.0),
        "noise-10dB": add_noise(samples, background, 10.0, rng),
        "babble-5dB": add_noise(samples, babble([samples[::-1], np.roll(samples, 9_000)], len(samples), rng), 5.0, rng),
        "room": add_room(samples, room_response(rng, (2.0, 4.0))),
        "telephone": band_limit(samples, 300.0, 3_400.0),
    }
    out.mkdir(parents=True, exist_ok=True)
    config = FrontEndConfig()
    pictures = {name: log_mel(version, config) for name, version in versions.items()}
    plain = pictures["plain"]
    pictures["frequencies x 1.1"] = warp_frequency(plain, 1.1)
    pictures["tempo x 1.1"] = change_tempo(plain, 1.1)
    pictures["middle 0.4 s later"] = warp_time(plain, len(plain) // 2, 40)
    figure, axes = plt.subplots(len(pictures), 1, figsize=(9, 2 * len(pictures)), layout="constrained")
    for axis, (name, frames) in zip(axes, pictures.items(), strict=True):
        axis.imshow(frames.T, origin="lower", aspect="auto", extent=(0, len(frames) / 100, 0, config.n_mels))
        axis.set_title(name, fontsize=9)
    figure.savefig(out / "spectrograms.png", dpi=90)
    plt.close(figure)
    written = [out / "spectrograms.png"]
    for name, version in versions.items():
        soundfile.write(out / f"{name}.wav", np.clip(version, -1.0, 1.0), SAMPLE_RATE)
        written.append(out / f"{name}.wav")
    return written
