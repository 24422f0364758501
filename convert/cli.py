"""``edge-stt convert``: a trained run to a model package, and what to ask of packages."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from edge_stt.errors import DataError, EdgeSttError, RuntimeMissingError, UsageError, reason
from edge_stt.package import ModelPackage, check_destination

from .modes import LAYERED, check_mode, check_request, modes_of

if TYPE_CHECKING:
    from collections.abc import Callable


class DefaultCommand(TyperGroup):
    """A group whose ``run`` need not be said: `edge-stt convert RUN` is `edge-stt convert run RUN`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put ``run`` first where no command stands."""
        if args and args[0] not in (*self.commands, "--help", "-h"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=DefaultCommand,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
    help="Convert a trained run to a model package, measure what that cost, and look into packages. "
    "`edge-stt convert RUN -o PACKAGE` is short for `edge-stt convert run RUN -o PACKAGE`.",
)
AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]
Names = list[str]
Paths = list[Path]


@app.command()
def run(
    run: Annotated[Path, typer.Argument(help="Run directory of `edge-stt train`.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Package to write: a folder, or a .zip.")],
    quantize: Annotated[
        str, typer.Option(help="float32, float16, dynamic, int8, int16x8, or all: each to OUT/MODE.")
    ] = "dynamic",
    data: Annotated[
        Path | None, typer.Option(help="Manifest of representative clips (int8 and int16x8 need one).")
    ] = None,
    clips: Annotated[int, typer.Option(min=1, help="Representative clips to take from it.")] = 100,
    dev: Annotated[Path | None, typer.Option(help="Manifest the gate measures on; without it, the demo clip.")] = None,
    dev_clips: Annotated[int | None, typer.Option(min=1, help="Clips to take from it, evenly spread.")] = None,
    keep_float: Annotated[
        Names | None, typer.Option(help="Layer that stays in float, or `auto`; repeat for several.")
    ] = None,
    decoding: Annotated[
        Path | None, typer.Option(help="Package whose lexicon and language model are taken over, and measured too.")
    ] = None,
    python: Annotated[
        Names | None, typer.Option(help="A Python with another TFLite runtime to prove the package on; repeat.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model; without it, the package's file name.")] = None,
    licence: Annotated[str, typer.Option(help="Licence of the weights.")] = "CC BY 4.0",
    notes: Annotated[Path | None, typer.Option(help="Markdown file for the model card: data, use, limits.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Write what is beyond the limits too; the card says so.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing package.")] = False,
    as_json: AsJson = False,
) -> None:
    """Quantise a trained model, measure it against the float model, and write it as a verified package.

    Exit code 1 when a mode failed or was refused; the others are written.
    """
    _require_tensorflow()
    _check_pythons(python)
    check_request(quantize, data is not None, bool(keep_float))
    _check_paths(run, data, dev, decoding)
    for package in [out / mode for mode in modes_of(quantize)] if quantize == "all" else [out]:
        check_destination(package, overwrite)
    card = _read(notes)
    from .build import BuildConfig, convert_run
    from .parity import GateConfig

    config = BuildConfig(
        name=name or out.stem,
        quantize=quantize,
        licence=licence,
        notes=card,
        data=data,
        calibration_clips=clips,
        dev=dev,
        keep_float=tuple(keep_float or ()),
        decoding=decoding,
        pythons=tuple(python or ()),
        gate=GateConfig(clips=dev_clips) if dev_clips else GateConfig(),
        force=force,
        overwrite=overwrite,
    )
    products = convert_run(run, out, config, _progress())
    from .parity_report import layer_table, result, table

    if as_json:
        typer.echo(json.dumps(result(products), indent=1))
    else:
        for product in products:
            if product.layers:
                _print(layer_table(f"{product.mode}, each layer quantised alone", product.layers))
        _print(table(products))
    failures = [product.error for product in products if product.error]
    for failure in failures[1:]:
        typer.echo(f"edge-stt: {failure}", err=True)
    if failures:
        raise EdgeSttError(str(failures[0]))


@app.command()
def layers(
    run: Annotated[Path, typer.Argument(help="Run directory of `edge-stt train`.")],
    data: Annotated[Path, typer.Option(help="Manifest of representative clips.")],
    quantize: Annotated[str, typer.Option(help="dynamic, int8 or int16x8.")] = "int8",
    clips: Annotated[int, typer.Option(min=1, help="Representative clips to take from it.")] = 100,
    as_json: AsJson = False,
) -> None:
    """What each layer costs when it alone is quantised, worst first: what `--keep-float auto` looks at."""
    _require_tensorflow()
    check_mode(quantize, LAYERED)
    _check_paths(run, data)
    from .build import measure_layers
    from .calibration import calibration_clips
    from .graph import load_run
    from .parity_report import layer_table

    model = load_run(run)
    noises = measure_layers(model, quantize, calibration_clips(data, clips, model))
    if as_json:
        typer.echo(json.dumps([asdict(noise) for noise in noises], indent=1))
    else:
        _print(layer_table(f"{quantize}, each layer quantised alone", noises))


@app.command()
def inspect(package: Annotated[Path, typer.Argument(help="Model package.")], as_json: AsJson = False) -> None:
    """Look into a package: files, metadata, signatures, operators, and each layer's quantization."""
    from .inspection import inspect_package, inspection_tables

    found = inspect_package(ModelPackage.load(package))
    if as_json:
        typer.echo(json.dumps(found.to_data(), indent=1))
    else:
        for table in inspection_tables(found):
            _print(table)


@app.command()
def diff(
    a: Annotated[Path, typer.Argument(help="Model package.")],
    b: Annotated[Path, typer.Argument(help="Another.")],
    audio: Annotated[
        Paths | None, typer.Option(help="Recording or manifest to transcribe with both; without it, the demo clip.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what changed between two packages: metadata, operators, layers, and transcripts that differ."""
    from .inspection import compare_packages, difference_tables

    found = compare_packages(ModelPackage.load(a), ModelPackage.load(b), audio or ())
    if as_json:
        typer.echo(json.dumps(found.to_data(), indent=1))
        return
    for table in difference_tables(found, str(a), str(b)):
        _print(table)
    same = found.clips - len(found.transcripts)
    typer.echo("no difference" if found.empty else f"{same} of {found.clips} transcripts are the same")


@app.command()
def prove(
    package: Annotated[Path, typer.Argument(help="Model package.")],
    python: Annotated[
        Names | None, typer.Option(help="A Python to run it with: a command; repeat. Without it, those that are found.")
    ] = None,
    record: Annotated[bool, typer.Option("--record", help="Write what it ran on into the package.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a package's golden input on other runtimes and machines, and compare with its golden output."""
    _check_pythons(python)
    from .prove import interpreters, prove_package, record_runtimes

    proofs = prove_package(ModelPackage.load(package), python or interpreters())
    if record:
        record_runtimes(ModelPackage.load(package), proofs)
    if as_json:
        typer.echo(json.dumps([proof.to_data() for proof in proofs], indent=1))
        return
    for proof in proofs:
        typer.echo(
            f"{proof.runtime}: {100 * proof.agreement:.2f} % of frames agree, "
            f"|Δ log p| mean {proof.mean_difference:.4f}, max {proof.max_difference:.3f}"
        )


@app.command()
def page(
    run: Annotated[Path, typer.Argument(help="Run directory of `edge-stt train`.")],
    data: Annotated[Path, typer.Option(help="Manifest of representative clips.")],
    dev: Annotated[Path, typer.Option(help="Manifest to measure on.")],
    dev_clips: Annotated[int, typer.Option(min=1, help="Clips to take from it, evenly spread.")] = 120,
    decoding: Annotated[Path | None, typer.Option(help="Package whose lexicon is measured too.")] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="Page to write the figures into.")] = Path(
        "docs/conversion.md"
    ),
) -> None:
    """Measure all that docs/conversion.md tells of a model, and write it there with its picture."""
    _require_tensorflow()
    _check_paths(run, data, dev, decoding)
    from edge_stt.plot import require_matplotlib

    from .build import BuildConfig
    from .page import measure_page, write_page
    from .parity import GateConfig

    require_matplotlib()
    gate = GateConfig(clips=dev_clips)
    config = BuildConfig(run.name, "all", data=data, dev=dev, decoding=decoding, gate=gate)
    write_page(measure_page(run, config, (1, 3, 10, 30, 100, 300), _progress()), out)
    typer.echo(out)


def _require_tensorflow() -> None:
    for module in ("tensorflow", "keras"):
        if importlib.util.find_spec(module) is None:
            raise RuntimeMissingError(f"`edge-stt convert` needs {module}: pip install 'edge-stt[train]'")


# What can be known to be wrong without TensorFlow is said before it is loaded, which takes seconds.


def _check_pythons(commands: Names | None) -> None:
    if any(not command.strip() for command in commands or ()):
        raise UsageError("--python names a command that starts Python, and this is empty")


def _check_paths(run: Path, *inputs: Path | None) -> None:
    """Raise `DataError` where ``run`` is no training run, or one of the files and folders that are given is missing."""
    for name in ("config.json", "model.json", "best.npz"):
        if not (run / name).is_file():
            raise DataError(f"{run} is not a training run (it needs config.json, model.json and best.npz): no {name}")
    for path in inputs:
        if path is not None and not path.exists():
            raise DataError(f"{path}: there is no such file or folder; check the path")


def _read(notes: Path | None) -> str:
    try:
        return notes.read_text(encoding="utf-8") if notes else ""
    except (OSError, UnicodeDecodeError) as error:
        raise EdgeSttError(f"cannot read {notes}: {reason(error)}") from error


def _progress() -> Callable[[str], None]:
    """One line that changes on a terminal, with the seconds since the start; nothing elsewhere."""
    if not sys.stderr.isatty():
        return lambda text: None
    import time

    from rich.console import Console

    console, start, last = Console(stderr=True), time.monotonic(), [""]

    def say(text: str) -> None:
        if text != last[0]:
            last[0] = text
            console.print(f"{time.monotonic() - start:5.0f} s  {text}", markup=False, highlight=False)

    return say


def _print(table: Any) -> None:
    """A rich table, whole also where the output is no terminal."""
    from rich.console import Console

    console = Console()
    Console(width=None if console.is_terminal else 200).print(table)
