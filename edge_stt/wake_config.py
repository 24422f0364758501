"""Settings of the wake phrase, apart from what hears it: all settings are read before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import DecodingError
from .grammar import Grammar
from .settings import ConfigError, setting


@dataclass(frozen=True)
class WakeConfig:
    """Whether a phrase must be said first."""

    phrase: str = setting(
        "", 'Nothing is written until this was said: "hey computer", or "(hey|okay) computer".', "--wake"
    )
    threshold: float = setting(0.5, "Score (0 to 1) from which it counts as said.", "--wake-threshold", low=0, high=1)
    timeout: float = setting(8.0, "Seconds after it in which a command may begin.", "--wake-timeout", low=0.5, high=600)

    def check(self) -> None:
        """Raises `ConfigError` for a phrase that is none."""
        if self.phrase:
            self.grammar()

    def grammar(self) -> Grammar:
        """The phrase, or several, as a grammar; raises `ConfigError`."""
        try:
            return Grammar.from_text(self.phrase, "the wake phrase")
        except DecodingError as error:
            raise ConfigError(str(error)) from error
