"""Training steps in TensorFlow: the default, and on a CPU the fast one; on one machine or, given TF_CONFIG, on several.

With several workers (`tf.distribute.MultiWorkerMirroredStrategy`) each computes the gradient of its own batch. Losses
are divided by the labels of all batches, so that the sum of the gradients is that of one large batch; and
normalisations share their statistics.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from edge_stt.units import BLANK

from .batches import Batch
from .checkpoint import restore_weights, weights_of
from .config import TrainConfig
from .models.base import CTCModel
from .steps import Arrays, counted, disagreement, make_optimizer
from .teacher import Teachers, divergence


class TensorFlowSteps:
    """See `steps.Steps`."""

    def __init__(self, config: TrainConfig, network: CTCModel, teachers: Teachers | None = None) -> None:
        self.config, self.teachers = config, teachers
        self.strategy = tf.distribute.get_strategy()  # that of the scope in which this is made
        self.model = network.training_model(config.batches.masked_statistics)
        self.optimizer = make_optimizer(config.optimizer, config.steps, self.model.trainable_variables)
        self.average = [tf.Variable(v.value, trainable=False) for v in self.model.trainable_variables]
        # One graph for all shapes: workers that made theirs at different steps would not understand one another.
        labels = {head: tf.SparseTensorSpec([None, None], tf.int32) for head in network.heads}
        frames = tf.TensorSpec([None, None, self.model.inputs[0].shape[-1]], tf.float32)
        shapes = [frames, frames, tf.TensorSpec([None, None, 1], tf.float32), tf.TensorSpec([None], tf.int32), labels]
        self._train = tf.function(self._compute, input_signature=shapes)
        self._forward = tf.function(lambda x, m: self.model([x, m], training=False), reduce_retracing=True)

    def train(self, batch: Batch) -> dict[str, float]:
        """One step."""
        labels = {head: _sparse(units) for head, units in batch.labels.items()}
        losses, norm = self._train(batch.log_mel, batch.unmasked, batch.mask, batch.lengths, labels)
        if self.strategy.num_replicas_in_sync > 1:
            norm = self.strategy.experimental_local_results(norm)[0]
            losses = {head: self.strategy.experimental_local_results(x)[0] for head, x in losses.items()}
        return {**{head: float(x) for head, x in losses.items()}, "norm": float(norm)}

    def gradients(
        self, log_mel: Any, unmasked: Any, mask: Any, lengths: Any, labels: dict[str, tf.SparseTensor]
    ) -> tuple[dict[str, Any], list[Any]]:
        """Losses of each head, and the gradient of their weighted sum, over all workers.

        tf.nn.ctc_loss with sparse labels is by far the fastest CTC on a CPU.
        """
        weights = self.config.head_weights
        frames = self._sum(tf.cast(tf.reduce_sum(lengths), tf.float32))
        units = {head: self._sum(tf.cast(tf.size(sparse.values), tf.float32)) for head, sparse in labels.items()}
        counts = {head: counted(count, frames) for head, count in units.items()}
        taught = self.teachers.probabilities(unmasked, mask) if self.teachers else {}
        with tf.GradientTape() as tape:
            logits = self.model([log_mel, mask], training=True)
            losses = {}
            for head, sparse in labels.items():
                nll = tf.nn.ctc_loss(sparse, logits[head], None, lengths, logits_time_major=False, blank_index=BLANK)
                losses[head] = tf.reduce_sum(nll) / counts[head]
            total = tf.add_n([weights.get(head, 1.0) * loss for head, loss in losses.items()])
            if self.config.batches.views > 1:
                apart = [weights.get(head, 1.0) * disagreement(logits[head], mask) / counts[head] for head in labels]
                losses["disagreement"] = tf.add_n(apart)
                total += self.config.batches.consistency_weight * losses["disagreement"]
            if taught:
                apart = [weights.get(h, 1.0) * divergence(p, logits[h], mask) / counts[h] for h, p in taught.items()]
                losses["divergence"] = tf.add_n(apart)
                total += self.config.teacher.weight * losses["divergence"]
        gradients = tape.gradient(total, self.model.trainable_variables)
        return {head: self._sum(loss) for head, loss in losses.items()}, self._sum(gradients)

    def _sum(self, values: Any) -> Any:
        """Sums over all workers."""
        if self.strategy.num_replicas_in_sync == 1:
            return values
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, values)

    def _compute(self, log_mel: Any, unmasked: Any, mask: Any, lengths: Any, labels: Any) -> tuple[Any, Any]:
        batch = log_mel, unmasked, mask, lengths, labels
        if self.strategy.num_replicas_in_sync == 1:
            return self._compute_here(*batch)
        result: tuple[Any, Any] = self.strategy.run(self._compute_here, args=batch)
        return result

    def _compute_here(
        self, log_mel: Any, unmasked: Any, mask: Any, lengths: Any, labels: dict[str, tf.SparseTensor]
    ) -> tuple[Any, Any]:
        opt = self.config.optimizer
        statistics = [tf.convert_to_tensor(v.value) for v in self.model.non_trainable_variables]
        losses, gradients = self.gradients(log_mel, unmasked, mask, lengths, labels)
        norm = tf.linalg.global_norm(gradients)
        finite = tf.math.is_finite(norm)
        # A batch whose gradient is not finite teaches nothing: one bad label must not end the run.
        for variable, before in zip(self.model.non_trainable_variables, statistics, strict=True):
            variable.assign(tf.where(finite, variable.value, before))
        scale = tf.minimum(1.0, opt.clip_norm / tf.maximum(norm, 1e-6))
        scale /= self.strategy.num_replicas_in_sync  # the optimiser adds up what workers give it
        gradients = [tf.where(finite, g * scale, tf.zeros_like(g)) for g in gradients]
        self.optimizer.apply(gradients, self.model.trainable_variables)
        count = tf.cast(self.optimizer.iterations, tf.float32)
        decay = tf.minimum(opt.ema_decay, (1.0 + count) / (10.0 + count))
        for mean, variable in zip(self.average, self.model.trainable_variables, strict=True):
            mean.assign(mean + (1.0 - decay) * (tf.cast(variable.value, mean.dtype) - mean))
        return losses, norm

    def logits(self, log_mel: Any, mask: Any) -> Arrays:
        """Logits of the averaged weights."""
        self._swap_average()
        try:
            return {head: x.numpy() for head, x in self._forward(log_mel, mask).items()}
        finally:
            self._swap_average()

    def averaged_weights(self) -> Arrays:
        """The averaged weights by path."""
        self._swap_average()
        try:
            return weights_of(self.model)
        finally:
            self._swap_average()

    def state(self) -> Arrays:
        """Weights, optimiser and averages."""
        arrays = {f"model/{v.path}": np.asarray(v.value) for v in self.model.variables}
        arrays |= {f"optimizer/{i}": np.asarray(v.value) for i, v in enumerate(self.optimizer.variables)}
        return arrays | {f"average/{i}": v.numpy() for i, v in enumerate(self.average)}

    def restore(self, arrays: Mapping[str, Any]) -> None:
        """Take back a `state`."""
        for variable in self.model.variables:
            variable.assign(arrays[f"model/{variable.path}"])
        for i, variable in enumerate(self.optimizer.variables):
            variable.assign(arrays[f"optimizer/{i}"])
        for i, average in enumerate(self.average):
            average.assign(arrays[f"average/{i}"])

    def initialise(self, weights: Mapping[str, Any], where: str) -> None:
        """Start from given weights."""
        restore_weights(self.model, weights, where)
        for average, variable in zip(self.average, self.model.trainable_variables, strict=True):
            average.assign(tf.cast(variable.value, average.dtype))

    def _swap_average(self) -> None:
        for average, variable in zip(self.average, self.model.trainable_variables, strict=True):
            held = tf.identity(variable.value)
            variable.assign(average)
            average.assign(tf.cast(held, average.dtype))


def _sparse(labels: list[list[int]]) -> tf.SparseTensor:
    rows = np.repeat(np.arange(len(labels)), [len(x) for x in labels])
    columns = np.concatenate([np.arange(len(x)) for x in labels])
    values = np.concatenate([np.asarray(x, dtype=np.int32) for x in labels])
    width = max(len(x) for x in labels)
    return tf.SparseTensor(np.stack([rows, columns], 1).astype(np.int64), values, (len(labels), width))
