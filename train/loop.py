"""The training loop: resumes after a kill at any time, says when it diverges, keeps the best weights on dev.

A run directory holds ``config.json``, ``run.json`` (code version, data hashes), ``log.jsonl`` (one line a report),
``checkpoint.npz`` (everything to go on from), ``best.npz`` (averaged weights, float16, best dev score) and TensorBoard
events.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from edge_stt.decoding import greedy
from edge_stt.errors import DataError
from edge_stt.features import FeatureStatistics, Floats, normalise_utterance
from edge_stt.interrupts import Interrupted, Interrupts
from edge_stt.units import BLANK, SEPARATOR, UnitSet

from .batches import Batch, Labels, collate
from .board import Board, open_board
from .checkpoint import load_arrays, save_arrays
from .config import TrainConfig
from .models.base import build_network
from .prepare import Described, PreparedSet
from .steps import make_steps
from .teacher import Teachers

console = Console(stderr=True)


@dataclass(frozen=True)
class DevSet:
    """A prepared set to score on, with the labels of each head and the words."""

    name: str
    data: PreparedSet
    clips: list[int]
    statistics: FeatureStatistics  # of the training set, which are the model's


class Source(Protocol):
    """Where batches come from: `Batches`, `shards.ShardBatches`."""

    def from_step(self, step: int) -> Generator[tuple[int, Batch]]:
        """Endless (epoch, batch) pairs, beginning with the batch of ``step``."""
        ...


def encode_texts(
    texts: list[str], units: Mapping[str, UnitSet], pronounce: Callable[[str], list[tuple[str, ...]]] | None
) -> Labels:
    """Labels of each head for normalised texts; ``pronounce`` gives one tuple of phonemes a word.

    Where nobody speaks the label is a separator, which at the edge of a text means nothing: TensorFlow's loss refuses
    labels of no unit at all.
    """
    labels: Labels = {}
    for head, unit_set in units.items():
        if unit_set.kind == "characters":
            labels[head] = [unit_set.encode(text.split()) or [SEPARATOR] for text in texts]
        else:
            if pronounce is None:
                raise DataError(f"the head {head!r} needs pronunciations")
            labels[head] = [unit_set.encode(pronounce(text)) or [SEPARATOR] for text in texts]
    return labels


def error_count(reference: list[Any], hypothesis: list[Any]) -> int:
    """Levenshtein distance between two sequences."""
    row = np.arange(len(hypothesis) + 1)
    for i, item in enumerate(reference, 1):
        substituted = row[:-1] + np.array([item != other for other in hypothesis], dtype=int)
        best = np.minimum(substituted, row[1:] + 1) if len(hypothesis) else row[1:]
        # insertions chain from left to right: a running minimum of (value - position)
        chained = np.concatenate([[i], best]) - np.arange(len(hypothesis) + 1)
        row = np.minimum.accumulate(chained) + np.arange(len(hypothesis) + 1)
    return int(row[-1])


def _log_softmax(logits: Any) -> Floats:
    x: Floats = logits - logits.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


class Trainer:
    """Trains one model in one run directory."""

    def __init__(
        self,
        config: TrainConfig,
        units: Mapping[str, UnitSet],
        run: Path,
        chief: bool = True,
        data: Described | None = None,
    ) -> None:
        """``chief``: of several workers, which all do the same, the one that writes and speaks. ``data``: the training
        set, where the config names teachers."""
        keras.utils.set_random_seed(config.seed)
        if config.mixed_bfloat16:
            keras.mixed_precision.set_global_policy("mixed_bfloat16")
        self.config, self.units, self.run = config, dict(units), run
        self.network = build_network(config.model, {name: len(u) for name, u in self.units.items()})
        teachers = Teachers(config, self.units, data) if config.teacher.runs and data is not None else None
        self.steps = make_steps(config, self.network, teachers)
        self.step = 0
        self.best = float("inf")
        self.stale = 0  # scorings since the best
        self.seconds_trained = 0.0
        self.chief = chief

    # ---- state -------------------------------------------------------------------------------------------------------
    def save(self) -> None:
        """Write everything a later process needs to go on as if nothing had happened."""
        if not self.chief:
            return
        progress = np.array([self.step, self.best, self.seconds_trained, self.stale], dtype=np.float64)
        save_arrays(self.run / "checkpoint.npz", {**self.steps.state(), "progress": progress})

    def restore(self) -> bool:
        """Go on from the run's checkpoint, if it has one."""
        path = self.run / "checkpoint.npz"
        if not path.exists():
            return False
        arrays = load_arrays(path)
        try:
            self.steps.restore(arrays)
        except (KeyError, ValueError) as error:
            raise DataError(f"{path} is of another architecture, size or optimizer: {error}") from error
        step, self.best, self.seconds_trained, *stale = map(float, arrays["progress"])
        self.step, self.stale = int(step), int(stale[0]) if stale else 0
        return True

    def initialise_from(self, path: Path) -> None:
        """Start from the weights of an earlier run (``best.npz``), with a fresh optimiser."""
        self.steps.initialise({k: v for k, v in load_arrays(path).items() if "/" in k}, str(path))

    # ---- scoring -----------------------------------------------------------------------------------------------------
    def log_probs(self, dev: DevSet) -> dict[int, dict[str, Any]]:
        """Log-probabilities of clips, per head float32 ``[frames, units]``."""
        data, clips = dev.data, dev.clips
        order = sorted(clips, key=lambda i: int(data.lengths()[i]))
        out: dict[int, dict[str, Any]] = {}
        for start in range(0, len(order), 16):
            group = order[start : start + 16]
            pieces = [normalise_utterance(data.frames(i), dev.statistics) for i in group]
            batch = collate(pieces, {}, stride=self.network.stride)
            logits = self.steps.logits(batch.log_mel, batch.mask)
            scores = {head: _log_softmax(x) for head, x in logits.items()}
            for row, clip in enumerate(group):
                out[clip] = {head: x[row, : batch.lengths[row]] for head, x in scores.items()}
        return out

    def evaluate(self, dev: DevSet, labels: Labels) -> tuple[dict[str, float], dict[int, str]]:
        """Greedy unit error rate of each head, greedy WER of the characters, and the share of blanks; and what the
        first head writes for each clip."""
        log_probs = self.log_probs(dev)
        result: dict[str, float] = {}
        written: dict[int, str] = {}
        for head, units in self.units.items():
            errors = total = word_errors = words = 0
            blanks: list[float] = []
            for clip, by_head in log_probs.items():
                hypothesis = greedy(by_head[head], units)
                written.setdefault(clip, hypothesis.text)
                reference = labels[head][clip]
                errors += error_count(reference, [t.unit for t in hypothesis.tokens])
                total += len(reference)
                blanks.append(float((by_head[head].argmax(-1) == BLANK).mean()))
                if units.kind == "characters":
                    said = dev.data.clips[clip].text.split()
                    word_errors += error_count(said, hypothesis.text.split())
                    words += len(said)
            result[f"{head}_error"] = errors / max(1, total)
            result[f"{head}_blank"] = float(np.mean(blanks))
            if words:
                result["wer"] = word_errors / words
        return result, written

    # ---- the run -----------------------------------------------------------------------------------------------------
    def train(self, batches: Source, dev: DevSet, dev_labels: Labels) -> None:
        """Train to ``config.steps``, scoring on ``dev``.

        Ctrl-C or SIGTERM lets the step end, and the scoring that is due after it; then there is a checkpoint, and
        `Interrupted`. Another Ctrl-C is a `KeyboardInterrupt` at once, and the checkpoint stays the one before: amid a
        step or a scoring, weights and optimiser are not those of any number of steps.
        """
        board = open_board(self.run if self.chief else None)
        reports: list[dict[str, float]] = []
        started = time.monotonic()
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not (console.is_terminal and self.chief),
        )
        with (
            Interrupts(insist=True) as interrupts,
            bar as progress,
            closing(batches.from_step(self.step)) as source,
        ):
            task = progress.add_task("Training", total=self.config.steps, completed=self.step)
            try:
                for epoch, batch in interrupts.watch(source):
                    if self.step >= self.config.steps:
                        break
                    if self.config.patience and self.stale >= self.config.patience:
                        console.print(f"step {self.step}: no better for {self.stale} scorings; that is enough")
                        self.save()
                        break
                    reports.append(self.steps.train(batch))
                    self.step += 1
                    self.seconds_trained += batch.seconds
                    progress.advance(task)
                    if self.step % 50 == 0 or self.step == self.config.steps:
                        self._report(reports, epoch, time.monotonic() - started, board)
                        reports = []
                    last = self.step == self.config.steps
                    if last or self.step % self.config.eval_every == 0:
                        self._score(dev, dev_labels, board)
                        board.spectrogram(batch.log_mel[0], self.step)
                    if last or self.step % self.config.checkpoint_every == 0:
                        self.save()
            except Interrupted as interrupted:
                self.save()
                if self.chief:
                    console.print(f"stopped by {interrupted} at step {self.step}; the same command goes on from there")
                raise

    def _log(self, line: dict[str, Any]) -> None:
        if not self.chief:
            return
        with (self.run / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        console.print(" ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in line.items()))

    def _report(self, reports: list[dict[str, float]], epoch: int, seconds: float, board: Board) -> None:
        finite = [r for r in reports if np.isfinite(r["norm"])]
        if not finite:
            raise DataError(
                f"step {self.step}: every gradient of the last {len(reports)} steps was infinite or NaN: "
                "lower optimizer.learning_rate or look at the data; the last checkpoint is intact"
            )
        means = {key: float(np.mean([r[key] for r in finite])) for key in finite[0]}
        line = {
            "step": self.step,
            "epoch": epoch,
            **means,
            "skipped": len(reports) - len(finite),
            "hours": self.seconds_trained / 3600,
            "elapsed": seconds,
        }
        self._log(line)
        board.scalars("train", means, self.step)

    def _score(self, dev: DevSet, labels: Labels, board: Board) -> None:
        scores, written = self.evaluate(dev, labels)
        # The head that decodes through the lexicon decides; without one, the characters do.
        learned = {h: u for h, u in self.units.items() if self.config.head_weights.get(h, 1.0)}
        key = next((f"{h}_error" for h, u in learned.items() if u.kind == "phonemes"), "wer")
        better = scores[key] < self.best
        self.stale = 0 if better else self.stale + 1
        if better:
            self.best = scores[key]
        if better and self.chief:
            weights = {k: v.astype(np.float16) for k, v in self.steps.averaged_weights().items()}
            save_arrays(self.run / "best.npz", {**weights, "step": np.array(self.step)})
        self._log({"step": self.step, "dev": dev.name, **scores, "best": bool(better)})
        if all(scores[f"{h}_blank"] > 0.999 for h in self.units) and self.step > self.config.optimizer.warmup_steps * 3:
            console.print(
                f"[yellow]step {self.step}: every output is blank; if this lasts, lower the learning rate "
                "or check that texts belong to their recordings[/yellow]"
            )
        board.scalars("dev", scores, self.step)
        board.transcripts([(dev.data.clips[clip].text, written[clip]) for clip in dev.clips[:8]], self.step)
