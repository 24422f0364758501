"""From measurements of clips to the figures of a benchmark: one `Row` a set and variant, and comparing two runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .benchmark import Measured, Outcome, Run, TestSet
from .engines import Variant
from .errors import DataError, reason
from .scoring import ClipScore, Counts, Difference, compare, compare_times, interval, score_clip, total

Figure = float | None


@dataclass(frozen=True)
class Row:
    """A set by a variant. Rates in percent; times in seconds, but for RTF: work divided by duration, lower is faster.

    ``rtf`` is by the clock, ``rtf_cpu`` the CPU time of all threads; ``rtf_features``, ``rtf_model`` and
    ``rtf_decoder`` are parts of ``rtf``. Latencies are per utterance: offline from samples in memory to text;
    streaming, see `edge_stt.benchmark.Measured`. ``revised_words`` are words taken back or changed after they were
    shown, per 100 words of the final text (the unstable partial word ratio of Y. Shangguan et al., "Analyzing the
    quality and stability of a streaming end-to-end on-device speech recognizer", Interspeech 2020). ``cut_off`` clips
    (streaming) were taken to end while there was still speech; they are in no latency.
    """

    set: str
    engine: str
    version: str
    model: str
    decoder: str
    runtime: str
    threads: int
    mode: str
    clips: int
    hours: float
    words: int
    wer: float
    wer_low: Figure
    wer_high: Figure
    drawn: str
    substitutions: int
    deletions: int
    insertions: int
    cer: float
    cer_low: Figure
    cer_high: Figure
    rtf: float
    rtf_cpu: float
    rtf_features: Figure
    rtf_model: Figure
    rtf_decoder: Figure
    latency_p50: Figure
    latency_p95: Figure
    latency_p99: Figure
    first_partial_p50: Figure
    first_partial_p95: Figure
    final_p50: Figure
    final_p95: Figure
    flush_p50: Figure
    flush_p95: Figure
    revised_words: Figure
    load_seconds: float
    peak_rss_mb: float
    size_mb: float
    same_text: bool
    normaliser: str
    cut_off: int | None = None


@dataclass(frozen=True)
class Scored:
    """A row and what it was made of; the three lists go together."""

    row: Row
    scores: list[ClipScore]
    measured: list[Measured]
    indices: list[int]  # of the clips in the test set: the readable ones


def tabulate(run: Run, sets: Sequence[TestSet]) -> list[Scored]:
    """Rows in the order of the sets, then of the variants; none for a set that has no readable clip."""
    return [
        _scored(outcome, s, test_set)
        for s, test_set in enumerate(sets)
        for outcome in run.outcomes
        if any(outcome.clips[s])
    ]


def _scored(outcome: Outcome, number: int, test_set: TestSet) -> Scored:
    pairs = [(i, m) for i, m in enumerate(outcome.clips[number]) if m is not None]
    indices, measured = [i for i, _ in pairs], [m for _, m in pairs]
    scores = [
        score_clip(test_set.clips[i].id, test_set.clips[i].speaker, test_set.references[i], test_set.normaliser(m.text))
        for i, m in pairs
    ]
    words, wer, cer = total([s.words for s in scores]), interval(scores), interval(scores, "characters")
    seconds = max(1e-9, sum(m.duration for m in measured))
    heard = max(1e-9, sum(m.heard for m in measured))
    variant, info = outcome.variant, outcome.info

    def share(stage: str) -> Figure:
        return sum(m.stages[stage] for m in measured) / heard if stage in measured[0].stages else None

    streaming = variant.mode == "stream"
    spoken = max(1, sum(len(s.hypothesis.split()) for s in scores))
    latency = [] if streaming else [m.elapsed for m in measured]
    first, final, flush = ([getattr(m, name) for m in measured] for name in ("first_partial", "final", "flush"))
    return Scored(
        Row(
            set=test_set.name,
            engine=variant.engine,
            version=info.version,
            model=info.model,
            decoder=info.decoder,
            runtime=info.runtime,
            threads=variant.threads,
            mode=variant.mode,
            clips=len(measured),
            hours=seconds / 3600,
            words=words.units,
            wer=wer.rate,
            wer_low=wer.low,
            wer_high=wer.high,
            drawn=wer.drawn,
            substitutions=words.substitutions,
            deletions=words.deletions,
            insertions=words.insertions,
            cer=cer.rate,
            cer_low=cer.low,
            cer_high=cer.high,
            rtf=sum(m.elapsed for m in measured) / heard,
            rtf_cpu=sum(m.cpu for m in measured) / heard,
            rtf_features=share("features"),
            rtf_model=share("model"),
            rtf_decoder=share("decoder"),
            latency_p50=_percentile(latency, 50),
            latency_p95=_percentile(latency, 95),
            latency_p99=_percentile(latency, 99),
            first_partial_p50=_percentile(first, 50),
            first_partial_p95=_percentile(first, 95),
            final_p50=_percentile(final, 50),
            final_p95=_percentile(final, 95),
            flush_p50=_percentile(flush, 50),
            flush_p95=_percentile(flush, 95),
            revised_words=100.0 * sum(m.revised or 0 for m in measured) / spoken if streaming else None,
            load_seconds=outcome.load_seconds,
            peak_rss_mb=outcome.peak_rss,
            size_mb=info.size / 1e6,
            same_text=outcome.same_text,
            normaliser=test_set.normaliser.name,
            cut_off=sum(m.cut_off for m in measured) if streaming else None,
        ),
        scores,
        measured,
        indices,
    )


def _percentile(values: Sequence[Figure], q: float) -> Figure:
    """Percentile of the known values, None without any."""
    known = [value for value in values if value is not None]
    return float(np.percentile(known, q)) if known else None


def clip_data(scored: Scored) -> list[dict[str, Any]]:
    """What is stored of each clip: enough to compare with a later run, and to look at."""
    return [
        {
            "id": score.id,
            "speaker": score.speaker,
            "duration": round(m.duration, 3),
            "elapsed": round(m.elapsed, 6),
            "reference": score.reference,
            "hypothesis": score.hypothesis,
            "words": asdict(score.words),
            "characters": asdict(score.characters),
        }
        for score, m in zip(scored.scores, scored.measured, strict=True)
    ]


# --- comparing with an earlier run ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """A row against that of an earlier run on the same clips; ``verdict``: better, worse, no difference or too few."""

    set: str
    what: str
    clips: int
    wer_old: float
    wer_new: float
    points: float
    low: float
    high: float
    probability_worse: float
    verdict: str
    rtf_ratio: float
    rtf_low: float
    rtf_high: float


def cut_off_warnings(scored: Sequence[Scored]) -> list[str]:
    """A line for each row with utterances that were cut off: its latencies leave them out."""
    return [
        f"{s.row.set}: {_describe(s.row)}: {s.row.cut_off} of {s.row.clips} clips cut off before the end of speech, "
        "and in no final latency"
        for s in scored
        if s.row.cut_off
    ]


def _describe(row: Row) -> str:
    return f"{row.engine} {row.model}, {row.decoder}, threads {row.threads}, {row.mode}"


NOTHING_IN_COMMON = "the two runs have no set and variant in common: nothing to compare"


def check_comparable(old: dict[str, Any], sets: Sequence[TestSet], variants: Sequence[Variant]) -> None:
    """Before measuring: raise `DataError` when no result of an earlier run can be a counterpart in this one.

    Which decoder and model a variant has is known once it is loaded; so `compare_runs` may still find nothing.
    """
    references = {s.name: {(c.id, r) for c, r in zip(s.clips, s.references, strict=True)} for s in sets}
    measured = {(v.engine, v.threads, v.mode) for v in variants}
    for row in old["results"]:
        clips = {(clip["id"], clip["reference"]) for clip in row["clip_results"]}
        same_clips = clips & references.get(row["set"], set())
        if same_clips and (row["engine"], row["threads"], row["mode"]) in measured:
            return
    raise DataError(NOTHING_IN_COMMON)


def compare_runs(old: dict[str, Any], scored: Sequence[Scored]) -> list[Change]:
    """Each row against its counterpart in an earlier run's JSON (as `edge_stt.report` writes it).

    Counterparts have the same set, engine, decoder, threads and mode, and the same model where there are several: a
    single model may have another name, for it is a new one that is compared. Raises `DataError` when nothing compares.
    """
    changes = [change for s in scored if (change := _change(old["results"], s, scored)) is not None]
    if not changes:
        raise DataError(NOTHING_IN_COMMON)
    return changes


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("set", "engine", "decoder", "threads", "mode"))


def _old_score(clip: dict[str, Any], speaker: str) -> ClipScore:
    counts = Counts(**clip["words"]), Counts(**clip["characters"])
    return ClipScore(clip["id"], speaker, clip["reference"], clip["hypothesis"], *counts)


def _verdict(difference: Difference) -> str:
    if difference.significant:
        return "worse" if difference.points > 0 else "better"
    return "too few to tell" if difference.too_few and difference.points else "no difference"


def _change(results: list[dict[str, Any]], new: Scored, all_new: Sequence[Scored]) -> Change | None:
    row = asdict(new.row)
    rivals = [s for s in all_new if _key(asdict(s.row)) == _key(row)]
    found = [r for r in results if _key(r) == _key(row)]
    if len(found) > 1 or len(rivals) > 1:
        found = [r for r in found if r["model"] == row["model"]]
    if not found:
        return None
    before = {item["id"]: item for item in found[0]["clip_results"]}
    pairs = [
        (before[score.id], score, measured)
        for score, measured in zip(new.scores, new.measured, strict=True)
        if score.id in before and before[score.id]["reference"] == score.reference
    ]
    if not pairs:
        return None
    olds = [_old_score(o, n.speaker) for o, n, _ in pairs]
    news = [score for _, score, _ in pairs]
    difference = compare(olds, news)
    ratio, low, high = compare_times([o["elapsed"] for o, _, _ in pairs], [m.elapsed for _, _, m in pairs])
    return Change(
        set=new.row.set,
        what=_describe(new.row),
        clips=len(pairs),
        wer_old=interval(olds).rate,
        wer_new=interval(news).rate,
        points=difference.points,
        low=difference.low,
        high=difference.high,
        probability_worse=difference.probability_worse,
        verdict=_verdict(difference),
        rtf_ratio=ratio,
        rtf_low=low,
        rtf_high=high,
    )


def read_run(path: Path) -> dict[str, Any]:
    """The JSON of an earlier run; raises `DataError` when it is none."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"cannot read the earlier run {path}: {reason(error)}") from error
    if not isinstance(data, dict) or data.get("format") != 1 or not isinstance(data.get("results"), list):
        raise DataError(f"{path} is not a result of `edge-stt bench --output` (bench.json)")
    try:
        for row in data["results"]:
            _ = _key(row), row["model"]
            for clip in row["clip_results"]:
                _old_score(clip, ""), float(clip["elapsed"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is damaged: its results cannot be read ({error})") from error
    return data
