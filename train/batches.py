"""Batches of a prepared set. Everything follows from (seed, epoch, batch number), so a run can resume anywhere."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from queue import Full, Queue
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from edge_stt.errors import DataError
from edge_stt.features import FeatureStatistics, Floats, RunningNormaliser, normalise_utterance

from .augment import SpecAugmentConfig, change_tempo, mask_frames, move_frames, warp_frequency
from .config import BatchConfig
from .prepare import PreparedSet

Ints = npt.NDArray[np.int32]
Labels = dict[str, list[list[int]]]  # per head, the units of each clip
T = TypeVar("T")
STRIDE = 4  # log-mel frames per output frame, where a network does not say otherwise
PAD_TO = 64  # frames: few distinct shapes, so that kernels are set up once


@dataclass(frozen=True)
class Batch:
    """``log_mel`` float32 ``[B, T, n_mels]``, and ``unmasked``, the same before parts of it were masked; in output
    frames, ``lengths`` int32 ``[B]`` and ``mask`` float32 ``[B, T / stride, 1]``; ``labels``: per head, the units of
    each clip; ``stride``: log-mel frames per output frame."""

    log_mel: Floats
    unmasked: Floats
    lengths: Ints
    mask: Floats
    labels: Labels
    stride: int

    @property
    def seconds(self) -> float:
        """Seconds of audio, padding left out."""
        return float(self.lengths.sum()) * self.stride / 100.0


def frames_needed(labels: list[int]) -> int:
    """Output frames a CTC label needs: one a unit, and a blank between equal neighbours."""
    return len(labels) + sum(a == b for a, b in pairwise(labels))


class Batches:
    """Draws batches from a prepared set; ``labels[head][i]`` are clip i's units."""

    def __init__(
        self,
        data: PreparedSet,
        labels: Labels,
        config: BatchConfig,
        augment: SpecAugmentConfig,
        seed: int,
        stride: int = STRIDE,
    ) -> None:
        self.data, self.labels, self.config, self.augment, self.seed = data, labels, config, augment, seed
        self.stride = stride
        self.variants, self.weights = variants_of(config, data.variants)
        self.frames = {v: data.lengths(v) for v in {*self.variants, "plain"}}
        self.times = times_taken(config, [clip.corpus for clip in data.clips])
        self.needed = frames_needed_by(labels)

    def epoch(self, epoch: int) -> list[list[tuple[int, str]]]:
        """The batches of an epoch, each a list of (clip, variant); clips too short for their label in the drawn
        variant are taken plain, and left out if that is too short as well. Clips in which nothing is said stand among
        spoken ones of any length: batches of noise alone would upset what normalisations learn."""
        rng = np.random.default_rng([self.seed, epoch])
        spoken = self.frames[self.variants[0]][self.needed > 0]
        clips = np.repeat(np.arange(len(self.data)), draw_times(self.times, rng))
        items: list[tuple[int, tuple[int, str]]] = []
        drawn = rng.choice(len(self.variants), size=len(clips), p=self.weights)
        for clip, choice in zip(rng.permutation(clips), drawn, strict=True):
            for variant in (self.variants[choice], "plain"):
                length = int(self.frames[variant][clip])
                if fits(length, self.needed[clip], self.stride):
                    if self.needed[clip] == 0 and len(spoken):
                        length = min(length, int(rng.choice(spoken)))
                    items.append((length, (int(clip), variant)))
                    break
        batches: list[list[tuple[int, str]]] = []
        pool = 4096  # sorted by length within pools of this many clips, so that batches still differ between epochs
        for start in range(0, len(items), pool):
            batches += by_length(items[start : start + pool], self.config.seconds / self.config.views)
        if epoch >= self.config.curriculum_epochs:
            rng.shuffle(batches)
        else:
            batches.sort(key=lambda group: max(self.frames[v][c] for c, v in group))
        return batches

    def load(self, items: list[tuple[int, str]], rng: np.random.Generator) -> Batch:
        """Read, normalise, warp and mask the clips of one batch; of silent ones no more than the longest spoken one."""
        if self.config.views > 1:
            items = [(clip, view) for clip, first in items for view in (first, self._like(clip, first, rng))]
        clips = [(clip, self.data.frames(clip, variant)) for clip, variant in items]
        longest = max((len(frames) for clip, frames in clips if self.needed[clip]), default=0)
        if longest:
            seed = int(rng.integers(2**32))  # the views of a clip are of the same part
            clips = [(c, frames if self.needed[c] else _part(frames, longest, [seed, c])) for c, frames in clips]
        settings = self.config, self.data.statistics, self.augment
        return assemble(clips, self.labels, self.needed, *settings, rng, self.stride)

    def _like(self, clip: int, variant: str, rng: np.random.Generator) -> str:
        """A variant of the clip in which all is said at the same time: itself, or another with as many frames."""
        length = self.frames[variant][clip] if variant in self.frames else self.data.lengths(variant)[clip]
        same = [i for i, other in enumerate(self.variants) if self.frames[other][clip] == length]
        weights = self.weights[same]
        if not weights.any():
            return variant
        return self.variants[rng.choice(same, p=weights / weights.sum())]

    def from_step(self, step: int) -> Generator[tuple[int, Batch]]:
        """Endless (epoch, batch) pairs, beginning with the batch of ``step``, prepared ahead in a thread."""

        def produce() -> Iterator[tuple[int, Batch]]:
            epoch, passed, empty = 0, 0, 0
            while True:
                batches = self.epoch(epoch)
                empty = 0 if batches else empty + 1
                if empty == 100:  # one may be, where few clips are taken less than once
                    raise DataError("no clip of the set can be used: all are too short for what is said in them")
                for number in range(max(0, step - passed), len(batches)):
                    rng = np.random.default_rng([self.seed, epoch, number])
                    yield epoch, self.load(batches[number], rng)
                passed += len(batches)
                epoch += 1

        return ahead(produce)


def variants_of(config: BatchConfig, there: Sequence[str]) -> tuple[list[str], npt.NDArray[np.float64]]:
    """The variants that are drawn, and how often each is."""
    variants = [v for v in config.variant_weights if v in there]
    weights = np.array([config.variant_weights[v] for v in variants])
    if not weights.any():
        raise DataError(f"config: batches.variant_weights takes none of what the set has: {', '.join(there)}")
    return variants, weights / weights.sum()


def times_taken(config: BatchConfig, corpora: Sequence[str]) -> npt.NDArray[np.float64]:
    """How often an epoch takes each clip, given their corpora: float64 ``[clips]``, 1 where nothing is said."""
    if unknown := sorted(set(config.corpus_weights) - set(corpora)):
        raise DataError(
            f"config: batches.corpus_weights has {unknown[0]!r}; the set has {', '.join(sorted(set(corpora)))}"
        )
    return np.array([config.corpus_weights.get(corpus, 1.0) for corpus in corpora])


def draw_times(times: npt.NDArray[np.float64], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Whole numbers whose means are ``times``."""
    return np.floor(times + rng.random(len(times))).astype(np.int64)


def frames_needed_by(labels: Labels) -> Ints:
    """For each clip, the output frames that the longest of its labels needs; int32 ``[clips]``."""
    clips = range(len(next(iter(labels.values()))))
    return np.array([max(frames_needed(units[i]) for units in labels.values()) for i in clips], dtype=np.int32)


def fits(length: int, needed: int, stride: int) -> bool:
    """Whether log-mel frames are enough for a label, with one output frame to spare."""
    return length // stride >= needed + 1


def by_length(items: Iterable[tuple[int, T]], seconds: float) -> list[list[T]]:
    """Group things, given with their numbers of log-mel frames, into batches of like lengths, padding included."""
    batches: list[list[T]] = []
    group: list[T] = []
    longest = 0
    for length, item in sorted(items, key=lambda pair: pair[0]):
        longest = max(longest, length)
        if group and (len(group) + 1) * longest > seconds * 100:
            batches.append(group)
            group, longest = [], length
        group.append(item)
    if group:
        batches.append(group)
    return batches


def assemble(
    clips: Sequence[tuple[int, Floats]],
    labels: Labels,
    needed: Ints,
    config: BatchConfig,
    statistics: FeatureStatistics,
    augment: SpecAugmentConfig,
    rng: np.random.Generator,
    stride: int = STRIDE,
) -> Batch:
    """Make a batch of clips: their numbers, and log-mel as it was prepared, float32 ``[frames, n_mels]``.

    With ``config.views`` of 2 they come in pairs, whose times are changed alike.
    """
    pieces: list[Floats] = []
    for number, (clip, raw) in enumerate(clips):
        frames = raw
        if number % config.views == 0:
            seed = rng.integers(2**63)
        moves = np.random.default_rng(seed)
        if config.tempo:
            frames = change_tempo(frames, float(1.0 + moves.uniform(-config.tempo, config.tempo)))
            frames = frames if fits(len(frames), needed[clip], stride) else raw
        if config.warp:
            frames = warp_frequency(frames, float(1.0 + rng.uniform(-config.warp, config.warp)))
        if rng.random() < config.running_share:
            frames = RunningNormaliser(statistics)(frames)
        else:
            frames = normalise_utterance(frames, statistics)
        pieces.append(move_frames(frames, augment, moves))
    masked = [mask_frames(piece, augment, rng) for piece in pieces]
    return collate(masked, {head: [units[clip] for clip, _ in clips] for head, units in labels.items()}, pieces, stride)


def _part(frames: Floats, count: int, seed: list[int]) -> Floats:
    """At most ``count`` frames, from a random place on."""
    start = int(np.random.default_rng(seed).integers(max(0, len(frames) - count) + 1))
    return frames[start : start + count]


def collate(pieces: list[Floats], labels: Labels, unmasked: list[Floats] | None = None, stride: int = STRIDE) -> Batch:
    """Pad normalised log-mel to a common length (a multiple of ``stride``, and of about `PAD_TO` frames) with zeros.

    ``unmasked``: the pieces without masks, where they have any.
    """
    longest = max(len(piece) for piece in pieces)
    step = max(1, PAD_TO // stride) * stride
    padded = -(-longest // step) * step

    def joined(pieces: list[Floats]) -> Floats:
        rows = np.zeros((len(pieces), padded, pieces[0].shape[1]), dtype=np.float32)
        for row, piece in zip(rows, pieces, strict=True):
            row[: len(piece)] = piece
        return rows

    log_mel = joined(pieces)
    lengths = np.array([-(-len(piece) // stride) for piece in pieces], dtype=np.int32)
    mask = (np.arange(padded // stride)[None, :] < lengths[:, None]).astype(np.float32)[:, :, None]
    return Batch(log_mel, log_mel if unmasked is None else joined(unmasked), lengths, mask, labels, stride)


def ahead(produce: Callable[[], Iterator[Any]], depth: int = 6) -> Generator[Any]:
    """Run a generator in a thread, ``depth`` items ahead; its exceptions surface here.

    Close the result when done: a thread that is still inside TensorFlow when Python ends aborts the process.
    """
    queue: Queue[tuple[Any, BaseException | None]] = Queue(depth)
    stopped = threading.Event()

    def offer(item: Any, error: BaseException | None) -> bool:
        while not stopped.is_set():
            try:
                queue.put((item, error), timeout=0.2)
                return True
            except Full:
                continue
        return False

    def work() -> None:
        try:
            for item in produce():
                if not offer(item, None):
                    return
        except BaseException as error:
            offer(None, error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            item, error = queue.get()
            if error is not None:
                raise error
            yield item
    finally:
        stopped.set()
        thread.join()
