"""Installed models: verified, switched in one step, the last good one kept, signatures of minisign."""

from __future__ import annotations

import base64
import functools
import http.server
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_stt import model_store
from edge_stt.commands import model as model_command
from edge_stt.errors import EdgeSttError, PackageError
from edge_stt.model_store import ModelsConfig, ModelStore, active_model, check_active
from edge_stt.package import ModelPackage, write_package
from edge_stt.recogniser import DEFAULT_MODEL, default_model
from edge_stt.signatures import verify_signature

needs_minisign = pytest.mark.skipif(shutil.which("minisign") is None, reason="needs Debian's minisign")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelStore:
    monkeypatch.setenv("EDGE_STT_MODELS", str(tmp_path / "store"))
    return ModelStore()


def make(path: Path, name: str, shift: float = 0.0) -> Path:
    """The model that comes along under another name; with a ``shift`` its golden pair is wrong."""
    package = ModelPackage.load(DEFAULT_MODEL)
    files = {file: package.read(file) for file in package.files}
    if shift:
        golden = package.golden()
        golden["log_mel"] = golden["log_mel"] + shift
        buffer = io.BytesIO()
        np.savez(buffer, **golden)
        files["golden.npz"] = buffer.getvalue()
    return write_package(path, replace(package.info, name=name), files).path


def edge_stt(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edge_stt.cli", "model", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})


def states(store: ModelStore) -> dict[str, str]:
    return {entry.name.rpartition("-")[0]: entry.state for entry in store.installed()}


def test_install_use_and_back(store: ModelStore, tmp_path: Path) -> None:
    assert default_model() == DEFAULT_MODEL
    one = store.install(make(tmp_path / "one", "one"))
    two = store.install(make(tmp_path / "two.zip", "two"))
    assert default_model() == DEFAULT_MODEL  # installed is not active
    store.use("one")
    assert default_model() == one.path
    store.use(two.name)
    assert states(store) == {"one": "previous", "two": "active"}
    assert ModelPackage.load(default_model()).info.name == "two"
    assert store.rollback() is not None
    assert states(store) == {"one": "active", "two": "previous"}
    store.rollback()
    assert default_model() == two.path
    store.use("two")  # again: the last good one stays what it was
    assert states(store) == {"one": "previous", "two": "active"}


def test_back_to_the_one_that_comes_along(store: ModelStore, tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="no other model"):
        store.rollback()
    store.use(store.install(make(tmp_path / "one", "one")).name)
    assert store.rollback() is None
    assert default_model() == DEFAULT_MODEL
    assert store.rollback() is not None


def test_the_same_package_twice_is_one(store: ModelStore, tmp_path: Path) -> None:
    first = store.install(make(tmp_path / "one", "one"))
    assert store.install(tmp_path / "one") == first
    assert len(store.installed()) == 1


def test_a_damaged_package_changes_nothing(store: ModelStore, tmp_path: Path) -> None:
    store.use(store.install(make(tmp_path / "one", "one")).name)
    bad = make(tmp_path / "bad", "bad")
    (bad / "model.tflite").write_bytes(b"x" + (bad / "model.tflite").read_bytes()[1:])
    with pytest.raises(PackageError, match=r"model\.tflite is damaged"):
        store.install(bad)
    half = make(tmp_path / "half.zip", "half")
    half.write_bytes(half.read_bytes()[:-5000])
    with pytest.raises(PackageError, match="not a readable model package"):
        store.install(half)
    assert states(store) == {"one": "active"}
    assert [p.name for p in (store.path / "versions").iterdir()] == [store.installed()[0].name]


def test_a_model_that_does_not_work_here_never_becomes_active(store: ModelStore, tmp_path: Path) -> None:
    store.use(store.install(make(tmp_path / "one", "one")).name)
    wrong = store.install(make(tmp_path / "wrong", "wrong", shift=1.0))
    with pytest.raises(PackageError, match="does not work on this machine: outputs differ"):
        store.use(wrong.name)
    assert states(store) == {"one": "active", "wrong": ""}


def test_a_full_disk_leaves_nothing_behind(store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = make(tmp_path / "one", "one")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model_store.os, "fsync", full)
    with pytest.raises(PackageError, match="No space left on device"):
        store.install(package)
    assert list((store.path / "versions").iterdir()) == []


def test_a_reader_always_finds_a_whole_model(store: ModelStore, tmp_path: Path) -> None:
    """Switched hundreds of times while another thread resolves the active model over and over."""
    names = [store.install(make(tmp_path / name, name)).name for name in ("one", "two")]
    store.use(names[0])
    missing, stop = 0, threading.Event()

    def read() -> None:
        nonlocal missing
        while not stop.is_set():
            path = active_model()
            missing += path is None or not (path / "model.json").exists()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for i in range(300):
            store._point("active", store.path / "versions" / names[i % 2])
    finally:
        stop.set()
        reader.join()
    assert missing == 0


def test_names(store: ModelStore, tmp_path: Path) -> None:
    for name in ("kitchen", "kitten"):
        store.install(make(tmp_path / name, name))
    with pytest.raises(PackageError, match=r"'kit' may be kitchen-.* or kitten-.*: write more of it"):
        store.use("kit")
    with pytest.raises(PackageError, match="no model 'garage' is installed; installed: kitchen-"):
        store.use("garage")
    assert store.install(make(tmp_path / "odd", "../up")).path.parent == store.path / "versions"


def test_removing(store: ModelStore, tmp_path: Path) -> None:
    for name in ("one", "two"):
        store.use(store.install(make(tmp_path / name, name)).name)
    for name, state in (("one", "previous"), ("two", "active")):
        with pytest.raises(PackageError, match=f"is the {state} model"):
            store.remove(name)
    store.install(make(tmp_path / "three", "three"))
    store.remove("three")
    assert states(store) == {"one": "previous", "two": "active"}


def test_going_back_checks_like_choosing(store: ModelStore, tmp_path: Path) -> None:
    store.use(store.install(make(tmp_path / "one", "one")).name)
    store._point("previous", store.install(make(tmp_path / "wrong", "wrong", shift=1.0)).path)  # as before an upgrade
    with pytest.raises(PackageError, match="does not work on this machine: outputs differ"):
        store.rollback()
    store._point("previous", store.install(make(tmp_path / "two", "two")).path)
    with pytest.raises(PackageError, match="signatures are required"):
        ModelStore(config=ModelsConfig(require_signature=True)).rollback()
    assert states(store) == {"one": "active", "two": "previous", "wrong": ""}


@pytest.mark.parametrize("mask", [0o027, 0o077])
def test_what_is_installed_is_for_everybody(mask: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However careful the umask of who installs: the service is another user."""
    package = make(tmp_path / "one", "one")
    home = tmp_path / "var"
    before = os.umask(mask)
    try:
        monkeypatch.setattr(model_store.os, "geteuid", lambda: 0)
        installed = ModelStore(home / "root" / "models").install(package)
        monkeypatch.setattr(model_store.os, "geteuid", lambda: 1000)
        ModelStore(home / "own" / "models").install(package)
    finally:
        os.umask(before)

    def mode(path: Path) -> int:
        return stat.S_IMODE(path.stat().st_mode)

    folders = [home, home / "root", home / "root" / "models", home / "root" / "models" / "versions", installed.path]
    assert [mode(path) for path in folders] == [0o755] * 5
    assert {mode(path) for path in installed.path.iterdir()} == {0o644}
    assert mode(home / "own") == 0o777 & ~mask  # a folder in a user's home is the user's business
    assert [mode(home / "own" / "models" / name) for name in ("", "versions")] == [0o755] * 2


def test_a_store_that_cannot_be_read_is_not_passed_over(store: ModelStore, tmp_path: Path) -> None:
    """Another model than the chosen one would run, and nobody would know."""
    store.use(store.install(make(tmp_path / "one", "one")).name)
    user = os.geteuid()
    store.path.chmod(0o700 if user == 0 else 0)
    try:
        if user == 0:
            os.seteuid(65534)
        with pytest.raises(PackageError, match=r"cannot see which model is active in .*: Permission denied"):
            default_model()
    finally:
        os.seteuid(user)
        store.path.chmod(0o755)
    (store.path / "active").unlink()
    (store.path / "active").symlink_to("active")
    with pytest.raises(PackageError, match="cannot see which model is active"):
        default_model()


def test_an_active_model_that_was_deleted_is_not_passed_over(store: ModelStore, tmp_path: Path) -> None:
    """Nor does the one that comes along run in its place, before somebody says so."""
    first = store.use(store.install(make(tmp_path / "one", "one")).name)
    shutil.rmtree(first.path)
    with pytest.raises(PackageError, match=r"the active model is not in .* any more; choose one"):
        default_model()
    store.use_shipped()
    assert default_model() == DEFAULT_MODEL
    with pytest.raises(PackageError, match="no other model"):
        store.rollback()


def test_choosing_after_the_active_model_was_deleted_keeps_the_one_before(store: ModelStore, tmp_path: Path) -> None:
    for name in ("one", "two"):
        store.use(store.install(make(tmp_path / name, name)).name)
    shutil.rmtree(default_model())
    store.use(store.install(make(tmp_path / "three", "three")).name)
    assert states(store) == {"one": "previous", "three": "active"}


def listed(capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, str], str]:
    """The states that the command lists by the beginnings of names, and what it says on stderr."""
    model_command.list_(as_json=True)
    shown = capsys.readouterr()
    return {entry["name"].rpartition("-")[0]: entry["state"] for entry in json.loads(shown.out)}, shown.err


def test_the_list_names_an_active_model_that_was_deleted(
    store: ModelStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        store.use(store.install(make(tmp_path / name, name)).name)
    assert listed(capsys) == ({"one": "previous", "two": "active", "": ""}, "")
    two = default_model()
    shutil.rmtree(two)
    shown, said = listed(capsys)
    assert shown == {"one": "previous", "two": "missing", "": ""}
    assert said.startswith(f"edge-stt: the active model {two.name} has been deleted; choose one: ")
    store.rollback()
    assert listed(capsys) == ({"one": "active", "": ""}, "")


def test_a_deleted_model_is_not_gone_back_to(store: ModelStore, tmp_path: Path) -> None:
    """Nor is the one that comes along taken in its place."""
    one, _ = (store.use(store.install(make(tmp_path / name, name)).name) for name in ("one", "two"))
    shutil.rmtree(one.path)
    with pytest.raises(PackageError, match=r"the model before is not in .* any more; choose one"):
        store.rollback()
    assert states(store) == {"two": "active"}


def test_the_list_has_the_systems_active_model(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(model_store, "store_paths", lambda: [tmp_path / "own", store.path])
    store.use(store.install(make(tmp_path / "one", "one")).name)
    assert listed(capsys) == ({"one": "active", "": ""}, "")


def test_what_another_made_active_meanwhile_stays(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the lock another process may change the store."""
    one = store.install(make(tmp_path / "one", "one"))
    flock = model_store.fcntl.flock

    def late(lock: Any, how: int) -> None:
        store._point("active", one.path)
        flock(lock, how)

    monkeypatch.setattr(model_store.fcntl, "flock", late)
    with pytest.raises(PackageError, match="is the active model"):
        store.remove("one")
    assert default_model() == one.path


def test_what_another_removed_meanwhile_is_not_used(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = store.install(make(tmp_path / "one", "one"))
    flock = model_store.fcntl.flock

    def late(lock: Any, how: int) -> None:
        shutil.rmtree(one.path)
        flock(lock, how)

    monkeypatch.setattr(model_store.fcntl, "flock", late)
    with pytest.raises(PackageError, match="no model 'one' is installed"):
        store.use("one")


def test_what_broke_off_is_cleared_away(store: ModelStore, tmp_path: Path) -> None:
    one = store.install(make(tmp_path / "one", "one"))
    for name in (f".removed-{one.name}", ".new-x1y2"):
        shutil.copytree(one.path, one.path.with_name(name))
    store.remove("one")
    assert list((store.path / "versions").iterdir()) == []


def test_the_command_line(tmp_path: Path) -> None:
    package = make(tmp_path / "one.zip", "one")
    environment = {"EDGE_STT_MODELS": str(tmp_path / "store"), "XDG_CONFIG_HOME": str(tmp_path)}
    done = edge_stt("install", package, **environment)
    assert (done.returncode, done.stderr) == (0, "")
    listed = json.loads(edge_stt("list", "--json", **environment).stdout)
    assert [(entry["name"][:4], entry["state"]) for entry in listed] == [("one-", "active"), ("(com", "")]
    assert edge_stt("rollback", **environment).stdout == "the model that comes along: active\n"
    edge_stt("rollback", **environment)
    assert edge_stt("use", "shipped", **environment).stdout == "the model that comes along: active\n"
    assert "active   (comes along)" in edge_stt("list", **environment).stdout
    failed = edge_stt("use", "two", **environment)
    assert (failed.returncode, failed.stderr.count("\n")) == (1, 1)
    refused = edge_stt("install", package, "--require-signature", **environment)
    assert (refused.returncode, "models.public_key names no key" in refused.stderr) == (1, True)


def test_an_unwritable_store_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = edge_stt("install", make(tmp_path / "one", "one"), EDGE_STT_MODELS=str(tmp_path / "file" / "store"))
    assert (done.returncode, done.stderr.count("\n"), "cannot change" in done.stderr) == (1, 1, True)


# --- the services that run ------------------------------------------------------------------------------------------


SYSTEMCTL = """#!/bin/sh
echo "$@" >> {folder}/calls
for unit; do :; done
case "$*" in
    *is-active*) grep -qx "$unit" {folder}/active;;
    *) ! grep -qx "$unit" {folder}/broken;;
esac
"""


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder: ``active`` and ``broken`` list units, ``calls`` are those of systemctl, which stands in its ``bin``."""
    command = tmp_path / "bin" / "systemctl"
    command.parent.mkdir()
    command.write_text(SYSTEMCTL.format(folder=tmp_path))
    command.chmod(0o755)
    units = [path.name for path in (Path(__file__).parent.parent / "systemd").glob("*.service")]
    (tmp_path / "active").write_text("\n".join(units) + "\n")
    (tmp_path / "broken").write_text("")
    monkeypatch.setenv("PATH", f"{command.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(model_command, "SYSTEMD", tmp_path)
    monkeypatch.setattr(model_command, "CGROUPS", tmp_path / "cgroup")
    return tmp_path


def told(folder: Path) -> list[str]:
    """What systemctl was asked to do since the last time."""
    calls = (folder / "calls").read_text().splitlines()
    (folder / "calls").unlink()
    return [call for call in calls if "is-active" not in call]


ROOTS = ["reload edge-stt.service", "try-restart edge-stt-wyoming.service"]


@pytest.mark.parametrize(
    ("user", "expected"), [(0, ROOTS), (1000, ["--user reload edge-stt-user.service"])], ids=["root", "user"]
)
def test_a_switch_reaches_all_services_that_run(
    systemctl: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    user: int,
    expected: list[str],
) -> None:
    monkeypatch.setattr(model_command.os, "geteuid", lambda: user)
    model_command._tell_services()
    assert told(systemctl) == expected
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"edge-stt: {call.split()[-1]} was told to take the new model" for call in expected]
    (systemctl / "broken").write_text((systemctl / "active").read_text())
    model_command._tell_services()
    assert told(systemctl) == expected  # the first that fails does not keep it from the second
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition("try again: systemctl ")[2] for line in lines] == expected
    (systemctl / "active").write_text("")
    model_command._tell_services()
    assert told(systemctl) == []


@pytest.mark.parametrize("user", [0, 1000], ids=["root", "user"])
def test_root_is_told_of_users_services_that_run(
    systemctl: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], user: int
) -> None:
    (systemctl / "active").write_text("")
    for number, unit in (("0", "edge-stt-user.service"), ("987654321", "edge-stt-user.service"), ("1", "pipewire")):
        session = f"user.slice/user-{number}.slice/user@{number}.service/app.slice/{unit}"
        (systemctl / "cgroup" / session).mkdir(parents=True)
    monkeypatch.setattr(model_command.os, "geteuid", lambda: user)
    model_command._tell_services()
    told_of = ["root", "987654321"] if user == 0 else []
    assert capsys.readouterr().err.splitlines() == [
        f"edge-stt: edge-stt-user.service of {name} was not told; unless it has a model of its own, say as {name}: "
        "systemctl --user reload edge-stt-user.service"
        for name in told_of
    ]


# --- from the network -----------------------------------------------------------------------------------------------


class _Server(http.server.SimpleHTTPRequestHandler):
    """Files; what is called broken.zip ends in the middle."""

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        if not self.path.endswith("broken.zip"):
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        self.wfile.write(b"x" * 1000)


def test_a_package_from_the_network(tmp_path: Path) -> None:
    make(tmp_path / "one.zip", "one")
    handler = functools.partial(_Server, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    try:
        good = edge_stt("install", f"{address}/one.zip", EDGE_STT_MODELS=str(tmp_path / "store"))
        assert (good.returncode, good.stderr) == (0, "")
        for name, reason in (("broken.zip", "broke off after 1000 of 100000"), ("none.zip", "File not found")):
            bad = edge_stt("install", f"{address}/{name}", EDGE_STT_MODELS=str(tmp_path / "store"))
            assert (bad.returncode, bad.stderr.count("\n"), reason in bad.stderr) == (1, 1, True), bad.stderr
    finally:
        server.shutdown()
        server.server_close()
    assert len(list((tmp_path / "store" / "versions").iterdir())) == 1


# --- signatures -----------------------------------------------------------------------------------------------------


def new_key(folder: Path, name: str) -> tuple[Path, str]:
    """A secret key file and the line of its public key."""
    secret, public = folder / f"{name}.key", folder / f"{name}.pub"
    subprocess.run(["minisign", "-G", "-W", "-s", secret, "-p", public], check=True, capture_output=True)
    return secret, public.read_text().splitlines()[-1]


def sign(package: Path, secret: Path, *options: str) -> None:
    command = [
        "minisign",
        "-S",
        *options,
        "-s",
        str(secret),
        "-t",
        "for the kitchen",
        "-m",
        str(package / "model.json"),
    ]
    subprocess.run(command, check=True, capture_output=True)


@needs_minisign
@pytest.mark.parametrize("options", [(), ("-l",)], ids=["hashed", "legacy"])
def test_a_signed_package(store: ModelStore, tmp_path: Path, options: tuple[str, ...]) -> None:
    pytest.importorskip("cryptography", reason="needs the sign extra")
    secret, public = new_key(tmp_path, "mine")
    package = make(tmp_path / "one", "one")
    sign(package, secret, *options)
    strict = ModelStore(config=ModelsConfig(require_signature=True, public_key=public))
    installed = strict.install(package)
    strict.use(installed.name)  # the signature went along
    assert active_model() == installed.path


@needs_minisign
def test_what_is_not_signed_right_is_refused(store: ModelStore, tmp_path: Path) -> None:
    pytest.importorskip("cryptography", reason="needs the sign extra")
    secret, public = new_key(tmp_path, "mine")
    other_secret, _ = new_key(tmp_path, "other")
    strict = ModelStore(config=ModelsConfig(require_signature=True, public_key=public))
    package = make(tmp_path / "one", "one")
    store.install(package)  # before signatures were asked for
    signature = package / "model.json.minisig"

    def refused(reason: str) -> None:
        with pytest.raises(PackageError, match=reason):
            strict.install(package)

    refused("is not signed")
    with pytest.raises(PackageError, match="is not signed"):
        strict.use("one")
    sign(package, other_secret)
    refused("another key")
    sign(make(tmp_path / "two", "two"), secret)
    shutil.copy(tmp_path / "two" / "model.json.minisig", signature)
    refused("does not fit the package")
    sign(package, secret)
    signature.write_text(signature.read_text().replace("for the kitchen", "for the bathroom"))
    refused("does not fit the package")
    signature.write_text("nonsense\n")
    refused("no signature of minisign")
    signature.write_bytes(b"\xff\xfe")
    refused("no signature of minisign")
    assert strict.installed()[0].state == ""
    for key, reason in (("", "names no key"), ("RWnonsense", "not in minisign's form"), ("RWQf", "not in minisign's")):
        with pytest.raises(PackageError, match=reason):
            ModelStore(config=ModelsConfig(require_signature=True, public_key=key)).install(package)


def test_the_key_may_be_a_file(tmp_path: Path) -> None:
    pytest.importorskip("cryptography", reason="needs the sign extra")
    package = ModelPackage.load(make(tmp_path / "one", "one"))
    key = tmp_path / "key.pub"
    key.write_text(f"untrusted comment: mine\n{base64.b64encode(b'Ed' + bytes(40)).decode()}\n")
    with pytest.raises(PackageError, match="is not signed"):
        verify_signature(package, str(key))
    with pytest.raises(EdgeSttError, match=r"cannot read the public key .*none\.pub: No such file"):
        verify_signature(package, str(tmp_path / "none.pub"))


# --- before a service loads -----------------------------------------------------------------------------------------


def test_what_a_service_may_load(store: ModelStore, tmp_path: Path) -> None:
    strict = ModelsConfig(require_signature=True)
    check_active(strict)  # the one that comes along
    check_active(strict, str(DEFAULT_MODEL))
    one = store.install(make(tmp_path / "one", "one"))
    check_active(strict)
    with pytest.raises(PackageError, match="signatures are required"):
        check_active(strict, str(one.path))
    store.use("one")
    check_active(ModelsConfig())
    check_active(strict, str(DEFAULT_MODEL))
    with pytest.raises(PackageError, match="signatures are required"):
        check_active(strict)


@needs_minisign
def test_a_service_loads_what_is_signed(store: ModelStore, tmp_path: Path) -> None:
    pytest.importorskip("cryptography", reason="needs the sign extra")
    secret, public = new_key(tmp_path, "mine")
    package = make(tmp_path / "one", "one")
    sign(package, secret)
    store.use(store.install(package).name)
    check_active(ModelsConfig(require_signature=True, public_key=public))
    check_active(ModelsConfig(require_signature=True, public_key=str(tmp_path / "mine.pub")))
    store.use(store.install(make(tmp_path / "two", "two")).name)
    with pytest.raises(PackageError, match="is not signed"):
        check_active(ModelsConfig(require_signature=True, public_key=public))


def test_serve_loads_no_unsigned_model(store: ModelStore, tmp_path: Path) -> None:
    settings = tmp_path / "edge-stt" / "config.toml"
    settings.parent.mkdir()
    store.use(store.install(make(tmp_path / "one", "one")).name)

    def serve() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "edge_stt.cli", "serve", "--check-config"]
        environment = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path)}
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    settings.write_text("[models]\nrequire_signature = true\n")
    refused = serve()
    assert (refused.returncode, "signatures are required" in refused.stderr) == (1, True), refused.stderr
    settings.write_text("[models]\nrequire_signature = false\n[microphone]\nmistake = 1\n")
    assert serve().returncode == 0
    settings.write_text("[models]\nmistake = 1\n")
    assert serve().returncode == 2
