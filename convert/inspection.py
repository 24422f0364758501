"""`edge-stt convert inspect` and `diff`: what is in a package, and what in another. Needs no TensorFlow."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge_stt.audio import read_audio
from edge_stt.corpora import read_corpus
from edge_stt.errors import DataError
from edge_stt.package import INFO_FILE, MODEL_FILE, ModelPackage
from edge_stt.recogniser import DEFAULT_MODEL, Transcriber

from .flatbuffer import WEIGHTED, Operator, TfliteFile, layer_of
from .operators import foreign_operators

DEMO_CLIP = DEFAULT_MODEL.parent.parent / "data" / "demo.opus"


@dataclass(frozen=True)
class Layer:
    """One operator with weights. ``scales`` is 1 for a scale a tensor, the number of channels for one a channel."""

    name: str
    operator: str
    weights: str
    shape: tuple[int, ...]
    size: int
    scales: int
    activations: str
    sha256: str


@dataclass(frozen=True)
class Signature:
    """A signature: names, types and shapes of what goes in and out; -1 is an open dimension."""

    inputs: dict[str, str]
    outputs: dict[str, str]
    operators: dict[str, int]
    tensors: int


@dataclass(frozen=True)
class Inspection:
    """All of it; ``files`` are bytes by name, ``info`` is ``model.json`` without the statistics and symbols."""

    path: str
    files: dict[str, int]
    info: dict[str, Any]
    signatures: dict[str, Signature]
    layers: tuple[Layer, ...]
    foreign: dict[str, list[str]]

    def to_data(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def inspect_package(package: ModelPackage) -> Inspection:
    """Read a package's files; raises `PackageError` when the model is no TFLite file."""
    content = package.read(MODEL_FILE)
    file = TfliteFile(content)
    info = json.loads(package.read(INFO_FILE))
    for name in ("files", "checksum", "statistics"):
        info.pop(name, None)
    info["heads"] = {head: f"{len(units)} {units.kind} ({units.name})" for head, units in package.info.heads.items()}
    return Inspection(
        str(package.path),
        {name: len(package.read(name)) for name in [*package.files, INFO_FILE]},
        info,
        {_text(table.signatureKey): _signature(file, table) for table in file.model.signatureDefs or []},
        tuple(_layers(file)),
        foreign_operators(content),
    )


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _signature(file: TfliteFile, table: Any) -> Signature:
    graph = list(file.graphs)[table.subgraphIndex]

    def described(maps: Any) -> dict[str, str]:
        return {_text(m.name): f"{file.type(graph, m.tensorIndex)} {_shape(file, graph, m.tensorIndex)}" for m in maps}

    counts = Counter(op.name for op in file.operators(graph))
    inputs, outputs = described(table.inputs), described(table.outputs)
    return Signature(inputs, outputs, dict(sorted(counts.items())), len(file.graphs[graph].tensors))


def _shape(file: TfliteFile, graph: str, index: int) -> str:
    return f"[{', '.join(map(str, file.shape(graph, index)))}]"


def _layers(file: TfliteFile) -> list[Layer]:
    """Of the first graph, and of those it calls; the second signature has the same weights."""
    seen: set[tuple[str, int]] = set()
    layers = []
    for graph in file.graphs:
        for op in file.operators(graph):
            if op.name not in WEIGHTED or len(op.inputs) < 2 or file.data(graph, op.inputs[1]) is None:
                continue
            key = (layer_of(file.name(graph, op.outputs[0])), int(file.tensor(graph, op.inputs[1]).buffer))
            if key not in seen and not any(buffer == key[1] for _, buffer in seen):
                seen.add(key)
                layers.append(_layer(file, op, key[0]))
    return layers


def _layer(file: TfliteFile, op: Operator, name: str) -> Layer:
    weights = op.inputs[1]
    data = file.data(op.graph, weights)
    assert data is not None
    quantization = file.tensor(op.graph, weights).quantization
    scales = 0 if quantization is None or quantization.scale is None else len(quantization.scale)
    return Layer(
        name,
        op.name,
        file.type(op.graph, weights),
        file.shape(op.graph, weights),
        len(data),
        scales,
        file.type(op.graph, op.outputs[0]),
        hashlib.sha256(np.asarray(data).tobytes()).hexdigest()[:12],
    )


def inspection_tables(found: Inspection) -> list[Any]:
    """Rich tables: files, metadata, signatures, layers."""
    from rich.table import Table

    files = Table("file", "bytes", title=found.path)
    for name, size in sorted(found.files.items()):
        files.add_row(name, f"{size:,}")
    about = Table("model.json", "")
    for key, value in sorted(found.info.items()):
        about.add_row(key, value if isinstance(value, str) else json.dumps(value))
    signatures = Table("signature", "operators", "inputs", "outputs")
    for name, signature in found.signatures.items():
        operators = ", ".join(f"{count} {kind}" for kind, count in signature.operators.items())
        ins, outs = ("\n".join(f"{k}: {v}" for k, v in side.items()) for side in (signature.inputs, signature.outputs))
        signatures.add_row(name, operators, ins, outs)
    layers = Table("layer", "operator", "weights", "shape", "bytes", "scales", "activations")
    for layer in found.layers:
        shape = " × ".join(map(str, layer.shape))
        sizes = (f"{layer.size:,}", str(layer.scales), layer.activations)
        layers.add_row(layer.name, layer.operator, layer.weights, shape, *sizes)
    return [files, about, signatures, layers]


@dataclass(frozen=True)
class Difference:
    """What changed from one package to another; ``transcripts`` are (file, text of A, text of B) where they differ."""

    metadata: dict[str, tuple[Any, Any]]
    files: dict[str, tuple[int | None, int | None]]
    operators: dict[str, tuple[int, int]]
    layers: dict[str, tuple[str | None, str | None]]
    clips: int
    transcripts: tuple[tuple[str, str, str], ...]

    @property
    def empty(self) -> bool:
        """Whether the two say and are the same."""
        return not (self.metadata or self.files or self.operators or self.layers or self.transcripts)

    def to_data(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def compare_packages(a: ModelPackage, b: ModelPackage, audio: Sequence[Path] = ()) -> Difference:
    """Metadata, files, operators, layers, and what is read from the audio: files, manifests, or the demo clip."""
    old, new = inspect_package(a), inspect_package(b)
    clips = [clip for path in audio for clip in _clips(path)] if audio else [DEMO_CLIP]
    if not clips:
        raise DataError(f"no clip of {', '.join(map(str, audio))} can be used")
    readers = Transcriber(a), Transcriber(b)
    texts = []
    for clip in clips:
        samples = read_audio(clip)
        before, after = (reader.transcribe_blocks([samples]).text for reader in readers)
        if before != after:
            texts.append((str(clip), before, after))
    hashes = {n: (old.files.get(n), new.files.get(n)) for n in sorted({*a.files, *b.files}) if _differs(a, b, n)}
    counts = [
        Counter({f"{s} {op}": n for s, sig in x.signatures.items() for op, n in sig.operators.items()})
        for x in (old, new)
    ]
    layers = [{layer.name: _described(layer) for layer in x.layers} for x in (old, new)]
    return Difference(
        _changed(old.info, new.info),
        hashes,
        {
            op: (counts[0][op], counts[1][op])
            for op in sorted({*counts[0], *counts[1]})
            if counts[0][op] != counts[1][op]
        },
        _changed(layers[0], layers[1]),
        len(clips),
        tuple(texts),
    )


def _clips(path: Path) -> list[Path]:
    if path.suffix in (".jsonl", ".csv", ".tsv"):
        return [clip.path for clip in read_corpus(path, lambda problem: None)]
    return [path]


def _differs(a: ModelPackage, b: ModelPackage, name: str) -> bool:
    return a.files.get(name) != b.files.get(name)


def _described(layer: Layer) -> str:
    return f"{layer.weights} {layer.shape}, {layer.scales} scales, activations {layer.activations}, {layer.sha256}"


def _changed(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {k: (old.get(k), new.get(k)) for k in sorted({*old, *new}) if old.get(k) != new.get(k)}


def difference_tables(found: Difference, a: str, b: str) -> list[Any]:
    """Rich tables of what differs; none for what does not."""
    from rich.table import Table

    tables = []
    for title in ("metadata", "files", "operators", "layers"):
        if changes := getattr(found, title):
            table = Table(title, a, b)
            for name, (old, new) in changes.items():
                table.add_row(
                    name, *("—" if x is None else x if isinstance(x, str) else json.dumps(x) for x in (old, new))
                )
            tables.append(table)
    if found.transcripts:
        table = Table("transcript", a, b)
        for clip, old, new in found.transcripts:
            table.add_row(Path(clip).name, old, new)
        tables.append(table)
    return tables
