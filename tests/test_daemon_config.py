"""Settings of the daemon: one line for each mistake, a flag for each key, and a printed file that says the defaults."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

import pytest

from edge_stt.daemon_config import DaemonConfig, check, default_path
from edge_stt.endpointing import PRESETS
from edge_stt.settings import ConfigError, apply, differences, load, settings_of, to_toml


def read(tmp_path: Path, content: str | bytes) -> DaemonConfig:
    path = tmp_path / "config.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return load(DaemonConfig(), path, {})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[microphone]\ndevise = 'x'\n", "unknown setting 'microphone.devise'; did you mean 'microphone.device'?"),
        ("[outputs]\nsocket = 'x'\n", "did you mean 'output.socket'?"),
        ("[recogniser]\ntrailing_silence = 1\n", "did you mean 'endpoint.trailing_silence'?"),
        ("[zzz]\nqqq = 1\n", "unknown setting 'zzz.qqq'"),
        ("[gte]\n", "unknown section 'gte'; did you mean 'gate'?"),
        ("[gate]\n[zzz]\n", "unknown section 'zzz'"),
        ('["a\\nb"]', r"unknown section 'a\nb'"),
        ("socket = 'x'\n", "'socket' stands outside of any table; put it under a [section]"),
        ("[endpoint]\nlongest = 'long'\n", "endpoint.longest must be a number, not 'long'"),
        ("[endpoint]\nlongest = true\n", "endpoint.longest must be a number, not True"),
        ("[endpoint]\nlongest = nan\n", "endpoint.longest must be between 2 and 120, not nan"),
        ("[endpoint]\npreset = 'fast'\n", "endpoint.preset must be one of aggressive, default, relaxed, not 'fast'"),
        ("[recogniser]\nthreads = 1.5\n", "recogniser.threads must be a whole number, not 1.5"),
        ("[exec]\ncommand = 'ls'\n", "exec.command must be a list of texts, not 'ls'"),
        ("[exec]\ncommand = [1]\n", "exec.command must be a list of texts"),
        ("[gate]\nenabled = 0\n", "gate.enabled must be true or false, not 0"),
        ("[gate\n", "not valid TOML"),
        ("gate = " + "[" * 100_000, "not valid TOML"),
        (b"\xff\xfe", "not UTF-8"),
        (b" " * (1 << 21), "larger than any configuration"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, content: str | bytes, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, content)
    assert reason in str(caught.value)
    assert "config.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_some_editors_put_first_is_no_part_of_the_file(tmp_path: Path) -> None:
    assert read(tmp_path, b"\xef\xbb\xbf[gate]\nenabled = false\n[exec]\n").gate.enabled is False


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load(DaemonConfig(), tmp_path / "none.toml", {})


def test_flags_count_more_than_the_file(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("[endpoint]\npreset = 'relaxed'\nlongest = 20\n")
    config = load(DaemonConfig(), path, {"endpoint.preset": "aggressive"})
    assert config.endpoint.preset == "aggressive"
    assert config.endpoint.resolve().longest == 20.0
    assert config.endpoint.resolve().trailing_silence == PRESETS["aggressive"].trailing_silence
    assert differences(DaemonConfig(), config) == ("endpoint.preset", "endpoint.longest")


def test_every_setting_has_a_flag_of_its_own_and_a_help() -> None:
    entries = list(settings_of(DaemonConfig))
    flags = [entry.flag for entry in entries]
    assert len(set(flags)) == len(flags) > 30
    assert all(re.fullmatch(r"--[a-z][a-z-]+", flag) for flag in flags)
    assert all(entry.help.endswith(".") for entry in entries)


def test_the_printed_file_says_the_defaults() -> None:
    printed = to_toml(DaemonConfig)
    assert all(not table for table in tomllib.loads(printed).values())
    settled = re.sub(r"^# ([a-z_]+ = )(?!\(not set\))", r"\1", printed, flags=re.MULTILINE)
    values = {f"{s}.{k}": v for s, table in tomllib.loads(settled).items() for k, v in table.items()}
    unset = {entry.name for entry in settings_of(DaemonConfig) if entry.default is None}
    assert set(values) | unset == {entry.name for entry in settings_of(DaemonConfig)}
    assert apply(DaemonConfig(), values) == DaemonConfig()


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"output.socket": "/tmp/x", "metrics.socket": "/tmp/../tmp/x"}, "the same path"),
        ({"output.socket": "/tmp/" + "x" * 120}, "too long for a Unix socket"),
        ({"endpoint.trailing_silence": 5.0, "endpoint.longest": 4.0}, "must be less than endpoint.longest"),
    ],
)
def test_settings_that_do_not_go_together(values: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        check(apply(DaemonConfig(), values))


def test_a_users_own_file_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    before = default_path()
    own = tmp_path / "edge-stt" / "config.toml"
    own.parent.mkdir()
    own.write_text("")
    assert default_path() == own != before


def test_metrics_replace_no_device(tmp_path: Path) -> None:
    """As root a file that is written anew by renaming would take the place of /dev/null."""
    os.mkfifo(tmp_path / "device")
    for path in (tmp_path, tmp_path / "device"):
        with pytest.raises(ConfigError, match="is no regular file"):
            check(apply(DaemonConfig(), {"metrics.file": str(path)}))
    (tmp_path / "file").write_text("")
    for name in ("file", "none"):
        check(apply(DaemonConfig(), {"metrics.file": str(tmp_path / name)}))
