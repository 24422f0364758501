"""Learning from networks that were trained before, beside the labels (knowledge distillation).

The student is drawn, in each output frame, towards the mean of what its teachers say there of the same audio without
masks. After G. Hinton, O. Vinyals and J. Dean, "Distilling the knowledge in a neural network", 2015; for the outputs of
CTC frame by frame as in M. Kurata and K. Audhkhasi, "Guiding CTC posterior spike timings for improved posterior fusion
and knowledge distillation", Interspeech 2019: such a student says each unit when its teachers do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from keras import ops

from edge_stt.errors import DataError
from edge_stt.features import FeatureStatistics
from edge_stt.units import UnitSet

from .checkpoint import load_arrays, restore_weights
from .config import config_of_run
from .models.base import build_network


class Teachers:
    """Networks of finished runs, whose weights stand still. Raises `DataError` where a run is none for this student."""

    def __init__(
        self, runs: tuple[str, ...], units: Mapping[str, UnitSet], statistics: FeatureStatistics, stride: int
    ) -> None:
        """``units``, ``statistics`` (of its training set) and ``stride`` are the student's."""
        self.models: list[Any] = []
        self.scales: list[Any] = []  # the student's audio, normalised by their own statistics, is theirs times this
        self.heads = list(units)
        for run in map(Path, runs):
            config = config_of_run(run)
            try:
                described = json.loads((run / "model.json").read_text(encoding="utf-8"))
                heads = {
                    name: UnitSet(of["name"], of["kind"], tuple(of["symbols"]))
                    for name, of in described["heads"].items()
                }
                std = np.asarray(described["statistics"]["std"], np.float32)
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise DataError(f"{run} cannot teach: its model.json is not readable ({error})") from error
            network = build_network(config.model, {name: len(of) for name, of in heads.items()})
            self.heads = [name for name in self.heads if heads.get(name) == units[name]]
            if not self.heads or network.stride != stride or std.shape != statistics.std.shape:
                raise DataError(f"{run} cannot teach this model: it has other units, another stride or other features")
            model = network.training_model()
            weights = {k: v for k, v in load_arrays(run / "best.npz").items() if "/" in k}
            restore_weights(model, weights, str(run))
            model.trainable = False
            self.models.append(model)
            self.scales.append((statistics.std / std).astype(np.float32))

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
