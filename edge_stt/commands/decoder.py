"""``edge-stt decoder``: give a model package a lexicon and a language model, and tune their weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ..audio import read_audio
from ..beam import BeamDecoder
from ..beam_config import MAX_BEAM_WIDTH
from ..benchmark import TestSet, load_set, load_sets
from ..confidence import Judged, fit_line, mend, mended, oracle_errors, reliability_svg
from ..decoder_study import boosting, hot_table, listen, rare_words, table, with_words, without_words
from ..decoders import LETTERS_FILE, DecodingConfig, WithoutPriors, choose, make_speller
from ..decoding import Hypothesis
from ..errors import UsageError
from ..features import log_mel, normalise_utterance
from ..files import write_atomically
from ..grammar import Grammar
from ..interpreter import AcousticModel
from ..package import ModelPackage, check_destination
from ..phrase_calibration import Counts, NoiseMixer, count, examples, fit, read_noise
from ..phrases import PhraseDecoder
from ..recogniser import Transcriber, default_model
from ..scoring import count_edits, require_jiwer
from ..tuning import attach as attach_files
from ..tuning import tune as tune_weights
from .endpoints import MAX_DB

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
    letters: Annotated[Path | None, typer.Option(help="Language model of letters, for the decoder beam.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a package with a lexicon, a language model, or both."""
    if lexicon is None and lm is None and pronunciations is None and letters is None:
        raise UsageError("nothing to attach: give --lexicon, --lm, --letters or --pronunciations")
    loaded = ModelPackage.load(package)
    made = attach_files(loaded, out, lexicon, lm, pronunciations, overwrite=overwrite, letters=letters)
    typer.echo(f"{out}: {made.size / 1e6:.1f} MB, decoder {DecodingConfig.of(made).decoder}")


@app.command()
def tune(
    package: Annotated[Path, typer.Argument(help="Model package with a lexicon or language model.")],
    manifest: Annotated[Path, typer.Argument(help="Dev manifest: never a test set.")],
    out: Out,
    clips: Annotated[int, typer.Option(min=1, help="Clips to use, spread over the manifest.")] = 120,
    beam_width: Annotated[
        int | None, typer.Option(min=1, max=MAX_BEAM_WIDTH, help="Beam width; without it, the package's.")
    ] = None,
    letters: Annotated[bool, typer.Option("--letters", help="Of the model of letters, its weight and bonus.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Choose prior and language model weight, word insertion bonus and unknown-word score on a dev set; store them."""
    check_destination(out, overwrite)
    require_jiwer()
    loaded = ModelPackage.load(package)
    own = start = DecodingConfig.of(loaded)
    if letters:
        if LETTERS_FILE not in loaded.files:
            raise UsageError(f"{package} has no model of letters: `edge-stt decoder attach --letters` adds one")
        start = choose(loaded, "beam")
    if beam_width is not None:
        start = replace(start, beam=replace(start.beam, beam_width=beam_width))
    acoustic, info = AcousticModel(loaded), loaded.info
    dev = load_set(manifest, clips, info.normaliser)
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
        weights = [f"prior_weight {best.config.prior_weight:.2f}"]
        if letters:
            weights += [f"letter_weight {beam.letter_weight:.2f}", f"letter_bonus {beam.letter_bonus:+.2f}"]
        else:
            weights += [f"lm_weight {beam.lm_weight:.2f}", f"word_insertion_bonus {beam.word_insertion_bonus:+.2f}"]
            weights += [f"unknown_word_score {beam.unknown_word_score:+.1f}"]
        typer.echo("  ".join([*weights, f"WER {100 * best.wer:.2f} %"]), err=True)
    assert best is not None
    chosen = best.config
    if letters:  # the package's decoder stays what it was
        beam = replace(own.beam, letter_weight=chosen.beam.letter_weight, letter_bonus=chosen.beam.letter_bonus)
        weight, priors = chosen.prior_weight, chosen.log_priors
        chosen = replace(own, beam=beam, letter_prior_weight=weight, letter_log_priors=priors)
    attach_files(loaded, out, decoding=chosen, overwrite=overwrite)
    typer.echo(f"{out}: WER {100 * best.wer:.2f} % on {len(utterances)} clips of {manifest}")


@app.command()
def study(
    manifest: Annotated[Path, typer.Argument(help="Dev manifest.")],
    model: Annotated[Path | None, typer.Option(help="Model package; without it, the active one.")] = None,
    clips: Annotated[int, typer.Option(min=1, help="Clips to use, spread over the manifest.")] = 120,
    hot_words: Annotated[int, typer.Option(min=1, help="Rare words of the texts to favour.")] = 40,
) -> None:
    """What decoding costs and gives: other libraries' searches, beam widths, the best of n readings, hot words."""
    require_jiwer()
    package = ModelPackage.load(model or default_model())
    config = choose(package, "lexicon")
    utterances = listen(package, load_set(manifest, clips, package.info.normaliser))
    spelled = next((head for head, units in package.info.heads.items() if units.kind == "characters"), None)
    if spelled is not None:
        typer.echo(f"Without lexicon and language model ({spelled}):\n")
        for line in table(without_words(utterances, spelled, package.info.heads[spelled], 16), "CER"):
            typer.echo(line)
    typer.echo(f"\nWith lexicon and language model ({config.head}):\n")
    for line in table(with_words(package, config, utterances, (8, 16, 32, 64)), "WER"):
        typer.echo(line)
    favoured = rare_words(utterances, hot_words)
    typer.echo(f"\nWith {len(favoured)} hot words:\n")
    for line in hot_table(boosting(package, config, utterances, favoured)):
        typer.echo(line)


@app.command()
def confidence(
    package: Annotated[Path, typer.Argument(help="Model package whose decoder is beam or lexicon.")],
    manifests: Annotated[list[Path], typer.Argument(help="Dev speech; to store a fit, never a test set.")],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Package to write, with confidences mended.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Reliability plot to write, SVG.")] = None,
    n_best: Annotated[int, typer.Option(min=1, help="Readings for the oracle word error rate.")] = 16,
    clips: Annotated[int | None, typer.Option(min=1, help="Clips to use of each, spread over the manifest.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Measure whether words at confidence 0.8 are right in eight of ten cases, and make it so.

    The error after mending is measured with the fit of the other half of the speakers. The oracle word error rate is
    that of the best of several readings.
    """
    if out is not None:
        check_destination(out, overwrite)
    if plot is not None and plot.is_dir():
        raise UsageError(f"--plot {plot} is a folder; name a file to write the plot to")
    require_jiwer()
    loaded = ModelPackage.load(package)
    config = DecodingConfig.of(loaded)
    transcriber = Transcriber(loaded, decoding=config)
    inner = transcriber.decoder.decoder if isinstance(transcriber.decoder, WithoutPriors) else transcriber.decoder
    if not isinstance(inner, BeamDecoder):
        raise UsageError(f"{package} is decoded greedily: its confidences are probabilities of units, there is no fit")
    halves: tuple[list[tuple[str, Hypothesis]], list[tuple[str, Hypothesis]]] = ([], [])
    words = errors = oracle = 0
    for test_set in load_sets(manifests, clips, loaded.info.normaliser):
        speakers = sorted({clip.speaker for clip in test_set.clips})
        for clip, text in zip(test_set.clips, test_set.references, strict=True):
            decoder = transcriber.decoder
            log_probs = transcriber.log_probs(log_mel(read_audio(clip.path), loaded.info.front_end))
            readings = decoder.finish(decoder.advance(decoder.start(), log_probs), n_best)
            halves[speakers.index(clip.speaker) % 2].append((text, readings[0]))
            words += len(text.split())
            errors += oracle_errors(text, readings[:1])
            oracle += oracle_errors(text, readings)
    judged = Judged.of([*halves[0], *halves[1]])
    rates = f"WER {100 * errors / words:.2f} %, of the best of {n_best} readings {100 * oracle / words:.2f} %"
    typer.echo(f"{len(judged.right)} words, {rates}; expected calibration error {judged.error:.4f}")
    curves = [("confidence", judged)]
    if halves[0] and halves[1]:
        one, other = map(Judged.of, halves)
        crossed = mended(one, fit_line(other)) + mended(other, fit_line(one))
        typer.echo(f"mended, each half of the speakers by the other: expected calibration error {crossed.error:.4f}")
        curves.append(("mended", crossed))
    if plot is not None:
        write_atomically(plot, [reliability_svg(curves).decode()])
    if out is not None:
        fitted = mend(config.beam.confidence, fit_line(judged))
        config = replace(config, beam=replace(config.beam, confidence=fitted))
        attach_files(loaded, out, decoding=config, overwrite=overwrite)
        typer.echo(f"{out}: competition {fitted.competition}, acoustics {fitted.acoustics}, offset {fitted.offset}")


Phrases = Annotated[Path, typer.Argument(help="File of phrases, as for `edge-stt transcribe --phrases`.")]


@app.command()
def phrases(
    file: Phrases,
    manifests: Annotated[list[Path] | None, typer.Argument(help="Speech, of the phrases and other; several.")] = None,
    model: Annotated[Path | None, typer.Option(help="Model package; without it, the active one.")] = None,
    threshold: Annotated[float | None, typer.Option(min=0.0, max=1.0, help="Score from which to accept.")] = None,
    clips: Annotated[int | None, typer.Option(min=1, help="Clips to use of each, spread over the manifest.")] = None,
) -> None:
    """Check a file of phrases: how large it is, and in manifests, how well phrases are told from other speech.

    A clip whose text is one of the phrases should be recognised with every word, every other clip rejected.
    """
    package = ModelPackage.load(model or default_model())
    transcriber, decoder = _phrase_decoder(package, file, threshold)
    grammar, acceptor = decoder.grammar, decoder.acceptor
    typer.echo(f"{file}: {grammar.phrases} phrases, {acceptor.states} states, {acceptor.nodes} units")
    for test_set in load_sets(manifests or [], clips, package.info.normaliser):
        typer.echo(_describe(count(transcriber, decoder, test_set)))


@app.command()
def calibrate(
    package: Annotated[Path, typer.Argument(help="Model package.")],
    file: Phrases,
    manifests: Annotated[list[Path], typer.Argument(help="Dev speech, of the phrases and other: never a test set.")],
    out: Out,
    noise: Annotated[Path | None, typer.Option(help="Manifest of noise, added to a copy of each clip.")] = None,
    snr: Annotated[
        tuple[float, float] | None, typer.Option(help="With --noise: speech above it in dB, from and to (5 20).")
    ] = None,
    clips: Annotated[int | None, typer.Option(min=1, help="Clips to use of each, spread over the manifest.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Make the score of phrases a probability, and choose from which score on to accept them; store both."""
    if snr is not None:
        _check_snr(snr, noise)
    check_destination(out, overwrite)
    loaded = ModelPackage.load(package)
    transcriber, decoder = _phrase_decoder(loaded, file, None)
    sets: list[TestSet] = load_sets(manifests, clips, loaded.info.normaliser)
    mixer = NoiseMixer(read_noise(noise), snr or (5.0, 20.0)) if noise is not None else None
    speller = make_speller(loaded, loaded.info.heads[transcriber.head])
    config = fit(list(examples(transcriber, decoder, speller, sets, mixer)), decoder.config)
    attach_files(loaded, out, decoding=replace(DecodingConfig.of(loaded), phrases=config), overwrite=overwrite)
    typer.echo(
        f"{out}: offset {config.offset:.2f}, overall {config.overall:.2f}, worst {config.worst:.3f}, "
        f"threshold {config.threshold:.3f}"
    )
    calibrated = PhraseDecoder(decoder.grammar, speller, config, decoder.frames_per_second)
    for test_set in sets:
        typer.echo(_describe(count(transcriber, calibrated, test_set)))


def _check_snr(snr: tuple[float, float], noise: Path | None) -> None:
    if noise is None:
        raise UsageError("--snr needs --noise, the manifest of what is added to speech")
    if not -MAX_DB <= snr[0] <= snr[1] <= MAX_DB:  # no comparison holds of what is no number
        shown = f"{snr[0]:g} {snr[1]:g}"
        raise UsageError(f"--snr {shown} is no range; write the lower number first, within {-MAX_DB} and {MAX_DB}")


def _phrase_decoder(package: ModelPackage, file: Path, threshold: float | None) -> tuple[Transcriber, PhraseDecoder]:
    config = choose(package, "phrases")
    if threshold is not None:
        config = replace(config, phrases=replace(config.phrases, threshold=threshold))
    transcriber = Transcriber(package, decoding=config, phrases=Grammar.from_file(file))
    assert isinstance(transcriber.decoder, PhraseDecoder)
    return transcriber, transcriber.decoder


def _describe(counts: Counts) -> str:
    """One line a set."""
    parts = []
    if counts.phrases:
        right, wrong = 100 * counts.right / counts.phrases, 100 * counts.wrong / counts.phrases
        parts.append(f"{counts.phrases} phrases: {right:.1f} % right, {wrong:.1f} % taken for another")
    if counts.others:
        parts.append(f"{counts.others} others: {100 * counts.accepted / counts.others:.1f} % accepted")
    speed = 1000 * counts.decoding / counts.audio if counts.audio else 0.0
    return f"{counts.name}: {', '.join(parts)}; decoding {speed:.1f} ms per second of audio"
