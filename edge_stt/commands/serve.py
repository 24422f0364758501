"""``edge-stt serve``: speech-to-text for other programs, over the Wyoming protocol."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from ..daemon_config import SYSTEM_PATH
from ..errors import UsageError
from ..setting_flags import given, with_settings
from ..settings import load, to_toml
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


serve = with_settings(run, ServeConfig)
