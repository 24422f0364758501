"""``edge-stt train``: from corpora to a trained run."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from edge_stt.errors import DataError, UsageError, reason
from edge_stt.language import load_language
from edge_stt.letter_lm import load_words

app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None, add_completion=False)
LanguageName = Annotated[str, typer.Option("--language", help="A name, or the path of a language file.")]


# What can be known to be wrong without TensorFlow is said before it is loaded, which takes seconds.


def _check_config(path: Path | None, overrides: Sequence[str] = ()) -> None:
    """Raise where a config cannot be read, or an override is no assignment."""
    try:
        if path is not None:
            tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # also what is no TOML, and no UTF-8
        raise DataError(f"the config {path} cannot be read: {reason(error)}") from error
    for override in overrides:
        if "=" not in override:
            raise UsageError(f"an override is section.key=value, not {override!r}")


def _check_set(folder: Path) -> None:
    """Raise `DataError` where there is no prepared set, nor shards of one."""
    if not (folder / "report.json").is_file():
        raise DataError(
            f"{folder} is not a prepared set (make one with `edge-stt train prepare`): no report.json in it"
        )


def _say_left_out(problem: str) -> None:
    typer.echo(f"left out: {problem}", err=True)


@app.callback(invoke_without_command=True)
def train(
    context: typer.Context,
    config: Annotated[Path | None, typer.Option(help="TOML file of the run; configs are in train/configs.")] = None,
    data: Annotated[Path | None, typer.Option(help="Prepared training set, or shards of one.")] = None,
    dev: Annotated[Path | None, typer.Option(help="Prepared set to choose the best weights on.")] = None,
    dev_corpus: Annotated[str | None, typer.Option(help="Score only this corpus of the dev set.")] = None,
    run: Annotated[Path | None, typer.Option(help="Run directory; one that exists is resumed.")] = None,
    init: Annotated[Path | None, typer.Option(help="Start from the weights (best.npz) of another run.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Override a setting: --set optimizer.learning_rate=1e-3")
    ] = None,
) -> None:
    """Train a model: `prepare` the corpora first, then give the prepared sets and a run directory."""
    if context.invoked_subcommand is not None:
        return
    if data is None or dev is None or run is None:
        raise UsageError("train needs --data, --dev and --run (and `edge-stt train prepare` makes the first two)")
    _check_config(config, set_ or ())
    for folder in (data, dev):
        _check_set(folder)
    if init is not None and not init.is_file():
        raise DataError(f"--init {init}: there is no such file; the weights of a run are its best.npz")
    from .config import load_config

    settings = load_config(config, set_)
    units = load_language(settings.language).units
    settings.check_heads(units)
    if settings.teacher.runs:
        from .finished import teachers_of

        teachers_of(settings, units)
    from .start import start_run

    start_run(settings, data, dev, run, dev_corpus, init)


@app.command()
def prepare(
    corpora: Annotated[
        list[Path],
        typer.Argument(help=".jsonl manifests, .csv tables, Common Voice .tsv, LJSpeech or LibriSpeech folders."),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the prepared set.")],
    noise: Annotated[Path | None, typer.Option(help="Manifest of noises to mix in.")] = None,
    no_speech: Annotated[
        list[Path] | None, typer.Option("--no-speech", help="Manifest of recordings in which nobody speaks.")
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="No augmented variants: for dev sets.")] = False,
    rooms: Annotated[
        int | None, typer.Option("--rooms", min=0, help="Copies of each clip in a room, with noise (1).")
    ] = None,
    processes: Annotated[int, typer.Option(min=1)] = 2,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first clip that cannot be used.")] = False,
    language: LanguageName = "english",
) -> None:
    """Check, decode and augment corpora into a prepared set; reports hours and what was left out."""
    if plain and rooms:
        raise UsageError("--plain makes no copies in rooms; leave out --rooms, or --plain")
    chosen = load_language(language)
    from .data import read_noises
    from .prepare import PrepareConfig, prepare

    noises = read_noises(noise, _say_left_out) if noise else []
    copies = 1 if rooms is None else rooms
    settings = PrepareConfig(speeds=(), room_copies=0) if plain else PrepareConfig(room_copies=copies)
    summary = prepare(corpora, out, settings, None, noises, processes, strict, chosen, no_speech or ())
    for problem in summary["left_out"]:
        _say_left_out(problem)
    for corpus, hours in summary["hours"].items():
        typer.echo(f"{corpus}\t{hours} h\t{summary['clips'][corpus]} clips\t{summary['speakers'][corpus]} speakers")


@app.command()
def shards(
    prepared: Annotated[Path, typer.Argument(help="Prepared set.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="New folder for the shards.")],
    megabytes: Annotated[float, typer.Option(min=0.001, help="Size of a shard.")] = 100.0,
) -> None:
    """Write a prepared set as TFRecord shards: for several workers, and sets too large for a disk near by."""
    _check_set(prepared)
    from .shards import write_shards

    typer.echo(f"{len(write_shards(prepared, out, int(megabytes * 1e6)))} shards in {out}")


@app.command()
def grow(
    run: Annotated[Path, typer.Argument(help="Run directory whose best weights are taken.")],
    config: Annotated[Path, typer.Option(help="TOML file with the larger network.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Weights to write, for `train --init`.")],
) -> None:
    """Widen and deepen a trained network without changing what it computes: training goes on from there."""
    _check_config(config)
    for name in ("config.json", "best.npz"):
        if not (run / name).is_file():
            raise DataError(f"{run} is not a training run: it has no {name}")
    from .config import load_config

    settings = load_config(config)
    heads = {name: len(units) for name, units in load_language(settings.language).units.items()}
    settings.model.check_heads(heads)
    from .grow import grow_run

    count = grow_run(run, settings, out, heads)
    typer.echo(f"{count / 1e6:.1f} M weights in {out}")


@app.command()
def simulate(
    manifest: Annotated[Path, typer.Argument(help="Manifest of clean clips.")],
    noise: Annotated[Path, typer.Option(help="Manifest of noises.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the clips and their manifest.")],
) -> None:
    """Play clips in simulated rooms, 2 to 4 m from the microphone, with noise at 5 to 15 dB: a far-field test set."""
    from .data import read_noises
    from .simulate import simulate

    typer.echo(simulate(manifest, read_noises(noise, _say_left_out), out, _say_left_out))


@app.command()
def augment(
    audio: Annotated[Path, typer.Argument(help="A recording.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the augmented versions and a picture.")],
    noise: Annotated[Path | None, typer.Option(help="A recording of noise; without it, white noise.")] = None,
) -> None:
    """Write each augmentation of a clip as WAV and a picture of their spectrograms, to hear and see what they do."""
    from .simulate import demonstrate

    for path in demonstrate(audio, out, noise):
        typer.echo(path)


@app.command()
def pieces(
    texts: Annotated[
        list[Path], typer.Argument(help="Texts, one sentence a line: plain or .gz; manifests (.jsonl, .csv).")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Language file to write.")],
    count: Annotated[int, typer.Option(min=2, help="Units, letters included.")] = 200,
    language: LanguageName = "english",
) -> None:
    """Write a language file whose units are pieces of words, for `train --set language=FILE`."""
    from .pieces import write_language

    extends = str(Path(language).absolute()) if "/" in language or language.endswith(".toml") else language
    found = write_language(texts, load_language(language), extends, count, out)
    typer.echo(f"{len(found)} units: {' '.join(found[-12:])} are the last of them", err=True)


@app.command()
def lexicon(
    lm: Annotated[Path, typer.Option(help="Language model whose words are taken: `edge-stt lm build` makes one.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Lexicon to write.")],
    language: LanguageName = "english",
) -> None:
    """Give every word of a language model its pronunciations: the dictionary's, or learned ones where it has none."""
    chosen = load_language(language)
    load_words(lm)
    from .lexicon import write_lexicon

    typer.echo(f"{len(write_lexicon(lm, out, language=chosen))} words in {out}")
