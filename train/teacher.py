"""Learning from networks that were trained before, beside the labels (knowledge distillation).

The student is drawn, in each output frame, towards the mean of what its teachers say there of the same audio without
masks. After G. Hinton, O. Vinyals and J. Dean, "Distilling the knowledge in a neural network", 2015; for the outputs of
CTC frame by frame as in G. Kurata and K. Audhkhasi, "Guiding CTC posterior spike timings for improved posterior fusion
and knowledge distillation", Interspeech 2019: such a student says each unit when its teachers do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from keras import ops

from edge_stt.errors import DataError
from edge_stt.units import UnitSet

from .checkpoint import load_arrays, restore_weights
from .config import TrainConfig
from .finished import teachers_of
from .models.base import build_network
from .prepare import Described


class Teachers:
    """Networks of finished runs, whose weights stand still. Raises `DataError` where a run is none for this student."""

    def __init__(self, config: TrainConfig, units: Mapping[str, UnitSet], data: Described) -> None:
        """``config``, ``units`` and ``data`` are the student's."""
        runs, self.heads = teachers_of(config, units)
        self.models: list[Any] = []
        self.scales: list[Any] = []  # the student's audio, normalised by their own statistics, is theirs times this
        for run in runs:
            if run.front_end != data.front_end:
                raise DataError(f"{run.folder} cannot teach this model: its features are others")
            network = build_network(run.config.model, {name: len(of) for name, of in run.heads.items()})
            model = network.training_model()
            path = run.folder / "best.npz"
            restore_weights(model, {k: v for k, v in load_arrays(path).items() if "/" in k}, str(path))
            model.trainable = False
            self.models.append(model)
            self.scales.append((data.statistics.std / run.statistics.std).astype(np.float32))

    def probabilities(self, log_mel: Any, mask: Any) -> dict[str, Any]:
        """Of each head that all have in common, float32 ``[B, T / stride, units]``, for a batch as students get it."""
        said = [
            model([log_mel * scale, mask], training=False)
            for model, scale in zip(self.models, self.scales, strict=True)
        ]
        means = {head: sum(ops.softmax(logits[head]) for logits in said) / len(said) for head in self.heads}
        return {head: ops.stop_gradient(x) for head, x in means.items()}


def divergence(probabilities: Any, logits: Any, mask: Any) -> Any:
    """Kullback-Leibler divergence of the student's outputs from its teachers', summed over the frames of ``mask``.

    ``probabilities`` and ``logits`` are ``[B, T, units]``, ``mask`` ``[B, T, 1]``.
    """
    apart = ops.log(ops.maximum(probabilities, 1e-8)) - ops.log_softmax(logits)
    return ops.sum(probabilities * apart * ops.cast(mask, logits.dtype))
