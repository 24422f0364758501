"""The errors that a person can cause and mend. Each carries one line: what is wrong and what to do."""

from __future__ import annotations


class EdgeSttError(Exception):
    """Base of all errors this package raises on purpose; the command line prints its text and exits with 1."""


class AudioError(EdgeSttError):
    """A file or stream could not be read as audio."""


class PackageError(EdgeSttError):
    """A model package is damaged, foreign, of a newer format, or was edited by hand."""


class RuntimeMissingError(EdgeSttError):
    """No TFLite runtime, or another optional part, is installed."""


class DecodingError(EdgeSttError):
    """A decoder was given settings, a language model, a lexicon or a grammar that it cannot work with."""


class DataError(EdgeSttError):
    """A manifest, a transcript or a data set is not usable."""


class UsageError(EdgeSttError):
    """The command was called wrongly; the command line exits with 2."""
