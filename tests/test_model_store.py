"""Installed models: verified, switched in one step, the last good one kept, signatures of minisign."""

from __future__ import annotations

import functools
import http.server
import io
import json
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_stt import model_store
from edge_stt.errors import PackageError
from edge_stt.model_store import ModelsConfig, ModelStore, active_model
from edge_stt.package import ModelPackage, write_package
from edge_stt.recogniser import DEFAULT_MODEL, default_model

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


def test_the_command_line(tmp_path: Path) -> None:
    package = make(tmp_path / "one.zip", "one")
    environment = {"EDGE_STT_MODELS": str(tmp_path / "store"), "XDG_CONFIG_HOME": str(tmp_path)}
    done = edge_stt("install", package, **environment)
    assert (done.returncode, done.stderr) == (0, "")
    listed = json.loads(edge_stt("list", "--json", **environment).stdout)
    assert [(entry["name"][:4], entry["state"]) for entry in listed] == [("one-", "active"), ("(com", "")]
    assert edge_stt("rollback", **environment).stdout == "the model that comes along: active\n"
    failed = edge_stt("use", "two", **environment)
    assert (failed.returncode, failed.stderr.count("\n")) == (1, 1)
    refused = edge_stt("install", package, "--require-signature", **environment)
    assert (refused.returncode, "models.public_key names no key" in refused.stderr) == (1, True)


def test_an_unwritable_store_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = edge_stt("install", make(tmp_path / "one", "one"), EDGE_STT_MODELS=str(tmp_path / "file" / "store"))
    assert (done.returncode, done.stderr.count("\n"), "cannot change" in done.stderr) == (1, 1, True)


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
