"""Every command in README and docs is one that exists, options too; the training page is run as it stands."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from edge_stt.audio import read_audio
from edge_stt.cli import WORKSTATION, build_app

from .conftest import DATA, ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(page: Path) -> list[str]:
    """Lines of the page's sh blocks, comments and prompts taken off."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [stripped for line in lines if (stripped := re.sub(r"\s+#.*$", "", line).strip())]


ALL = [(page.name, line) for page in PAGES for line in commands(page)]


@pytest.mark.parametrize(("page", "line"), ALL, ids=[f"{page}: {line}" for page, line in ALL])
def test_the_command_exists(page: str, line: str) -> None:
    for part in line.split(" | "):
        words = shlex.split(part)
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), line
        elif words[0] == "edge-stt":
            _parse(words[1:])
        else:
            assert words[0] in {"pip", "arecord"}, f"{page} has a command that no test knows: {line}"


def _parse(arguments: list[str]) -> None:
    """Let click parse the arguments without running anything; it exits for an unknown option or command."""
    group = typer.main.get_command(build_app())
    if arguments[0] in WORKSTATION:
        if importlib.util.find_spec("tensorflow") is None:
            pytest.skip("needs TensorFlow: pip install -e '.[train]'")
        group = typer.main.get_command(importlib.import_module(f"{arguments[0]}.cli").app)
        arguments = arguments[1:]
    context = group.make_context("edge-stt", list(arguments))
    while hasattr(group, "resolve_command") and (rest := [*context._protected_args, *context.args]):
        name, group, rest = group.resolve_command(context, rest)
        context = group.make_context(name, rest, parent=context)


def test_there_are_commands_to_check() -> None:
    assert len(ALL) > 15


@pytest.mark.workstation
@pytest.mark.slow
def test_the_training_page_runs(tmp_path: Path) -> None:
    """docs/training.md on three clips, line by line; only the number of steps is cut short."""
    pytest.importorskip("pyroomacoustics", reason="needs the train extra")
    pytest.importorskip("jiwer", reason="needs the bench extra")
    clips = [DATA / "demo.opus", *sorted((ROOT / "tests" / "data").glob("*.opus"))]
    for name in ("my-corpus", "noises", "my-corpus/test"):
        (tmp_path / name).mkdir()
    items = [
        {
            "audio_filepath": str(clip),
            "duration": len(read_audio(clip)) / 16_000,
            "text": clip.with_suffix(".txt").read_text(encoding="utf-8").strip(),
            "speaker": "LJ",
        }
        for clip in clips
    ]
    for name in ("my-corpus/train", "my-corpus/dev", "my-corpus/test", "noises/noise"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    (tmp_path / "my-corpus" / "test" / "1.wav").write_bytes(clips[0].read_bytes())  # the name does not matter
    (tmp_path / "train").symlink_to(ROOT / "train")
    ran = 0
    for line in commands(ROOT / "docs" / "training.md"):
        words = shlex.split(line)
        if words[0] != "edge-stt":
            continue
        if words[1:3] == ["train", "--config"]:
            words += ["--set", "steps=4", "--set", "eval_every=4", "--set", "batches.seconds=20.0"]
        done = subprocess.run(
            [Path(sys.executable).parent / "edge-stt", *words[1:]],  # as installed: only so does it find train/
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stderr[-2000:]}"
        ran += 1
    assert ran >= 6
