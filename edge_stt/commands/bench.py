"""``edge-stt bench``: error rates and speed of models, decoders, thread counts, modes and other engines, in one run.

What does the work is imported when it is asked for: all commands load this module, and start sooner without.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import __version__
from ..engines import ENGINES, Variant, installed_engines
from ..errors import DataError, EdgeSttError, PackageError, UsageError

if TYPE_CHECKING:
    from ..benchmark import TestSet
    from ..figures import Change, Scored
    from ..report import Report
    from ..text import Normaliser

DEMO = Path(__file__).parent.parent / "data" / "demo.opus"
MODES = ("offline", "stream")

Paths = list[Path]
Names = list[str]


def bench(
    manifests: Annotated[
        Paths | None,
        typer.Argument(help="Manifests (.jsonl, .csv), LibriSpeech or LJSpeech folders; without any, the demo clip."),
    ] = None,
    model: Annotated[Paths | None, typer.Option(help="Model package; repeat for several.")] = None,
    decoder: Annotated[Names | None, typer.Option(help="greedy, beam or lexicon; repeat for several.")] = None,
    threads: Annotated[list[int] | None, typer.Option(min=1, max=64, help="Threads (1); repeat for several.")] = None,
    mode: Annotated[Names | None, typer.Option(help="offline or stream (offline); repeat for both.")] = None,
    engine: Annotated[
        Names | None,
        typer.Option(help=f"Another engine beside: {', '.join(list(ENGINES)[1:])}, NAME=MODEL, or all installed ones."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most this many clips of each set, evenly spread.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="How often each clip is measured; the median counts.")] = 3,
    output: Annotated[Path | None, typer.Option(help="Folder for bench.json, .csv, .md, .png and .svg.")] = None,
    errors: Annotated[Path | None, typer.Option(help="Write a page with alignments, confusions and audio.")] = None,
    compare: Annotated[Path | None, typer.Option(help="bench.json of an earlier run to compare with.")] = None,
    threshold: Annotated[
        float, typer.Option(min=0.0, help="With --compare: points of WER that a significant loss may be.")
    ] = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines instead of a table.")] = False,
) -> None:
    """Measure accuracy and speed: WER and CER with intervals, RTF, latency, memory, of all combinations asked for.

    Exit code 1 when something failed, or with --compare when WER rose significantly and by more than --threshold.
    """
    from ..benchmark import load_sets, run
    from ..figures import check_comparable, cut_off_warnings, read_run, tabulate
    from ..machine import condition, machine, throttling_between
    from ..report import Report, write_atomically

    if threshold and compare is None:
        raise UsageError("--threshold is for --compare, which names the earlier run")
    variants, notes = choose_variants(model, decoder, threads, mode, engine)
    _check_outputs(output, errors)
    old = read_run(compare) if compare else None
    sets = load_sets(manifests, limit, common_normaliser(model)) if manifests else [demo_set()]
    if old is not None:
        check_comparable(old, sets, variants)
    for note in notes:
        typer.echo(f"edge-stt: {note}", err=True)
    before = condition()
    with _progress(sum(len(s.clips) for s in sets) * len(variants) * repeats) as advance:
        measured = run(sets, variants, repeats, advance)
    after = condition()
    scored = tabulate(measured, sets)
    changes, incomparable = _compare(old, scored)
    report = Report(
        __version__,
        machine(),
        before,
        after,
        repeats,
        scored,
        [*throttling_between(before, after), *cut_off_warnings(scored)],
        [*measured.failures, *incomparable],
        changes,
    )
    for line in [*report.warnings, *report.failures]:
        typer.echo(f"edge-stt: {line}", err=True)
    if scored:
        _print(report, as_json)
    if output and scored:
        _write(report, output)
    if errors and scored:
        from ..error_page import error_page

        write_atomically(errors, error_page(report, sets))
    worse = [c for c in report.changes if c.verdict == "worse" and c.points > threshold]
    if worse:
        typer.echo(f"edge-stt: worse by more than {threshold:g} points of WER: {len(worse)} of the results", err=True)
    if worse or report.failures:
        raise typer.Exit(1)


def _compare(old: dict[str, Any] | None, scored: Sequence[Scored]) -> tuple[list[Change], list[str]]:
    """Changes since an earlier run, and why there are none: what was measured is worth showing all the same."""
    from ..figures import compare_runs

    if old is None or not scored:
        return [], []
    try:
        return compare_runs(old, scored), []
    except DataError as error:
        return [], [f"--compare: {error}"]


def choose_variants(
    models: Paths | None,
    decoders: Names | None,
    threads: list[int] | None,
    modes: Names | None,
    engines: Names | None,
) -> tuple[list[Variant], list[str]]:
    """All combinations, and notes about those that cannot be; raises `UsageError` for unknown names."""
    from ..decoders import check_decoder

    modes = modes or ["offline"]
    for mode in modes:
        if mode not in MODES:
            raise UsageError(f"unknown mode {mode!r}; choose offline or stream")
    for decoder in decoders or []:
        check_decoder(decoder)
    counts, notes = threads or [1], []
    paths: list[str | None] = [str(path) for path in models] if models else [None]
    chosen: list[str | None] = [*decoders] if decoders else [None]
    variants = [
        Variant("edge-stt", path, decoder, count, mode)
        for path, decoder, count, mode in itertools.product(paths, chosen, counts, modes)
    ]
    wanted: list[tuple[str, str | None]] = []
    for given in engines or []:
        name, _, model = given.partition("=")
        if name == "all":
            wanted += [(found, None) for found in installed_engines()]
        elif name in ENGINES:
            wanted.append((name, model or None))
        else:
            raise UsageError(f"unknown engine {name!r}; known: {', '.join(ENGINES)}, all")
    for (name, engine_model), mode in itertools.product(wanted, modes):
        if mode == "stream" and not ENGINES[name].streams:
            notes.append(f"{name} is measured offline only")
            continue
        # An engine that does not take a number of threads is measured once.
        for count in counts if ENGINES[name].threads else counts[:1]:
            variants.append(Variant(name, engine_model, None, count, mode))
    return list(dict.fromkeys(variants)), notes


def common_normaliser(models: Paths | None) -> Normaliser | None:
    """How texts are written in the language of the models; raises `UsageError` when they have different ones."""
    from ..package import ModelPackage
    from ..recogniser import default_model

    found = {}
    for path in models or [default_model()]:
        with suppress(PackageError):  # that one cannot be loaded is said where it is measured
            found[str(path)] = ModelPackage.load(path).info.normaliser
    names = {path: normaliser.name for path, normaliser in found.items()}
    if len(set(names.values())) > 1:
        described = ", ".join(f"{path} ({name})" for path, name in names.items())
        raise UsageError(f"the models are of different languages: {described}; measure them one by one")
    return next(iter(found.values()), None)


def demo_set() -> TestSet:
    """The clip that comes along: enough to see how fast a machine is, not how good a model is."""
    from ..benchmark import TestSet
    from ..corpora import Clip
    from ..text import normalise_text

    text = DEMO.with_suffix(".txt").read_text(encoding="utf-8").strip()
    clip = Clip("demo", "demo", "LJ", DEMO, 0.0, text, str(DEMO))
    return TestSet("demo clip", (clip,), (normalise_text(text),))


def _check_outputs(folder: Path | None, page: Path | None) -> None:
    """Say at once what would fail after an hour of measuring."""
    from ..scoring import require_jiwer

    if page:
        require_jiwer()
    if folder:
        from ..plot import require_matplotlib

        require_matplotlib()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EdgeSttError(f"cannot write {folder}: {error.strerror}") from error
    if page and (page.is_dir() or not page.parent.is_dir()):
        raise EdgeSttError(f"cannot write {page}: it is a folder, or its folder does not exist")


def _print(report: Report, as_json: bool) -> None:
    from ..report import change_lines, print_table, summary, to_markdown

    if as_json:
        for row in report.rows:
            typer.echo(json.dumps(asdict(row)))
        for change in report.changes:
            typer.echo(json.dumps({"change": asdict(change)}))
        return
    if sys.stdout.isatty():
        from rich.console import Console

        print_table(report.rows, Console())
        for line in change_lines(report.changes):
            typer.echo(line)
    else:
        typer.echo(to_markdown(report), nl=False)
    typer.echo(f"\n{summary(report)}")


def _write(report: Report, folder: Path) -> None:
    """All formats."""
    from ..plot import plot
    from ..report import to_csv, to_json, to_markdown, write_atomically

    contents: dict[str, str | bytes] = {
        "bench.json": to_json(report),
        "bench.csv": to_csv(report.rows),
        "bench.md": to_markdown(report),
    }
    for name, content in contents.items():
        write_atomically(folder / name, content)
    for kind, picture in plot(report.rows).items():
        write_atomically(folder / f"bench.{kind}", picture)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """A bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("Measuring"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.advance(task)
