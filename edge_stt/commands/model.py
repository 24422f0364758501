"""``edge-stt model``: install model packages, choose one, go back to the one before."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError
from ..recogniser import DEFAULT_MODEL

if TYPE_CHECKING:
    from ..model_store import ModelStore

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
    help="Install model packages, choose one, go back to the one before.",
)
# The services that load a model, and how each takes another: the Wyoming server cannot reload.
SYSTEM_SERVICES = (("edge-stt.service", "reload"), ("edge-stt-wyoming.service", "try-restart"))
USER_SERVICES = (("edge-stt-user.service", "reload"),)
SHIPPED = "shipped"  # for `model use`
SYSTEMD = Path("/run/systemd/system")  # there if systemd runs: sd_booted(3)
CGROUPS = Path("/sys/fs/cgroup")
RequireSignature = Annotated[
    bool, typer.Option("--require-signature", help="Take signed packages only, whatever the configuration says.")
]
PublicKey = Annotated[str | None, typer.Option(help="The signer's minisign key, or the file that holds it.")]


@app.command()
def install(
    package: Annotated[str, typer.Argument(help="Model package: a folder, a zip, or the https address of a zip.")],
    use_it: Annotated[bool, typer.Option("--use/--no-use", help="Make it the active model at once.")] = True,
    require_signature: RequireSignature = False,
    public_key: PublicKey = None,
) -> None:
    """Verify a package and copy it to the installed models; it becomes the active one."""
    from ..downloads import fetch

    if not package:  # an unset variable of a shell; as a Path it would be the current folder
        raise UsageError("the name of the package is empty; name a folder, a zip or an https address")
    store = _store(require_signature, public_key)
    with tempfile.TemporaryDirectory(prefix="edge-stt-") as folder:
        source = fetch(package, Path(folder) / "package.zip") if "://" in package else Path(package)
        installed = store.install(source)
    if use_it:
        store.use(installed.name)
        _tell_services()
    typer.echo(f"{installed.name}: installed{' and active' if use_it else ''}")


@app.command("list")
def list_(as_json: Annotated[bool, typer.Option("--json", help="A JSON list instead of lines.")] = False) -> None:
    """List the installed models: the active one, the one before it, and the one that comes along."""
    from ..model_store import CHOOSE, active_model, missing_model

    entries = [(entry.name, entry.state, str(entry.path)) for entry in _store().installed()]
    missing = missing_model()
    if missing is not None:
        entries.append((missing.name, missing.state, str(missing.path)))
        typer.echo(f"edge-stt: the active model {missing.name} has been deleted; {CHOOSE}", err=True)
    elif not any(state == "active" for _, state, _ in entries) and (active := active_model()) is not None:
        entries.append((active.name, "active", str(active)))  # of the system, where this user has chosen none
    chosen = any(state in ("active", "missing") for _, state, _ in entries)
    entries.append(("(comes along)", "" if chosen else "active", str(DEFAULT_MODEL)))
    if as_json:
        typer.echo(
            json.dumps([dict(zip(("name", "state", "path"), entry, strict=True)) for entry in entries], indent=1)
        )
        return
    for name, state, _ in entries:
        typer.echo(f"{state or '-':9}{name}")


@app.command()
def use(
    name: Annotated[
        str,
        typer.Argument(
            help=f"Name of an installed model, or the beginning of it; {SHIPPED}: the one that comes along."
        ),
    ],
    require_signature: RequireSignature = False,
    public_key: PublicKey = None,
) -> None:
    """Make an installed model the active one, once it has given the outputs it promises."""
    if name == SHIPPED:
        _store().use_shipped()
        _tell_services()
        typer.echo("the model that comes along: active")
        return
    chosen = _store(require_signature, public_key).use(name)
    _tell_services()
    typer.echo(f"{chosen.name}: active")


@app.command()
def rollback() -> None:
    """Go back to the model that was active before; a second time goes forward again."""
    active = _store().rollback()
    _tell_services()
    typer.echo(f"{active.name if active else 'the model that comes along'}: active")


@app.command()
def remove(name: Annotated[str, typer.Argument(help="Name of an installed model, or the beginning of it.")]) -> None:
    """Delete an installed model that is neither active nor the one before it."""
    typer.echo(f"{_store().remove(name).name}: removed")


def _store(require_signature: bool = False, public_key: str | None = None) -> ModelStore:
    """The store of this user, under the rules of the configuration and of the flags."""
    from ..daemon_config import DaemonConfig, default_path
    from ..model_store import ModelsConfig, ModelStore
    from ..settings import load
    from ..signatures import read_public_key

    models = load(DaemonConfig(), default_path(), {}).models
    key = models.public_key if public_key is None else public_key
    read_public_key(key)  # that its file is there, also where no signature is asked for
    return ModelStore(config=ModelsConfig(models.require_signature or require_signature, key))


def _tell_services() -> None:
    """Let the running services that load from this user's store take the model now, and say which were told.

    The daemon keeps its microphone. The Wyoming server first finishes the requests that run, and then begins anew.
    Root's model may serve the services of users too, which root cannot tell without opening a session of theirs: each
    is named, with what its user has to say.
    """
    systemctl = shutil.which("systemctl")
    if systemctl is None or not SYSTEMD.is_dir():
        return
    own = os.geteuid() != 0
    command = [systemctl, "--user"] if own else [systemctl]
    for unit, verb in USER_SERVICES if own else SYSTEM_SERVICES:
        running = subprocess.run([*command, "is-active", "--quiet", unit], capture_output=True, check=False)
        if running.returncode:
            continue
        if subprocess.run([*command, verb, unit], capture_output=True, check=False).returncode:
            again = f"systemctl {'--user ' if own else ''}{verb} {unit}"
            typer.echo(f"edge-stt: {unit} did not take the new model; try again: {again}", err=True)
        else:
            typer.echo(f"edge-stt: {unit} was told to take the new model", err=True)
    for unit, verb in () if own else USER_SERVICES:
        for user in _users_that_run(unit):
            typer.echo(
                f"edge-stt: {unit} of {user} was not told; unless it has a model of its own, say as {user}: "
                f"systemctl --user {verb} {unit}",
                err=True,
            )


def _users_that_run(unit: str) -> list[str]:
    """Who runs a service of that name in a session, by systemd's control groups: each running unit is a folder."""
    import pwd

    users = []
    for folder in sorted(CGROUPS.glob(f"user.slice/user-*.slice/user@*.service/*/{unit}")):
        number = folder.parts[-3].removeprefix("user@").removesuffix(".service")
        try:
            users.append(pwd.getpwuid(int(number)).pw_name)
        except (ValueError, KeyError):
            users.append(number)
    return users
