"""The optimiser for convolutions: what it does to a matrix, and to a network."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = pytest.mark.workstation
keras = pytest.importorskip("keras", reason="needs the train extra")

from train.config import OptimizerConfig, load_config  # noqa: E402
from train.muon import orthogonal  # noqa: E402
from train.steps import make_optimizer  # noqa: E402


def test_singular_values_become_alike() -> None:
    rng = np.random.default_rng(1)
    matrix = (rng.normal(size=(60, 12)) * np.geomspace(1.0, 30.0, 12)).astype(np.float32)
    result = np.asarray(keras.ops.convert_to_numpy(orthogonal(keras.ops.convert_to_tensor(matrix))))
    u, _, v = np.linalg.svd(matrix, full_matrices=False)
    assert np.linalg.svd(result, compute_uv=False) == pytest.approx(1.0, abs=0.35)
    # the directions stay those of the decomposition
    assert np.sum(result * (u @ v)) / (np.linalg.norm(result) * np.linalg.norm(u @ v)) > 0.97


@pytest.mark.parametrize("dominance", [1.0, 10.0, 100.0])
def test_one_direction_far_above_the_others_makes_no_step_too_large(dominance: float) -> None:
    """Gradients of a few clips are like that. Rounded to bfloat16 on the way were 3,000 times too large."""
    rng = np.random.default_rng(3)
    matrix = rng.normal(size=(960, 192)) * np.exp(-rng.uniform(0.0, 4.0, size=(1, 192)))
    one = rng.normal(size=(960, 1)) @ rng.normal(size=(1, 192))
    matrix = matrix / np.linalg.norm(matrix) + dominance * one / np.linalg.norm(one)
    for dtype in ("float32", "bfloat16"):
        given = keras.ops.cast(keras.ops.convert_to_tensor(matrix.astype(np.float32)), dtype)
        result = keras.ops.convert_to_numpy(keras.ops.cast(orthogonal(given), "float32"))
        assert np.linalg.svd(result, compute_uv=False).max() < 1.35


def test_kernels_move_orthogonally_and_heads_by_adam() -> None:
    rng = np.random.default_rng(2)
    model = keras.Sequential(
        [keras.Input((None, 6)), keras.layers.Conv1D(4, 3, name="block"), keras.layers.Conv1D(5, 1, name="head_x")]
    )
    variables = model.trainable_variables
    config = OptimizerConfig(name="muon", learning_rate=1e-2, warmup_steps=1, weight_decay=0.0)
    optimizer = make_optimizer(config, 100, variables)
    before = [np.array(v.value) for v in variables]
    gradients = [rng.normal(size=v.shape).astype(np.float32) for v in variables]
    optimizer.apply([keras.ops.convert_to_tensor(g) for g in gradients], variables)
    moved = {v.path.split("/", 1)[-1]: np.array(v.value) - b for v, b in zip(variables, before, strict=True)}
    block = next(x for path, x in moved.items() if path.endswith("kernel") and x.shape == (3, 6, 4)).reshape(18, 4)
    values = np.linalg.svd(block, compute_uv=False) / (0.2 * 18**0.5 * 1e-2)
    assert values == pytest.approx(1.0, abs=0.35)
    for step, gradient in zip(moved.values(), gradients, strict=True):
        assert np.sum(step * gradient) < 0  # downhill
        if step.shape != (3, 6, 4):
            assert np.abs(step) == pytest.approx(1e-2, rel=0.05)  # Adam's first step has the size of the rate


def test_a_config_names_it() -> None:
    config = load_config(None, ["optimizer.name='muon'", "optimizer.momentum=0.9"])
    assert (config.optimizer.name, config.optimizer.momentum) == ("muon", 0.9)
