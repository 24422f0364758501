"""Start or resume a run: prepared sets → labels → `Trainer`."""

from __future__ import annotations

import hashlib
from pathlib import Path

from edge_stt.errors import DataError
from edge_stt.units import ARPABET, ENGLISH_CHARACTERS, UnitSet

from .config import TrainConfig
from .loop import DevSet, Trainer, console, describe_run, encode_texts
from .prepare import PreparedSet
from .pronunciation import Labeller

UNITS: dict[str, UnitSet] = {"characters": ENGLISH_CHARACTERS, "phonemes": ARPABET}


def start_run(
    config: TrainConfig, data: Path, dev: Path, run: Path, dev_corpus: str | None = None, init: Path | None = None
) -> Trainer:
    """Train ``config`` in the directory ``run``; goes on where an interrupted run stopped."""
    train_set, dev_set = PreparedSet(data), PreparedSet(dev)
    clips = [i for i, clip in enumerate(dev_set.clips) if dev_corpus in (None, clip.corpus)]
    if not clips:
        raise DataError(f"{dev} has no clip of the corpus {dev_corpus!r}")
    labeller = Labeller()
    labels, dev_labels = (
        encode_texts([clip.text for clip in prepared.clips], UNITS, labeller.pronounce_text)
        for prepared in (train_set, dev_set)
    )
    hashes = {
        name: hashlib.sha256((folder / "clips.jsonl").read_bytes()).hexdigest()
        for name, folder in (("train", data), ("dev", dev))
    }
    describe_run(run, config, UNITS, train_set, hashes)
    trainer = Trainer(config, UNITS, run)
    if trainer.restore():
        console.print(f"resumed at step {trainer.step}")
    elif init:
        trainer.initialise_from(init)
    trainer.train(train_set, labels, DevSet(dev_corpus or dev.name, dev_set, clips), dev_labels)
    return trainer
