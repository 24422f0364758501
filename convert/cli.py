"""``edge-stt convert``: a trained run to a model package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge_stt.package import CARD_FILE

from .build import MODES, BuildConfig, build_package
from .calibration import calibration_clips
from .graph import load_run

app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None, add_completion=False)


@app.command()
def convert(
    run: Annotated[Path, typer.Argument(help="Run directory of `edge-stt train`.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Package to write: a folder, or a .zip.")],
    quantize: Annotated[str, typer.Option(help=f"One of {', '.join(MODES)}.")] = "dynamic",
    data: Annotated[
        Path | None, typer.Option(help="Manifest of representative clips (int8 and int16x8 need one).")
    ] = None,
    clips: Annotated[int, typer.Option(min=1, help="Representative clips to take from it.")] = 100,
    name: Annotated[str | None, typer.Option(help="Name of the model; without it, the package's file name.")] = None,
    licence: Annotated[str, typer.Option(help="Licence of the weights.")] = "CC BY 4.0",
    notes: Annotated[Path | None, typer.Option(help="Markdown file for the model card: data, use, limits.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing package.")] = False,
) -> None:
    """Quantise a trained model and write it as a verified package."""
    text = notes.read_text(encoding="utf-8") if notes else ""
    config = BuildConfig(name or out.stem, quantize, licence, notes=text)
    package = build_package(
        run, out, config, calibration_clips(data, clips, load_run(run)) if data else None, overwrite
    )
    typer.echo(package.read(CARD_FILE).decode() if CARD_FILE in package.files else str(out))
