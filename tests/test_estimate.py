"""`deploy/estimate-pi` counts what is in the model that comes along."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from edge_stt.package import ModelPackage
from edge_stt.recogniser import DEFAULT_MODEL

from .conftest import ROOT


def test_each_weight_is_used_once_in_a_frame() -> None:
    pytest.importorskip("ai_edge_litert.schema_py_generated", reason="needs ai-edge-litert")
    done = subprocess.run(
        [ROOT / "deploy" / "estimate-pi", "--operations"],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHON": sys.executable},
    )
    found = re.findall(r"^\w+: ([\d.]+) million multiplications a second of audio, ([\d.]+) MB", done.stdout, re.M)
    macs, size = (sum(float(row[i]) for row in found) for i in (0, 1))
    info = ModelPackage.load(DEFAULT_MODEL).info
    frames = info.front_end.frames_per_second / info.stride
    assert size == pytest.approx(
        info.architecture["parameters"] / 1e6, rel=0.02
    )  # a byte each, but for biases and heads
    assert 0.98 * frames * size < macs < info.front_end.frames_per_second * size
