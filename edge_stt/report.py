"""A benchmark's results as table, Markdown, CSV and JSON, and the line to send to somebody."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from .figures import Change, Figure, Row, Scored, clip_data
from .files import write_atomically as write_atomically  # noqa: PLC0414 - `bench` takes it from here
from .machine import Condition, Machine, pi_flag_names

FORMAT = 1


@dataclass(frozen=True)
class Report:
    """Everything a run has to say."""

    version: str
    machine: Machine
    before: Condition
    after: Condition
    repeats: int
    scored: Sequence[Scored]
    warnings: Sequence[str]
    failures: Sequence[str]
    changes: Sequence[Change] = ()

    @property
    def rows(self) -> list[Row]:
        """One a set and variant."""
        return [s.row for s in self.scored]


def to_json(report: Report) -> str:
    """All figures, and each clip's texts and counts: what `--compare` reads."""
    data = {
        "format": FORMAT,
        "edge_stt": report.version,
        "normaliser": _normalisers(report),
        "rtf": "processing time divided by duration of the audio; lower is faster",
        "machine": asdict(report.machine),
        "before": asdict(report.before),
        "after": asdict(report.after),
        "repeats": report.repeats,
        "warnings": list(report.warnings),
        "failures": list(report.failures),
        "results": [{**asdict(s.row), "clip_results": clip_data(s)} for s in report.scored],
        "changes": [asdict(change) for change in report.changes],
        "summary": summary(report),
    }
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"


def _normalisers(report: Report) -> str:
    return ", ".join(dict.fromkeys(row.normaliser for row in report.rows))


def to_csv(rows: Sequence[Row]) -> str:
    """One line a row, all figures."""
    out = io.StringIO()
    writer = csv.DictWriter(out, [f.name for f in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return out.getvalue()


def name(row: Row) -> str:
    """A row's variant, short."""
    model = row.model.split(" (")[0]
    return f"{model if row.engine == 'edge-stt' else f'{row.engine} {model}'}"


def table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Heads and cells. Columns that say nothing in this run are left out."""
    columns: list[tuple[str, list[str]]] = [
        ("set", [row.set for row in rows]),
        ("model", [name(row) for row in rows]),
        ("decoder", [row.decoder for row in rows]),
        ("threads", [str(row.threads) for row in rows]),
        ("mode", [row.mode for row in rows]),
        ("clips", [str(row.clips) for row in rows]),
        ("WER %", [f"{row.wer:.1f}" for row in rows]),
        ("95 % interval", ["–".join(_one(x) for x in (row.wer_low, row.wer_high) if x is not None) for row in rows]),
        ("S / D / I", [f"{row.substitutions} / {row.deletions} / {row.insertions}" for row in rows]),
        ("CER %", [f"{row.cer:.1f}" for row in rows]),
        ("RTF", [f"{row.rtf:.4f}" for row in rows]),
        ("features + model + decoder", [_parts(row) for row in rows]),
        ("CPU s / s", [f"{row.rtf_cpu:.4f}" for row in rows]),
        ("latency p50 / p95 / p99, ms", [_ms(row.latency_p50, row.latency_p95, row.latency_p99) for row in rows]),
        ("first partial p50 / p95, ms", [_ms(row.first_partial_p50, row.first_partial_p95) for row in rows]),
        ("final p50 / p95, ms", [_ms(row.final_p50, row.final_p95) for row in rows]),
        ("flush p50 / p95, ms", [_ms(row.flush_p50, row.flush_p95) for row in rows]),
        ("revised words %", [_one(row.revised_words) for row in rows]),
        ("load s", [f"{row.load_seconds:.2f}" for row in rows]),
        ("peak RSS MiB", [f"{row.peak_rss_mb:.0f}" for row in rows]),
        ("model MB", [f"{row.size_mb:.1f}" for row in rows]),
    ]
    kept = [(head, cells) for head, cells in columns if any(cells)]
    return [head for head, _ in kept], [list(line) for line in zip(*(cells for _, cells in kept), strict=True)]


def count_threads(threads: int) -> str:
    """``1 thread``, ``2 threads``."""
    return f"{threads} thread{'s'[: threads > 1]}"


def _ms(*seconds: Figure) -> str:
    return " / ".join(f"{1000 * s:.0f}" for s in seconds if s is not None)


def _one(value: Figure) -> str:
    return "" if value is None else f"{value:.1f}"


def _parts(row: Row) -> str:
    parts = (row.rtf_features, row.rtf_model, row.rtf_decoder)
    return " + ".join(f"{part:.4f}" for part in parts if part is not None)


def to_markdown(report: Report) -> str:
    """The tables with what is needed to read them."""
    heads, cells = table(report.rows)
    lines = [markdown_line(heads), "|" + "---|" * len(heads), *(markdown_line(line) for line in cells), ""]
    if report.changes:
        lines += [*(f"* {line}" for line in change_lines(report.changes)), ""]
    drawn = sorted({row.drawn for row in report.rows})
    notes = [
        f"{machine_line(report)}; edge-stt {report.version}, median of {report.repeats} repeats.",
        f"WER and CER over texts normalised by {_normalisers(report)}; the interval is a bootstrap over "
        f"{' or '.join(drawn)}. RTF is processing time divided by duration, lower is faster; "
        "latency is from the whole recording to its text.",
        *(f"Warning: {warning}." for warning in report.warnings),
        *(f"Failed: {failure}" for failure in report.failures),
    ]
    return "\n".join([*lines, *notes]) + "\n"


def markdown_line(cells: Sequence[str]) -> str:
    """A line of a Markdown table; bars within cells are escaped."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def change_lines(changes: Sequence[Change]) -> list[str]:
    """What an earlier run said and what this one says, a line each."""
    return [
        f"{c.set}: {c.what}: WER {c.wer_old:.1f} → {c.wer_new:.1f} % ({c.points:+.2f} points, 95 % interval "
        f"{c.low:+.2f} to {c.high:+.2f}, {c.clips} clips): {c.verdict}; time × {c.rtf_ratio:.2f} "
        f"({c.rtf_low:.2f}–{c.rtf_high:.2f})"
        for c in changes
    ]


def machine_line(report: Report) -> str:
    """Board, processor, memory, system, governor."""
    m, b = report.machine, report.before
    parts = [m.board, f"{m.cores} × {m.cpu}", f"{m.memory_mb / 1024:.1f} GiB" if m.memory_mb else None]
    parts += [m.system, f"Python {m.python}", f"governor {b.governor}" if b.governor else None]
    return ", ".join(part for part in parts if part)


def summary(report: Report) -> str:
    """One line for somebody who collects results: machine, the first variant's figures, temperature, throttling."""
    parts = [f"edge-stt {report.version}", machine_line(report)]
    if report.rows:
        row = report.rows[0]
        times = _ms(row.latency_p50, row.latency_p95) or _ms(row.final_p50, row.final_p95)
        parts.append(
            f"{row.model}, {row.decoder}, {row.runtime}, {count_threads(row.threads)}, {row.mode}: "
            f"RTF {row.rtf:.4f}, p50 / p95 {times or 'unknown'} ms, load {row.load_seconds:.1f} s, "
            f"{row.peak_rss_mb:.0f} MiB, WER {row.wer:.1f} % on {row.clips} clip{'s'[: row.clips > 1]} ({row.set})"
        )
    if report.before.hottest is not None and report.after.hottest is not None:
        parts.append(f"{report.before.hottest:.0f} → {report.after.hottest:.0f} °C")
    if report.after.pi_flags is not None:
        parts.append(", ".join(pi_flag_names(report.after.pi_flags)) or "not throttled")
    elif report.after.throttle_events is not None:
        parts.append("throttled" if report.after.throttle_events != report.before.throttle_events else "not throttled")
    return " · ".join(parts)


def print_table(rows: Sequence[Row], console: Any) -> None:
    """The table on a terminal."""
    from rich.table import Table

    heads, cells = table(rows)
    shown = Table(show_lines=True)
    for head in heads:
        shown.add_column(head, overflow="fold")
    for line in cells:
        shown.add_row(*line)
    console.print(shown)
