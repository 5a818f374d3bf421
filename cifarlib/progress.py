"""Where the time goes: bars while a long loop runs, and a tally of what was not done anew.

A bar is shown where somebody is watching; elsewhere there is silence. Not for results: a bar
goes to standard error and leaves nothing behind.
"""

import os
import sys

from tqdm import tqdm


def bar(total: int | None, description: str, unit: str = "it", initial: int = 0) -> tqdm:
    """Return a tqdm bar, disabled unless standard error is a terminal or a live notebook.

    Executed notebooks, logs and CI must stay quiet, or the bar's redraws end up in the
    recorded outputs.

    Args:
        total: how many units the whole loop has, None if unknown.
        description: what is being done, a few words.
        unit: name of a unit; ``"B"`` is shown with kB and MB.
        initial: how many units were done before, when a loop is continued.
    """
    return tqdm(
        total=total,
        desc=description,
        unit=unit,
        unit_scale=unit == "B",
        initial=initial,
        leave=False,
        disable=not is_watched(),
    )


def say(line: str) -> None:
    """Write a line to standard error, above the bars that are shown there."""
    tqdm.write(line, file=sys.stderr)


_remembered: dict[str, float] = {}
REMEMBERED_TYPE = "application/vnd.cifarlib.remembered+json"


def remember(what: object, seconds: float) -> None:
    """Note that work which once took so many seconds was read instead of done.

    Only the first note about the same thing counts; 0 seconds say that this process did it.
    """
    _remembered.setdefault(str(what), seconds)


class Remembered:
    """What was read instead of done since this process started; show it at a chapter's end.

    A chapter that goes on where an earlier call was stopped would otherwise look faster than it
    is. `execution` reads the seconds from the output and counts them in.
    """

    def __init__(self):
        self.seconds = sum(_remembered.values())

    def __str__(self) -> str:
        return f"Read from earlier calls instead of computed again: {self.seconds:,.0f} s of work"

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, object]:
        return {"text/plain": str(self), REMEMBERED_TYPE: {"seconds": self.seconds}}


def is_watched() -> bool:
    """Tell whether a person sees standard error now, and so a bar."""
    if os.environ.get("CI") or os.environ.get("CIFARLIB_UNATTENDED"):
        return False
    ipython = sys.modules.get("IPython")
    in_notebook = ipython is not None and hasattr(ipython.get_ipython(), "kernel")
    return in_notebook or (sys.stderr is not None and sys.stderr.isatty())
