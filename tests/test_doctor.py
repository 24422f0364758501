"""`edge-stt doctor`: what it says of a sound installation, of broken ones, and of machines it cannot ask."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge_stt import health, machine
from edge_stt.errors import AudioError, EdgeSttError
from edge_stt.health import NoteError, describe_unit, run_checks
from edge_stt.interpreter import find_runtime

from .conftest import DATA, ROOT

DEFAULT = ROOT / "edge_stt" / "models" / "default"


def doctor(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edge_stt.cli", "doctor", "--seconds", "0", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})


def test_every_part_is_looked_at() -> None:
    done = doctor("--json")
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    assert done.returncode == 0, checks
    expected = ["Python", "TFLite runtime", "numpy", "model package", "golden pair", "demo clip", "microphones"]
    assert list(checks) == [*expected, "system service", "user service", "Wyoming service", "throttling"]
    assert checks["TFLite runtime"]["detail"].startswith(find_runtime().name)
    assert "median RTF" in checks["demo clip"]["detail"]


def test_the_self_test_takes_as_long_as_it_is_told() -> None:
    check = next(c for c in run_checks(DEFAULT, seconds=1.0) if c.name == "demo clip")
    assert check.ok
    assert int(check.detail.rsplit("(", 1)[1].split(" ")[0]) >= 2  # a clip takes some hundredths of a second


def test_one_line_a_check_and_the_fix_below() -> None:
    done = doctor("--model", str(DATA))
    assert done.returncode == 1
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert all(line[:5] in ("ok   ", "FAIL ", "note ", "     ") for line in lines)
    at = next(i for i, line in enumerate(lines) if line.startswith("FAIL model package"))
    assert lines[at + 1].startswith("     → ")
    assert not any("golden" in line for line in lines)  # what builds on the model is not tried


def test_an_active_model_that_was_deleted_is_one_failure(tmp_path: Path) -> None:
    (tmp_path / "active").symlink_to("versions/kitchen-0123456789")
    done = doctor("--json", EDGE_STT_MODELS=str(tmp_path))
    assert (done.returncode, done.stderr) == (1, "")
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    assert [name for name, check in checks.items() if not check["ok"]] == ["model package"]
    assert "the active model is not in" in checks["model package"]["detail"]
    assert "throttling" in checks


def test_an_unknown_runtime_fails_and_the_rest_goes_on() -> None:
    done = doctor("--json", EDGE_STT_RUNTIME="nonsense")
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    assert done.returncode == 1
    assert not checks["TFLite runtime"]["ok"]
    assert checks["model package"]["ok"]
    assert "throttling" in checks


def test_a_wrong_golden_pair_is_found(tmp_path: Path) -> None:
    """A package that is whole, but whose outputs are not the ones it promises."""
    import io

    import numpy as np

    from edge_stt.package import ModelPackage, write_package

    package = ModelPackage.load(DEFAULT)
    golden = package.golden()
    golden["log_mel"] = golden["log_mel"] + 1.0
    buffer = io.BytesIO()
    np.savez(buffer, **golden)
    files = {name: package.read(name) for name in package.files} | {"golden.npz": buffer.getvalue()}
    write_package(tmp_path / "other", package.info, files)
    with pytest.raises(EdgeSttError, match="differ from the golden ones"):
        health.golden_check(tmp_path / "other")


# Lines as `systemctl show` of systemd 252 writes them.
RUNNING = "NRestarts=2\nResult=success\nLoadState=loaded\nActiveState=active\nSubState=running\nStatusText=listening\n"
FAILED = "NRestarts=5\nResult=exit-code\nLoadState=loaded\nActiveState=failed\nSubState=failed\nStatusText=\n"
LOOPING = "NRestarts=7\nResult=exit-code\nLoadState=loaded\nActiveState=activating\nSubState=auto-restart\n"


def test_the_state_of_a_unit() -> None:
    assert describe_unit(RUNNING) == "active (running), restarted 2 times: listening"
    with pytest.raises(EdgeSttError, match=r"failed \(failed\), result exit-code, restarted 5 times"):
        describe_unit(FAILED)
    with pytest.raises(EdgeSttError, match="auto-restart"):
        describe_unit(LOOPING)
    with pytest.raises(EdgeSttError, match="bad-setting"):
        describe_unit(RUNNING.replace("LoadState=loaded", "LoadState=bad-setting"))
    with pytest.raises(NoteError, match="not installed"):
        describe_unit("LoadState=not-found\nActiveState=inactive\nSubState=dead\n")
    with pytest.raises(NoteError, match="inactive"):
        describe_unit("LoadState=loaded\nActiveState=inactive\nSubState=dead\n")


def test_no_service_is_left_out() -> None:
    assert {unit.name for unit in health.UNITS} == {path.name for path in (ROOT / "systemd").glob("*.service")}


def test_microphones_are_those_that_listen_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> list[dict[str, object]]:
        raise AudioError("the sound server does not answer")

    def microphones() -> health.Check:
        return health._guarded("microphones", health._microphones, "see docs")

    monkeypatch.setattr(health, "list_devices", lambda: [{"name": "USB", "rate": 48_000, "channels": 2}])
    assert microphones() == health.Check("microphones", True, "USB (48000 Hz, 2 channels)")
    monkeypatch.setattr(health, "list_devices", list)
    assert microphones().note
    monkeypatch.setattr(health, "list_devices", broken)
    assert microphones() == health.Check("microphones", False, "the sound server does not answer", "see docs")


def test_microphones_are_listed_or_missed() -> None:
    check = next(c for c in run_checks(DEFAULT, seconds=0.0) if c.name == "microphones")
    try:
        import pyaudio
    except ImportError:
        assert check.note
        assert "edge-stt[mic]" in check.fix
        return
    audio = pyaudio.PyAudio()
    inputs = [i for i in range(audio.get_device_count()) if audio.get_device_info_by_index(i)["maxInputChannels"]]
    audio.terminate()
    assert check.note == (not inputs)


# --- the machine ----------------------------------------------------------------------------------------------------


@pytest.fixture
def pi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of a Raspberry Pi 4 that are read, and its vcgencmd."""
    files = {
        "proc/cpuinfo": "processor\t: 0\nCPU part\t: 0xd08\nprocessor\t: 1\nCPU part\t: 0xd08\n",
        "proc/meminfo": "MemTotal:        3884564 kB\n",
        "proc/loadavg": "0.10 0.20 0.30 1/100 1234\n",
        "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "ondemand\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1800000\n",
        "sys/class/thermal/thermal_zone0/temp": "61342\n",
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
        "sys/class/thermal/thermal_zone1/temp": "damaged\n",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    command = tmp_path / "bin" / "vcgencmd"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\ncat "{tmp_path}/throttled"\n')
    command.chmod(0o755)
    (tmp_path / "throttled").write_text("throttled=0x0\n")
    monkeypatch.setenv("PATH", f"{command.parent}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def test_a_pi_is_described(pi: Path) -> None:
    here = machine.machine(pi)
    assert (here.cpu, here.memory_mb, here.board) == ("Cortex-A72", 3793, "Raspberry Pi 4 Model B Rev 1.4")
    state = machine.condition(pi)
    assert (state.governor, state.mhz, state.temperatures) == ("ondemand", 1800, {"cpu-thermal": 61.342})
    assert (state.hottest, state.load, state.pi_flags) == (61.342, 0.1, 0)


def test_throttling_between_two_moments(pi: Path) -> None:
    before = machine.condition(pi)
    assert machine.throttling_between(before, machine.condition(pi)) == []
    (pi / "throttled").write_text("throttled=0xe0008\n")
    (warning,) = machine.throttling_between(before, machine.condition(pi))
    assert warning == "the board reports frequency capped, throttled, soft temperature limit"
    # What had been before the run began is no news.
    again = machine.condition(pi)
    (pi / "throttled").write_text("throttled=0xe0000\n")
    assert machine.throttling_between(again, machine.condition(pi)) == []


def test_the_flags_of_the_pi_by_name() -> None:
    assert machine.pi_flag_names(0) == []
    assert machine.pi_flag_names(0x50005) == ["under-voltage", "throttled"]
    assert machine.pi_flag_names(0x50000) == ["under-voltage (since boot)", "throttled (since boot)"]


def test_throttle_counts_of_a_pc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    count = tmp_path / "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count"
    count.parent.mkdir(parents=True)
    count.write_text("3\n")
    before = machine.condition(tmp_path)
    count.write_text("8\n")
    after = machine.condition(tmp_path)
    assert before.pi_flags is None
    assert machine.throttling_between(before, after) == ["the processor was throttled 5 times"]


def test_a_machine_that_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.condition(tmp_path) == machine.Condition(None, None)
    assert machine.machine(tmp_path).cores >= 1
