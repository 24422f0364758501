"""Where the time goes: methods are wrapped so that their time is added up by stage.

For measuring processes only: the wrappers replace methods of classes for the rest of the process.
"""

from __future__ import annotations

import functools
import time
from typing import Any


class StageClock:
    """Seconds a stage has taken, the time of other stages called from within it taken off."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._inner: list[float] = []  # for each stage that is running, the time spent in stages it called

    def reset(self) -> None:
        """Start from zero; the stages stay known."""
        self.seconds = dict.fromkeys(self.seconds, 0.0)

    def watch(self, owner: Any, name: str, stage: str) -> None:
        """Replace ``owner.name`` (a method of a class, or a function of a module) by one that is timed."""
        original = getattr(owner, name)
        self.seconds.setdefault(stage, 0.0)

        @functools.wraps(original)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._inner.append(0.0)
            started = time.perf_counter()
            try:
                return original(*args, **kwargs)
            finally:
                elapsed = time.perf_counter() - started
                self.seconds[stage] += elapsed - self._inner.pop()
                if self._inner:
                    self._inner[-1] += elapsed

        setattr(owner, name, timed)
