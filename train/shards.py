"""A prepared set as TFRecord shards: for corpora of any size, read in order by as many workers as there are.

`Batches` draws clips in any order from a memory map, which wants a fast disk near by. Shards are read from beginning to
end, some at a time, so a network file system will do, and 1,000 hours take no more memory than 10. Each worker reads
every n-th shard.

A folder of shards has ``shard-00000-of-00012.tfrecord`` and so on, each of about 100 MB, and what else a prepared set
has but its frames. A record is one clip: its number, and log-mel of each variant (float16, ``[frames, n_mels]``).
"""

from __future__ import annotations

import shutil
from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from rich.progress import track

from edge_stt.errors import DataError

from .augment import SpecAugmentConfig
from .batches import (
    STRIDE,
    Batch,
    Labels,
    ahead,
    assemble,
    by_length,
    draw_times,
    fits,
    frames_needed_by,
    times_taken,
    variants_of,
)
from .config import BatchConfig
from .prepare import PreparedSet, console, read_description

SHARD_BYTES = 100_000_000
DESCRIPTION = ("clips.jsonl", "report.json", "statistics.npz")
OPEN_AT_ONCE = 8  # shards that a worker reads from in turn
Drawn = tuple[int, Any]  # a clip's number and its log-mel, float16
POOL = 1024  # clips that are shuffled and sorted by length together: what a worker keeps in memory


def write_shards(prepared: Path, out: Path, shard_bytes: int = SHARD_BYTES, seed: int = 1) -> list[Path]:
    """Write a prepared set's clips, shuffled, as shards; returns their paths. Nothing is left behind on failure."""
    data = PreparedSet(prepared)
    if out.exists() and any(out.iterdir()):
        raise DataError(f"{out} is not empty: name a new folder")
    width = 2 * data.front_end.n_mels
    total = sum(int(data.lengths(variant).sum()) for variant in data.variants) * width
    count = max(1, round(total / shard_bytes))
    order = np.random.default_rng(seed).permutation(len(data))
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / f"shard-{i:05d}-of-{count:05d}.tfrecord" for i in range(count)]
    try:
        pieces = list(zip(paths, np.array_split(order, count), strict=True))
        for path, clips in track(pieces, "Writing", console=console, disable=not console.is_terminal):
            with tf.io.TFRecordWriter(str(path)) as writer:
                for clip in clips:
                    writer.write(_record(data, int(clip)))
        for name in DESCRIPTION:
            shutil.copyfile(prepared / name, out / name)
    except (OSError, tf.errors.OpError) as error:
        for path in (*paths, *(out / name for name in DESCRIPTION)):
            with suppress(OSError):
                path.unlink(missing_ok=True)
        raise DataError(f"cannot write shards in {out}: {error}") from error
    return paths


def _record(data: PreparedSet, clip: int) -> bytes:
    features = {"clip": tf.train.Feature(int64_list=tf.train.Int64List(value=[clip]))}
    for variant in data.variants:
        frames = data.frames(clip, variant).astype(np.float16).tobytes()
        features[variant] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[frames]))
    serialised: bytes = tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()
    return serialised


class ShardedSet:
    """A folder of shards; its clips are listed, their frames come in `ShardBatches`."""

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.glob("shard-*-of-*.tfrecord"))
        if not self.paths or f"-of-{len(self.paths):05d}." not in self.paths[0].name:
            raise DataError(f"{folder} has not all of its shards: write them with `edge-stt train shards`")
        self.clips, self.front_end, self.variants, self.statistics = read_description(folder)

    def __len__(self) -> int:
        return len(self.clips)


class ShardBatches:
    """Draws batches from shards, as `Batches` does from a prepared set; worker ``worker`` of ``workers`` has its own.

    Other than there, epochs do not begin with short clips, two views of a clip are of one variant, and clips in which
    nothing is said come among others of their own length.

    A run that resumes reads again what it had read of its epoch, without computing anything, and goes on from there.
    """

    def __init__(
        self,
        data: ShardedSet,
        labels: Labels,
        config: BatchConfig,
        augment: SpecAugmentConfig,
        seed: int,
        worker: int = 0,
        workers: int = 1,
        stride: int = STRIDE,
    ) -> None:
        if workers > len(data.paths):
            raise DataError(
                f"{workers} workers need at least as many shards, not {len(data.paths)}: write smaller ones"
            )
        self.data, self.labels, self.config, self.augment = data, labels, config, augment
        self.variants, self.weights = variants_of(config, data.variants)
        self.times = times_taken(config, [clip.corpus for clip in data.clips])
        self.needed = frames_needed_by(labels)
        self.seed, self.worker, self.workers, self.stride = seed, worker, workers, stride

    def epoch(self, epoch: int) -> Iterator[list[Drawn]]:
        """The batches of an epoch, as `Batches.epoch` draws them, but in an order that reading allows."""
        rng = np.random.default_rng([self.seed, epoch, self.worker])
        times = draw_times(self.times, rng)
        pool: list[tuple[int, Drawn]] = []
        for clip, frames in self._records(epoch):
            for choice in rng.choice(len(self.variants), size=times[clip], p=self.weights):
                for variant in (self.variants[choice], "plain"):
                    if fits(len(frames[variant]), self.needed[clip], self.stride):
                        pool.append((len(frames[variant]), (clip, frames[variant])))
                        break
            if len(pool) >= POOL:
                yield from self._groups(pool, rng)
                pool = []
        yield from self._groups(pool, rng)

    def _groups(self, pool: list[tuple[int, Drawn]], rng: np.random.Generator) -> list[list[Drawn]]:
        batches = by_length(pool, self.config.seconds / self.config.views)
        rng.shuffle(batches)
        return batches

    def _records(self, epoch: int) -> Iterator[tuple[int, dict[str, npt.NDArray[np.float16]]]]:
        """Clips and the log-mel of their variants, float16, in an order that follows from the epoch."""
        seed = int(np.random.default_rng([self.seed, epoch]).integers(2**31))
        spec = {"clip": tf.io.FixedLenFeature([], tf.int64)}
        spec |= {variant: tf.io.FixedLenFeature([], tf.string) for variant in self.data.variants}
        files = tf.data.Dataset.from_tensor_slices([str(path) for path in self.data.paths])
        files = files.shard(self.workers, self.worker).shuffle(len(self.data.paths), seed=seed)
        records = files.interleave(
            tf.data.TFRecordDataset, cycle_length=OPEN_AT_ONCE, num_parallel_calls=2, deterministic=True
        )
        records = records.shuffle(POOL, seed=seed).map(lambda x: tf.io.parse_single_example(x, spec)).prefetch(64)
        mels = self.data.front_end.n_mels
        try:
            for item in records.as_numpy_iterator():
                yield (
                    int(item["clip"]),
                    {v: np.frombuffer(item[v], np.float16).reshape(-1, mels) for v in self.data.variants},
                )
        except tf.errors.OpError as error:
            raise DataError(f"a shard is damaged; write them again: {error.message}") from error

    def from_step(self, step: int) -> Generator[tuple[int, Batch]]:
        """Endless (epoch, batch) pairs, beginning with the batch of ``step``, prepared ahead in a thread."""

        def produce() -> Iterator[tuple[int, Batch]]:
            epoch, passed = 0, 0
            while True:
                number = -1
                for number, drawn in enumerate(self.epoch(epoch)):
                    if passed + number >= step:
                        rng = np.random.default_rng([self.seed, epoch, number, self.worker])
                        views = range(self.config.views)
                        clips = [(clip, frames.astype(np.float32)) for clip, frames in drawn for _ in views]
                        settings = self.config, self.data.statistics, self.augment
                        yield epoch, assemble(clips, self.labels, self.needed, *settings, rng, self.stride)
                if number < 0:
                    raise DataError("no clip of the shards can be used")
                passed += number + 1
                epoch += 1

        return ahead(produce)
