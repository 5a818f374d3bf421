"""Every chapter as Colab would run it: its versions, an empty folder, the set-up cell, no more.

    python tests/in_colab.py [NN ...]

An environment of its own holds the versions of colab-versions.txt. Each chapter is executed
there in the quick profile, from a folder where nothing is, beside a stand-in for the module
``google.colab``; instead of GitHub's, the set-up cell clones the last commit of this checkout.
Not for pytest: it downloads an environment and takes as long as all chapters do.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat

from cifarlib import chapters, colab, errors, settings

ROOT = Path(__file__).resolve().parent.parent
STAND_IN = {
    "modules/google/colab/__init__.py": "",
    "modules/google/colab/drive.py": "def mount(place):\n    pass\n",
    "ipython/profile_default/startup/colab.py": "import google.colab\n",
}


def main() -> None:
    """Execute chapters and end with status 1 if one fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("chapters", nargs="*", metavar="NN", help="numbers (default: all)")
    parser.add_argument("--environment", type=Path, default=ROOT / ".venv-colab")
    options = parser.parse_args()
    selected = chapters.find(options.chapters)
    environment = options.environment.resolve()  # chapters run elsewhere
    made_environment(environment)
    with tempfile.TemporaryDirectory() as folder:
        for name, source in STAND_IN.items():
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source)
        failed = [c.number for c in selected if not is_executed(c, environment, folder)]
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


def made_environment(folder: Path) -> None:
    """Make the environment, once; an installation that was killed is done again."""
    mark, versions = folder / ".complete", ROOT / "tests" / "colab-versions.txt"
    if mark.exists() and mark.read_text() == versions.read_text():
        return
    print(f"Setting up {folder} with {versions.name} (once, a few minutes) ...", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "-r", versions]
    subprocess.run(pip, check=True)
    mark.write_text(versions.read_text())


def is_executed(chapter: chapters.Chapter, environment: Path, folder: str) -> bool:
    """Execute a chapter in an empty folder, and print how it went."""
    content = Path(tempfile.mkdtemp(dir=folder))
    notebook = content / chapter.path.name
    shutil.copy(chapter.path, notebook)
    variables = {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        "PYTHONPATH": f"{folder}/modules",
        "IPYTHONDIR": f"{folder}/ipython",
        "CIFARLIB_CACHE": f"{folder}/cache",
        "CIFARLIB_PROFILE": "quick",
        "CIFARLIB_UNATTENDED": "1",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.file://{ROOT}.insteadOf",
        "GIT_CONFIG_VALUE_0": f"https://github.com/{colab.repository()}",
    }
    if source := settings.source():
        variables["CIFARLIB_SOURCE"] = source
    began = time.monotonic()
    command = [environment / "bin" / "jupyter-execute", "--inplace", "--timeout=-1", notebook]
    done = subprocess.run(command, env=variables, cwd=content, capture_output=True, text=True)
    how = f"failed\n{done.stderr[-3000:]}" if done.returncode else "ok"
    print(f"{chapter.path.name}: {how}, {time.monotonic() - began:.0f} s", flush=True)
    if not done.returncode:
        told = nbformat.read(notebook, as_version=4).cells[1].outputs[0].text
        print("\n".join(line for line in told.splitlines() if line.startswith("cifarlib ")))
    return not done.returncode


if __name__ == "__main__":
    with errors.told():
        main()
