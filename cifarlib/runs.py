"""The folder of a training run: what was asked, how far it got, what came out.

    config.json      what was asked, and on which data: whoever resumes must ask the same
    checkpoint.npz   everything needed to go on after the last finished epoch
    history.csv      a row an epoch
    metrics.json     the finished run's figures, on training and validation images
    model.keras      the best epoch's network; takes pixels as they are, returns logits

Each is written whole or not at all, and no run is ever overwritten. Not for training.
"""

import contextlib
import io
import json
import os
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import filelock
import keras
import numpy as np
import pandas as pd

from cifarlib import files, models, progress  # models registers the layers that files name
from cifarlib.errors import CifarlibError, InputError


class Run(NamedTuple):
    """A finished training run.

    Attributes:
        model: the best epoch's network: takes pixels from 0 to 255, shape (n, 32, 32, C), and
            returns logits (n, 10).
        history: a row an epoch, as `training.train` describes it.
        metrics: the run's figures, JSON values.
        folder: where it lies, None if nothing was written.
    """

    model: keras.Model
    history: pd.DataFrame
    metrics: dict[str, Any]
    folder: Path | None


# The field of config.json with the digest of the code that trains.
CODE = "code"
# What is checked of a finished run.
_METRICS = (
    *("model", "color", "seed", "epochs", "best_epoch", "seconds", "parameters", "config"),
    *("data_kind", "data_fingerprint", "accelerators", "hardware", "command"),
)
# What zipfile and NumPy raise for a file with bytes missing or changed.
_DAMAGE = (
    *(OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError),  # and NotImplementedError
    *(zipfile.BadZipFile, zlib.error),
)


class RunFolder:
    """A run's folder, held by this process; made by `claim`."""

    def __init__(self, path: Path, asked: dict[str, Any]):
        self.path = path
        self._asked = asked

    def save_checkpoint(self, arrays: Mapping[str, np.ndarray], history: list[dict]) -> None:
        """Replace the checkpoint, and write the history beside it."""
        about = {"history": history, "arrays": sorted(arrays), "asked": self._asked}
        path = self.path / "checkpoint.npz"
        try:
            with files.replacing(path) as file:
                np.savez(file, about=np.array(json.dumps(about)), **arrays)
            self._write_history(history)
        except OSError as error:
            kept = "the last one is whole, and the run can be resumed" * path.exists()
            raise CifarlibError(
                f"{self.path}: the checkpoint could not be written ({error.strerror}). "
                f"Make room; {kept or 'there is none yet, and the run begins anew'}."
            ) from error

    def load_checkpoint(self) -> tuple[dict[str, np.ndarray], list[dict]] | None:
        """Return the arrays and the history of the last checkpoint, None before the first.

        Raises:
            InputError: if the file is damaged, or another run's.
        """
        path = self.path / "checkpoint.npz"
        if not path.exists():
            return None
        try:
            if not zipfile.is_zipfile(path):
                raise ValueError("no NumPy archive")
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            about = json.loads(str(arrays.pop("about")))
            if about["arrays"] != sorted(arrays):
                raise ValueError("arrays are missing")
            before = about.get("asked", self._asked)  # older ones do not tell
            for field, _, _ in _differing(before, self._asked):
                raise ValueError(f"of another run, by its {field}")
            history = about["history"]
        except _DAMAGE as error:
            advice = "Delete the folder and start the run again."
            raise InputError(path, "a checkpoint", f"a damaged file ({error})", advice) from error
        return arrays, history

    def finish(self, model: keras.Model, history: list[dict], metrics: dict[str, Any]) -> None:
        """Write what the run was for. The checkpoint goes last, when nothing needs it."""
        self._write_history(history)
        temporary = self.path / ".new.keras"  # Keras insists on the suffix
        model.save(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())  # on disk before the checkpoint goes
        temporary.replace(self.path / "model.keras")
        files.write_json(self.path / "metrics.json", metrics)
        remove_checkpoint(self.path)

    def _write_history(self, history: list[dict]) -> None:
        text = io.StringIO()
        pd.DataFrame(history).to_csv(text, index=False, lineterminator="\n")
        files.write_text(self.path / "history.csv", text.getvalue())


def is_finished(folder: Path) -> bool:
    """Tell whether a run has ended well."""
    return (folder / "metrics.json").exists()


def remove_checkpoint(folder: Path) -> None:
    """Remove what a finished run no longer needs: it is several times as large as the model."""
    (folder / "checkpoint.npz").unlink(missing_ok=True)


@contextlib.contextmanager
def claim(
    path: Path, asked: dict[str, Any], *, resume: bool, wait: bool = False
) -> Iterator[RunFolder]:
    """Hold a run's folder, making it if need be.

    Args:
        path: the folder.
        asked: what decides the run's outcome, as JSON values, possibly nested.
        resume: go on with a run that is there.
        wait: until another process that holds the folder is done with it.

    Raises:
        InputError: if the folder holds anything and ``resume`` is not set, or another run, or
            no run at all.
        CifarlibError: if another process holds it, and ``wait`` is not set.
    """
    path = Path(path)
    asked = json.loads(json.dumps(asked))  # as it will be read again: tuples become lists
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            path, "a folder for the run", error.strerror or "none", "Name another."
        ) from error
    lock = filelock.FileLock(path / ".lock")
    try:
        _acquire(lock, path, wait)
    except OSError as error:
        raise InputError(path, "a folder to write to", str(error), "Name another.") from error
    try:
        _check_claim(path, asked, resume)
        for entry in path.iterdir():
            if _is_leftover(entry.name):
                entry.unlink()
        if not is_finished(path):  # that says what it was finished with
            files.write_json(path / "config.json", asked)
        try:
            yield RunFolder(path, asked)
        except BaseException:
            outcome = (path / "checkpoint.npz", path / "metrics.json")
            if not any(file.exists() for file in outcome):  # nothing came of it
                (path / "config.json").unlink(missing_ok=True)
            raise
    finally:
        if not _has_run(path, asked):  # it was not ours to lock
            with contextlib.suppress(OSError):  # before the release: then it may be another's
                (path / ".lock").unlink()
        lock.release()


def _acquire(lock: filelock.FileLock, path: Path, wait: bool) -> None:
    held = f"{path}: another process is training in this folder"
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        if not wait:
            raise CifarlibError(f"{held}.") from error
        progress.say(f"{held}; waiting for it.")
        lock.acquire()


def _check_claim(path: Path, asked: dict[str, Any], resume: bool) -> None:
    config = path / "config.json"
    if not config.exists():
        names = [entry.name for entry in path.iterdir()]
        if strangers := [name for name in names if name != ".lock" and not _is_leftover(name)]:
            found = f"other files ({sorted(strangers)[0]})"
            raise InputError(path, "a run, or an empty folder", found, "Name another folder.")
        return
    try:
        before = _configuration(path)
        if before.keys().isdisjoint(asked):
            raise ValueError("another program's")
    except (ValueError, OSError, RecursionError) as error:
        advice = "Name another folder."
        raise InputError(config, "a run's configuration", str(error), advice) from error
    if not resume:
        advice = "Resume it (--resume), or name another folder (--output)."
        raise InputError(path, "no run of that name", "one", advice)
    now = dict(asked)
    is_same_code = before.pop(CODE, None) == now.pop(CODE, None)
    for field, was, wanted in _differing(before, now):
        raise InputError(
            path,
            f"a run with {field} = {json.dumps(wanted)}",
            json.dumps(was),
            _ADVICE.get(field, "Ask for the same to resume it, or name another folder."),
        )
    if not is_same_code and not is_finished(path):
        advice = "Name another folder, or go on with the cifarlib that began it."
        raise InputError(path, "a run that this training code began", "one of other code", advice)


def _configuration(path: Path) -> dict[str, Any]:
    found = json.loads((path / "config.json").read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError("not an object")
    return found


def _has_run(path: Path, asked: dict[str, Any]) -> bool:
    """Tell whether a folder has the configuration of a run, whatever its values."""
    try:
        return not _configuration(path).keys().isdisjoint(asked)
    except (ValueError, OSError, RecursionError):
        return False


# For what nobody asks for in so many words.
_ADVICE = {
    "data": "Set CIFARLIB_SOURCE to the images that it began with, or name another folder.",
    "design": "The network of that name is another by now: go on with the code, or the file, that "
    "began it, or name another folder.",
}


def _is_leftover(name: str) -> bool:
    """Tell whether a file was being written when its process was killed."""
    pattern = r"\.(config\.json|checkpoint\.npz|history\.csv|metrics\.json)\.\d+|\.new\.keras"
    return re.fullmatch(pattern, name) is not None


def _differing(before: dict[str, Any], now: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield the fields that differ, with what they were and are.

    One that is missing, as of an older version, is as None.
    """
    before, now = dict(_leaves(before)), dict(_leaves(now))
    for field in {**now, **before}:
        if before.get(field) != now.get(field):
            yield field, before.get(field), now.get(field)


def _leaves(value: dict[str, Any], within: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the fields of nested objects, named by their path."""
    for name, content in value.items():
        if isinstance(content, dict):
            yield from _leaves(content, f"{within}{name}.")
        else:
            yield within + name, content


def read(path: str | Path) -> Run:
    """Return a finished run.

    Args:
        path: its folder.

    Raises:
        InputError: if it is no finished run, or a file of it is missing or damaged.
    """
    path = Path(path)
    if not path.is_dir():
        advice = "Name the folder that cifarlib train wrote."
        raise InputError(path, "the folder of a run", "none", advice)
    if not (path / "config.json").exists():
        advice = "Name the folder that cifarlib train wrote."
        raise InputError(path, "the folder of a run", "no config.json in it", advice)
    if not (path / "metrics.json").exists():
        advice = "Finish it: the same cifarlib train command with --resume."
        raise InputError(path, "a finished run", "an unfinished one", advice)
    advice = "Delete the folder and train it again."
    try:
        metrics = json.loads((path / "metrics.json").read_text(encoding="utf-8"))
        history = pd.read_csv(path / "history.csv")
        _check_outcome(metrics, history)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(path, "a whole run", f"a damaged one ({error})", advice) from error
    model = load_model(path / "model.keras")
    shape = getattr(model, "input_shape", None) or [None]
    if shape[-1] != models.CHANNELS[metrics["color"]]:
        found = f"one of a network for {shape[-1]} channels"
        raise InputError(path, f"a run in {metrics['color']}", found, advice)
    if (count := model.count_params()) != metrics["parameters"]:
        told = f"a network of {metrics['parameters']:,} parameters, as metrics.json says"
        raise InputError(path / "model.keras", told, f"one of {count:,}", advice)
    return Run(model, history, metrics, path)


def _check_outcome(metrics: Any, history: pd.DataFrame) -> None:
    """Raise ValueError if a run's figures lack something, or are none."""
    if not isinstance(metrics, dict):
        raise ValueError("metrics.json is no object")
    if missing := [name for name in _METRICS if name not in metrics]:
        raise ValueError(f"metrics.json has no {missing[0]}")
    if metrics["color"] not in [*models.CHANNELS]:
        raise ValueError(f"metrics.json has the color {metrics['color']!r}")
    if not isinstance(metrics["parameters"], int):
        raise ValueError(f"metrics.json has {metrics['parameters']!r} parameters")
    config = metrics["config"]
    fraction = config.get("validation_fraction") if isinstance(config, dict) else None
    if not isinstance(fraction, (int, float)) or not 0 <= fraction < 1:
        raise ValueError("metrics.json has no validation_fraction from 0 to 1 in its config")
    columns = {"epoch", "loss", "accuracy"}
    if not columns <= set(history.select_dtypes("number")):
        raise ValueError("history.csv has no numbers of epoch, loss and accuracy")


def check_loadable(network: keras.Model) -> None:
    """Refuse a network that could be saved but not loaded again.

    Raises:
        InputError: if it holds layers that Keras would not make from a file.
    """
    try:
        described = keras.saving.serialize_keras_object(network)
        keras.saving.deserialize_keras_object(described, safe_mode=True)
    except Exception as error:  # Keras raises whatever the layers lead it to
        advice = "Register layers of your own with keras.saving.register_keras_serializable."
        raise InputError(
            f"design {network.name}", "layers that can be loaded again", _first_line(error), advice
        ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def load_model(path: str | Path) -> keras.Model:
    """Load a network from a ``.keras`` file, in safe mode: no code of the file is executed.

    Raises:
        InputError: if there is no such file, or it is damaged, or it asks for code of its own.
    """
    if not Path(path).is_file():
        raise InputError(path, "a network saved by Keras", "no such file", "Correct the path.")
    if not zipfile.is_zipfile(path):
        advice = "Restore it, or train it again."
        raise InputError(path, "a network saved by Keras", "a damaged file, or another", advice)
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises whatever a damaged file leads it to
        advice = "Only files without code of their own are loaded; train it again."
        raise InputError(path, "a network saved by Keras", _first_line(error), advice) from error
