"""One progress bar for every long loop: tqdm where somebody is watching, silence elsewhere.

Not for results: a bar goes to standard error and leaves nothing behind.
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
        disable=not _is_watched(),
    )


def _is_watched() -> bool:
    """Tell whether a person sees standard error now."""
    if os.environ.get("CI") or os.environ.get("CIFARLIB_UNATTENDED"):
        return False
    ipython = sys.modules.get("IPython")
    in_notebook = ipython is not None and hasattr(ipython.get_ipython(), "kernel")
    return in_notebook or (sys.stderr is not None and sys.stderr.isatty())
