"""Chapters in Google Colab: what their set-up cell calls there, and where their badges point.

Imported before anything is installed, so that it needs the standard library only. Not for
machines that are not Colab's: there README's commands install everything. Not for naming another
repository, which `pages` does.
"""

import importlib
import importlib.metadata
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

from cifarlib.errors import CifarlibError, InputError

ROOT = Path(__file__).resolve().parent.parent
DRIVE = Path("/content/drive")
# Colab has its own of what follows this line of requirements.txt, or no use for it.
ELSEWHERE = "# On a machine of your own"


def set_up(drive: str | None = None) -> None:
    """Install what Colab lacks, and say in a line what is there and whether it has a GPU.

    Nothing that is installed is changed. To be called again after a disconnect, or whenever.

    Args:
        drive: folder of your Google Drive, such as ``"cifarlib"``, for data and trained
            networks, so that a chapter goes on where it was when Colab took the machine away;
            None to keep them on that machine.

    Raises:
        InputError: if something that Colab has is too old, or the folder is not in your Drive.
        CifarlibError: if something cannot be installed.
    """
    folder = Path(os.path.normpath(DRIVE / "MyDrive" / (drive or "")))
    if not folder.is_relative_to(DRIVE / "MyDrive"):  # which would not be kept
        advice = "Name it as you see it in your Drive."
        raise InputError("drive", "a folder such as 'cifarlib'", repr(drive), advice)
    sys.path[:] = [str(ROOT), *(path for path in sys.path if path != str(ROOT))]
    inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    others = [path for path in inherited if path not in ("", str(ROOT))]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *others])  # for what cells start
    _install(_missing(_requirements()))
    if drive:
        from google.colab import drive as google_drive

        google_drive.mount(str(DRIVE))
        os.environ["CIFARLIB_CACHE"] = str(folder)
    from cifarlib import __version__, devices, settings

    versions = {"cifarlib": __version__, **devices.versions()}
    print(", ".join(f"{name} {version}" for name, version in versions.items()))
    if settings.has_accelerator():
        print(f"GPU: {', '.join(devices.accelerators())}")
    else:
        print(
            "No GPU is selected, so that chapters choose their quick profile. For the full one: "
            "Runtime > Change runtime type > T4 GPU, then run this cell again."
        )


def _requirements() -> list[str]:
    """Return the lines of requirements.txt that chapters need, without comments."""
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8").split(ELSEWHERE)[0]
    lines = (line.split("#")[0].strip() for line in text.splitlines())
    return [line for line in lines if line]


def _missing(requirements: Sequence[str]) -> list[str]:
    """Return the requirements that nothing installed meets; refuse what is there but too old."""
    from packaging.requirements import Requirement  # matplotlib brings it, and Colab that

    missing = []
    for line in requirements:
        needed = Requirement(line)
        try:
            version = importlib.metadata.version(needed.name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(line)
            continue
        if not needed.specifier.contains(version, prereleases=True):
            advice = "Choose the latest version: Runtime > Change runtime type > Runtime version."
            raise InputError("Colab", line, f"{needed.name} {version}", advice)
    return missing


def _install(missing: Sequence[str]) -> None:
    """Install packages beside what is there, which is pinned."""
    if not missing:
        return
    found = {found.name: found.version for found in importlib.metadata.distributions()}
    pins = [f"{name}=={version}" for name, version in found.items() if name and version]
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text("\n".join(pins), encoding="utf-8")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        command = [*pip, "--constraint", str(constraints), *missing]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        told = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        reason = (told or [f"exit status {done.returncode}"])[-1].removeprefix("ERROR: ")
        raise CifarlibError(f"pip could not install {', '.join(missing)}: {reason}")
    importlib.invalidate_caches()


def repository() -> str:
    """Return owner and name of the repository on GitHub, as pyproject.toml has them.

    >>> repository().count("/")
    1
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["urls"]["Repository"].removeprefix("https://github.com/")


def address(notebook: str) -> str:
    """Return the address at which Colab opens a notebook, such as ``"01_explore….ipynb"``."""
    base = "https://colab.research.google.com/github"
    return f"{base}/{repository()}/blob/main/notebooks/{notebook}"


def badge(notebook: str) -> str:
    """Return the badge of a notebook, a line of Markdown."""
    picture = "https://colab.research.google.com/assets/colab-badge.svg"
    return f"[![Open in Colab]({picture})]({address(notebook)})"


BADGE = re.compile(r"^\[!\[Open in Colab\].*\n\n", re.MULTILINE)
