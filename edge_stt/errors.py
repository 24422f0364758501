"""The errors that a person can cause and mend. Each carries one line: what is wrong and what to do."""

from __future__ import annotations


def reason(error: Exception) -> str:
    """What an exception says on one line, for use in a message that names the file itself: no errno, no path."""
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8 text"
    return " ".join(str((isinstance(error, OSError) and error.strerror) or error).split())


def printable(text: str) -> str:
    """A message as one line that a terminal can show: names of files may hold line breaks, and anything else."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


class EdgeSttError(Exception):
    """Base of all errors this package raises on purpose; the command line prints its text and exits with 1."""


class UsageError(EdgeSttError):
    """The command was called wrongly; the command line exits with 2."""


class AudioError(EdgeSttError):
    """A file or stream could not be read as audio."""


class PackageError(EdgeSttError):
    """A model package is damaged, foreign, of a newer format, or was edited by hand."""


class RuntimeMissingError(EdgeSttError):
    """No TFLite runtime, or another optional part, is installed."""


class DecodingError(EdgeSttError):
    """A decoder was given settings, a language model, a lexicon or a grammar that it cannot work with."""


class UnknownDecoderError(DecodingError, UsageError):
    """There is no decoder of such a name."""


class DataError(EdgeSttError):
    """A manifest, a transcript or a data set is not usable."""


class UnknownLanguageError(DataError, UsageError):
    """There is no language of such a name, nor a file of it."""
