"""Build model packages from a training run: graph → TFLite in a child process → parity gate → proof → package."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from edge_stt.audio import read_audio
from edge_stt.corpora import Clip
from edge_stt.decoders import LETTERS_FILE, LEXICON_FILE, LM_FILE, PRONUNCIATION_FILE
from edge_stt.errors import EdgeSttError, PackageError, UsageError
from edge_stt.features import Floats, NormalizationConfig, log_mel, normalise_utterance
from edge_stt.interpreter import AcousticModel
from edge_stt.package import (
    CARD_FILE,
    GOLDEN_FILE,
    MODEL_FILE,
    ModelInfo,
    ModelPackage,
    check_destination,
    write_package,
)
from edge_stt.units import UnitSet

from .calibration import calibration_clips
from .card import model_card
from .graph import TrainedModel, load_run, save_graphs, stream_info
from .modes import CALIBRATED, LAYERED, MODES, check_mode, check_request, modes_of
from .operators import check_operators
from .parity import PARITY_FILE, DevClip, GateConfig, Parity, ParityError, ParityGate, dev_clips, read_clips
from .parity_report import parity_json
from .prove import Proof, interpreters, prove
from .sensitivity import LayerNoise, worst_layers

DEMO_CLIP = Path(__file__).parent.parent / "edge_stt" / "data" / "demo.opus"
GOLDEN_FRAMES = 300
Say = Callable[[str], None]


class ConversionError(EdgeSttError):
    """The converter refused or crashed."""


@dataclass(frozen=True)
class BuildConfig:
    """What is made. ``quantize`` is a mode or ``all``; ``notes`` is Markdown for the model card.

    ``data`` (a manifest) gives ``calibration_clips`` representative clips to the integer modes, ``dev`` the clips of
    the gate; without it, the gate has the demo clip alone and judges no error rates. ``decoding`` is a package whose
    lexicon and language model are taken over, and measured too. ``pythons`` are further interpreters to prove it on.
    """

    name: str
    quantize: str = "dynamic"
    licence: str = "CC BY 4.0"
    default_head: str = ""  # without one, the first that writes letters
    notes: str = ""
    data: Path | None = None
    calibration_clips: int = 100
    dev: Path | None = None
    keep_float: tuple[str, ...] = ()
    decoding: Path | None = None
    pythons: tuple[str, ...] = ()
    gate: GateConfig = field(default_factory=GateConfig)
    force: bool = False
    overwrite: bool = False

    @property
    def modes(self) -> tuple[str, ...]:
        """The modes asked for."""
        return modes_of(self.quantize)


@dataclass
class Product:
    """One mode on its way to a package; ``error`` says why it did not become one."""

    mode: str
    out: Path
    seconds: float = 0.0
    content: bytes = b""
    keep_float: tuple[str, ...] = ()
    layers: list[LayerNoise] = field(default_factory=list)
    parity: Parity | None = None
    proofs: list[Proof] = field(default_factory=list)
    package: ModelPackage | None = None
    error: str | None = None


@contextmanager
def exported(model: TrainedModel) -> Iterator[Path]:
    """The model as a SavedModel in a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="edge-stt-convert-") as folder:
        save_graphs(model, Path(folder) / "saved_model")
        yield Path(folder) / "saved_model"


def to_tflite(
    model: TrainedModel,
    mode: str,
    calibration: Sequence[Floats] | None = None,
    keep_float: Sequence[str] = (),
    saved_model: Path | None = None,
) -> bytes:
    """Convert. ``calibration`` is normalised log-mel, needed by the integer modes; ``keep_float`` names layers.

    Raises `ConversionError` with the converter's reason, also when it crashes.
    """
    check_mode(mode, MODES)
    if saved_model is None:
        with exported(model) as folder:
            return to_tflite(model, mode, calibration, keep_float, folder)
    with tempfile.TemporaryDirectory() as work:
        out = Path(work) / "model.tflite"
        arguments = [str(saved_model), str(out), mode]
        if mode in CALIBRATED:
            if not calibration:
                raise ConversionError(f"{mode} needs representative clips: give a manifest with --data")
            np.savez(Path(work) / "calibration.npz", *calibration)
            arguments += ["--calibration", str(Path(work) / "calibration.npz")]
        if model.stream is None:
            arguments.append("--offline-only")
        if keep_float:
            arguments += ["--keep-float", *keep_float]
        _child("convert.child", arguments, mode)
        return out.read_bytes()


def measure_layers(
    model: TrainedModel, mode: str, calibration: Sequence[Floats], saved_model: Path | None = None
) -> list[LayerNoise]:
    """What each layer costs when it alone is quantised, worst first; raises `ConversionError` where it cannot."""
    if mode not in LAYERED:
        raise UsageError(f"{mode} quantises no layer; choose dynamic, int8 or int16x8")
    if saved_model is None:
        with exported(model) as folder:
            return measure_layers(model, mode, calibration, folder)
    with tempfile.TemporaryDirectory() as work:
        out, clips = Path(work) / "layers.json", Path(work) / "calibration.npz"
        np.savez(clips, *calibration)
        signatures = ["offline"] if model.stream is None else ["offline", "stream"]
        _child("convert.sensitivity", [str(saved_model), str(out), mode, str(clips), *signatures], mode)
        return [LayerNoise(**item) for item in json.loads(out.read_text(encoding="utf-8"))]


def _child(module: str, arguments: Sequence[str], mode: str) -> None:
    """Run a module in a process of its own; its failure, or its death, becomes a `ConversionError`."""
    root = Path(__file__).parent.parent
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode < 0:
        hint = "; float32, float16 and dynamic ask less of it" if mode in CALIBRATED else ""
        raise ConversionError(
            f"{mode}: TensorFlow's converter crashed ({signal.Signals(-done.returncode).name}){hint}; nothing written"
        )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise ConversionError(f"{mode}: the converter failed: {lines[-1] if lines else 'no reason given'}")


def golden_input(model: TrainedModel) -> Floats:
    """Three seconds of the demo clip as normalised log-mel, float32 ``[300, n_mels]``."""
    frames = log_mel(read_audio(DEMO_CLIP), model.front_end)[:GOLDEN_FRAMES]
    return normalise_utterance(frames, model.statistics)


def demo_clips(model: TrainedModel) -> list[DevClip]:
    """The demo clip, for a gate without a dev set."""
    text = DEMO_CLIP.with_suffix(".txt").read_text(encoding="utf-8")
    return read_clips([Clip("demo", "demo", "LJ", DEMO_CLIP, 0.0, text, "demo")], model, str(DEMO_CLIP))


def convert_run(run: Path, out: Path, config: BuildConfig, say: Say = lambda text: None) -> list[Product]:
    """Convert a run in every mode asked for, measure, and write what passes: ``out``, or ``out``/MODE of ``all``.

    ``say`` hears of progress. A mode that fails does not stop the others: look at each product's ``error``. Raises
    `EdgeSttError` for what no mode can do without.
    """
    check_request(config.quantize, config.data is not None, bool(config.keep_float))
    products = [Product(mode, out / mode if config.quantize == "all" else out) for mode in config.modes]
    for product in products:
        check_destination(product.out, config.overwrite)
    model = load_run(run)
    decoding = ModelPackage.load(config.decoding) if config.decoding else None
    if decoding is not None:
        head = str(decoding.info.decoding.get("head", decoding.info.default_head))
        if decoding.info.heads.get(head) != model.units.get(head):
            raise ConversionError(
                f"{config.decoding} is decoded from {head} that this model does not have; "
                "name a package of the same units"
            )
    calibration = calibration_clips(config.data, config.calibration_clips, model) if config.data else None
    clips = dev_clips(config.dev, config.gate.clips, model) if config.dev else demo_clips(model)
    with exported(model) as saved_model:
        for product in products:
            _convert(product, model, calibration, config, saved_model, say)
    with tempfile.TemporaryDirectory() as folder:
        trials = {}
        for product in products:
            if product.content:
                try:
                    trials[product.mode] = make_trial(Path(folder) / product.mode, product, model, config, decoding)
                except PackageError as error:
                    product.error = f"{product.mode}: {error}"
        _measure(products, trials, model, clips, config, say)
        for product in products:
            if product.mode in trials and not product.error:
                _prove(product, trials[product.mode], config, say)
        for product in products:
            if product.mode in trials and not product.error:
                _write(product, trials[product.mode], clips, config)
                say(f"{product.mode}: written to {product.out}")
    return products


def _convert(
    product: Product,
    model: TrainedModel,
    calibration: list[Floats] | None,
    config: BuildConfig,
    saved_model: Path,
    say: Say,
) -> None:
    start = time.monotonic()
    try:
        if product.mode in LAYERED:
            product.keep_float = _kept(product, model, calibration, config, saved_model, say)
        product.content = to_tflite(model, product.mode, calibration, product.keep_float, saved_model)
        check_operators(product.content)
    except UsageError:  # the others were asked the same
        raise
    except EdgeSttError as error:
        product.error, product.content = str(error), b""
    product.seconds = time.monotonic() - start
    say(f"{product.mode}: {product.error or f'converted in {product.seconds:.0f} s'}")


def _kept(
    product: Product,
    model: TrainedModel,
    calibration: list[Floats] | None,
    config: BuildConfig,
    saved_model: Path,
    say: Say,
) -> tuple[str, ...]:
    """The layers that stay in float, `auto` looked up."""
    if not config.keep_float:
        return ()
    product.layers = measure_layers(
        model, product.mode, calibration or [clip.log_mel for clip in demo_clips(model)], saved_model
    )
    known = {noise.layer for noise in product.layers}
    named = tuple(name for name in config.keep_float if name != "auto")
    if unknown := sorted(set(named) - known):
        raise UsageError(f"--keep-float: there is no layer {unknown[0]}; there are {', '.join(sorted(known))}")
    auto = worst_layers(product.layers) if "auto" in config.keep_float else ()
    kept = tuple(dict.fromkeys((*named, *auto)))
    say(f"{product.mode}: in float: {', '.join(kept) or 'no layer'}")
    return kept


def written_by(heads: Mapping[str, UnitSet]) -> str:
    """The head that writes without a lexicon: the first of characters, or the first of all."""
    return next((name for name, units in heads.items() if units.kind == "characters"), next(iter(heads)))


def make_trial(
    path: Path, product: Product, model: TrainedModel, config: BuildConfig, decoding: ModelPackage | None
) -> ModelPackage:
    """A package to measure, with the golden pair but no card yet."""
    info = ModelInfo(
        name=config.name,
        architecture={"parameters": model.parameters, **asdict(model.config.model)},
        front_end=model.front_end,
        normalization=NormalizationConfig(),
        statistics=model.statistics,
        heads=model.units,
        default_head=config.default_head or written_by(model.units),
        stride=model.network.stride,
        lookahead=model.network.lookahead,
        stream=stream_info(model),
        quantization=product.mode,
        run=f"{model.config.name}@{model.step}",
        licence=config.licence,
        language=model.language,
    )
    files = {MODEL_FILE: product.content}
    if decoding is not None:
        parts = (LEXICON_FILE, LM_FILE, LETTERS_FILE, PRONUNCIATION_FILE)
        files |= {name: decoding.read(name) for name in parts if name in decoding.files}
        info = replace(info, decoding=decoding.info.decoding)
    golden = golden_input(model)
    # The golden outputs are those of the converted file itself: they prove an installation, not the conversion.
    first = write_package(path.with_name(f"{path.name}-first"), info, {**files, GOLDEN_FILE: b""})
    outputs = AcousticModel(first).offline(golden)
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {"log_mel": golden[None], **{head: x[None] for head, x in outputs.items()}}
    np.savez_compressed(buffer, **arrays)
    return write_package(path, info, {**files, GOLDEN_FILE: buffer.getvalue()})


def _measure(
    products: list[Product],
    trials: dict[str, ModelPackage],
    model: TrainedModel,
    clips: list[DevClip],
    config: BuildConfig,
    say: Say,
) -> None:
    if not trials:
        return
    start = time.monotonic()
    lexicon = config.decoding is not None and next(iter(trials.values())).info.decoding.get("decoder") == "lexicon"
    gate = ParityGate(model, clips, config.gate, lexicon)
    parities = {parity.mode: parity for parity in gate.measure(trials, lambda step: say(f"measuring {step}"))}
    for product in products:
        product.parity = parities.get(product.mode)
        if product.parity and product.parity.problems and not config.force:
            product.error = str(
                ParityError(f"{product.mode} refused: {'; '.join(product.parity.problems)} (--force writes it anyway)")
            )
    say(f"measured on {len(clips)} clips in {time.monotonic() - start:.0f} s")


def _prove(product: Product, trial: ModelPackage, config: BuildConfig, say: Say) -> None:
    try:
        for python in interpreters(config.pythons):
            product.proofs.append(prove(trial, python))
            say(f"{product.mode}: runs on {product.proofs[-1].runtime}")
    except EdgeSttError as error:
        product.error = str(error).replace(str(trial.path), product.mode)


def _write(product: Product, trial: ModelPackage, clips: list[DevClip], config: BuildConfig) -> None:
    assert product.parity is not None
    info = replace(trial.info, runtimes=tuple(proof.runtime for proof in product.proofs))
    files = {name: trial.read(name) for name in trial.files}
    source = f"{config.dev.parent.name} {config.dev.stem}" if config.dev else "the demo clip"
    files[PARITY_FILE] = parity_json(product, source, clips, config)
    card = model_card(info, len(product.content), config.notes, product.parity, source, product.keep_float)
    files[CARD_FILE] = card.encode()
    product.package = write_package(product.out, info, files, config.overwrite)
