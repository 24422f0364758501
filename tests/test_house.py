"""What keeps the house in order: the device package stands alone, and stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from .conftest import ROOT

DEVICE = sorted((ROOT / "edge_stt").rglob("*.py"))
FORBIDDEN = {"tensorflow", "keras", "train", "convert", "torch", "jax", "scipy", "librosa"}


@pytest.mark.parametrize("path", DEVICE, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_device_imports_nothing_of_the_workstation(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        assert not {name.split(".")[0] for name in names} & FORBIDDEN


def test_import_is_light() -> None:
    """`import edge_stt` loads no runtime, no TensorFlow, and takes at most 0.3 CPU seconds beyond numpy (best of 3)."""
    code = (
        "import time, sys, numpy\nt = time.process_time()\nimport edge_stt\nprint(time.process_time() - t)\n"
        "heavy = {'tensorflow', 'ai_edge_litert', 'tflite_runtime', 'train', 'convert', 'rich', 'typer'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    times = [
        float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
        for _ in range(3)
    ]
    assert min(times) < 0.3


def test_the_wheel_holds_the_device_package_alone(tmp_path: Path) -> None:
    pytest.importorskip("build.util", reason="needs the dev extra")  # not `build`, which may be a folder
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT)],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"edge_stt"}
    assert "edge_stt/py.typed" in names
    assert "edge_stt/data/demo.opus" in names
    assert "edge_stt/languages/english.toml" in names
    assert "edge_stt/models/default/model.tflite" in names
    assert wheel.stat().st_size < 20e6
