"""How a program of edge-stt ends: errors as one line on standard error, and the exit codes."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

from .errors import EdgeSttError, UsageError, printable


def run_to_exit(action: Callable[[], object]) -> None:
    """Do it all; exits with 2 for what was asked wrongly, 1 for what went wrong, 130 for Ctrl-C, and says why."""
    try:
        action()
    except UsageError as error:
        _complain(str(error), 2)
    except EdgeSttError as error:
        _complain(str(error), 1)
    except BrokenPipeError:
        # The reader went away (`| head`): not an error, and Python must not complain when it flushes.
        _let_go_of_stdout()
    except OSError as error:  # above all: standard output takes no more
        _let_go_of_stdout()
        _complain(f"{error.filename or 'cannot write output'}: {error.strerror or error}", 1)
    except KeyboardInterrupt:
        sys.exit(130)


def end_at_ctrl_c() -> None:
    """Ctrl-C ends the process at once with 130, and silently: for when nothing is under way, as while modules load.

    A `KeyboardInterrupt` in the midst of an import is a long traceback, or something else where an extension's code
    swallows it. Where Ctrl-C is ignored, as by what a shell starts in the background, it stays so.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def raise_at_ctrl_c() -> None:
    """Ctrl-C is a `KeyboardInterrupt` again after `end_at_ctrl_c`: for the work itself, which may have to clean up."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(*_: object) -> None:
    os._exit(130)


def _complain(text: str, code: int) -> None:
    if sys.stderr is not None:
        sys.stderr.write(f"edge-stt: {printable(text)}\n")
    sys.exit(code)


def _let_go_of_stdout() -> None:
    """What is left in its buffer must not fail a second time when Python ends."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
