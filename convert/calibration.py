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
    """Take ``count`` clips, or all, in turn from every speaker, each speaker's evenly over its lengths."""
    by_speaker: dict[str, list[Clip]] = defaultdict(list)
    for clip in sorted(clips, key=lambda c: (c.duration, c.id)):
        by_speaker[clip.speaker].append(clip)
    queues = [[own[index] for index in _spread(len(own))] for _, own in sorted(by_speaker.items())]
    turns = [queue[turn] for turn in range(max(map(len, queues), default=0)) for queue in queues if turn < len(queue)]
    return turns[:count]


def _spread(count: int) -> list[int]:
    """All of ``range(count)``, first what lies 0, 1/2, 1/4, 3/4, … of the way (van der Corput's sequence)."""
    bits = max(1, count.bit_length())
    fractions = (int(f"{number:0{bits}b}"[::-1], 2) / 2**bits for number in range(2**bits))
    return list(dict.fromkeys(int(fraction * count) for fraction in fractions))


def calibration_clips(manifest: Path, count: int, model: TrainedModel) -> list[Floats]:
    """Normalised log-mel (float32 ``[frames, n_mels]``, whole output frames) of representative clips."""
    clips = choose_clips(list(read_corpus(manifest, lambda problem: None)), count)
    out = []
    for clip in clips:
        try:
            frames = log_mel(read_audio(clip.path), model.front_end)
        except AudioError:
            continue
        if usable := len(frames) // model.network.stride * model.network.stride:
            out.append(normalise_utterance(frames, model.statistics)[:usable])
    if not out:
        raise DataError(f"{manifest} has no usable clip to calibrate with")
    return out
