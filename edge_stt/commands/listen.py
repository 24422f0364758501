"""``edge-stt listen``: the voice daemon, in a terminal or under systemd."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..daemon_config import SYSTEM_PATH, DaemonConfig, default_path
from ..errors import EdgeSttError, UsageError
from ..listen_process import Task, become
from ..setting_flags import given as given_settings
from ..setting_flags import with_settings
from ..settings import to_toml
from .raw_pcm import RawChannels, RawRate, raw_format


def run(
    config: Annotated[
        Path | None, typer.Option(help=f"Settings; without it ~/.config/edge-stt/config.toml or {SYSTEM_PATH}.")
    ] = None,
    check_config: Annotated[bool, typer.Option("--check-config", help="Check the settings and the model.")] = False,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print all settings, to make a file of.")
    ] = False,
    list_devices: Annotated[bool, typer.Option("--list-devices", help="Print the microphones there are.")] = False,
    input: Annotated[str | None, typer.Option(help="A sound file, or - for standard input; no microphone.")] = None,
    fast: Annotated[bool, typer.Option("--fast", help="Read --input as fast as possible, not as it was said.")] = False,
    rate: RawRate = None,
    channels: RawChannels = None,
    **flags: Any,
) -> None:
    """Turn speech into events: JSON lines on standard output, a Unix socket, commands.

    Every setting of the TOML file is a flag too, and a flag counts more. SIGHUP reads the file again, SIGTERM finishes
    the utterance and ends.
    """
    if list_devices:
        _list_devices()
        return
    if print_config:
        typer.echo(to_toml(DaemonConfig), nl=False)
        return
    given = given_settings(DaemonConfig, flags)

    raw = raw_format(rate, channels, input == "-", "--input -")
    task = Task(None if config is None else str(config), given, input, fast, raw)
    settings = task.settings()
    if check_config:
        from ..daemon import try_out

        try_out(settings)
        typer.echo(f"{config or default_path() or 'defaults and flags'}: the settings are good")
        return
    if fast and input in (None, "-"):
        raise UsageError("--fast needs --input FILE: a microphone or a pipe has its own pace")
    become(task)


def _list_devices() -> None:
    from ..capture_process import list_devices

    devices = list_devices()
    for device in devices:
        mark = " (default)" if device["default"] else ""
        typer.echo(f"{device['name']}\t{device['rate']} Hz\t{device['channels']} channels{mark}")
    if not devices:
        raise EdgeSttError("no microphone was found; plug one in, and see that this user is in the group audio")


listen = with_settings(run, DaemonConfig)
