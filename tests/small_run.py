"""Run directories as training leaves them, with small networks of random weights: for tests of conversion."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from .conftest import ROOT

CONV = {"family": "conv", "stem_channels": 16, "channels": 24, "blocks": 1}
DS2 = {"family": "ds2", "conv_channels": [4, 4], "recurrent_layers": 1, "recurrent_units": 16}


def small_run(folder: Path, **model: Any) -> Path:
    """Write ``config.json``, ``model.json`` and ``best.npz`` for a model config (`CONV` or `DS2`, changed at will)."""
    from train.checkpoint import weights_of
    from train.config import TrainConfig, from_dict, to_dict
    from train.models.base import build_network

    folder.mkdir(parents=True, exist_ok=True)
    config = from_dict(TrainConfig, {"name": "small", "model": model}, "config.json")
    shutil.copy(sorted((ROOT / "train" / "runs").glob("*/model.json"))[0], folder)
    heads = json.loads((folder / "model.json").read_text())["heads"]
    network = build_network(config.model, {head: len(units["symbols"]) for head, units in heads.items()})
    rng = np.random.default_rng(0)
    weights = {}
    for name, values in weights_of(network.training_model()).items():
        noise = rng.normal(size=values.shape).astype(np.float32)
        fan_in = max(1, int(np.prod(values.shape[:-1])))
        if name.endswith(("gamma", "moving_variance")):
            weights[name] = 1.0 + 0.1 * np.abs(noise)
        else:
            weights[name] = noise * (1.5 / np.sqrt(fan_in) if values.ndim > 1 else 0.1)
    np.savez(folder / "best.npz", step=np.array(7), **weights)
    (folder / "config.json").write_text(json.dumps(to_dict(config)))
    return folder
