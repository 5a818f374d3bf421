"""What the environment says: source, cache folder, profile."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import cifarlib
from cifarlib import data, devices, settings
from cifarlib.errors import InputError

CHECKOUT_FOLDER = settings.checkout_folder  # before conftest.py hides the checkout


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """Return a checkout beside the working directory."""
    root = tmp_path / "checkout"
    (root / "data").mkdir(parents=True)
    monkeypatch.setattr(settings, "checkout_folder", lambda: root)
    return root


@pytest.fixture
def accelerators(monkeypatch):
    """Return the list of accelerators that this machine has, to be filled."""
    found = []
    monkeypatch.setattr(settings.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(devices, "accelerators", lambda: found)
    return found


# The checkout


@pytest.mark.parametrize(
    ("missing", "is_checkout"), [(None, True), ("notebooks", False), ("pyproject.toml", False)]
)
def test_checkout_has_notebooks_and_a_project_file(tmp_path, monkeypatch, missing, is_checkout):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.setattr(settings, "__file__", str(tmp_path / "cifarlib" / "settings.py"))
    if missing:
        (tmp_path / missing).rename(tmp_path / "elsewhere")
    assert CHECKOUT_FOLDER() == (tmp_path if is_checkout else None)


# The source


@pytest.mark.parametrize("value", [None, "", "  "])
def test_no_source_is_none(monkeypatch, value):
    if value is not None:
        monkeypatch.setenv("CIFARLIB_SOURCE", value)
    assert settings.source() is None


@pytest.mark.parametrize("value", ["synthetic", "http://localhost/a.tar.gz", "/a/b.zip", "~/a.tar"])
def test_source_is_given_as_it_is(monkeypatch, checkout, value):
    monkeypatch.setenv("CIFARLIB_SOURCE", f" {value} ")
    assert settings.source() == value


def test_synthetic_is_a_word_and_no_folder(tmp_path, monkeypatch):
    (tmp_path / "synthetic").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CIFARLIB_SOURCE", "synthetic")
    assert settings.source() == "synthetic"
    monkeypatch.setenv("CIFARLIB_SOURCE", "./synthetic")
    assert settings.source() == str((tmp_path / "synthetic").resolve())


def test_relative_source_is_looked_for_in_the_root_of_the_checkout(monkeypatch, checkout):
    (checkout / "data" / "a.tar").touch()
    monkeypatch.setenv("CIFARLIB_SOURCE", "data/a.tar")
    assert settings.source() == str(checkout / "data" / "a.tar")


def test_relative_source_in_the_working_directory_comes_first(tmp_path, monkeypatch, checkout):
    (checkout / "a.tar").touch()
    (tmp_path / "a.tar").touch()
    monkeypatch.setenv("CIFARLIB_SOURCE", "a.tar")
    assert Path(settings.source()).resolve() == tmp_path / "a.tar"


def test_relative_source_may_point_outside_the_checkout(tmp_path, monkeypatch, checkout):
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "a.tar").touch()
    (checkout / "notebooks").mkdir()
    monkeypatch.chdir(checkout / "notebooks")
    monkeypatch.setenv("CIFARLIB_SOURCE", "../shared/a.tar")
    assert settings.source() == str(tmp_path / "shared" / "a.tar")


def test_source_that_is_nowhere_is_given_as_it_is(monkeypatch, checkout):
    monkeypatch.setenv("CIFARLIB_SOURCE", "nowhere/a.tar")
    assert settings.source() == "nowhere/a.tar"


# The cache folder


def test_cache_folder_is_the_one_that_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("CIFARLIB_CACHE", str(tmp_path / "mine"))
    assert settings.cache_folder() == tmp_path / "mine"


def test_cache_folder_may_be_relative_or_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("CIFARLIB_CACHE", "mine")
    assert settings.cache_folder() == tmp_path / "mine"
    monkeypatch.setenv("CIFARLIB_CACHE", "~/mine")
    assert settings.cache_folder() == tmp_path / "home" / "mine"


@pytest.mark.skipif(os.name == "nt", reason="Windows has other words for it")
def test_a_cache_folder_of_a_name_that_no_disk_takes_is_bad_input(monkeypatch):
    monkeypatch.setenv("CIFARLIB_CACHE", "n" * 300)
    with pytest.raises(
        InputError, match="expected a folder to write the cache to, found File name"
    ):
        data.load_cifar10("synthetic")


def test_a_relative_cache_folder_is_the_same_for_a_command_and_a_kernel(monkeypatch, checkout):
    (checkout / "notebooks").mkdir(exist_ok=True)
    monkeypatch.setenv("CIFARLIB_CACHE", "mine")
    for _ in range(2):
        for folder in (checkout, checkout / "notebooks"):
            monkeypatch.chdir(folder)
            assert settings.cache_folder() == (checkout / "mine").resolve()
        (checkout / "mine").mkdir(exist_ok=True)
    (checkout / "notebooks" / "mine").mkdir()
    assert settings.cache_folder() == (checkout / "notebooks" / "mine").resolve()


@pytest.mark.parametrize("value", [None, "", " "])
def test_cache_folder_is_data_of_the_checkout_unless_named(monkeypatch, checkout, value):
    monkeypatch.delenv("CIFARLIB_CACHE")
    if value is not None:
        monkeypatch.setenv("CIFARLIB_CACHE", value)
    assert settings.cache_folder() == checkout / "data"


def test_cache_folder_without_a_checkout_is_the_users(tmp_path, monkeypatch):
    monkeypatch.delenv("CIFARLIB_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    folder = settings.cache_folder()
    assert folder.is_relative_to(tmp_path / "home")
    assert "cifarlib" in folder.parts


# Pages of chapters


def test_pages_of_chapters_go_to_build_unless_a_run_has_another_folder(monkeypatch, checkout):
    assert settings.report_folder() == checkout / "build"
    monkeypatch.setenv("CIFARLIB_REPORT", "/elsewhere")
    assert settings.report_folder() == Path("/elsewhere")
    monkeypatch.delenv("CIFARLIB_REPORT")
    monkeypatch.setattr(settings, "checkout_folder", lambda: None)
    assert settings.report_folder() == Path("build")


# The profile


@pytest.mark.parametrize("value", ["quick", "full", " quick "])
def test_profile_is_the_one_that_is_named(monkeypatch, value):
    monkeypatch.setenv("CIFARLIB_PROFILE", value)
    assert settings.profile() == value.strip()


@pytest.mark.parametrize("value", ["fast", "QUICK", "quick,full"])
def test_unknown_profile_is_refused(monkeypatch, value):
    monkeypatch.setenv("CIFARLIB_PROFILE", value)
    with pytest.raises(InputError, match=f"expected quick or full, found '{value}'"):
        settings.profile()


@pytest.mark.parametrize(("devices_found", "profile"), [([], "quick"), (["GPU:0"], "full")])
def test_profile_is_full_where_keras_sees_an_accelerator(accelerators, devices_found, profile):
    accelerators.extend(devices_found)
    assert settings.profile() == profile


def test_keras_is_not_asked_on_a_machine_without_a_sign_of_an_accelerator(
    monkeypatch, accelerators
):
    accelerators.append("GPU:0")
    monkeypatch.setattr(settings.shutil, "which", lambda name: None)
    monkeypatch.setattr(settings.Path, "exists", lambda path: False)
    assert settings.profile() == "quick"


@pytest.mark.parametrize(("profile", "budget"), [("quick", 3), ("full", 50)])
def test_budget_is_that_of_the_profile(monkeypatch, profile, budget):
    monkeypatch.setenv("CIFARLIB_PROFILE", profile)
    assert settings.by_profile(quick=3, full=50) == budget


# What importing costs


@pytest.mark.parametrize(
    "code",
    [
        "import cifarlib",
        "import cifarlib.cli",
        "import cifarlib.settings, cifarlib.errors, cifarlib.devices",
        "from cifarlib import cli\ntry: cli.main(['--help'])\nexcept SystemExit: pass",
        "from cifarlib import cli\ntry: cli.main(['data', '--help'])\nexcept SystemExit: pass",
        "from cifarlib import settings; settings.cache_folder(); settings.source()",
    ],
)
def test_nothing_heavy_is_imported_before_it_is_used(code):
    script = f"{code}\nimport sys\nprint('imported', *sys.modules)"
    command = [sys.executable, "-c", script]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    modules = output.rpartition("imported ")[2].split()
    assert "cifarlib" in modules
    heavy = {"numpy", "PIL", "tensorflow", "keras", "matplotlib", "sklearn", "pandas", "pooch"}
    assert heavy.isdisjoint(modules)


def test_loading_data_imports_neither_tensorflow_nor_matplotlib(run_python):
    script = """
import sys
from cifarlib import data
data.load_cifar10(sys.argv[1])
print(*sys.modules)
"""
    from cifarlib import synthetic

    path = synthetic.write_archive(Path("a.tar.gz"))
    output, errors = run_python(script, path).communicate(timeout=60)
    modules = output.split()
    assert "numpy" in modules, errors
    assert {"tensorflow", "keras", "matplotlib", "sklearn"}.isdisjoint(modules)


def test_version_is_a_version():
    assert all(part.isdigit() for part in cifarlib.__version__.split("."))
