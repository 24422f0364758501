"""``edge-stt lm``: train, measure, inspect and convert word language models."""

from __future__ import annotations

import itertools
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from .. import lm_arpa
from ..errors import DataError, UsageError, reason
from ..language import load_language
from ..letter_lm import is_of_letters, spell
from ..lm import LanguageModel, measure_perplexity
from ..lm_build import BuildConfig, build
from ..lm_count import Progress, read_sentences

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Train and inspect word language models.",
)

Texts = Annotated[
    list[Path], typer.Argument(help="Texts, one sentence a line: plain or .gz; manifests (.jsonl, .csv).")
]
AsIs = Annotated[bool, typer.Option("--as-is", help="The texts are normalised already: only split at spaces.")]
Language = Annotated[str, typer.Option(help="Language of the texts: a name, or the path of a language file.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")]
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMG]?)B?", re.IGNORECASE)
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


def parse_size(text: str) -> int:
    """``"6M"`` → 6,000,000 bytes. Raises `UsageError`."""
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise UsageError(f"{text!r} is not a size: write it as 6M, 500k or 6000000")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def _counts(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.replace(",", " ").split())
    except ValueError:
        raise UsageError(f"{text!r} is no list of numbers to prune by: write one for each order, as in 0,0,1") from None


def _read_vocabulary(path: Path) -> tuple[str, ...]:
    """First word of each line, so that a pronunciation lexicon serves as well."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the vocabulary {path} cannot be read: {reason(error)}") from error
    return tuple(line.split()[0] for line in lines if line.strip())


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar on stderr if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda what, done: None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda what, done: bar.update(task, description=what.capitalize(), completed=done)


def _is_arpa(path: Path) -> bool:
    return path.name.endswith((".arpa", ".arpa.gz"))


def _check_output(path: Path, overwrite: bool) -> None:
    """Say at once where a model will not be written, not after the work."""
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name a file to write the model to")
    if path.is_file() and not overwrite:  # a device or a pipe is written to
        raise DataError(f"{path} exists; choose another name or overwrite it (--overwrite)")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"there is no folder {path.absolute().parent} to write {path.name} to")


def _write(model: LanguageModel, path: Path) -> None:
    if _is_arpa(path):
        lm_arpa.write(model, path)
    else:
        model.save(path)


def _summary(model: LanguageModel, path: Path) -> str:
    counts = ", ".join(f"{count:,} {n}-grams" for n, count in enumerate(model.counts, 1))
    return f"{path}: {counts}; {path.stat().st_size / 1e6:.2f} MB"


@app.command("build")
def build_command(
    texts: Texts,
    output: Annotated[Path, typer.Option("--output", "-o", help="ARPA if named .arpa or .arpa.gz, else compact form.")],
    order: Annotated[int, typer.Option(help="Longest n-gram.")] = 3,
    vocabulary: Annotated[Path | None, typer.Option(help="File of words, one a line; others become <unk>.")] = None,
    vocabulary_size: Annotated[int | None, typer.Option(min=1, help="Only so many of the most frequent words.")] = None,
    min_count: Annotated[int, typer.Option(min=1, help="Only words that occur so often.")] = 1,
    prune: Annotated[str, typer.Option(help="Drop n-grams that occur so often or less, by order: 0,0,1.")] = "",
    prune_entropy: Annotated[
        float | None, typer.Option(min=0.0, help="Drop n-grams that matter less to perplexity than this: 1e-8.")
    ] = None,
    size: Annotated[str | None, typer.Option(help="Drop what matters least until the compact file fits: 6M.")] = None,
    as_is: AsIs = False,
    letters: Annotated[bool, typer.Option("--letters", help="Of letters, for the decoder beam: --order 8.")] = False,
    language: Language = "english",
    memory: Annotated[str, typer.Option(help="Memory to count in; more goes to temporary files.")] = "1G",
    overwrite: Overwrite = False,
) -> None:
    """Train a model with modified Kneser-Ney smoothing."""
    if vocabulary is not None and (vocabulary_size is not None or min_count > 1):
        raise UsageError("give a vocabulary file, or its size and counts, not both")
    config = BuildConfig(
        order=order,
        vocabulary=None if vocabulary is None else _read_vocabulary(vocabulary),
        vocabulary_size=vocabulary_size,
        min_count=min_count,
        prune_counts=_counts(prune),
        prune_entropy=prune_entropy,
        size=None if size is None else parse_size(size),
        normalise=not as_is,
        normaliser=load_language(language).normaliser,
        memory=parse_size(memory),
        letters=letters,
    )
    if output.exists() and any(output.samefile(text) for text in texts if text.exists()):
        raise UsageError(f"{output} is one of the texts; name another file to write the model to")
    _check_output(output, overwrite)
    with _progress() as progress:
        model = build(texts, config, progress)
        progress("writing", 0.0)
        _write(model, output)
    typer.echo(_summary(model, output), err=True)


@app.command("perplexity")
def perplexity_command(
    model: Annotated[Path, typer.Argument(help="Language model, compact form or ARPA.")],
    texts: Texts,
    as_is: AsIs = False,
    language: Language = "english",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Perplexity of texts, with and without words that the model does not know; by letter for a model of letters."""
    normaliser = load_language(language).normaliser
    lm = LanguageModel.load(model)
    unit = "letters" if is_of_letters(lm) else "words"
    read = itertools.chain.from_iterable(read_sentences(p, not as_is, normaliser=normaliser) for p in texts)
    result = measure_perplexity(lm, map(spell, read) if unit == "letters" else read)
    if not result.sentences:
        raise DataError("the texts have no words")
    rate = result.unknown_words / result.words
    if as_json:
        more = {"including_unknown": result.including_unknown, "excluding_unknown": result.excluding_unknown}
        typer.echo(json.dumps({**asdict(result), **more, "unknown_rate": rate}))
        return
    typer.echo(f"sentences             {result.sentences:>12,}")
    typer.echo(f"{unit:<22}{result.words:>12,}")
    typer.echo(f"{f'unknown {unit}':<22}{result.unknown_words:>12,} ({100 * rate:.2f} %)")
    typer.echo(f"perplexity            {result.including_unknown:>12.2f}")
    typer.echo(f"{f'without unknown {unit}':<24}{result.excluding_unknown:>10.2f}")


@app.command("info")
def info_command(model: Annotated[Path, typer.Argument(help="Language model, compact form or ARPA.")]) -> None:
    """Check a model and say how large it is."""
    typer.echo(_summary(LanguageModel.load(model), model))


@app.command("convert")
def convert_command(
    source: Annotated[Path, typer.Argument(help="Language model, compact form or ARPA.")],
    target: Annotated[Path, typer.Argument(help="ARPA if named .arpa or .arpa.gz, else compact form.")],
    overwrite: Overwrite = False,
) -> None:
    """Write a model in the other form."""
    _check_output(target, overwrite)
    model = LanguageModel.load(source)
    _write(model, target)
    typer.echo(_summary(model, target), err=True)
