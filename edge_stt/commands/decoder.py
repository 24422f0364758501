"""``edge-stt decoder``: give a model package a lexicon and a language model, and tune their weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ..audio import read_audio
from ..benchmark import load_set
from ..decoders import DecodingConfig
from ..features import log_mel, normalise_utterance
from ..interpreter import AcousticModel
from ..package import ModelPackage
from ..scoring import count_edits, require_jiwer
from ..tuning import attach as attach_files
from ..tuning import tune as tune_weights

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
    help="Give a model package a lexicon and a language model, and tune their weights.",
)
Out = Annotated[Path, typer.Option("-o", "--out", help="Package to write.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing package.")]


@app.command()
def attach(
    package: Annotated[Path, typer.Argument(help="Model package.")],
    out: Out,
    lexicon: Annotated[Path | None, typer.Option(help="Lexicon, from `edge-stt train lexicon`.")] = None,
    lm: Annotated[Path | None, typer.Option(help="Language model, from `edge-stt lm build`.")] = None,
    pronunciations: Annotated[Path | None, typer.Option(help="Letter-to-phoneme model, for hot words.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a package with a lexicon, a language model, or both."""
    made = attach_files(ModelPackage.load(package), out, lexicon, lm, pronunciations, overwrite=overwrite)
    typer.echo(f"{out}: {made.size / 1e6:.1f} MB, decoder {DecodingConfig.of(made).decoder}")


@app.command()
def tune(
    package: Annotated[Path, typer.Argument(help="Model package with a lexicon or language model.")],
    manifest: Annotated[Path, typer.Argument(help="Dev manifest: never a test set.")],
    out: Out,
    clips: Annotated[int, typer.Option(min=1, help="Clips to use, spread over the manifest.")] = 120,
    beam_width: Annotated[int | None, typer.Option(min=1, help="Beam width; without it, the package's.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Choose prior and language model weight, word insertion bonus and unknown-word score on a dev set; store them."""
    require_jiwer()
    loaded = ModelPackage.load(package)
    start = DecodingConfig.of(loaded)
    if beam_width is not None:
        start = replace(start, beam=replace(start.beam, beam_width=beam_width))
    acoustic, info = AcousticModel(loaded), loaded.info
    dev = load_set(manifest, clips)
    utterances = []
    for clip, text in zip(dev.clips, dev.references, strict=True):
        frames = log_mel(read_audio(clip.path), info.front_end)
        normalised = normalise_utterance(frames, info.statistics, info.normalization)
        utterances.append((acoustic.offline(normalised)[start.head], text))

    def errors(reference: str, hypothesis: str) -> int:
        return count_edits(reference.split(), hypothesis.split()).errors

    best = None
    for best in tune_weights(loaded, utterances, errors, start):
        beam = best.config.beam
        typer.echo(
            f"prior_weight {best.config.prior_weight:.2f}  lm_weight {beam.lm_weight:.2f}  "
            f"word_insertion_bonus {beam.word_insertion_bonus:+.2f}  "
            f"unknown_word_score {beam.unknown_word_score:+.1f}  WER {100 * best.wer:.2f} %",
            err=True,
        )
    assert best is not None
    attach_files(loaded, out, decoding=best.config, overwrite=overwrite)
    typer.echo(f"{out}: WER {100 * best.wer:.2f} % on {len(utterances)} clips of {manifest}")
