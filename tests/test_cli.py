"""The command line as a person meets it: exit codes, one-line errors, and the shipped model on real speech."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import venv
from pathlib import Path

import pytest

from .conftest import DATA, DEMO, ROOT

DEFAULT = ROOT / "edge_stt" / "models" / "default"


def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edge_stt.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload,no-any-return]


def assert_one_line_error(done: subprocess.CompletedProcess[str], code: int, text: str) -> None:
    assert done.returncode == code, done.stderr
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_the_demo_clip_is_recognised() -> None:
    jiwer = pytest.importorskip("jiwer", reason="needs the bench extra")
    from edge_stt.text import normalise_text

    done = run("transcribe", DEMO)
    assert done.returncode == 0, done.stderr
    reference = normalise_text((DATA / "demo.txt").read_text(encoding="utf-8"))
    assert jiwer.cer(reference, done.stdout.strip()) < 0.35


def test_transcribe_is_quiet_in_a_pipe() -> None:
    done = run("transcribe", DEMO)
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 1


def test_doctor_finds_nothing_wrong() -> None:
    done = run("doctor", "--json")
    checks = json.loads(done.stdout)
    assert done.returncode == 0, checks
    assert {check["name"] for check in checks} >= {
        "Python",
        "TFLite runtime",
        "model package",
        "golden pair",
        "demo clip",
    }
    assert all(check["ok"] for check in checks)


def test_doctor_names_a_damaged_model(tmp_path: Path) -> None:
    shutil.copytree(DEFAULT, tmp_path / "model")
    content = bytearray((tmp_path / "model" / "model.tflite").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "model" / "model.tflite").write_bytes(content)
    done = run("doctor", "--model", tmp_path / "model")
    assert done.returncode == 1
    assert "FAIL model package" in done.stdout
    assert "model.tflite is damaged" in done.stdout


CALIBRATE = ["decoder", "calibrate", "none", "none.txt", "none.jsonl", "-o", "none"]


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["transcribe", "missing.wav"], 1, "missing.wav"),
        (["transcribe", "--model", "nowhere", str(DEMO)], 1, "no model package at nowhere"),
        (["transcribe", "--model", str(DATA), str(DEMO)], 1, "model.json"),
        (["transcribe"], 2, "Missing argument"),
        (["transcribe", "--no-such-option", "x.wav"], 2, "--no-such-option"),
        (["nonsense"], 2, "nonsense"),
        (["bench", "--decoder", "nonsense"], 2, "unknown decoder 'nonsense'"),
        (["bench", "--threshold", "1"], 2, "--threshold is for --compare"),
        ([*CALIBRATE, "--noise", "x", "--snr", "20", "5"], 2, "--snr 20 5 is no range; write the lower number first"),
        ([*CALIBRATE, "--noise", "x", "--snr", "5", "nan"], 2, "--snr 5 nan is no range"),
        ([*CALIBRATE, "--snr", "5", "20"], 2, "--snr needs --noise"),
        (["decoder", "confidence", "none", "none.jsonl", "--plot", str(DATA)], 2, "is a folder; name a file"),
        (["model", "install", ""], 2, "the name of the package is empty"),
        (["deploy", "pi@nowhere.invalid", "--deb", "none.deb"], 1, "there is no none.deb"),
    ],
)
def test_wrong_calls(arguments: list[str], code: int, text: str) -> None:
    assert_one_line_error(run(*arguments), code, text)


def test_a_file_name_of_two_lines_is_an_error_of_one() -> None:
    done = run("transcribe", "--model", "one\ntwo", DEMO)
    assert (done.returncode, done.stderr) == (1, "edge-stt: no model package at one\\ntwo\n")
    assert "FAIL model package: no model package at one\\ntwo\n" in run("doctor", "--model", "one\ntwo").stdout


def test_an_unknown_runtime_is_named() -> None:
    done = run("transcribe", DEMO, env={**os.environ, "EDGE_STT_RUNTIME": "nonsense"})
    assert_one_line_error(done, 1, "unknown TFLite runtime 'nonsense'")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")  # noqa: PTH110
@pytest.mark.parametrize("arguments", [["--help"], ["model", "list"], ["listen", "--print-config"]])
def test_standard_output_that_takes_no_more_is_one_line(arguments: list[str]) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        command = [sys.executable, "-m", "edge_stt.cli", *arguments]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "edge-stt: cannot write output: No space left on device\n"


@pytest.mark.parametrize("option", ["--lm", "--lexicon", "--pronunciations"])
def test_only_what_it_is_said_to_be_is_attached(option: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert_one_line_error(run("decoder", "attach", DEFAULT, "-o", out, option, tmp_path / "none"), 1, "none")
    assert_one_line_error(run("decoder", "attach", DEFAULT, "-o", out, option, DEMO), 1, DEMO.name)
    assert_one_line_error(run("decoder", "attach", DEFAULT, "-o", out), 2, "nothing to attach")
    assert not out.exists()


def test_a_folder_of_something_else_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    attach = ["decoder", "attach", DEFAULT, "--lm", DEFAULT / "words.lm", "-o"]
    assert_one_line_error(run(*attach, tmp_path, "--overwrite"), 1, "something else than a model package")
    assert (tmp_path / "precious.txt").read_text() == "mine"
    for _ in range(2):
        assert run(*attach, tmp_path / "new", "--overwrite").returncode == 0
    tune = ["decoder", "tune", DEFAULT, tmp_path / "dev.jsonl", "-o"]
    assert_one_line_error(run(*tune, tmp_path / "new"), 1, "exists")  # before the work, not after it


def test_version() -> None:
    from edge_stt import __version__

    assert run("--version").stdout.strip() == f"edge-stt {__version__}"


# Starts the command, and sends itself Ctrl-C when a module is imported, or (@exit) when all is done.
CTRL_C_AT = """
import atexit, os, sys
moment = sys.argv.pop(1)
class Finder:
    def find_spec(self, name, *_):
        if name == moment:
            os.kill(os.getpid(), 2)
sys.meta_path.insert(0, Finder())
if moment == "@exit":
    atexit.register(os.kill, os.getpid(), 2)
from edge_stt.__main__ import main
main()
"""


@pytest.mark.parametrize("moment", ["signal", "typer", "numpy", "edge_stt.commands.transcribe", "@exit"])
def test_ctrl_c_ends_it_silently_while_modules_load_and_after_the_work(moment: str) -> None:
    command = [sys.executable, "-c", CTRL_C_AT, moment, "--version" if moment == "@exit" else "transcribe", "-h"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "")


@pytest.mark.parametrize("delay", [0.0, 0.1, 0.3, 1.0])
def test_ctrl_c_is_no_traceback_whenever_it_comes(delay: float) -> None:
    code = "from edge_stt.__main__ import main\nprint('begun', flush=True)\nmain()"
    command = [sys.executable, "-c", code, "transcribe", "-"]
    with subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "begun\n"
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr.read() in ("", "edge-stt: stopped by SIGINT\n")


@pytest.mark.parametrize("program", ["edge_stt", "edge_stt.cli"])
def test_it_is_run_as_a_module_too(program: str) -> None:
    done = subprocess.run([sys.executable, "-m", program, "--version"], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("edge-stt ")


def test_the_package_has_all_that_it_names_and_imports_it_when_asked() -> None:
    code = (
        "import sys, edge_stt\n"
        "assert 'numpy' not in sys.modules\n"
        "assert set(edge_stt.__all__) == {*edge_stt._MODULES, '__version__'} <= set(dir(edge_stt))\n"
        "for name in edge_stt.__all__: getattr(edge_stt, name)\n"
        "from edge_stt import *\n"
        "assert load_model is edge_stt.recogniser.load_model\n"
        "try: edge_stt.nothing\n"
        "except AttributeError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "module 'edge_stt' has no attribute 'nothing'\n", done.stderr


def test_bench_scores_a_manifest(tmp_path: Path) -> None:
    pytest.importorskip("jiwer", reason="needs the bench extra")
    text = (DATA / "demo.txt").read_text(encoding="utf-8").strip()
    manifest = tmp_path / "dev.jsonl"
    manifest.write_text(json.dumps({"audio_filepath": str(DEMO), "text": text, "speaker": "LJ"}) + "\n")
    done = run("bench", "--json", manifest)
    assert done.returncode == 0, done.stderr
    score = json.loads(done.stdout)
    assert score["clips"] == 1
    assert 0 <= score["cer"] <= score["wer"] <= 100
    assert score["normaliser"] == "edge-stt-english-1"
    assert_one_line_error(run("bench", "--json", tmp_path / "none.jsonl"), 1, "none.jsonl")


def test_the_workstation_commands_say_what_to_install(tmp_path: Path) -> None:
    """In an environment with the wheel's files alone, `edge-stt train` and `convert` name what is missing."""
    venv.create(tmp_path / "env", with_pip=False, system_site_packages=True)
    site = next((tmp_path / "env" / "lib").glob("python*/site-packages"))
    shutil.copytree(ROOT / "edge_stt", site / "edge_stt", ignore=shutil.ignore_patterns("__pycache__"))
    base = Path(sys.prefix) / site.relative_to(tmp_path / "env")
    code = (  # the packages of this environment, but not the checkout, which an editable install puts on the path
        f"import sys; sys.path = [p for p in sys.path if p not in ('', {str(ROOT)!r})] + [{str(base)!r}]\n"
        f"sys.argv = ['edge-stt', COMMAND]\nfrom edge_stt.cli import main\nmain()"
    )
    for command in ("train", "convert"):
        done = subprocess.run(
            [tmp_path / "env/bin/python", "-c", code.replace("COMMAND", repr(command))],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            check=False,
        )
        assert_one_line_error(done, 1, "pip install -e '.[train]'")
