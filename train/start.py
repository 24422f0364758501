"""Start or resume a run: prepared sets → labels → `Trainer`."""

from __future__ import annotations

import hashlib
from pathlib import Path

from edge_stt.errors import DataError
from edge_stt.units import ARPABET, ENGLISH_CHARACTERS, UnitSet

from .batches import Batches
from .config import TrainConfig
from .loop import Described, DevSet, Source, Trainer, console, describe_run, encode_texts
from .prepare import PreparedSet, read_description
from .pronunciation import Labeller
from .workers import together, worker_of_environment

UNITS: dict[str, UnitSet] = {"characters": ENGLISH_CHARACTERS, "phonemes": ARPABET}


def start_run(
    config: TrainConfig, data: Path, dev: Path, run: Path, dev_corpus: str | None = None, init: Path | None = None
) -> Trainer:
    """Train ``config`` in the directory ``run``; goes on where an interrupted run stopped.

    ``data`` is a prepared set, or shards of one. Where TF_CONFIG names several workers, this is one of them.
    """
    worker, workers = worker_of_environment()
    scope = together(workers)
    sharded = any(data.glob("shard-*.tfrecord"))
    if workers > 1 and not sharded:
        raise DataError(f"several workers read shards, and {data} has none: `edge-stt train shards` writes them")
    clips_of_train, dev_set = read_description(data)[0], PreparedSet(dev)
    clips = [i for i, clip in enumerate(dev_set.clips) if dev_corpus in (None, clip.corpus)]
    if not clips:
        raise DataError(f"{dev} has no clip of the corpus {dev_corpus!r}")
    train_set: Described
    batches: Source
    labeller = Labeller()
    labels, dev_labels = (
        encode_texts([clip.text for clip in prepared], UNITS, labeller.pronounce_text)
        for prepared in (clips_of_train, dev_set.clips)
    )
    hashes = {
        name: hashlib.sha256((folder / "clips.jsonl").read_bytes()).hexdigest()
        for name, folder in (("train", data), ("dev", dev))
    }
    settings = labels, config.batches, config.spec_augment, config.seed
    if sharded:
        from .shards import ShardBatches, ShardedSet

        shards = ShardedSet(data)
        train_set, batches = shards, ShardBatches(shards, *settings, worker, workers)
    else:
        prepared = PreparedSet(data)
        train_set, batches = prepared, Batches(prepared, *settings)
    if worker == 0:
        describe_run(run, config, UNITS, train_set, hashes)
    with scope:
        trainer = Trainer(config, UNITS, run, chief=worker == 0)
    if trainer.restore():
        console.print(f"resumed at step {trainer.step}")
    elif init:
        trainer.initialise_from(init)
    trainer.train(batches, DevSet(dev_corpus or dev.name, dev_set, clips), dev_labels)
    return trainer
