"""The training loop: resumes after a kill at any time, says when it diverges, keeps the best weights on dev.

A run directory holds ``config.json``, ``run.json`` (code version, data hashes), ``log.jsonl`` (one line a report),
``checkpoint.npz`` (everything to go on from), ``best.npz`` (averaged weights, float16, best dev score) and TensorBoard
events.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from edge_stt.decoding import greedy
from edge_stt.errors import DataError
from edge_stt.features import normalise_utterance
from edge_stt.units import BLANK, UnitSet

from .batches import Batch, Batches, collate
from .checkpoint import load_arrays, restore_weights, save_arrays, weights_of
from .config import TrainConfig, to_dict
from .models.base import build_network
from .prepare import PreparedSet

console = Console(stderr=True)


class WarmupCosine(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """Linear warm-up to ``peak``, and a cosine to zero over the last ``decay_share`` of the other steps."""

    def __init__(self, peak: float, warmup: int, steps: int, decay_share: float = 1.0) -> None:
        self.peak, self.warmup, self.steps, self.decay_share = peak, warmup, steps, decay_share

    def __call__(self, step: Any) -> Any:
        step = tf.cast(step, tf.float32)
        rising = (step + 1.0) / self.warmup
        falling = max(1.0, self.decay_share * (self.steps - self.warmup))
        share = tf.clip_by_value((step - (self.steps - falling)) / falling, 0.0, 1.0)
        return self.peak * tf.minimum(rising, 0.5 * (1.0 + tf.cos(np.pi * share)))

    def get_config(self) -> dict[str, Any]:
        return {"peak": self.peak, "warmup": self.warmup, "steps": self.steps, "decay_share": self.decay_share}


@dataclass(frozen=True)
class DevSet:
    """A prepared set to score on, with the labels of each head and the words."""

    name: str
    data: PreparedSet
    clips: list[int]


def encode_texts(
    texts: list[str], units: Mapping[str, UnitSet], pronounce: Callable[[str], list[tuple[str, ...]]] | None
) -> dict[str, list[list[int]]]:
    """Labels of each head for normalised texts; ``pronounce`` gives one tuple of phonemes a word."""
    labels: dict[str, list[list[int]]] = {}
    for head, unit_set in units.items():
        if unit_set.kind == "characters":
            labels[head] = [unit_set.encode(text.split()) for text in texts]
        else:
            if pronounce is None:
                raise DataError(f"the head {head!r} needs pronunciations")
            labels[head] = [unit_set.encode(pronounce(text)) for text in texts]
    return labels


def _sparse(labels: list[list[int]]) -> tf.SparseTensor:
    rows = np.repeat(np.arange(len(labels)), [len(x) for x in labels])
    columns = np.concatenate([np.arange(len(x)) for x in labels])
    values = np.concatenate([np.asarray(x, dtype=np.int32) for x in labels])
    width = max(len(x) for x in labels)
    return tf.SparseTensor(np.stack([rows, columns], 1).astype(np.int64), values, (len(labels), width))


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


class Trainer:
    """Trains one model in one run directory."""

    def __init__(self, config: TrainConfig, units: Mapping[str, UnitSet], run: Path) -> None:
        keras.utils.set_random_seed(config.seed)
        if config.mixed_bfloat16:
            keras.mixed_precision.set_global_policy("mixed_bfloat16")
        self.config, self.units, self.run = config, dict(units), run
        self.network = build_network(config.model, {name: len(u) for name, u in self.units.items()})
        self.model = self.network.training_model()
        opt = config.optimizer
        self.optimizer = keras.optimizers.AdamW(
            WarmupCosine(opt.learning_rate, opt.warmup_steps, config.steps, opt.decay_share),
            weight_decay=opt.weight_decay,
            beta_2=0.98,
        )
        self.optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
        self.optimizer.build(self.model.trainable_variables)
        self.average = [tf.Variable(v.value, trainable=False) for v in self.model.trainable_variables]
        self.step = 0
        self.best = float("inf")
        self.seconds_trained = 0.0
        self._train_step = self._build_step()
        self._forward = tf.function(lambda x, m: self.model([x, m], training=False), reduce_retracing=True)

    # ---- one step ----------------------------------------------------------------------------------------------------
    def _loss(self, logits: dict[str, Any], labels: dict[str, tf.SparseTensor], lengths: Any) -> dict[str, Any]:
        """Mean negative log-likelihood per label of each head. tf.nn.ctc_loss with sparse labels is by far the
        fastest CTC on a CPU."""
        losses = {}
        for head, sparse in labels.items():
            nll = tf.nn.ctc_loss(sparse, logits[head], None, lengths, logits_time_major=False, blank_index=BLANK)
            losses[head] = tf.reduce_sum(nll) / tf.cast(tf.size(sparse.values), tf.float32)
        return losses

    def _build_step(self) -> Any:
        model, optimizer, opt = self.model, self.optimizer, self.config.optimizer
        weights = self.config.head_weights

        @tf.function(reduce_retracing=True)
        def step(log_mel: Any, mask: Any, lengths: Any, labels: dict[str, tf.SparseTensor]) -> tuple[Any, Any]:
            with tf.GradientTape() as tape:
                losses = self._loss(model([log_mel, mask], training=True), labels, lengths)
                total = tf.add_n([weights.get(head, 1.0) * loss for head, loss in losses.items()])
            gradients = tape.gradient(total, model.trainable_variables)
            norm = tf.linalg.global_norm(gradients)
            finite = tf.math.is_finite(norm)
            # A batch whose gradient is not finite changes nothing: one bad label must not end the run.
            scale = tf.minimum(1.0, opt.clip_norm / tf.maximum(norm, 1e-6))
            gradients = [tf.where(finite, g * scale, tf.zeros_like(g)) for g in gradients]
            optimizer.apply(gradients, model.trainable_variables)
            count = tf.cast(optimizer.iterations, tf.float32)
            decay = tf.minimum(opt.ema_decay, (1.0 + count) / (10.0 + count))
            for mean, variable in zip(self.average, model.trainable_variables, strict=True):
                mean.assign(mean + (1.0 - decay) * (tf.cast(variable.value, mean.dtype) - mean))
            return losses, norm

        return step

    # ---- state -------------------------------------------------------------------------------------------------------
    def save(self) -> None:
        """Write everything a later process needs to go on as if nothing had happened."""
        arrays = {f"model/{v.path}": np.asarray(v.value) for v in self.model.variables}
        arrays |= {f"optimizer/{i}": np.asarray(v.value) for i, v in enumerate(self.optimizer.variables)}
        arrays |= {f"average/{i}": v.numpy() for i, v in enumerate(self.average)}
        arrays["progress"] = np.array([self.step, self.best, self.seconds_trained], dtype=np.float64)
        save_arrays(self.run / "checkpoint.npz", arrays)

    def restore(self) -> bool:
        """Go on from the run's checkpoint, if it has one."""
        path = self.run / "checkpoint.npz"
        if not path.exists():
            return False
        arrays = load_arrays(path)
        try:
            for variable in self.model.variables:
                variable.assign(arrays[f"model/{variable.path}"])
            for i, variable in enumerate(self.optimizer.variables):
                variable.assign(arrays[f"optimizer/{i}"])
            for i, average in enumerate(self.average):
                average.assign(arrays[f"average/{i}"])
        except (KeyError, ValueError) as error:
            raise DataError(f"{path} is of another architecture or size: {error}") from error
        self.step, self.best, self.seconds_trained = int(arrays["progress"][0]), *map(float, arrays["progress"][1:])
        return True

    def initialise_from(self, path: Path) -> None:
        """Start from the weights of an earlier run (``best.npz``), with a fresh optimiser."""
        restore_weights(self.model, {k: v for k, v in load_arrays(path).items() if "/" in k}, str(path))
        for average, variable in zip(self.average, self.model.trainable_variables, strict=True):
            average.assign(tf.cast(variable.value, average.dtype))

    def _swap_average(self) -> None:
        for average, variable in zip(self.average, self.model.trainable_variables, strict=True):
            held = tf.identity(variable.value)
            variable.assign(average)
            average.assign(tf.cast(held, average.dtype))

    # ---- scoring -----------------------------------------------------------------------------------------------------
    def log_probs(self, data: PreparedSet, clips: list[int]) -> dict[int, dict[str, Any]]:
        """Log-probabilities of clips, per head float32 ``[frames, units]``."""
        order = sorted(clips, key=lambda i: int(data.lengths()[i]))
        out: dict[int, dict[str, Any]] = {}
        for start in range(0, len(order), 16):
            group = order[start : start + 16]
            pieces = [normalise_utterance(data.frames(i), data.statistics) for i in group]
            batch = collate(pieces, {})
            logits = self._forward(batch.log_mel, batch.mask)
            scores = {head: tf.nn.log_softmax(x).numpy() for head, x in logits.items()}
            for row, clip in enumerate(group):
                out[clip] = {head: x[row, : batch.lengths[row]] for head, x in scores.items()}
        return out

    def evaluate(self, dev: DevSet, labels: dict[str, list[list[int]]]) -> dict[str, float]:
        """Greedy unit error rate of each head, greedy WER of the characters, and the share of blanks."""
        scores = self.log_probs(dev.data, dev.clips)
        result: dict[str, float] = {}
        for head, units in self.units.items():
            errors = total = word_errors = words = 0
            blanks: list[float] = []
            for clip, log_probs in scores.items():
                hypothesis = greedy(log_probs[head], units)
                reference = labels[head][clip]
                errors += error_count(reference, [t.unit for t in hypothesis.tokens])
                total += len(reference)
                blanks.append(float((log_probs[head].argmax(-1) == BLANK).mean()))
                if units.kind == "characters":
                    said = dev.data.clips[clip].text.split()
                    word_errors += error_count(said, hypothesis.text.split())
                    words += len(said)
            result[f"{head}_error"] = errors / max(1, total)
            result[f"{head}_blank"] = float(np.mean(blanks))
            if words:
                result["wer"] = word_errors / words
        return result

    # ---- the run -----------------------------------------------------------------------------------------------------
    def train(
        self, data: PreparedSet, labels: dict[str, list[list[int]]], dev: DevSet, dev_labels: dict[str, list[list[int]]]
    ) -> None:
        """Train to ``config.steps``, scoring on ``dev``; Ctrl-C leaves a checkpoint."""
        batches = Batches(data, labels, self.config.batches, self.config.spec_augment, self.config.seed)
        board = tf.summary.create_file_writer(str(self.run / "tensorboard"))
        reports: list[dict[str, float]] = []
        started = time.monotonic()
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        ) as progress:
            task = progress.add_task("Training", total=self.config.steps, completed=self.step)
            try:
                for epoch, batch in batches.from_step(self.step):
                    if self.step >= self.config.steps:
                        break
                    reports.append(self._one(batch))
                    self.step += 1
                    self.seconds_trained += batch.seconds
                    progress.advance(task)
                    if self.step % 50 == 0 or self.step == self.config.steps:
                        self._report(reports, epoch, time.monotonic() - started, board)
                        reports = []
                    if self.step % self.config.checkpoint_every == 0 or self.step == self.config.steps:
                        self.save()
                    if self.step % self.config.eval_every == 0 or self.step == self.config.steps:
                        self._score(dev, dev_labels, board)
            except KeyboardInterrupt:
                self.save()
                raise

    def _one(self, batch: Batch) -> dict[str, float]:
        labels = {head: _sparse(units) for head, units in batch.labels.items()}
        losses, norm = self._train_step(batch.log_mel, batch.mask, batch.lengths, labels)
        return {**{head: float(x) for head, x in losses.items()}, "norm": float(norm)}

    def _log(self, line: dict[str, Any]) -> None:
        with (self.run / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        console.print(" ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in line.items()))

    def _report(self, reports: list[dict[str, float]], epoch: int, seconds: float, board: Any) -> None:
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
        with board.as_default(step=self.step):
            for key, value in means.items():
                tf.summary.scalar(f"train/{key}", value)

    def _score(self, dev: DevSet, labels: dict[str, list[list[int]]], board: Any) -> None:
        self._swap_average()
        try:
            scores = self.evaluate(dev, labels)
            # The head that decodes through the lexicon decides; without one, the characters do.
            key = next((f"{h}_error" for h, u in self.units.items() if u.kind == "phonemes"), "wer")
            better = scores[key] < self.best
            if better:
                self.best = scores[key]
                weights = {k: v.astype(np.float16) for k, v in weights_of(self.model).items()}
                save_arrays(self.run / "best.npz", {**weights, "step": np.array(self.step)})
        finally:
            self._swap_average()
        self._log({"step": self.step, "dev": dev.name, **scores, "best": bool(better)})
        if all(scores[f"{h}_blank"] > 0.999 for h in self.units) and self.step > self.config.optimizer.warmup_steps * 3:
            console.print(
                f"[yellow]step {self.step}: every output is blank; if this lasts, lower the learning rate "
                "or check that texts belong to their recordings[/yellow]"
            )
        with board.as_default(step=self.step):
            for name, value in scores.items():
                tf.summary.scalar(f"dev/{name}", value)


def describe_run(
    run: Path, config: TrainConfig, units: Mapping[str, UnitSet], data: PreparedSet, hashes: dict[str, str]
) -> None:
    """Write what a run is made of: its config; what the model needs to run (units, front end, statistics); versions."""
    try:
        run.mkdir(parents=True, exist_ok=True)
        (run / "config.json").write_text(json.dumps(to_dict(config), indent=1), encoding="utf-8")
        statistics = {k: [float(x) for x in getattr(data.statistics, k)] for k in ("mean", "std")}
        model = {
            "heads": {head: asdict(unit_set) for head, unit_set in units.items()},
            "front_end": asdict(data.front_end),
            "statistics": statistics,
        }
        (run / "model.json").write_text(json.dumps(model, indent=1), encoding="utf-8")
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent, check=False
        ).stdout.strip()
        facts = {"code": commit or "unknown", "data": hashes, "tensorflow": tf.__version__, "keras": keras.__version__}
        (run / "run.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot write the run directory {run}: {error.strerror or error}") from error
