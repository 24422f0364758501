"""A grown network computes at first what the small one does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_stt.errors import DataError

pytestmark = pytest.mark.workstation
HEADS = {"characters": 29, "phonemes": 41}


def _run(folder: Path, **form: Any) -> Path:
    """A run directory of a small network whose weights and statistics are nobody's defaults."""
    pytest.importorskip("tensorflow", reason="needs the train extra")
    from train.checkpoint import save_arrays, weights_of
    from train.config import TrainConfig, to_dict
    from train.models.conv import ConvConfig, ConvCTC

    config = TrainConfig(model=ConvConfig(stem_channels=8, channels=12, blocks=2, **form))
    model = ConvCTC(config.model, HEADS).training_model()
    rng = np.random.default_rng(3)
    weights = weights_of(model)
    for name, value in weights.items():
        if value.ndim == 1:
            weights[name] = rng.uniform(0.5, 1.5, value.shape).astype(np.float32)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(to_dict(config)))
    save_arrays(folder / "best.npz", {**weights, "step": np.array(1)})
    return folder


def _logits(folder: Path, config: Path | None) -> dict[str, np.ndarray]:
    from train.checkpoint import load_arrays, restore_weights
    from train.config import config_of_run, load_config
    from train.models.base import build_network

    settings = load_config(config) if config else config_of_run(folder)
    model = build_network(settings.model, HEADS).training_model()
    weights = {k: v for k, v in load_arrays(folder / ("grown.npz" if config else "best.npz")).items() if "/" in k}
    restore_weights(model, weights, str(folder))
    frames = np.random.default_rng(1).normal(size=(1, 64, 80)).astype(np.float32)
    return {head: x.numpy() for head, x in model([frames, np.ones((1, 16, 1), np.float32)], training=False).items()}


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ({}, ""),
        ({"strides": (2, 2, 1), "branches": {"phonemes": 1}}, "strides = [2, 2, 1]\nbranches = {phonemes = 1}\n"),
        ({"strides": (4,)}, "strides = [4]\n"),
    ],
)
def test_wider_and_deeper_is_the_same_function(tmp_path: Path, form: dict[str, Any], said: str) -> None:
    run = _run(tmp_path / "run", **form)
    from train.config import load_config
    from train.grow import grow_run

    larger = tmp_path / "larger.toml"
    larger.write_text('[model]\nfamily = "conv"\nstem_channels = 11\nchannels = 31\nblocks = 3\n' + said)
    count = grow_run(run, load_config(larger), run / "grown.npz", HEADS)
    before, after = _logits(run, None), _logits(run, larger)
    assert count > 4 * sum(v.size for v in np.load(run / "best.npz").values())
    for head in HEADS:
        np.testing.assert_allclose(after[head], before[head], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("stem_channels = 8\nchannels = 11\nblocks = 2", "narrower"),
        ("stem_channels = 8\nchannels = 12\nblocks = 1", "fewer blocks"),
        ("stem_channels = 8\nchannels = 12\nblocks = 2\nkernel = 7", "must stay"),
        ("stem_channels = 8\nchannels = 12\nblocks = 2\nstrides = [4]", "strides, branches must stay"),
        ("stem_channels = 8\nchannels = 12\nblocks = 2\nbranches = {phonemes = 1}", "strides, branches must stay"),
    ],
)
def test_what_cannot_grow_is_refused(tmp_path: Path, model: str, message: str) -> None:
    run = _run(tmp_path / "run")
    from train.config import load_config
    from train.grow import grow_run

    larger = tmp_path / "larger.toml"
    larger.write_text(f'[model]\nfamily = "conv"\n{model}\n')
    with pytest.raises(DataError, match=message):
        grow_run(run, load_config(larger), run / "grown.npz", HEADS)
    assert not (run / "grown.npz").exists()


def test_growing_what_is_no_run(tmp_path: Path) -> None:
    pytest.importorskip("tensorflow", reason="needs the train extra")
    from train.config import TrainConfig
    from train.grow import grow_run

    with pytest.raises(DataError, match="not a training run"):
        grow_run(tmp_path, TrainConfig(), tmp_path / "grown.npz", HEADS)
