"""``edge-stt model``: install model packages, choose one, go back to the one before."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import EdgeSttError, reason
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
SERVICE = "edge-stt.service"
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

    store = _store(require_signature, public_key)
    with tempfile.TemporaryDirectory(prefix="edge-stt-") as folder:
        source = fetch(package, Path(folder) / "package.zip") if "://" in package else Path(package)
        installed = store.install(source)
    if use_it:
        store.use(installed.name)
        _reload_service()
    typer.echo(f"{installed.name}: installed{' and active' if use_it else ''}")


@app.command("list")
def list_(as_json: Annotated[bool, typer.Option("--json", help="A JSON list instead of lines.")] = False) -> None:
    """List the installed models: the active one, the one before it, and the one that comes along."""
    entries = [(entry.name, entry.state, str(entry.path)) for entry in _store().installed()]
    active = any(state == "active" for _, state, _ in entries)
    entries.append(("(comes along)", "" if active else "active", str(DEFAULT_MODEL)))
    if as_json:
        typer.echo(
            json.dumps([dict(zip(("name", "state", "path"), entry, strict=True)) for entry in entries], indent=1)
        )
        return
    for name, state, _ in entries:
        typer.echo(f"{state or '-':9}{name}")


@app.command()
def use(
    name: Annotated[str, typer.Argument(help="Name of an installed model, or the beginning of it.")],
    require_signature: RequireSignature = False,
    public_key: PublicKey = None,
) -> None:
    """Make an installed model the active one, once it has given the outputs it promises."""
    chosen = _store(require_signature, public_key).use(name)
    _reload_service()
    typer.echo(f"{chosen.name}: active")


@app.command()
def rollback() -> None:
    """Go back to the model that was active before; a second time goes forward again."""
    active = _store().rollback()
    _reload_service()
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

    models = load(DaemonConfig(), default_path(), {}).models
    key = models.public_key if public_key is None else public_key
    if key and not key.startswith("RW"):
        try:
            key = Path(key).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise EdgeSttError(f"cannot read the public key {key}: {reason(error)}") from error
    return ModelStore(config=ModelsConfig(models.require_signature or require_signature, key))


def _reload_service() -> None:
    """Let the running service take the model now; it keeps its microphone."""
    systemctl = shutil.which("systemctl")
    if systemctl is None or not Path("/run/systemd/system").is_dir():
        return
    running = subprocess.run([systemctl, "is-active", "--quiet", SERVICE], capture_output=True, check=False)
    if running.returncode:
        return
    done = subprocess.run([systemctl, "reload", SERVICE], capture_output=True, text=True, check=False)
    if done.returncode:
        typer.echo(f"edge-stt: the service runs on with its old model: systemctl reload {SERVICE}", err=True)
