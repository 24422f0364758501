"""Representative clips for integer quantization: spread over speakers and lengths, the same every time."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from edge_stt.audio import read_audio
from edge_stt.errors import AudioError, DataError
from edge_stt.features import Floats, log_mel, normalise_utterance
from train.data import Clip, read_corpus

from .graph import TrainedModel


def choose_clips(clips: list[Clip], count: int) -> list[Clip]:
    """Take ``count`` clips in turn from every speaker, each speaker's evenly over its lengths."""
    by_speaker: dict[str, list[Clip]] = defaultdict(list)
    for clip in sorted(clips, key=lambda c: (c.duration, c.id)):
        by_speaker[clip.speaker].append(clip)
    chosen: list[Clip] = []
    turn = 0
    while len(chosen) < min(count, len(clips)):
        for _, own in sorted(by_speaker.items()):
            if turn < len(own) and len(chosen) < count:
                # 0, 1/2, 1/4, 3/4, … of the way through the lengths
                position = int(f"{turn:b}"[::-1], 2) / (1 << max(1, turn.bit_length()))
                candidate = own[min(len(own) - 1, int(position * len(own)))]
                if candidate not in chosen:
                    chosen.append(candidate)
        turn += 1
        if turn > 4 * max(len(own) for own in by_speaker.values()):
            break
    return chosen


def calibration_clips(manifest: Path, count: int, model: TrainedModel) -> list[Floats]:
    """Normalised log-mel (float32 ``[frames, n_mels]``, a multiple of 4 frames) of representative clips."""
    clips = choose_clips(list(read_corpus(manifest, lambda problem: None)), count)
    out = []
    for clip in clips:
        try:
            frames = log_mel(read_audio(clip.path), model.front_end)
        except AudioError:
            continue
        if usable := len(frames) // 4 * 4:
            out.append(normalise_utterance(frames, model.statistics)[:usable])
    if not out:
        raise DataError(f"{manifest} has no usable clip to calibrate with")
    return out
