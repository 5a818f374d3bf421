"""What the user set in the environment: data source, cache folder, budget profile.

Read anew at every call, so that a notebook may set a variable in its first cell. Not for
settings of one chapter: those stand in that chapter's own cell of knobs.
"""

import contextlib
import importlib.util
import os
import shutil
import sys
from pathlib import Path
from typing import TypeVar

import platformdirs

from cifarlib.errors import InputError, nearest

PROFILES = ("quick", "full")
BACKENDS = ("tensorflow", "jax", "torch")  # of Keras

Budget = TypeVar("Budget")


def checkout_folder() -> Path | None:
    """Return the root of the checkout this package is imported from, None if installed apart."""
    root = Path(__file__).resolve().parent.parent
    return root if (root / "notebooks").is_dir() and (root / "pyproject.toml").is_file() else None


def source() -> str | None:
    """Return ``CIFARLIB_SOURCE``, None when it is unset or empty.

    A relative path is looked for in the working directory, then in the root of the checkout:
    a notebook's kernel starts in ``notebooks/``, the command that named the path did not. What
    exists is returned absolute, so that it may be handed on to programs that start elsewhere.
    """
    value = os.environ.get("CIFARLIB_SOURCE", "").strip()
    if value in ("", "synthetic"):  # a folder of that name is ./synthetic
        return value or None
    with contextlib.suppress(OSError):  # no permission, or no name at all: the reader will tell
        for folder in (Path(), checkout_folder() or Path()):
            if (folder / value).exists():
                return str((folder / value).resolve())
    return value


def expand(path: str) -> Path:
    """Return a path with ``~`` replaced, or as it is where there is no home to tell."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def cache_folder() -> Path:
    """Return the folder for decoded data: ``CIFARLIB_CACHE``, else the checkout's ``data/``.

    A relative path is one of the working directory if it is there, else of the root of the
    checkout, as a relative ``CIFARLIB_SOURCE`` is. Without a checkout, what is not named is the
    user's cache folder (``~/.cache/cifarlib`` on Linux).
    """
    value, root = os.environ.get("CIFARLIB_CACHE", "").strip(), checkout_folder()
    if value:
        folder = expand(value)
        try:
            is_here = folder.exists()
        except OSError:  # no permission, or no name at all: whoever writes there will tell
            is_here = True
        return (folder if is_here or not root else root / folder).resolve()
    return root / "data" if root else Path(platformdirs.user_cache_dir("cifarlib"))


def report_folder() -> Path:
    """Return where chapters put pages of their own: the report's folder, else ``build``."""
    if value := os.environ.get("CIFARLIB_REPORT", "").strip():
        return Path(value)
    return (checkout_folder() or Path()) / "build"


def profile() -> str:
    """Return the budget profile, ``"quick"`` or ``"full"``.

    ``CIFARLIB_PROFILE`` decides; unset, it is full where Keras sees an accelerator.

    Raises:
        InputError: if the variable names no profile.
    """
    return asked_profile() or ("full" if has_accelerator() else "quick")


def asked_profile() -> str | None:
    """Return the profile that ``CIFARLIB_PROFILE`` names, None if it is unset.

    Raises:
        InputError: if the variable names no profile.
    """
    value = os.environ.get("CIFARLIB_PROFILE", "").strip()
    if value and value not in PROFILES:
        advice = "Set it to one of the two, or unset it."
        raise InputError("CIFARLIB_PROFILE", " or ".join(PROFILES), repr(value), advice)
    return value or None


def by_profile(*, quick: Budget, full: Budget) -> Budget:
    """Return the budget of the current profile; a chapter's cell of knobs shows both.

    >>> num_epochs = by_profile(quick=3, full=50)
    """
    return full if profile() == "full" else quick


def check_backend() -> None:
    """Refuse a ``KERAS_BACKEND`` that Keras could not use, before anything is begun.

    Raises:
        InputError: for an unknown one, and for one that is not installed.
    """
    backend = os.environ.get("KERAS_BACKEND")
    if not backend:
        return
    if backend not in BACKENDS:
        advice = f"{nearest(backend, BACKENDS)} Unset, it is tensorflow."
        raise InputError("KERAS_BACKEND", ", ".join(BACKENDS), repr(backend), advice)
    if importlib.util.find_spec(backend) is None:
        advice = 'Install it: pip install -e ".[backends]". Or choose another.'
        raise InputError("KERAS_BACKEND", "one that is installed", repr(backend), advice)


def has_accelerator() -> bool:
    """Tell whether Keras sees a GPU or TPU.

    Importing Keras costs seconds, and chapters 1 to 3 do not need it, so it is only asked
    on a machine that shows a sign of such a device.
    """
    signs = ("nvidia0", "nvidiactl", "kfd", "accel0", "vfio/0", "dxg")
    is_mac_with_torch = sys.platform == "darwin" and os.environ.get("KERAS_BACKEND") == "torch"
    if not (
        is_mac_with_torch
        or shutil.which("nvidia-smi")
        or any(Path("/dev", sign).exists() for sign in signs)
    ):
        return False
    from cifarlib import devices

    return bool(devices.accelerators())


def hardware() -> str:
    """Return what chapters compute on: the first accelerator that Keras sees, else the CPU."""
    from cifarlib import devices

    return devices.describe() if has_accelerator() else devices.describe_cpu()
