"""One training step, whatever computes it: TensorFlow, or JAX where a GPU machine has no TensorFlow.

Keras decides which (``KERAS_BACKEND``, or ``backend`` in ``~/.keras/keras.json``). Weights, checkpoints and runs are
the same, so a run begun on the one goes on with the other; their random numbers (dropout) differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import keras
from keras import ops

from edge_stt.errors import DataError

from .batches import Batch
from .config import OptimizerConfig, TrainConfig
from .models.base import CTCModel
from .muon import ConvMuon
from .teacher import Teachers

Arrays = dict[str, Any]


class Steps(Protocol):
    """Holds weights, optimiser and averaged weights, and changes them a batch at a time."""

    model: Any

    def train(self, batch: Batch) -> dict[str, float]:
        """One step; the mean loss per label of each head (`counted`), and ``norm`` of the gradient.

        Of a batch whose gradient is not finite nothing is learned: momentum alone moves the weights.
        """
        ...

    def logits(self, log_mel: Any, mask: Any) -> Arrays:
        """Per head float32 ``[batch, frames / stride, units]``, of the averaged weights."""
        ...

    def averaged_weights(self) -> Arrays:
        """The averaged weights by path, float32, with the statistics of normalisations."""
        ...

    def state(self) -> Arrays:
        """Everything that a later process needs to go on as if nothing had happened."""
        ...

    def restore(self, arrays: Mapping[str, Any]) -> None:
        """Take back a `state`; raises `KeyError` or `ValueError` when it is another model's."""
        ...

    def initialise(self, weights: Mapping[str, Any], where: str) -> None:
        """Start from the weights of another run, by path; raises `DataError` when they do not fit."""
        ...


class WarmupCosine(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """Linear warm-up to ``peak``, and a cosine to zero over the last ``decay_share`` of the other steps."""

    def __init__(self, peak: float, warmup: int, steps: int, decay_share: float = 1.0) -> None:
        self.peak, self.warmup, self.steps, self.decay_share = peak, warmup, steps, decay_share

    def __call__(self, step: Any) -> Any:
        step = ops.cast(step, "float32")
        rising = (step + 1.0) / self.warmup
        falling = max(1.0, self.decay_share * (self.steps - self.warmup))
        share = ops.clip((step - (self.steps - falling)) / falling, 0.0, 1.0)
        return self.peak * ops.minimum(rising, 0.5 * (1.0 + ops.cos(3.141592653589793 * share)))

    def get_config(self) -> dict[str, Any]:
        return {"peak": self.peak, "warmup": self.warmup, "steps": self.steps, "decay_share": self.decay_share}


LEAST_UNITS = 0.25  # units an output frame; speech has about twice as many


def counted(units: Any, frames: Any) -> Any:
    """By how many units the loss of a batch is divided, given how many it has, and how many output frames.

    Where hardly anything is said, as in batches of noise, it is more than there are: a mean over a handful of labels
    would have a gradient many times that of other batches, and move the network as far as speech does.
    """
    return ops.maximum(ops.cast(units, "float32"), LEAST_UNITS * ops.cast(frames, "float32"))


def make_optimizer(config: OptimizerConfig, steps: int, variables: Any) -> Any:
    """The optimiser of these variables; biases and the scales of normalisations do not decay."""
    rate = WarmupCosine(config.learning_rate, config.warmup_steps, steps, config.decay_share)
    optimizer: Any
    if config.name == "muon":
        optimizer = ConvMuon(
            rate,
            weight_decay=config.weight_decay,
            adam_weight_decay=config.weight_decay,
            adam_beta_2=0.98,
            momentum=config.momentum,
            exclude_layers=["head_"],
        )
    else:
        optimizer = keras.optimizers.AdamW(rate, weight_decay=config.weight_decay, beta_2=0.98)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    optimizer.build(variables)
    return optimizer


def disagreement(logits: Any, mask: Any) -> Any:
    """How far two views of each clip, rows 2 i and 2 i + 1 of ``logits`` ``[B, T, units]``, are from one another.

    The sum, over the frames of ``mask`` ``[B, T, 1]``, of the Kullback-Leibler divergence of each view from the other,
    which stands still: each learns from the other what it cannot see itself, and neither is sure of what only one sees.
    Z. Yao et al., CR-CTC: consistency regularization on CTC for improved speech recognition, ICLR 2025.
    """
    log_probs = ops.log_softmax(logits)
    rows = ops.shape(logits)[0]
    row = ops.arange(rows)
    partner = ops.minimum(row + 1 - 2 * (row % 2), rows - 1)  # an odd row at the end is one that fills up
    others = ops.stop_gradient(ops.take(log_probs, partner, axis=0))
    return ops.sum(ops.exp(others) * (others - log_probs) * ops.cast(mask, log_probs.dtype))


def make_steps(config: TrainConfig, network: CTCModel, teachers: Teachers | None = None) -> Steps:
    """The steps of the backend that Keras runs on; raises `DataError` for one that is not supported."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        from .steps_tensorflow import TensorFlowSteps

        return TensorFlowSteps(config, network, teachers)
    if backend == "jax":
        from .steps_jax import JaxSteps

        return JaxSteps(config, network, teachers)
    raise DataError(f"training runs on Keras' backends tensorflow and jax, not {backend!r}: set KERAS_BACKEND")
