"""Start or resume a run: prepared sets → labels → `Trainer`."""

from __future__ import annotations

import hashlib
from pathlib import Path

from edge_stt.errors import DataError
from edge_stt.language import load_language

from .batches import Batches
from .config import TrainConfig
from .loop import Described, DevSet, Source, Trainer, console, describe_run, encode_texts
from .prepare import PreparedSet, check_language, read_description
from .pronunciation import Labeller
from .workers import together, worker_of_environment


def start_run(
    config: TrainConfig, data: Path, dev: Path, run: Path, dev_corpus: str | None = None, init: Path | None = None
) -> Trainer:
    """Train ``config`` in the directory ``run``; goes on where an interrupted run stopped.

    ``data`` is a prepared set, or shards of one. Where TF_CONFIG names several workers, this is one of them.
    """
    language = load_language(config.language)
    worker, workers = worker_of_environment()
    scope = together(workers)
    sharded = any(data.glob("shard-*.tfrecord"))
    if workers > 1 and not sharded:
        raise DataError(f"several workers read shards, and {data} has none: `edge-stt train shards` writes them")
    clips_of_train, dev_set = read_description(data)[0], PreparedSet(dev)
    for folder in (data, dev):
        check_language(folder, language)
    clips = [i for i, clip in enumerate(dev_set.clips) if dev_corpus in (None, clip.corpus)]
    if not clips:
        raise DataError(f"{dev} has no clip of the corpus {dev_corpus!r}")
    train_set: Described
    batches: Source
    labeller = Labeller.of(language) if any(u.kind == "phonemes" for u in language.units.values()) else None
    pronounce = labeller.pronounce_text if labeller else None
    labels, dev_labels = (
        encode_texts([clip.text for clip in prepared], language.units, pronounce)
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
        describe_run(run, config, language, train_set, hashes)
    with scope:
        trainer = Trainer(config, language.units, run, chief=worker == 0)
    if trainer.restore():
        console.print(f"resumed at step {trainer.step}")
    elif init:
        trainer.initialise_from(init)
    trainer.train(batches, DevSet(dev_corpus or dev.name, dev_set, clips), dev_labels)
    return trainer
