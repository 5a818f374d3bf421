"""What the set-up cell does in Colab, with a stand-in for Colab's own module."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import nbformat
import pytest

from cifarlib import chapters, colab, devices, settings
from cifarlib.errors import CifarlibError, InputError

ROOT = Path(colab.__file__).parent.parent


@pytest.fixture(autouse=True)
def own_paths(monkeypatch):
    """Let what set_up does to the process end with the test."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("PYTHONPATH", "")


@pytest.fixture
def mounted(monkeypatch):
    """Return the list of places where the stand-in has mounted a drive."""
    places = []
    google, module = ModuleType("google"), ModuleType("google.colab")
    module.drive = SimpleNamespace(mount=places.append)
    monkeypatch.setitem(sys.modules, "google", google)
    monkeypatch.setitem(sys.modules, "google.colab", module)
    return places


# What is installed


def test_chapters_need_none_of_what_stands_below_the_line():
    names = [line.split(">")[0] for line in colab._requirements()]
    assert {"numpy", "tensorflow", "optuna", "nbconvert"} <= set(names)
    assert not {"jupyter", "nbval", "pytest", "ruff"} & set(names)


def test_only_what_is_not_there_is_missing():
    assert colab._missing(["numpy>=1.0", "no-such-thing-at-all>=3"]) == ["no-such-thing-at-all>=3"]
    assert colab._missing(colab._requirements()) == [], "the tests' own environment is complete"


def test_what_is_there_but_too_old_is_told_and_left_alone():
    with pytest.raises(InputError, match=r"numpy>=1000.*found numpy \d.*runtime type"):
        colab._missing(["numpy>=1000"])


@pytest.fixture
def pip(monkeypatch):
    """Return what pip was asked, each with its constraints; it ends as ``pip.outcome`` says."""
    asked = SimpleNamespace(calls=[], outcome=(0, ""))

    def run(command, **options):
        constraints = Path(command[command.index("--constraint") + 1]).read_text()
        asked.calls.append((command, constraints.splitlines()))
        return SimpleNamespace(returncode=asked.outcome[0], stderr=asked.outcome[1])

    monkeypatch.setattr(colab.subprocess, "run", run)
    return asked


def test_everything_installed_is_pinned_while_something_is_added(pip):
    colab._install(["optuna>=5"])
    [(command, constraints)] = pip.calls
    assert command[-1] == "optuna>=5"
    versions = devices.versions()
    for name in ("numpy", "keras", "tensorflow"):
        assert f"{name}=={versions[name]}" in constraints


def test_nothing_missing_asks_for_nothing(pip):
    colab._install([])
    assert pip.calls == []


def test_what_pip_cannot_do_is_told_in_a_line(pip):
    pip.outcome = (1, "WARNING: hm\nERROR: No matching distribution found for optuna\n")
    with pytest.raises(CifarlibError, match="could not install optuna>=5: No matching dist"):
        colab._install(["optuna>=5"])


# The set-up call


def test_setting_up_twice_is_setting_up_once(monkeypatch, capsys):
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setattr(settings, "has_accelerator", lambda: False)
    colab.set_up()
    once = list(sys.path), os.environ["PYTHONPATH"]
    colab.set_up()
    assert (sys.path, os.environ["PYTHONPATH"]) == once
    assert sys.path[0] == str(ROOT)
    assert os.environ["PYTHONPATH"] == os.pathsep.join([str(ROOT), "/elsewhere"])
    line, advice, *_ = capsys.readouterr().out.splitlines()
    assert line.startswith("cifarlib ") and "keras" in line and "numpy" in line
    assert "T4" in advice


def test_where_there_is_a_gpu_nothing_is_advised(monkeypatch, capsys):
    monkeypatch.setattr(settings, "has_accelerator", lambda: True)
    monkeypatch.setattr(devices, "accelerators", lambda: ["NVIDIA A100"])
    colab.set_up()
    told = capsys.readouterr().out
    assert "GPU: NVIDIA A100" in told and "T4" not in told


def test_a_folder_of_the_drive_keeps_data_and_runs(mounted, monkeypatch):
    monkeypatch.setattr(colab, "DRIVE", Path("/content/drive"))
    colab.set_up(drive="lessons")
    assert mounted == ["/content/drive"]
    assert os.environ["CIFARLIB_CACHE"] == "/content/drive/MyDrive/lessons"


@pytest.mark.parametrize("folder", ["/cifarlib", "/MyDrive/cifarlib", "../cifarlib", "a/../.."])
def test_a_folder_outside_the_drive_would_not_be_kept(mounted, folder):
    with pytest.raises(InputError, match=r"drive: expected a folder such as 'cifarlib'"):
        colab.set_up(drive=folder)
    assert mounted == []


def test_without_a_folder_nothing_is_mounted(mounted):
    before = os.environ["CIFARLIB_CACHE"]
    colab.set_up()
    assert mounted == []
    assert os.environ["CIFARLIB_CACHE"] == before


# The whole cell, in a folder where nothing is

CELL = """
import os, sys, types
google, module = types.ModuleType("google"), types.ModuleType("google.colab")
google.colab = module
sys.modules |= {"google": google, "google.colab": module}
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
source = open(sys.argv[1]).read()
os.chdir(sys.argv[2])
for _ in range(2):
    shell.run_cell(source).raise_error()
import cifarlib
print("imported from", cifarlib.__file__)
"""


@pytest.mark.skipif(shutil.which("git") is None, reason="Colab has git")
@pytest.mark.skipif(os.name != "posix", reason="Colab is Linux")
def test_the_set_up_cell_works_in_an_empty_folder_twice(
    copied_checkout, tmp_path, build, tiny, run_python, monkeypatch
):
    monkeypatch.setattr(settings, "checkout_folder", lambda: ROOT)
    cell = nbformat.read(chapters.find(["01"])[0].path, as_version=4).cells[1].source
    (tmp_path / "cell.py").write_text(cell)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(copied_checkout)]
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "all"]):
        subprocess.run([*git, *words], check=True)
    source = build.pack(tmp_path / "photos", build.folders(*tiny))
    address = f"https://github.com/{colab.repository()}"
    elsewhere = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{copied_checkout}.insteadOf",
        "GIT_CONFIG_VALUE_0": address,
        "CIFARLIB_SOURCE": str(source),
        "CUDA_VISIBLE_DEVICES": "",  # advice is for those who have none
    }
    (tmp_path / "content").mkdir()
    process = run_python(
        CELL, tmp_path / "cell.py", tmp_path / "content", env={**os.environ, **elsewhere}
    )
    told, errors = process.communicate(timeout=300)
    assert process.returncode == 0, told + errors
    assert told.count("50 training and 20 test images") == 2
    assert told.count("T4 GPU") == 2
    assert f"imported from {tmp_path / 'content' / 'cifarlib' / 'cifarlib'}" in told
