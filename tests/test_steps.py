"""The same training step in TensorFlow and in JAX, and a run that never imports TensorFlow."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from .conftest import ROOT
from .small_run import CONV, small_run
from .test_train import SMALL, _manifest

pytestmark = pytest.mark.workstation

STEPS = """
import json, sys
import numpy as np
from train.batches import collate
from train.checkpoint import load_arrays, save_arrays
from train.config import BatchConfig, TeacherConfig, TrainConfig
from train.models.base import build_network
from train.models.conv import ConvConfig
from train.steps import make_steps
from train.teacher import Teachers
from train.finished import FinishedRun
from pathlib import Path

config = TrainConfig(
    teacher=TeacherConfig(tuple(sys.argv[4:])),
    batches=BatchConfig(masked_statistics=True, consistency_weight=float(sys.argv[3])),
    model=ConvConfig(stem_channels=8, channels=16, blocks=1, dropout=0.0)
)
teachers = None
if config.teacher.runs:
    data = FinishedRun.read(Path(config.teacher.runs[0]))
    teachers = Teachers(config, data.heads, data)
steps = make_steps(config, build_network(config.model, {"characters": 29, "phonemes": 41}), teachers)
steps.initialise(load_arrays(Path(sys.argv[1])), sys.argv[1])
rng = np.random.default_rng(1)
reports = []
for lengths in [(150, 150, 201, 201), (640, 640), (60, 60)]:  # padding on neither side or on both: see test_models
    pieces = [rng.normal(size=(n, 80)).astype(np.float32) for n in lengths]
    labels = {"characters": [rng.integers(2, 29, n // 20).tolist() for n in lengths],
              "phonemes": [rng.integers(2, 41, n // 25).tolist() for n in lengths]}
    masked = [np.where(np.arange(len(x))[:, None] < 9, 0.0, x).astype(np.float32) for x in pieces]
    batch = collate(masked, labels, pieces)
    reports.append(steps.train(batch))
broken = [np.full((150, 80), np.inf, np.float32)] * 2  # of which nothing may be learned, by normalisations either
report = steps.train(collate(broken, {"characters": [[2], [3]], "phonemes": [[2], [3]]}, broken))
assert not np.isfinite(report["norm"])
logits = steps.logits(batch.log_mel, batch.mask)
save_arrays(Path(sys.argv[2]), steps.state() | {f"logits/{k}": v for k, v in logits.items()})
print(json.dumps({"reports": reports, "tensorflow": "tensorflow" in sys.modules}))
"""


def _needs(*modules: str) -> None:
    for module in modules:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"needs {module} (pip install -e '.[train,dev]')")


def _run(backend: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, "KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(("consistency", "taught"), [(0.0, False), (0.2, True)])
def test_tensorflow_and_jax_take_the_same_steps(tmp_path: Path, consistency: float, taught: bool) -> None:
    _needs("tensorflow", "jax")
    import keras

    from train.checkpoint import save_arrays, weights_of
    from train.models.conv import ConvConfig, ConvCTC

    keras.utils.set_random_seed(1)
    network = ConvCTC(ConvConfig(stem_channels=8, channels=16, blocks=1), {"characters": 29, "phonemes": 41})
    save_arrays(tmp_path / "start.npz", weights_of(network.training_model()))
    teacher = [small_run(tmp_path / "teacher", **CONV)] if taught else []
    said, states = {}, {}
    for backend in ("tensorflow", "jax"):
        done = _run(backend, "-c", STEPS, tmp_path / "start.npz", tmp_path / f"{backend}.npz", consistency, *teacher)
        assert done.returncode == 0, done.stderr
        said[backend] = json.loads(done.stdout.splitlines()[-1])
        states[backend] = dict(np.load(tmp_path / f"{backend}.npz"))
    assert not said["jax"]["tensorflow"]
    assert ("disagreement" in said["jax"]["reports"][0]) == (consistency > 0)
    assert ("divergence" in said["jax"]["reports"][0]) == taught
    for one, other in zip(said["tensorflow"]["reports"], said["jax"]["reports"], strict=True):
        assert one.keys() == other.keys()
        np.testing.assert_allclose(list(one.values()), [other[name] for name in one], rtol=1e-3)
    assert states["tensorflow"].keys() == states["jax"].keys()  # so that a run can go on with the other
    for name, value in states["tensorflow"].items():
        assert np.isfinite(value).all(), name
        if "seed_generator" not in name:
            np.testing.assert_allclose(value, states["jax"][name], rtol=2e-3, atol=2e-4, err_msg=name)


def test_a_batch_in_which_hardly_anything_is_said_counts_for_little() -> None:
    _needs("tensorflow")
    from train.steps import counted

    assert [float(counted(units, 100)) for units in (60, 25, 2)] == [60.0, 25.0, 25.0]


def test_disagreement_is_the_divergence_of_each_view_from_the_other() -> None:
    _needs("tensorflow")
    import tensorflow as tf

    from train.steps import disagreement

    logits = np.random.default_rng(2).normal(size=(4, 3, 5)).astype(np.float32)
    mask = np.ones((4, 3, 1), np.float32)
    mask[2:, 2] = 0.0
    p = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    pairs = [(0, 1, 3), (1, 0, 3), (2, 3, 2), (3, 2, 2)]
    wanted = sum((p[other, :n] * np.log(p[other, :n] / p[one, :n])).sum() for one, other, n in pairs)
    variable = tf.Variable(logits)
    with tf.GradientTape() as tape:
        value = disagreement(variable, mask)
    assert float(value) == pytest.approx(wanted, rel=1e-5)
    # What is learned from stands still: the gradient of a cross entropy, p - q.
    others = p[[1, 0, 3, 2]]
    np.testing.assert_allclose(tape.gradient(value, variable), (p - others) * mask, atol=1e-6)


@pytest.mark.slow
def test_a_run_in_jax_goes_on_in_tensorflow(tmp_path: Path) -> None:
    _needs("tensorflow", "jax", "pyroomacoustics")
    prepared, run = tmp_path / "set", tmp_path / "run"
    done = _run("tensorflow", "-m", "train", "prepare", "--plain", "--out", prepared, _manifest(tmp_path))
    assert done.returncode == 0, done.stderr
    command = ["-m", "train", "--data", prepared, "--dev", prepared, "--run", run, *SMALL]
    for backend, steps in (("jax", 4), ("tensorflow", 6)):
        done = _run(backend, *command, "--set", f"steps={steps}", "--set", "eval_every=2")
        assert done.returncode == 0, done.stderr
        assert json.loads((run / "run.json").read_text())["backend"].startswith(backend)
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "dev" in line] == [2, 4, 6]


def test_early_stopping(tmp_path: Path) -> None:
    """Without learning nothing gets better: the first scoring is the best one, and two more end the run."""
    _needs("tensorflow", "pyroomacoustics")
    prepared, run = tmp_path / "set", tmp_path / "run"
    assert (
        _run("tensorflow", "-m", "train", "prepare", "--plain", "--out", prepared, _manifest(tmp_path)).returncode == 0
    )
    settings = ["steps=50", "eval_every=1", "patience=2", "optimizer.learning_rate=1e-12"]
    overrides = [part for setting in settings for part in ("--set", setting)]
    done = _run("tensorflow", "-m", "train", "--data", prepared, "--dev", prepared, "--run", run, *SMALL, *overrides)
    assert done.returncode == 0, done.stderr
    assert "that is enough" in done.stderr
    assert len([line for line in (run / "log.jsonl").read_text().splitlines() if '"dev"' in line]) < 50
