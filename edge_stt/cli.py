"""The command line: ``edge-stt COMMAND``. Errors are one line on stderr; exit code 2 for usage, 1 for failure."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Annotated

import typer

from . import __version__
from .commands import bench, decoder, doctor, lm, transcribe
from .errors import EdgeSttError, UsageError

WORKSTATION = {
    "train": "Train a model (on a workstation, from a checkout).",
    "convert": "Convert a trained model to a package (on a workstation, from a checkout).",
}

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Speech-to-text that you own: transcribe on the device, train and convert on a workstation.",
)
app.command("transcribe")(transcribe.transcribe)
app.command("doctor")(doctor.doctor)
app.command("bench")(bench.bench)
app.add_typer(lm.app, name="lm")
app.add_typer(decoder.app, name="decoder")


def _version(value: bool) -> None:
    if value:
        typer.echo(f"edge-stt {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def _workstation_command(name: str) -> typer.Typer:
    """The app of ``train`` or ``convert``, which live beside the device package in a checkout."""
    try:
        module = importlib.import_module(f"{name}.cli")
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        if missing in WORKSTATION:
            raise EdgeSttError(
                f"`edge-stt {name}` works from a checkout on a workstation: clone the repository and there "
                "`pip install -e '.[train]'`"
            ) from error
        raise EdgeSttError(f"`edge-stt {name}` needs {missing}: pip install 'edge-stt[train]'") from error
    command: typer.Typer = module.app
    return command


def _add_placeholders() -> None:
    """List the workstation commands in --help without importing them."""
    for name, text in WORKSTATION.items():
        app.command(name, help=text)(lambda: None)


_add_placeholders()


def main() -> None:
    """Entry point of the ``edge-stt`` command."""
    try:
        arguments = sys.argv[1:]
        if arguments and arguments[0] in WORKSTATION:
            _workstation_command(arguments[0])(arguments[1:], prog_name=f"edge-stt {arguments[0]}")
        else:
            app(prog_name="edge-stt")
    except UsageError as error:
        typer.echo(f"edge-stt: {error}", err=True)
        sys.exit(2)
    except EdgeSttError as error:
        typer.echo(f"edge-stt: {error}", err=True)
        sys.exit(1)
    except BrokenPipeError:
        # The reader went away (`| head`): not an error, and Python must not complain when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
