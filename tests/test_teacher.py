"""What a student learns of its teachers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_stt.errors import DataError
from edge_stt.units import UnitSet

from .small_run import CONV, small_run

pytestmark = pytest.mark.workstation
pytest.importorskip("tensorflow", reason="needs the train extra")
from train.config import OptimizerConfig, TeacherConfig, TrainConfig  # noqa: E402
from train.finished import FinishedRun  # noqa: E402
from train.models.configs import ConvConfig  # noqa: E402


def _units(run: Path) -> dict[str, UnitSet]:
    return FinishedRun.read(run).heads


def _data(run: Path, louder: float = 1.0) -> FinishedRun:
    """What a training set would say of itself."""
    said = FinishedRun.read(run)
    return replace(said, statistics=replace(said.statistics, std=said.statistics.std * np.float32(louder)))


def _config(*runs: Path, **settings: Any) -> TrainConfig:
    return TrainConfig(teacher=TeacherConfig(tuple(map(str, runs)), 20.0), **settings)


def _batch() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    mask = np.ones((2, 16, 1), np.float32)
    mask[1, 10:] = 0.0
    return rng.normal(size=(2, 64, 80)).astype(np.float32), mask


def test_teachers_say_what_their_networks_do_on_average(tmp_path: Path) -> None:
    from train.teacher import Teachers, divergence

    first = small_run(tmp_path / "first", **CONV)
    second = small_run(tmp_path / "second", **{**CONV, "channels": 16})
    units = _units(first)
    log_mel, mask = _batch()
    alone = [Teachers(_config(run), units, _data(first)).probabilities(log_mel, mask) for run in (first, second)]
    both = Teachers(_config(first, second), units, _data(first)).probabilities(log_mel, mask)
    for head in units:
        np.testing.assert_allclose(both[head], (alone[0][head] + alone[1][head]) / 2, atol=1e-6)
    # A student whose set is twice as spread hears the same as the teacher when its numbers are half as large.
    spread = Teachers(_config(first), units, _data(first, 2.0)).probabilities(log_mel / 2, mask)
    np.testing.assert_allclose(spread["characters"], alone[0]["characters"], atol=1e-5)
    said = alone[0]["characters"].numpy()
    assert float(divergence(said, np.log(said), mask)) == pytest.approx(0.0, abs=1e-4)
    other = alone[1]["characters"].numpy()
    wanted = (said * np.log(said / other) * mask).sum()
    assert float(divergence(said, np.log(other), mask)) == pytest.approx(wanted, rel=1e-4)


def test_a_run_of_other_units_stride_or_features_cannot_teach(tmp_path: Path) -> None:
    from train.teacher import Teachers

    run = small_run(tmp_path / "run", **CONV)
    units, data = _units(run), _data(run)
    other = {"characters": UnitSet("other", "characters", ("<blank>", " ", "x"))}
    with pytest.raises(DataError, match="cannot teach this model: its units are others"):
        Teachers(_config(run), other, data)
    with pytest.raises(DataError, match="cannot teach this model: its stride is 4, not 8"):
        Teachers(_config(run, model=ConvConfig(strides=(2, 2, 2))), units, data)
    with pytest.raises(DataError, match="cannot teach this model: its features are others"):
        Teachers(_config(run), units, replace(data, front_end=replace(data.front_end, f_max=7000.0)))
    with pytest.raises(DataError, match="is not a training run"):
        Teachers(_config(tmp_path), units, data)
    mine = {"characters": units["characters"], "phonemes": other["characters"]}
    assert Teachers(_config(run), mine, data).heads == ["characters"]
    (run / "best.npz").rename(run / "other.npz")
    with pytest.raises(DataError, match=r"it has no best\.npz"):
        Teachers(_config(run), units, data)
    for damaged in ("{", "[]", '{"heads": {"characters": 3}}'):
        (run / "model.json").write_text(damaged)
        with pytest.raises(DataError, match=r"its model\.json is not readable") as caught:
            Teachers(_config(run), units, data)
        assert "\n" not in str(caught.value)


def test_a_student_comes_to_say_what_its_teacher_does(tmp_path: Path) -> None:
    """Of noise, with labels that mean nothing: what it learns can only come from the teacher."""
    from train.batches import collate
    from train.models.base import build_network
    from train.steps import make_steps
    from train.teacher import Teachers

    run = small_run(tmp_path / "run", **CONV)
    units = _units(run)
    config = _config(
        run,
        optimizer=OptimizerConfig(learning_rate=5e-3, warmup_steps=1),
        model=ConvConfig(stem_channels=16, channels=24, blocks=1, dropout=0.0),
    )
    network = build_network(config.model, {head: len(of) for head, of in units.items()})
    steps = make_steps(config, network, Teachers(config, units, _data(run)))
    rng = np.random.default_rng(3)
    heard = [rng.normal(size=(64, 80)).astype(np.float32) for _ in range(4)]
    masked = [np.where(np.arange(64)[:, None] < 8, 0.0, frames).astype(np.float32) for frames in heard]
    batch = collate(masked, {head: [[2]] * 4 for head in units}, heard)
    losses = [steps.train(batch)["divergence"] for _ in range(40)]
    assert losses[-1] < 0.5 * losses[0]
