"""Prepared sets as shards, and several workers that train one model."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_stt.errors import DataError

from .conftest import ROOT
from .small_run import CONV, small_run
from .test_train import SMALL, _manifest, _train

pytestmark = pytest.mark.workstation


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for module in ("tensorflow", "pyroomacoustics"):
        if importlib.util.find_spec(module) is None:
            pytest.skip("needs the train extra")
    folder: Path = tmp_path_factory.mktemp("prepared")
    done = _train("prepare", "--out", folder / "set", _manifest(folder))
    assert done.returncode == 0, done.stderr
    return folder / "set"


@pytest.fixture(scope="module")
def shards(prepared: Path) -> Path:
    from train.shards import write_shards

    folder = prepared.parent / "shards"
    size = sum(path.stat().st_size for path in prepared.glob("*.f16"))
    assert len(write_shards(prepared, folder, shard_bytes=size // 3)) == 3
    return folder


def _batches(shards: Path, worker: int = 0, workers: int = 1) -> Any:
    from train.augment import SpecAugmentConfig
    from train.config import BatchConfig
    from train.shards import ShardBatches, ShardedSet

    data = ShardedSet(shards)
    labels = {"characters": [[2 + i, 3] for i in range(len(data))]}  # which tell the clips apart
    config = BatchConfig(seconds=12.0, variant_weights={"plain": 1.0}, warp=0.0, running_share=0.0)
    none = SpecAugmentConfig(frequency_masks=0, time_masks_per_second=0.0)
    return ShardBatches(data, labels, config, none, 3, worker, workers)


def test_shards_hold_what_the_set_holds(prepared: Path, shards: Path) -> None:
    from train.prepare import PreparedSet

    data = PreparedSet(prepared)
    batches = _batches(shards)
    seen = []
    for clip, frames in batches._records(0):
        seen.append(clip)
        assert set(frames) == set(data.variants)
        for variant, found in frames.items():
            np.testing.assert_array_equal(found.astype(np.float32), data.frames(clip, variant))
    assert sorted(seen) == list(range(len(data)))
    assert seen != sorted(seen) or len(seen) < 4


def test_workers_divide_the_clips_among_them(shards: Path) -> None:
    drawn = []
    for worker in range(3):
        drawn.append({clip for group in _batches(shards, worker, 3).epoch(0) for clip, _ in group})
    assert set.union(*drawn) == set(range(len(_batches(shards).data)))
    assert sum(map(len, drawn)) == len(set.union(*drawn))
    with pytest.raises(DataError, match="4 workers need"):
        _batches(shards, 0, 4)


def test_a_run_resumes_in_the_middle_of_an_epoch(shards: Path) -> None:
    first = _batches(shards).from_step(0)
    whole = [next(first) for _ in range(7)]
    later = _batches(shards).from_step(4)
    for epoch, batch in whole[4:]:
        again_epoch, again = next(later)
        assert (again_epoch, again.labels) == (epoch, batch.labels)
        np.testing.assert_array_equal(again.log_mel, batch.log_mel)


def test_shards_that_are_missing_or_damaged(shards: Path, tmp_path: Path) -> None:
    from train.shards import ShardedSet, write_shards

    with pytest.raises(DataError, match="is not empty"):
        write_shards(shards.parent / "set", shards)
    for path in shards.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    paths = sorted(tmp_path.glob("shard-*"))
    content = bytearray(paths[0].read_bytes())
    content[len(content) // 2] ^= 255
    paths[0].write_bytes(content)
    with pytest.raises(DataError, match="a shard is damaged"):
        list(_batches(tmp_path)._records(0))
    paths[0].unlink()
    with pytest.raises(DataError, match="not all of its shards"):
        ShardedSet(tmp_path)


WORKER = """
import json, sys
import numpy as np
from pathlib import Path
from train.workers import together, worker_of_environment

worker, workers = worker_of_environment()
scope = together(workers)
from train.batches import collate
from train.checkpoint import load_arrays, save_arrays
from train.config import TeacherConfig, TrainConfig
from train.finished import FinishedRun
from train.models.base import build_network
from train.models.conv import ConvConfig
from train.steps import make_steps
from train.teacher import Teachers

teacher = FinishedRun.read(Path(sys.argv[3]))
config = TrainConfig(
    teacher=TeacherConfig((sys.argv[3],)), model=ConvConfig(stem_channels=8, channels=16, blocks=1, dropout=0.0)
)
with scope:
    network = build_network(config.model, {"characters": 29, "phonemes": 41})
    steps = make_steps(config, network, Teachers(config, teacher.heads, teacher))
steps.initialise(load_arrays(Path(sys.argv[1])), sys.argv[1])
rng = np.random.default_rng(1)
reports = []
for _ in range(3):
    clips = [rng.normal(size=(192, 80)).astype(np.float32) for _ in range(4)]
    # Much is said on one worker and hardly anything on the other: see `train.steps.counted`.
    labels = {"characters": [rng.integers(2, 29, n).tolist() for n in (20, 1, 30, 1)],
              "phonemes": [rng.integers(2, 41, n).tolist() for n in (4, 8, 3, 9)]}
    mine = [i for i in range(4) if i % workers == worker]
    heard = [clips[i] for i in mine]
    masked = [np.where(np.arange(192)[:, None] < 30, 0.0, x).astype(np.float32) for x in heard]
    reports.append(steps.train(collate(masked, {h: [x[i] for i in mine] for h, x in labels.items()}, heard)))
if worker == 0:
    save_arrays(Path(sys.argv[2]), steps.state())
print(json.dumps(reports))
"""


def _start_workers(count: int, *arguments: object) -> list[subprocess.CompletedProcess[str]]:
    """Run the same command as several workers on this machine."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    hosts = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    started = []
    for index in range(count):
        config = {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": index}}
        environment = {**os.environ, **({"TF_CONFIG": json.dumps(config)} if count > 1 else {})}
        command = [sys.executable, *map(str, arguments)]
        started.append(
            subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
    results = []
    for process in started:
        out, err = process.communicate(timeout=300)
        results.append(subprocess.CompletedProcess(process.args, process.returncode, out, err))
    return results


@pytest.mark.slow
def test_two_workers_take_the_steps_of_one(prepared: Path, tmp_path: Path) -> None:
    """The same weights, moments and statistics after three steps, with half of each batch on either worker."""
    from train.checkpoint import save_arrays, weights_of
    from train.models.conv import ConvConfig, ConvCTC

    network = ConvCTC(ConvConfig(stem_channels=8, channels=16, blocks=1), {"characters": 29, "phonemes": 41})
    save_arrays(tmp_path / "start.npz", weights_of(network.training_model()))
    teacher = small_run(tmp_path / "teacher", **CONV)
    states, reports = {}, {}
    for count in (1, 2):
        results = _start_workers(count, "-c", WORKER, tmp_path / "start.npz", tmp_path / f"{count}.npz", teacher)
        for done in results:
            assert done.returncode == 0, done.stderr[-3000:]
        reports[count] = [json.loads(done.stdout.splitlines()[-1]) for done in results]
        states[count] = dict(np.load(tmp_path / f"{count}.npz"))
    assert reports[2][0] == reports[2][1]
    assert reports[2][0][0]["divergence"] > 0
    for one, two in zip(reports[1][0], reports[2][0], strict=True):
        np.testing.assert_allclose(list(two.values()), list(one.values()), rtol=1e-3)
    assert states[1].keys() == states[2].keys()
    for name, value in states[1].items():
        if "seed_generator" not in name:
            np.testing.assert_allclose(states[2][name], value, rtol=2e-3, atol=2e-4, err_msg=name)


@pytest.mark.slow
def test_two_workers_train_from_shards(prepared: Path, shards: Path, tmp_path: Path) -> None:
    settings = [part for text in ("steps=4", "eval_every=2", "checkpoint_every=2") for part in ("--set", text)]
    run = ["-m", "train", "--data", shards, "--dev", prepared, "--run", tmp_path / "run", *SMALL, *settings]
    for done in _start_workers(2, *run):
        assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "dev" in line] == [2, 4]  # written once, by the chief
    assert (tmp_path / "run" / "checkpoint.npz").exists()


def test_a_wrong_cluster_is_refused(shards: Path, prepared: Path, tmp_path: Path, monkeypatch: Any) -> None:
    from train.workers import worker_of_environment

    monkeypatch.setenv("TF_CONFIG", '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}')
    with pytest.raises(DataError, match="TF_CONFIG must be"):
        worker_of_environment()
    monkeypatch.setenv("TF_CONFIG", "nonsense")
    done = _train("--data", shards, "--dev", prepared, "--run", tmp_path / "run")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("edge-stt: TF_CONFIG must be")
