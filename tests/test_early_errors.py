"""What is wrong with a call of `edge-stt train` or `convert` is said before TensorFlow is loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import ROOT

CONFIG = ROOT / "train" / "configs" / "conv-3m.toml"
# As the command, with an import of TensorFlow or Keras that fails.
CODE = """
import sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name in ("tensorflow", "keras"):
            raise SystemExit(f"{name} is imported")
from edge_stt.__main__ import main
import importlib.util
importlib.util.find_spec = lambda name: name  # so that they count as installed
sys.meta_path.insert(0, Finder())
main()
"""
TRAIN = ["train", "--data", "none", "--dev", "none", "--run", "r"]
SET = ["train", "--data", "set", "--dev", "set", "--run", "r"]
RUN = ROOT / "train" / "runs" / "conv-8m-long"


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (TRAIN, 1, "none is not a prepared set"),
        ([*TRAIN, "--config", "none.toml"], 1, "the config none.toml cannot be read: No such file or directory"),
        ([*TRAIN, "--config", "bad.toml"], 1, "the config bad.toml cannot be read: "),
        ([*TRAIN, "--set", "steps"], 2, "an override is section.key=value, not 'steps'"),
        ([*SET, "--init", "none"], 1, "--init none: "),
        ([*SET, "--config", "unknown.toml"], 1, "config: unknown key 'stepz'; did you mean 'steps'?"),
        (
            [*SET, "--set", "model.blocks=0"],
            1,
            "config: model.n_mels, model.channels, model.stem_channels and model.blocks must be",
        ),
        ([*SET, "--set", "model.family=rnn"], 1, "config.model: unknown family 'rnn'; known: conv, ds2"),
        ([*SET, "--set", "model={family='ds2', lookahead=0}"], 1, "config: model.lookahead must be at least 1"),
        ([*SET, "--set", "model.branches={x=1}"], 1, "config: model.branches has 'x'; the heads are characters, phone"),
        ([*SET, "--set", "teacher.runs=none"], 1, "none is not a training run"),
        ([*SET, "--set", "teacher.runs=set"], 1, "set is not a training run"),
        (
            [*SET, "--set", f"teacher.runs={RUN}", "--set", "model.strides=[4, 2]"],
            1,
            f"{RUN} cannot teach this model: its",
        ),
        ([*SET, "--set", f"teacher.runs={RUN}", "--set", "language=german"], 1, f"{RUN} cannot teach this model: its"),
        ([*SET, "--set", "language=klingon"], 2, "there is no language 'klingon'; known: "),
        (["train", "grow", RUN, "--config", "unknown.toml", "-o", "out"], 1, "config: unknown key 'stepz'"),
        (["train", "grow", RUN, "--config", "branches.toml", "-o", "out"], 1, "config: model.branches has 'x'"),
        (["train", "shards", "none", "-o", "out"], 1, "none is not a prepared set"),
        (["train", "grow", "none", "--config", CONFIG, "-o", "out"], 1, "none is not a training run"),
        (["convert", "none", "-o", "out"], 1, "none is not a training run"),
        (["convert", "none", "-o", "out", "--quantize", "int4"], 2, "unknown quantization 'int4'"),
        (["convert", "none", "-o", "out", "--quantize", "int8"], 2, "int8 needs representative clips"),
        (["convert", "none", "-o", "out", "--quantize", "float16", "--keep-float", "a"], 2, "--keep-float: float16"),
        (["convert", "layers", "none", "--data", "none", "--quantize", "float32"], 2, "unknown quantization"),
        (["convert", "layers", "none", "--data", "none"], 1, "none is not a training run"),
        (["convert", "none", "-o", "out", "--python", " "], 2, "--python names a command"),
        (["convert", "prove", "none", "--python", ""], 2, "--python names a command"),
        (["train", "prepare", "none", "-o", "out", "--plain", "--rooms", "2"], 2, "--plain makes no copies"),
        (["convert", "page", "none", "--data", "none", "--dev", "none"], 1, "none is not a training run"),
    ],
)
def test_before_tensorflow_is_loaded(arguments: list[object], code: int, text: str, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("steps = ")
    (tmp_path / "unknown.toml").write_text("stepz = 3\n")
    (tmp_path / "branches.toml").write_text("[model]\nbranches = {x = 1}\n")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "report.json").write_text("{}")
    command = [sys.executable, "-c", CODE, *map(str, arguments)]
    environment = {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith(f"edge-stt: {text}")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("override", ["steps=0", "stepz=1", "model.strides=[0]", "model.family=rnn"])
def test_a_config_is_checked_without_keras(override: str) -> None:
    code = f"""
import sys
from edge_stt.errors import DataError
from train.config import load_config
try:
    load_config(None, [{override!r}])
except DataError:
    print([name for name in ("tensorflow", "keras", "jax") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
