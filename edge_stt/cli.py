"""The command line: ``edge-stt COMMAND``. Errors are one line on stderr; exit code 2 for usage, 1 for failure."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable
from typing import Annotated

import typer

from . import __version__
from .errors import EdgeSttError
from .exits import raise_at_ctrl_c, run_to_exit

# Threads of numpy's OpenBLAS wait for their next product in a loop, and the products here are small: one computes as
# fast and leaves the other cores alone. The network has threads of its own. (Read when numpy is first imported.)
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

COMMANDS = (
    "transcribe",
    "listen",
    "serve",
    "endpoints",
    "wake",
    "doctor",
    "bench",
    "lm",
    "decoder",
    "model",
    "deploy",
)  # each a module of `edge_stt.commands`
HELP = ["-h", "--help"]
WORKSTATION = {
    "train": "Train a model (on a workstation, from a checkout).",
    "convert": "Convert a trained model to a package (on a workstation, from a checkout).",
}


def _version(value: bool) -> None:
    if value:
        typer.echo(f"edge-stt {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def _workstation_command(name: str) -> typer.Typer:
    """The app of ``train`` or ``convert``, which live beside the device package in a checkout."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's remarks on the processor are nobody's business
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


def build_app(names: Iterable[str] = COMMANDS) -> typer.Typer:
    """The app with these commands. A module holds a function of the command's name, or an ``app`` of subcommands."""
    app = typer.Typer(
        no_args_is_help=True,
        add_completion=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": HELP},
        help="Speech-to-text that you own: transcribe on the device, train and convert on a workstation.",
    )
    app.callback()(_options)
    for name in names:
        module = importlib.import_module(f".commands.{name}", __package__)
        if hasattr(module, "app"):
            app.add_typer(module.app, name=name)
        else:
            app.command(name)(getattr(module, name))
    for name, text in WORKSTATION.items():  # listed in --help, not imported
        app.command(name, help=text)(lambda: None)
    return app


def main() -> None:
    """The command line, on arguments and exit code of the process; `edge_stt.__main__` is the entry point."""
    run_to_exit(_run)


def _run() -> None:
    arguments, program, more = sys.argv[1:], "edge-stt", {}
    if arguments and arguments[0] in COMMANDS:
        app = build_app([arguments[0]])  # importing the others would take a tenth of a second
    elif arguments and arguments[0] in WORKSTATION:
        name, *arguments = arguments
        app, program, more = _workstation_command(name), f"edge-stt {name}", {"help_option_names": HELP}
    else:
        app = build_app()
    raise_at_ctrl_c()  # until here there was nothing that it could leave half done
    app(arguments, prog_name=program, **more)


if __name__ == "__main__":
    main()
