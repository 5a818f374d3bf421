"""The errors a user can mend, told in one line.

Not for programming mistakes: those keep Python's own exceptions and their traceback.
"""

import contextlib
import difflib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path


class CifarlibError(Exception):
    """A failure with a message for the user; the command line exits with status 1."""

    exit_status = 1


class InputError(CifarlibError, ValueError):
    """Something the user gave does not fit; the command line exits with status 2.

    Args:
        subject: the file, variable or argument in question.
        expected: what would have been right.
        found: what was there instead.
        advice: what to do next, a full sentence.

    >>> print(InputError("CIFARLIB_PROFILE", "quick or full", "'fast'", "Unset it."))
    CIFARLIB_PROFILE: expected quick or full, found 'fast'. Unset it.
    """

    exit_status = 2

    def __init__(self, subject: object, expected: str, found: str, advice: str):
        super().__init__(subject, expected, found, advice)

    def __str__(self) -> str:
        subject, expected, found, advice = self.args
        line = f"{subject}: expected {expected}, found {found}. {advice}"
        return " ".join(line.split())


class FullDiskError(InputError):
    """There is no room for what is to be written, which is nobody's input; exits with status 1."""

    exit_status = 1


def nearest(name: object, known: Iterable[str]) -> str:
    """Return advice for a name that is not known: the nearest that is.

    >>> nearest("resnet", ["baseline", "resnet18"])
    'Did you mean resnet18?'
    """
    lowered = {word.lower(): word for word in known}
    found = difflib.get_close_matches(str(name).lower(), lowered, n=1, cutoff=0.4)
    return f"Did you mean {lowered[found[0]]}?" if found else "Choose one of these."


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Within this context an error for the user ends the program, as `cifarlib` ends: in a line."""
    program = Path(sys.argv[0]).name
    try:
        yield
    except CifarlibError as error:
        print(f"{program}: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        print(f"{program}: interrupted.", file=sys.stderr)
        sys.exit(130)
