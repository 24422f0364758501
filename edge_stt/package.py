"""Model packages: a folder, or the same as one ``.zip``, that holds all a model needs to run, each file hashed.

``model.tflite`` (signatures ``offline`` and ``stream``), ``model.json`` (`ModelInfo`), ``golden.npz`` (an input and the
outputs it must give), ``MODEL_CARD.md``, and what decoding needs (lexicon, language model, pronunciations).
``model.json`` carries the SHA-256 of every other file and, in ``checksum``, that of its own content.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from .errors import DataError, PackageError
from .features import FeatureStatistics, FrontEndConfig, NormalizationConfig
from .text import Normaliser
from .units import UnitSet

FORMAT_VERSION = 1
MODEL_FILE, INFO_FILE, GOLDEN_FILE, CARD_FILE = "model.tflite", "model.json", "golden.npz", "MODEL_CARD.md"
MAX_FILE_BYTES = 512 << 20  # a package is a few megabytes: what claims more is damaged or hostile


@dataclass(frozen=True)
class StreamInfo:
    """The ``stream`` signature: log-mel frames per call, and the shapes of its state tensors (all start as zeros)."""

    chunk_frames: int
    states: dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class ModelInfo:
    """What ``model.json`` says. ``stride`` is in log-mel frames per output frame, ``lookahead`` in output frames."""

    name: str
    architecture: dict[str, Any]
    front_end: FrontEndConfig
    normalization: NormalizationConfig
    statistics: FeatureStatistics
    heads: dict[str, UnitSet]
    default_head: str
    stride: int
    lookahead: int
    stream: StreamInfo | None
    quantization: str
    run: str
    licence: str
    decoding: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    runtimes: tuple[str, ...] = ()
    language: dict[str, Any] = field(default_factory=dict)  # `Language.to_package`; empty for English

    @property
    def normaliser(self) -> Normaliser:
        """How texts are written before they are compared with this model's."""
        from .language import normaliser_of

        return normaliser_of(self.language)

    def to_json(self, files: Mapping[str, str]) -> str:
        """Canonical text of ``model.json``, checksum included."""
        data = asdict(replace(self, statistics=None, heads={}))  # type: ignore[arg-type]
        if not self.language:
            del data["language"]  # so that older versions read English packages
        data["format_version"] = FORMAT_VERSION
        data["statistics"] = {k: [float(v) for v in getattr(self.statistics, k)] for k in ("mean", "std")}
        data["heads"] = {head: asdict(units) for head, units in self.heads.items()}
        data["files"] = dict(sorted(files.items()))
        data["checksum"] = _checksum(data)
        return json.dumps(data, indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> ModelInfo:
        """Inverse of `to_json` on parsed JSON; raises KeyError, TypeError or ValueError on foreign data."""
        data = {k: v for k, v in data.items() if k not in ("format_version", "files", "checksum")}
        stream = data["stream"]
        if stream is not None:
            states = {name: tuple(shape) for name, shape in stream["states"].items()}
            stream = StreamInfo(stream["chunk_frames"], states)
        mean, std = (np.array(data["statistics"][k], dtype=np.float32) for k in ("mean", "std"))
        heads = {head: UnitSet.from_data(units) for head, units in data["heads"].items()}
        info = cls(
            **{
                **data,
                "front_end": FrontEndConfig(**data["front_end"]),
                "normalization": NormalizationConfig(**data["normalization"]),
                "statistics": FeatureStatistics(mean, std),
                "heads": heads,
                "stream": stream,
                "runtimes": tuple(data["runtimes"]),
            }
        )
        if info.language:
            _ = info.normaliser  # that it can be read
        return info


def _checksum(data: Mapping[str, Any]) -> str:
    content = {k: v for k, v in data.items() if k != "checksum"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class ModelPackage:
    """A verified package. ``path`` is the folder or the zip; `read` gives a file's bytes."""

    def __init__(self, path: Path, info: ModelInfo, files: Mapping[str, str]) -> None:
        self.path, self.info, self.files = path, info, dict(files)
        self._unpacked: tempfile.TemporaryDirectory[str] | None = None

    @classmethod
    def load(cls, path: str | Path) -> ModelPackage:
        """Open a package and verify every hash.

        Raises `PackageError` with the reason when it is missing, damaged, foreign, edited by hand or of a newer format.
        """
        try:
            path = Path(path)
        except TypeError as error:
            raise PackageError(f"a model package is named by its path, not by {path!r}") from error
        if not path.exists():
            raise PackageError(f"no model package at {path}")
        try:
            data = json.loads(_read(path, INFO_FILE))
        except (ValueError, RecursionError) as error:  # nested a hundred thousand times
            raise PackageError(f"{path}: {INFO_FILE} is damaged ({error})") from error
        if not isinstance(data, dict) or not isinstance(data.get("format_version"), int):
            raise PackageError(f"{path} is not an edge-stt model package: {INFO_FILE} has no format_version")
        if data["format_version"] > FORMAT_VERSION:
            raise PackageError(
                f"{path} has format {data['format_version']}, this version reads {FORMAT_VERSION}: update edge-stt"
            )
        if data.get("checksum") != _checksum(data):
            raise PackageError(f"{path}: {INFO_FILE} was changed after the package was made; get the package again")
        files = data.get("files", {})
        for name in (MODEL_FILE, GOLDEN_FILE):
            if name not in files:
                raise PackageError(f"{path}: {INFO_FILE} lists no {name}")
        for name, expected in files.items():
            if hashlib.sha256(_read(path, name)).hexdigest() != expected:
                raise PackageError(f"{path}: {name} is damaged (its SHA-256 differs); get the package again")
        try:
            info = ModelInfo.from_data(data)
        except (KeyError, TypeError, ValueError, DataError) as error:
            raise PackageError(f"{path}: {INFO_FILE} is not understood ({type(error).__name__}: {error})") from error
        return cls(path, info, files)

    def read(self, name: str) -> bytes:
        """Bytes of one file of the package."""
        return _read(self.path, name)

    def file(self, name: str) -> Path:
        """Path of one file, for memory mapping; a zip's is unpacked once, for as long as the package is used."""
        if name not in self.files:
            raise PackageError(f"{self.path} has no {name}")
        if self.path.is_dir():
            return self.path / name
        if self._unpacked is None:
            self._unpacked = tempfile.TemporaryDirectory(prefix="edge-stt-")
        path = Path(self._unpacked.name) / name
        if not path.exists():
            path.write_bytes(self.read(name))
        return path

    def golden(self) -> dict[str, Any]:
        """The golden pair: ``log_mel`` (normalised, float32 ``[1, T, n_mels]``) and log-probabilities per head."""
        with np.load(io.BytesIO(self.read(GOLDEN_FILE))) as file:
            return {name: file[name] for name in file.files}

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(len(self.read(name)) for name in [*self.files, INFO_FILE])


def _read(path: Path, name: str) -> bytes:
    if Path(name).name != name:
        raise PackageError(f"{path}: the file name {name!r} leaves the package")
    try:
        if path.is_dir():
            if (path / name).stat().st_size > MAX_FILE_BYTES:
                raise PackageError(f"{path}: {name} is larger than any model package")
            return (path / name).read_bytes()
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo(name).file_size > MAX_FILE_BYTES:
                raise PackageError(f"{path}: {name} is larger than any model package")
            return archive.read(name)
    except (FileNotFoundError, KeyError) as error:
        raise PackageError(f"{path} is not a whole model package: it has no {name}") from error
    except (OSError, zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise PackageError(f"{path} is not a readable model package: {error}") from error
    except Exception as error:  # zlib.error and whatever else a damaged archive provokes
        raise PackageError(f"{path}: {name} cannot be unpacked: {error}") from error


def check_destination(path: Path, overwrite: bool) -> None:
    """Raise `PackageError` where `write_package` will not write: for commands that work long before they do.

    A folder of something else is never replaced, since all that is in it would be gone.
    """
    if path.exists() and not overwrite:
        raise PackageError(f"{path} exists; choose another name or overwrite it (--overwrite)")
    if path.is_dir() and not (path / INFO_FILE).exists() and any(path.iterdir()):
        raise PackageError(f"{path} is a folder of something else than a model package; choose another name")
    if path.exists() and path.suffix != ".zip" and not path.is_dir():
        raise PackageError(f"{path} is no model package; choose another name: a folder's, or one that ends in .zip")


def write_package(path: Path, info: ModelInfo, files: Mapping[str, bytes], overwrite: bool = False) -> ModelPackage:
    """Write a package (a zip when ``path`` ends in ``.zip``): complete or not at all, the old one kept until then."""
    check_destination(path, overwrite)
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    everything = {**files, INFO_FILE: info.to_json(hashes).encode()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            if path.suffix == ".zip":
                new = work / path.name
                with zipfile.ZipFile(new, "w", zipfile.ZIP_DEFLATED) as archive:
                    for name in sorted(everything):
                        entry = zipfile.ZipInfo(name)  # with no time of its own: equal contents, equal bytes
                        entry.compress_type = archive.compression  # else writestr stores it as it is
                        archive.writestr(entry, everything[name])
            else:
                new = work / "new"
                new.mkdir()
                for name, content in everything.items():
                    (new / name).write_bytes(content)
            if path.is_dir():
                path.rename(work / "old")
            new.replace(path)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise PackageError(f"cannot write {path}: {error.strerror or error}") from error
    return ModelPackage.load(path)
