"""Batches of a prepared set. Everything follows from (seed, epoch, batch number), so a run can resume anywhere."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from queue import Queue
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_stt.features import Floats, RunningNormaliser, normalise_utterance

from .augment import SpecAugmentConfig, spec_augment, warp_frequency
from .config import BatchConfig
from .models.conv import STRIDE
from .prepare import PreparedSet

Ints = npt.NDArray[np.int32]
PAD_TO = 64  # frames: few distinct shapes, so that kernels are set up once


@dataclass(frozen=True)
class Batch:
    """``log_mel`` float32 ``[B, T, n_mels]``; in output frames, ``lengths`` int32 ``[B]`` and ``mask`` float32
    ``[B, T / 4, 1]``; ``labels``: per head, the units of each clip."""

    log_mel: Floats
    lengths: Ints
    mask: Floats
    labels: dict[str, list[list[int]]]

    @property
    def seconds(self) -> float:
        """Seconds of audio, padding left out."""
        return float(self.lengths.sum()) * STRIDE / 100.0


def frames_needed(labels: list[int]) -> int:
    """Output frames a CTC label needs: one a unit, and a blank between equal neighbours."""
    return len(labels) + sum(a == b for a, b in pairwise(labels))


class Batches:
    """Draws batches from a prepared set; ``labels[head][i]`` are clip i's units."""

    def __init__(
        self,
        data: PreparedSet,
        labels: dict[str, list[list[int]]],
        config: BatchConfig,
        augment: SpecAugmentConfig,
        seed: int,
    ) -> None:
        self.data, self.labels, self.config, self.augment, self.seed = data, labels, config, augment, seed
        self.variants = [v for v in config.variant_weights if v in data.variants]
        weights = np.array([config.variant_weights[v] for v in self.variants])
        self.weights = weights / weights.sum()
        self.frames = {v: data.lengths(v) for v in self.variants}
        self.needed = np.array([max(frames_needed(labels[h][i]) for h in labels) for i in range(len(data))])

    def epoch(self, epoch: int) -> list[list[tuple[int, str]]]:
        """The batches of an epoch, each a list of (clip, variant); clips too short for their label in the drawn
        variant are taken plain, and left out if that is too short as well."""
        rng = np.random.default_rng([self.seed, epoch])
        drawn = rng.choice(len(self.variants), size=len(self.data), p=self.weights)
        items: list[tuple[int, int, str]] = []
        for clip in rng.permutation(len(self.data)):
            for variant in (self.variants[drawn[clip]], "plain"):
                length = int(self.frames[variant][clip])
                if length // STRIDE >= self.needed[clip] + 1:
                    items.append((length, int(clip), variant))
                    break
        batches: list[list[tuple[int, str]]] = []
        pool = 4096  # sorted by length within pools of this many clips, so that batches still differ between epochs
        for start in range(0, len(items), pool):
            group: list[tuple[int, str]] = []
            longest = 0
            for length, clip, variant in sorted(items[start : start + pool], key=lambda item: item[0]):
                longest = max(longest, length)
                if group and (len(group) + 1) * longest > self.config.seconds * 100:
                    batches.append(group)
                    group, longest = [], length
                group.append((clip, variant))
            if group:
                batches.append(group)
        if epoch >= self.config.curriculum_epochs:
            rng.shuffle(batches)
        else:
            batches.sort(key=lambda group: max(self.frames[v][c] for c, v in group))
        return batches

    def load(self, items: list[tuple[int, str]], rng: np.random.Generator) -> Batch:
        """Read, normalise, warp and mask the clips of one batch."""
        pieces: list[Floats] = []
        for clip, variant in items:
            frames = self.data.frames(clip, variant)
            if self.config.warp:
                frames = warp_frequency(frames, float(1.0 + rng.uniform(-self.config.warp, self.config.warp)))
            if rng.random() < self.config.running_share:
                frames = RunningNormaliser(self.data.statistics)(frames)
            else:
                frames = normalise_utterance(frames, self.data.statistics)
            pieces.append(spec_augment(frames, self.augment, rng))
        return collate(pieces, {head: [units[clip] for clip, _ in items] for head, units in self.labels.items()})

    def from_step(self, step: int) -> Iterator[tuple[int, Batch]]:
        """Endless (epoch, batch) pairs, beginning with the batch of ``step``, prepared ahead in a thread."""

        def produce() -> Iterator[tuple[int, Batch]]:
            epoch, passed = 0, 0
            while True:
                batches = self.epoch(epoch)
                for number in range(max(0, step - passed), len(batches)):
                    rng = np.random.default_rng([self.seed, epoch, number])
                    yield epoch, self.load(batches[number], rng)
                passed += len(batches)
                epoch += 1

        return _ahead(produce)


def collate(pieces: list[Floats], labels: dict[str, list[list[int]]]) -> Batch:
    """Pad normalised log-mel to a common length (a multiple of `PAD_TO` frames) with zeros."""
    longest = max(len(piece) for piece in pieces)
    padded = -(-longest // PAD_TO) * PAD_TO
    log_mel = np.zeros((len(pieces), padded, pieces[0].shape[1]), dtype=np.float32)
    for row, piece in zip(log_mel, pieces, strict=True):
        row[: len(piece)] = piece
    lengths = np.array([-(-len(piece) // STRIDE) for piece in pieces], dtype=np.int32)
    mask = (np.arange(padded // STRIDE)[None, :] < lengths[:, None]).astype(np.float32)[:, :, None]
    return Batch(log_mel, lengths, mask, labels)


def _ahead(produce: Callable[[], Iterator[Any]], depth: int = 6) -> Iterator[Any]:
    """Run a generator in a thread, ``depth`` items ahead; its exceptions surface here."""
    queue: Queue[tuple[Any, BaseException | None]] = Queue(depth)

    def work() -> None:
        try:
            for item in produce():
                queue.put((item, None))
        except BaseException as error:
            queue.put((None, error))

    threading.Thread(target=work, daemon=True).start()
    while True:
        item, error = queue.get()
        if error is not None:
            raise error
        yield item
