"""Training steps in JAX: for a machine with a GPU and no TensorFlow. ``pip install edge-stt keras jax[cuda13]``.

XLA compiles a step for each shape of batch, so shapes are few: lengths in steps of a quarter, and batches filled up
with empty rows, which count for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from keras import ops

from edge_stt.units import BLANK

from .batches import Batch
from .checkpoint import restore_weights, weights_of
from .config import TrainConfig
from .models.base import CTCModel
from .steps import Arrays, counted, disagreement, make_optimizer
from .teacher import Teachers, divergence

LENGTHS = (128, 192, 256, 384, 512, 640, 768, 1024, 1280, 1536, 2048, 2560, 3072, 4096)  # log-mel frames of a batch


class JaxSteps:
    """See `steps.Steps`."""

    def __init__(self, config: TrainConfig, network: CTCModel, teachers: Teachers | None = None) -> None:
        self.config, self.teachers = config, teachers
        self.model = network.training_model(masked_statistics=True)  # there is more padding here
        self.optimizer = make_optimizer(config.optimizer, config.steps, self.model.trainable_variables)
        self._take_from_model()
        # Buffers of the state are given to the step, which returns the new ones in their place.
        self._train = jax.jit(self._compute, donate_argnums=0)
        self._forward = jax.jit(self._infer)

    def _take_from_model(self) -> None:
        """The state as a tree of arrays: `jax.jit` wants functions without side effects."""
        trainable = [jnp.array(v.value) for v in self.model.trainable_variables]
        fixed = [jnp.array(v.value) for v in self.model.non_trainable_variables]
        moments = [jnp.array(v.value) for v in self.optimizer.variables]
        self._state = trainable, fixed, moments, [jnp.array(x) for x in trainable]

    def train(self, batch: Batch) -> dict[str, float]:
        """One step."""
        self._state, losses, norm = self._train(self._state, *pad_batch(batch, self.config.batches.seconds))
        return {**{head: float(x) for head, x in losses.items()}, "norm": float(norm)}

    def _compute(
        self, state: Any, log_mel: Any, unmasked: Any, mask: Any, lengths: Any, labels: dict[str, tuple[Any, Any]]
    ) -> tuple[Any, dict[str, Any], Any]:
        trainable, fixed, moments, average = state
        opt, weights = self.config.optimizer, self.config.head_weights
        taught = self.teachers.probabilities(unmasked, mask) if self.teachers else {}

        def loss(trainable: Any) -> tuple[Any, Any]:
            logits, after = self.model.stateless_call(trainable, fixed, [log_mel, mask], training=True)
            units = {head: counted(counts.sum(), lengths.sum()) for head, (_, counts) in labels.items()}
            losses = {}
            for head, (targets, counts) in labels.items():
                nll = ops.ctc_loss(targets, logits[head], jnp.maximum(counts, 1), jnp.maximum(lengths, 1), BLANK)
                losses[head] = jnp.where(counts > 0, nll, 0.0).sum() / units[head]
            total = sum(weights.get(head, 1.0) * x for head, x in losses.items())
            if self.config.batches.views > 1:
                losses["disagreement"] = sum(
                    weights.get(head, 1.0) * disagreement(logits[head], mask) / units[head] for head in labels
                )
                total += self.config.batches.consistency_weight * losses["disagreement"]
            if taught:
                losses["divergence"] = sum(
                    weights.get(h, 1.0) * divergence(p, logits[h], mask) / units[h] for h, p in taught.items()
                )
                total += self.config.teacher.weight * losses["divergence"]
            return total, (losses, after)

        (_, (losses, after)), gradients = jax.value_and_grad(loss, has_aux=True)(trainable)
        norm = jnp.sqrt(sum(jnp.sum(jnp.square(g)) for g in gradients))
        scale = jnp.minimum(1.0, opt.clip_norm / jnp.maximum(norm, 1e-6))
        after = [jnp.where(jnp.isfinite(norm), new, old) for new, old in zip(after, fixed, strict=True)]
        gradients = [jnp.where(jnp.isfinite(norm), g * scale, jnp.zeros_like(g)) for g in gradients]
        trainable, moments = self.optimizer.stateless_apply(moments, gradients, trainable)
        count = jnp.asarray(moments[0], jnp.float32)  # Keras keeps the iterations first
        decay = jnp.minimum(opt.ema_decay, (1.0 + count) / (10.0 + count))
        average = [mean + (1.0 - decay) * (x - mean) for mean, x in zip(average, trainable, strict=True)]
        return (trainable, after, moments, average), losses, norm

    def _infer(self, trainable: Any, fixed: Any, log_mel: Any, mask: Any) -> Any:
        return self.model.stateless_call(trainable, fixed, [log_mel, mask], training=False)[0]

    def logits(self, log_mel: Any, mask: Any) -> Arrays:
        """Logits of the averaged weights."""
        rows, frames = log_mel.shape[:2]
        stride = frames // mask.shape[1]
        longer, wider = _padded_length(frames, stride) - frames, (-rows) % 16
        log_mel = np.pad(log_mel, ((0, wider), (0, longer), (0, 0)))
        mask = np.pad(mask, ((0, wider), (0, longer // stride), (0, 0)))
        out = self._forward(self._state[3], self._state[1], log_mel, mask)
        return {head: np.asarray(x)[:rows, : frames // stride] for head, x in out.items()}

    def averaged_weights(self) -> Arrays:
        """The averaged weights by path."""
        self._give_to_model(self._state[3])
        return weights_of(self.model)

    def _give_to_model(self, trainable: Any) -> None:
        for variables, values in (
            (self.model.trainable_variables, trainable),
            (self.model.non_trainable_variables, self._state[1]),
            (self.optimizer.variables, self._state[2]),
        ):
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)

    def state(self) -> Arrays:
        """Weights, optimiser and averages."""
        self._give_to_model(self._state[0])
        arrays = {f"model/{v.path}": np.asarray(v.value) for v in self.model.variables}
        arrays |= {f"optimizer/{i}": np.asarray(v.value) for i, v in enumerate(self.optimizer.variables)}
        return arrays | {f"average/{i}": np.asarray(x) for i, x in enumerate(self._state[3])}

    def restore(self, arrays: Mapping[str, Any]) -> None:
        """Take back a `state`."""
        for variable in self.model.variables:
            variable.assign(arrays[f"model/{variable.path}"])
        for i, variable in enumerate(self.optimizer.variables):
            variable.assign(arrays[f"optimizer/{i}"])
        self._take_from_model()
        average = [jnp.array(arrays[f"average/{i}"]) for i in range(len(self._state[3]))]
        self._state = *self._state[:3], average

    def initialise(self, weights: Mapping[str, Any], where: str) -> None:
        """Start from given weights."""
        restore_weights(self.model, weights, where)
        self._take_from_model()


def _padded_length(frames: int, stride: int) -> int:
    """The next of few lengths, a multiple of the stride."""
    length = next((length for length in LENGTHS if length >= frames), -(-frames // 1024) * 1024)
    return -(-length // stride) * stride


def pad_batch(batch: Batch, seconds: float) -> tuple[Any, Any, Any, Any, dict[str, tuple[Any, Any]]]:
    """Log-mel with and without masks, mask, lengths, and per head labels ``[B, L]`` with counts, in one of few shapes.

    ``seconds``: audio in a full batch. Rows that fill up have length 0 and no labels.
    """
    rows, frames = batch.log_mel.shape[:2]
    length = _padded_length(frames, batch.stride)
    full = max(1, int(seconds * 100 / length))
    height = next(size for size in (full, full * 5 // 4 + 1, 1 << max(0, rows - 1).bit_length()) if size >= rows)
    log_mel, unmasked = (
        np.pad(x, ((0, height - rows), (0, length - frames), (0, 0))) for x in (batch.log_mel, batch.unmasked)
    )
    mask = np.pad(batch.mask, ((0, height - rows), (0, (length - frames) // batch.stride), (0, 0)))
    lengths = np.pad(batch.lengths, (0, height - rows))
    labels = {}
    for head, units in batch.labels.items():
        longest = max(len(x) for x in units)
        width = next(w for w in (length // batch.stride // 2, length // batch.stride) if w >= longest)
        targets = np.full((height, width), BLANK + 1, np.int32)
        for row, sequence in zip(targets, units, strict=False):
            row[: len(sequence)] = sequence
        counts = np.array([len(x) for x in units] + [0] * (height - rows), np.int32)
        labels[head] = targets, counts
    return log_mel, unmasked, mask, lengths, labels
