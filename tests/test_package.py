"""Model packages: whole ones are read back as written, all others are refused with the reason."""

from __future__ import annotations

import http.server
import json
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest

from edge_stt.downloads import fetch
from edge_stt.errors import PackageError
from edge_stt.package import ModelInfo, ModelPackage, check_destination, write_package


@pytest.fixture(params=["model", "model.zip"])
def package(request: pytest.FixtureRequest, tmp_path: Path, info: ModelInfo, package_files: dict[str, bytes]) -> Path:
    path: Path = tmp_path / request.param
    write_package(path, info, package_files)
    return path


def test_is_read_back_as_written(package: Path, info: ModelInfo, package_files: dict[str, bytes]) -> None:
    loaded = ModelPackage.load(package)
    for name in ("name", "front_end", "normalization", "heads", "stream", "stride", "lookahead", "runtimes"):
        assert getattr(loaded.info, name) == getattr(info, name)
    np.testing.assert_array_equal(loaded.info.statistics.mean, info.statistics.mean)
    np.testing.assert_array_equal(loaded.info.statistics.std, info.statistics.std)
    for name, content in package_files.items():
        assert loaded.read(name) == content
    assert loaded.golden()["log_mel"].shape == (1, 4, 80)
    assert loaded.size > sum(map(len, package_files.values()))


def test_same_content_gives_the_same_zip(tmp_path: Path, info: ModelInfo, package_files: dict[str, bytes]) -> None:
    for name in ("a.zip", "b.zip"):
        write_package(tmp_path / name, info, package_files)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_a_zip_is_compressed(tmp_path: Path, info: ModelInfo, package_files: dict[str, bytes]) -> None:
    files = {**package_files, "words.txt": b"kitchen " * 10_000}
    package = write_package(tmp_path / "model.zip", info, files)
    with zipfile.ZipFile(package.path) as archive:
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_DEFLATED}
    assert package.path.stat().st_size < package.size - 70_000
    assert package.read("words.txt") == package.file("words.txt").read_bytes() == files["words.txt"]


def test_an_existing_package_needs_overwrite(package: Path, info: ModelInfo, package_files: dict[str, bytes]) -> None:
    with pytest.raises(PackageError, match="exists"):
        write_package(package, info, package_files)
    write_package(package, info, {**package_files, "model.tflite": b"new"}, overwrite=True)
    assert ModelPackage.load(package).read("model.tflite") == b"new"
    assert [p.name for p in package.parent.iterdir()] == [package.name], "no temporary files stay behind"


def _edit(folder: Path, change: object) -> None:
    data = json.loads((folder / "model.json").read_text())
    change(data)  # type: ignore[operator]
    (folder / "model.json").write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda p: (p / "model.tflite").write_bytes(b"x"), "model.tflite is damaged"),
        (lambda p: (p / "golden.npz").unlink(), "has no golden.npz"),
        (lambda p: (p / "model.json").unlink(), "has no model.json"),
        (lambda p: (p / "model.json").write_text("{"), "model.json is damaged"),
        (lambda p: (p / "model.json").write_text("[" * 100_000), "model.json is damaged"),
        (lambda p: (p / "model.json").write_text("[]"), "not an edge-stt model package"),
        (lambda p: (p / "model.json").write_bytes(b"\xff\xfe"), "model.json is damaged"),
        (lambda p: _edit(p, lambda d: d.update(format_version=99)), "update edge-stt"),
        (lambda p: _edit(p, lambda d: d.update(stride=8)), "was changed"),
        (lambda p: _edit(p, lambda d: d["files"].update({"../x": "0"})), "was changed"),
    ],
)
def test_refuses_what_is_not_whole(
    tmp_path: Path, info: ModelInfo, package_files: dict[str, bytes], damage: object, reason: str
) -> None:
    path = tmp_path / "model"
    write_package(path, info, package_files)
    damage(path)  # type: ignore[operator]
    with pytest.raises(PackageError, match=reason) as caught:
        ModelPackage.load(path)
    assert "\n" not in str(caught.value)


def test_refuses_a_missing_and_a_foreign_file(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="no model package"):
        ModelPackage.load(tmp_path / "nothing")
    (tmp_path / "text.zip").write_text("not a zip")
    with pytest.raises(PackageError, match="not a readable model package"):
        ModelPackage.load(tmp_path / "text.zip")


def test_a_file_of_something_else_is_never_replaced(
    tmp_path: Path, info: ModelInfo, package_files: dict[str, bytes]
) -> None:
    (tmp_path / "text").write_text("mine")
    with pytest.raises(PackageError, match="is no model package; choose another name"):
        check_destination(tmp_path / "text", overwrite=True)
    check_destination(write_package(tmp_path / "model.zip", info, package_files).path, overwrite=True)


def test_refuses_any_flipped_byte_of_a_zip(tmp_path: Path, info: ModelInfo, package_files: dict[str, bytes]) -> None:
    path = tmp_path / "model.zip"
    original = write_package(path, info, package_files)
    contents = {name: original.read(name) for name in [*package_files, "model.json"]}
    whole = path.read_bytes()
    rng = np.random.default_rng(5)
    refused = 0
    for position in rng.integers(len(whole), size=300):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            loaded = ModelPackage.load(path)
        except PackageError:
            refused += 1
        else:  # a bit of a time stamp or the like: everything that is read is still what was written
            assert all(loaded.read(name) == content for name, content in contents.items() if name in loaded.files)
    assert refused > 150


def test_a_zip_that_unpacks_to_gigabytes_is_refused(tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("model.json", "w", force_zip64=True) as file,
    ):
        for _ in range(600):
            file.write(bytes(1 << 20))
    with pytest.raises(PackageError, match="larger than any model package"):
        ModelPackage.load(tmp_path / "bomb.zip")


# --- from the network -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "http://example.org/model.zip",
        "HTTP://example.org/model.zip",
        "http://localhost.example.org/model.zip",
        "http://localhost@example.org/model.zip",
        "http:///model.zip",
        "ftp://localhost/model.zip",
        "file:///etc/passwd",
    ],
)
def test_only_https_is_fetched(tmp_path: Path, address: str) -> None:
    with pytest.raises(PackageError, match="only https addresses can be fetched") as caught:
        fetch(address, tmp_path / "model.zip")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("address", ["http://localhost:1/a", "http://127.0.0.1:1/a", "http://[::1]:1/a"])
def test_http_from_this_machine_is_tried(tmp_path: Path, address: str) -> None:
    with pytest.raises(PackageError, match=r"cannot be fetched: [A-Z]"):
        fetch(address, tmp_path / "model.zip")


def test_no_address_at_all(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="cannot be fetched: Invalid IPv6 URL"):
        fetch("https://[example.org/model.zip", tmp_path / "model.zip")


class _Elsewhere(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.send_response(302)
        self.send_header("Location", "http://example.org/model.zip")
        self.end_headers()


def test_http_is_refused_where_another_address_leads_to_it(tmp_path: Path) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), _Elsewhere) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            with pytest.raises(PackageError, match=r"http://example\.org/model\.zip: only https"):
                fetch(f"http://127.0.0.1:{server.server_port}/", tmp_path / "model.zip")
        finally:
            server.shutdown()
