"""``edge-stt serve``: speech-to-text for other programs, over the Wyoming protocol."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from ..byte_streams import printable_path
from ..daemon_config import SYSTEM_PATH, DaemonConfig, default_path
from ..errors import UsageError
from ..model_store import ModelsConfig, check_active
from ..setting_flags import given, with_settings
from ..settings import apply, load, read_toml, to_toml
from ..wyoming.config import ServeConfig
from ..wyoming.protocol import Address

CONFIG_PATH = SYSTEM_PATH.with_name("serve.toml")


def run(
    config: Annotated[Path | None, typer.Option(help=f"Settings; without it {CONFIG_PATH}, if it exists.")] = None,
    check_config: Annotated[bool, typer.Option("--check-config", help="Check the settings and the model.")] = False,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print all settings, to make a file of.")
    ] = False,
    **flags: Any,
) -> None:
    """Recognise what Home Assistant and other clients of the Wyoming protocol send.

    Every setting of the TOML file is a flag too, and a flag counts more. SIGTERM finishes what is going on and ends.
    """
    if print_config:
        typer.echo(to_toml(ServeConfig), nl=False)
        return
    path = config or (CONFIG_PATH if os.access(CONFIG_PATH, os.F_OK) else None)
    settings = load(ServeConfig(), path, given(ServeConfig, flags))
    for uri in settings.wyoming.listen:
        Address.parse(uri)
    check_active(_models_config(), settings.recogniser.model)
    if check_config:
        settings.recogniser.load_options().load()
        typer.echo(f"{path or 'defaults and flags'}: the settings are good")
        return
    if not settings.wyoming.listen and os.environ.get("LISTEN_PID") != str(os.getpid()):
        raise UsageError("say where to listen: --wyoming tcp://0.0.0.0:10300, or unix:///PATH")
    from ..notify import set_up_logging
    from ..wyoming.server import serve as serve_wyoming

    set_up_logging(settings.log.level)
    serve_wyoming(settings)


def _models_config() -> ModelsConfig:
    """Which models may be loaded: the section of the daemon's settings, which `edge-stt model` goes by too.

    Mistakes in other sections are the daemon's own affair. Raises `ConfigError`.
    """
    path = default_path()
    if path is None:
        return ModelsConfig()
    values = {name: value for name, value in read_toml(path).items() if name.startswith("models.")}
    return apply(DaemonConfig(), values, printable_path(path)).models


serve = with_settings(run, ServeConfig)
