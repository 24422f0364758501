"""``edge-stt deploy``: put edge-stt on another machine over ssh."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path
from typing import Annotated

import typer

from ..errors import EdgeSttError, UsageError

BUILD = Path(__file__).parents[2] / "deploy" / "build-deb"  # there in a checkout


def deploy(
    host: Annotated[str, typer.Argument(help="The machine, as ssh takes it: pi@kitchen.")],
    deb: Annotated[
        Path | None, typer.Option(help="Debian package, or a folder of them; without it, built from the checkout.")
    ] = None,
    package: Annotated[Path | None, typer.Option(help="Model package to install there and use.")] = None,
    service: Annotated[bool, typer.Option("--service/--no-service", help="Enable and start the service.")] = True,
    ssh_options: Annotated[str, typer.Option(help="Options for ssh, as a shell splits them: '-p 2222'.")] = "",
) -> None:
    """Install edge-stt on another machine over ssh, start its service, and print what doctor says there.

    It can be run again and again. When the service or the model does not work there, or after Ctrl-C, all is put back
    as it was.
    """
    from ..debian_package import choose_deb, read_deb
    from ..deployment import Deployment, check, check_space, look
    from ..package import ModelPackage
    from ..remote import Remote

    options = _split(ssh_options)
    if deb is not None and not deb.is_dir():
        read_deb(deb)  # before the machine is asked anything
    if package is not None:
        ModelPackage.load(package)
    with Remote(host, options) as remote:
        device = look(remote)
        _say(f"{host}: {device.system}, {device.arch}, Python {device.python or 'not installed'}")
        try:
            check(device)
            chosen = choose_deb(deb or _build(device.arch, device.codename), device.arch, device.codename)
            check_space(device, chosen)
            lines = Deployment(remote, device, _say).run(chosen, package, service)
        except EdgeSttError as error:
            text = str(error)
            raise EdgeSttError(text if text.startswith(f"{host}: ") else f"{host}: {text}") from error
    for line in lines:
        typer.echo(line)
    if not device.systemd:
        _say("systemd does not run there: no service was started")
    if any(line.startswith("FAIL") for line in lines):
        raise typer.Exit(1)


def _split(ssh_options: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(ssh_options))
    except ValueError as error:
        raise UsageError(f"--ssh-options {ssh_options!r}: {str(error).lower()}") from error


def _build(arch: str, codename: str) -> Path:
    if not BUILD.exists():
        raise EdgeSttError("name the Debian package with --deb; a checkout's deploy/build-deb builds it")
    _say(f"building the package for {arch} and {codename}")
    done = subprocess.run([BUILD, arch, codename], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise EdgeSttError(f"{BUILD} failed")
    return Path(done.stdout.strip())


def _say(text: str) -> None:
    typer.echo(text, err=True)
