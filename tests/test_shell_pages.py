"""The manual page and the completions, made from the command line and used by the programs they are for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edge_stt.cli import COMMANDS

from .conftest import ROOT


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SOURCE_DATE_EPOCH": "1767225600"}
    subprocess.run([sys.executable, ROOT / "deploy" / "shell_pages.py", folder], check=True, env=environment)
    return folder


def complete(pages: Path, line: str, cwd: Path) -> set[str]:
    """What bash offers for the last word of a line."""
    words = line.split(" ")
    script = (
        f'. "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD={len(words) - 1}; _edge_stt; printf "%s\\n" "${{COMPREPLY[@]}}"'
    )
    command = ["bash", "-c", script, "bash", pages / "edge-stt.bash", *words]
    return set(subprocess.run(command, check=True, capture_output=True, text=True, cwd=cwd).stdout.split())


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes(pages: Path, tmp_path: Path) -> None:
    (tmp_path / "talk.wav").touch()
    assert set(COMMANDS) <= complete(pages, "edge-stt ", tmp_path)
    assert complete(pages, "edge-stt tr", tmp_path) == {"transcribe", "train"}
    assert complete(pages, "edge-stt model r", tmp_path) == {"rollback", "remove"}
    assert complete(pages, "edge-stt transcribe --js", tmp_path) == {"--json"}
    assert complete(pages, "edge-stt transcribe --json t", tmp_path) == {"talk.wav"}
    assert complete(pages, "edge-stt lm build --mem", tmp_path) == {"--memory"}


@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")
def test_zsh_reads_its_completion(pages: Path) -> None:
    done = subprocess.run(["zsh", "-n", pages / "edge-stt.zsh"], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("groff") is None, reason="needs groff")
def test_the_manual_page_is_clean(pages: Path) -> None:
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-P-cbou", "-ww", "-rHY=0", pages / "edge-stt.1"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    for name in COMMANDS:
        assert f"edge-stt {name}" in done.stdout
    assert "January 2026" in done.stdout or "2026-01-01" in done.stdout
