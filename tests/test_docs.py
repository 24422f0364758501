"""Every command in README and docs is one that exists, options too; two pages and all Python are run as they stand."""

from __future__ import annotations

import csv
import importlib.util
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import typer.main

import edge_stt
from edge_stt.audio import read_audio
from edge_stt.cli import WORKSTATION, build_app

from .conftest import DATA, DEMO, ROOT

SYSTEM_COMMANDS = {
    *("pip", "arecord", "apt-get", "python3", "/opt/edge-stt/bin/pip", "ln", "cp", "mkdir", "nc", "curl"),
    *("systemctl", "systemd-sysusers", "journalctl", "loginctl", "pipx", "podman", "minisign", "edge-stt/bin/pip"),
}
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
        if words[0] == "sudo":
            words = words[1:]
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), line
        elif words[0] == "edge-stt":
            _parse(words[1:])
        elif words[0].startswith("deploy/"):
            done = subprocess.run([ROOT / words[0], *words[1:], "--help"], check=False, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
        else:
            assert words[0] in SYSTEM_COMMANDS, f"{page} has a command that no test knows: {line}"


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


def prepare_recordings(folder: Path) -> None:
    """The files that README and docs/transcribe.md speak of."""
    clip = ROOT / "tests" / "data" / "LJ001-0002.opus"
    soundfile.write(folder / "talk.wav", read_audio(DEMO), 16_000)
    for name in ("memos/a.opus", "memos/deep/b.opus", "more/c.mp3"):  # libsndfile goes by content, not by name
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(clip.read_bytes())
    (folder / "names.txt").write_text("# who was there\nthe bishop\t3\nxanthippe\n")


def recorded(arecord: str) -> bytes:
    """What a microphone would give: the demo clip at the rate and with the channels that the command asks for."""
    rate, channels = (int(re.search(pattern, arecord + " -c 1")[1]) for pattern in (r"-r (\d+)", r"-c (\d+)"))  # type: ignore[index]
    return np.repeat((read_audio(DEMO) * 32_767).astype("<i2"), rate // 16_000 * channels).tobytes()


@pytest.mark.parametrize(
    "page", [p for p in PAGES if "```python" in p.read_text(encoding="utf-8")], ids=lambda p: p.name
)
def test_the_snippets_run(page: Path, tmp_path: Path) -> None:
    """All Python of a page, one block after another in one process."""
    prepare_recordings(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    command = [sys.executable, "-W", "error::DeprecationWarning:__main__", "-c", "\n".join(blocks)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "bishop" in done.stdout
    if page.name == "transcribe.md":
        assert "Final(text=" in done.stdout or "… " in done.stdout


def test_the_interface_is_what_the_page_says() -> None:
    text = (ROOT / "docs" / "transcribe.md").read_text(encoding="utf-8")
    named = re.findall(r"`(\w+)`", text[text.index("These names are the interface") :])
    assert sorted({*named, "__version__"} - {"py"}) == sorted(edge_stt.__all__)
    assert all(hasattr(edge_stt, name) for name in edge_stt.__all__)
    assert (ROOT / "edge_stt" / "py.typed").is_file()


@pytest.mark.slow
def test_the_page_on_transcribing_runs(tmp_path: Path) -> None:
    """docs/transcribe.md line by line; a recording stands in for the microphone."""
    prepare_recordings(tmp_path)
    for line in commands(ROOT / "docs" / "transcribe.md"):
        *source, part = line.split(" | ")
        done = subprocess.run(
            [sys.executable, "-m", "edge_stt.cli", *shlex.split(part)[1:]],
            cwd=tmp_path,
            input=recorded(source[0]) if source else b"",
            capture_output=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, b""), line
        assert bool(done.stdout) != ("--output-dir" in part), line
    written = {str(path.relative_to(tmp_path / "texts")) for path in (tmp_path / "texts").rglob("*.*")}
    assert {"a.txt", "a.srt", "a.json", "deep/b.txt", "a.opus.txt"} <= written


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
    for name in ("train", "dev"):
        with (tmp_path / "my-corpus" / f"{name}.csv").open("w", newline="", encoding="utf-8") as table:
            rows = csv.writer(table)
            rows.writerows([["path", "text", "speaker"], *([i["audio_filepath"], i["text"], "LJ"] for i in items)])
    (tmp_path / "german").mkdir()
    german = [{**item, "text": "Schalte das Licht in der Küche aus!", "id": i} for i, item in enumerate(items, 1)]
    for name in ("german/train", "german/dev"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(item) + "\n" for item in german), encoding="utf-8")
    (tmp_path / "my-corpus" / "test" / "1.wav").write_bytes(clips[0].read_bytes())  # the name does not matter
    (tmp_path / "train").symlink_to(ROOT / "train")
    ran = 0
    for line in commands(ROOT / "docs" / "training.md"):
        words = shlex.split(line)
        if words[0] != "edge-stt":
            continue
        if words[1:3] == ["train", "--config"]:
            for setting in ("steps=4", "eval_every=4", "batches.seconds=20.0", "mixed_bfloat16=false"):
                words += ["--set", setting]
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
