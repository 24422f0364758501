"""Start or resume a run: prepared sets → labels → `Trainer`.

Nothing is written in a run directory before it is sure that it can go on as asked: what it has of another network or of
other data must stay as it is, for `edge-stt convert` reads it beside ``best.npz``.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
import numpy as np

from edge_stt.errors import DataError, EdgeSttError
from edge_stt.features import FrontEndConfig
from edge_stt.files import write_atomically
from edge_stt.interrupts import Interrupted
from edge_stt.language import Language, load_language
from edge_stt.units import UnitSet

from .batches import Batches
from .config import TrainConfig, from_dict, to_dict
from .loop import DevSet, Source, Trainer, console, encode_texts
from .prepare import Described, PreparedSet, check_language, read_description
from .pronunciation import Labeller
from .workers import together, worker_of_environment


def start_run(
    config: TrainConfig, data: Path, dev: Path, run: Path, dev_corpus: str | None = None, init: Path | None = None
) -> Trainer:
    """Train ``config`` in the directory ``run``; goes on where an interrupted run stopped.

    ``data`` is a prepared set, or shards of one. Where TF_CONFIG names several workers, this is one of them.

    Raises `DataError` when the run is of another network or other data, and `SystemExit` (128 and its number) after a
    signal, when all is saved.
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
        train_set, batches = shards, ShardBatches(shards, *settings, worker, workers, config.model.stride)
    else:
        prepared = PreparedSet(data)
        train_set, batches = prepared, Batches(prepared, *settings, config.model.stride)
    if config.model.n_mels != train_set.front_end.n_mels:
        raise DataError(
            f"config: model.n_mels is {config.model.n_mels}, and {data} has {train_set.front_end.n_mels} mel bins"
        )
    refuse_another_run(run, config, language, train_set, hashes)
    wanted = [variant for variant, weight in config.batches.variant_weights.items() if weight]
    if missing := [variant for variant in wanted if variant not in train_set.variants]:
        console.print(f"{data} has no {', '.join(missing)}: batches are made of what it has", soft_wrap=True)
    with scope:
        trainer = Trainer(config, language.units, run, worker == 0, train_set)
    if trainer.restore():
        console.print(f"resumed at step {trainer.step}")
    elif init:
        trainer.initialise_from(init)
    if worker == 0:
        describe_run(run, config, language, train_set, hashes)
    try:
        trainer.train(batches, DevSet(dev_corpus or dev.name, dev_set, clips, train_set.statistics), dev_labels)
    except Interrupted as interrupted:
        raise SystemExit(128 + interrupted.number) from interrupted
    return trainer


def refuse_another_run(
    run: Path, config: TrainConfig, language: Language, data: Described, hashes: Mapping[str, str]
) -> None:
    """Raise `DataError` when ``run`` has weights of another network, other units or other data than these.

    Steps, rates, batches and the like may change from one start to the next.
    """
    if not any((run / name).exists() for name in ("checkpoint.npz", "best.npz")):
        return
    try:
        differences = list(_differences(run, config, language, data, hashes))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{run} cannot be gone on with: what it says of itself is damaged ({error}); name a new folder with --run"
        ) from error
    if differences:
        raise DataError(
            f"{run} is another run: {'; '.join(differences)}. Go on with what it began with, or name a new folder "
            "with --run"
        )


def _differences(
    run: Path, config: TrainConfig, language: Language, data: Described, hashes: Mapping[str, str]
) -> Iterator[str]:
    """What of the run is not as asked. A file that it does not have says nothing."""
    stored = {name: _read(run / f"{name}.json") for name in ("config", "model", "run")}
    if stored["config"]:  # through the dataclass, so that settings newer than the run have their defaults
        before = from_dict(TrainConfig, {"model": stored["config"]["model"]}, f"{run}/config.json").model
        yield from _changes("model", to_dict(before), to_dict(config.model))
    if stored["model"]:
        heads = {name: UnitSet.from_data(units) for name, units in stored["model"]["heads"].items()}
        for head in sorted(heads.keys() | language.units.keys()):
            if heads.get(head) != language.units.get(head):
                yield f"the units of the head {head!r} are others"
        before = asdict(FrontEndConfig(**stored["model"]["front_end"]))
        changed = list(_changes("front_end", before, asdict(data.front_end)))
        yield from changed
        if not changed and not _same_statistics(stored["model"]["statistics"], data):
            yield "the training data have other statistics"
    for name, value in stored["run"].get("data", {}).items():
        if hashes.get(name) != value:
            yield f"the {name} data are others (clips.jsonl)"


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _changes(table: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for key in [*before, *(key for key in now if key not in before)]:
        if before.get(key) != now.get(key):
            yield f"{table}.{key} is {before.get(key)} there, {now.get(key)} here"


def _same_statistics(stored: Mapping[str, Any], data: Described) -> bool:
    """Whether they are the same but for the last digits, in which another machine may prepare a set otherwise."""
    return all(np.allclose(stored[key], getattr(data.statistics, key), rtol=0.0, atol=1e-3) for key in ("mean", "std"))


def _commit() -> str:
    """What git says is checked out; nothing where there is no git."""
    command = ["git", "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent, check=False)
    except OSError:
        return ""
    return done.stdout.strip()


def describe_run(run: Path, config: TrainConfig, language: Language, data: Described, hashes: dict[str, str]) -> None:
    """Write what a run is made of: its config; what the model needs to run (units, front end, statistics); versions."""
    model = {
        "heads": {head: asdict(unit_set) for head, unit_set in language.units.items()},
        "front_end": asdict(data.front_end),
        "statistics": {k: [float(x) for x in getattr(data.statistics, k)] for k in ("mean", "std")},
        **({"language": packaged} if (packaged := language.to_package()) else {}),
    }
    name = keras.backend.backend()
    backend = f"{name} {importlib.import_module(name).__version__}"
    facts = {"code": _commit() or "unknown", "data": hashes, "keras": keras.__version__, "backend": backend}
    try:
        for file, content in (("config", to_dict(config)), ("model", model), ("run", facts)):
            write_atomically(run / f"{file}.json", [json.dumps(content, indent=1)])
    except EdgeSttError as error:
        raise DataError(str(error)) from error
