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


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (TRAIN, 1, "none is not a prepared set"),
        ([*TRAIN, "--config", "none.toml"], 1, "the config none.toml cannot be read: No such file or directory"),
        ([*TRAIN, "--config", "bad.toml"], 1, "the config bad.toml cannot be read: "),
        ([*TRAIN, "--set", "steps"], 2, "an override is section.key=value, not 'steps'"),
        (["train", "--data", "set", "--dev", "set", "--run", "r", "--init", "none"], 1, "--init none: "),
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
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "report.json").write_text("{}")
    command = [sys.executable, "-c", CODE, *map(str, arguments)]
    environment = {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith(f"edge-stt: {text}")
    assert done.stderr.count("\n") == 1
