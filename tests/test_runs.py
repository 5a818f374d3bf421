"""The folder of a run: claimed by one, resumed only for the same, read whole or refused."""

import contextlib
import csv
import io
import json
import shutil
import zipfile

import keras
import numpy as np
import pandas as pd
import pytest

from cifarlib import models, runs
from cifarlib.errors import CifarlibError, InputError

ASKED = {
    "model": "baseline",
    "seed": 0,
    "learning_rate": 3e-3,
    "patience": None,
    "augmentation": ["flip", "crop"],
}
HISTORY = [
    {"epoch": 1, "loss": 2.302585092994046, "accuracy": 0.1, "validation_accuracy": 0.1},
    {"epoch": 2, "loss": 1.1e-17, "accuracy": 1 / 7, "validation_accuracy": 1 / 3},
]
METRICS = {
    "model": "mine",
    "color": "rgb",
    "seed": 0,
    "epochs": 2,
    "best_epoch": 2,
    "seconds": 0.1,
    "parameters": 142,
    "validation_accuracy": 1 / 3,
    "config": {"validation_fraction": 0.1},
    "data_kind": "own images",
    "data_fingerprint": None,
    "command": "cifarlib train mine",
    "accelerators": [],
    "hardware": "a processor",
}
ARRAYS = {
    "variable_00000": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),
    "variable_00001": np.array(7, np.int64),
}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "runs" / "mine"


@pytest.fixture
def network():
    """Return a small network with a layer of this package's own."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4, 3))
    x = keras.layers.Flatten()(models.PositionEmbedding()(inputs))
    return keras.Model(inputs, keras.layers.Dense(10)(x))


@pytest.fixture
def finished(folder, network):
    """Return the folder of a finished run."""
    with runs.claim(folder, ASKED, resume=False) as run:
        run.save_checkpoint(ARRAYS, HISTORY[:1])
        run.finish(network, HISTORY, METRICS)
    return folder


def claim_and_leave(folder, asked=ASKED, resume=False) -> None:
    with runs.claim(folder, asked, resume=resume):
        pass


def refused(folder, asked=ASKED, resume=False) -> str:
    """Return how a claim is refused, in one line, after a look that nothing has changed."""
    before = contents(folder)
    with pytest.raises(InputError) as error:
        claim_and_leave(folder, asked, resume)
    assert contents(folder) == before
    assert "\n" not in str(error.value)
    return str(error.value)


def contents(folder) -> dict[str, bytes]:
    """Return what lies in a folder, apart from the lock."""
    if not folder.is_dir():
        return {}
    return {
        entry.name: entry.read_bytes()
        for entry in folder.iterdir()
        if entry.is_file() and entry.name != ".lock"
    }


def predictions(network) -> np.ndarray:
    x = np.random.default_rng(0).random((5, 4, 3), np.float32)
    return keras.ops.convert_to_numpy(network(x))


# Claiming


def test_a_new_folder_is_made_with_all_above_it(folder):
    with runs.claim(folder, ASKED, resume=False) as run:
        assert run.path == folder and not runs.is_finished(folder)
        assert run.load_checkpoint() is None
    assert json.loads((folder / "config.json").read_text()) == ASKED
    assert list(contents(folder)) == ["config.json"]


def test_a_folder_may_be_given_as_text(folder):
    with runs.claim(str(folder), ASKED, resume=False) as run:
        assert run.path == folder


@pytest.mark.parametrize("resume", [False, True])
def test_an_empty_folder_can_be_claimed(folder, resume):
    folder.mkdir(parents=True)
    claim_and_leave(folder, resume=resume)
    assert (folder / "config.json").exists()


def test_resuming_where_nothing_is_starts(folder):
    claim_and_leave(folder, resume=True)
    assert (folder / "config.json").exists()


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("name", ["thesis.tex", "checkpoint.npz", "model.keras"])
def test_a_folder_with_other_files_is_refused_and_left_alone(folder, name, resume):
    folder.mkdir(parents=True)
    (folder / name).write_text("mine")
    assert name in refused(folder, resume=resume)


def test_not_even_a_lock_is_left_in_somebody_elses_folder(folder):
    folder.mkdir(parents=True)
    (folder / "thesis.tex").write_text("mine")
    refused(folder)
    assert [entry.name for entry in folder.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("resume", [False, True])
def test_a_file_is_no_folder(folder, resume):
    folder.parent.mkdir()
    folder.write_text("mine")
    for path in (folder, folder / "below"):
        assert "a folder for the run" in refused(path, resume=resume)
    assert folder.read_text() == "mine"


def test_a_run_that_is_there_is_only_gone_on_with_when_asked(folder):
    claim_and_leave(folder)
    told = refused(folder)
    assert "--resume" in told and "--output" in told and str(folder) in told
    claim_and_leave(folder, resume=True)


def test_a_finished_run_is_not_overwritten(finished):
    assert "--resume" in refused(finished)
    with runs.claim(finished, ASKED, resume=True) as run:
        assert runs.is_finished(run.path)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"seed": 1}, r"seed = 1, found 0\b"),
        ({"learning_rate": 0.1}, r"learning_rate = 0\.1, found 0\.003"),
        ({"patience": 3}, "patience = 3, found null"),
        ({"augmentation": ["crop", "flip"]}, r"augmentation = \[\"crop\", \"flip\"\], found"),
        ({"model": "vgg6"}, 'model = "vgg6", found "baseline"'),
        ({"color": "gray"}, 'color = "gray", found null'),
    ],
)
def test_another_run_is_refused_with_what_differs(folder, changes, told):
    claim_and_leave(folder)
    with pytest.raises(InputError, match=told):
        claim_and_leave(folder, {**ASKED, **changes}, resume=True)
    assert json.loads((folder / "config.json").read_text()) == ASKED


def test_a_field_that_is_no_longer_asked_for_is_told(folder):
    claim_and_leave(folder, {**ASKED, "color": "gray"})
    assert "color" in refused(folder, ASKED, resume=True)


def test_what_json_cannot_tell_apart_is_the_same_run(folder):
    claim_and_leave(folder)
    claim_and_leave(folder, {**ASKED, "augmentation": ("flip", "crop")}, resume=True)
    claim_and_leave(folder, resume=True)


def test_a_nested_field_is_told_by_its_own_name(folder):
    nested = {"model": "baseline", "data": {"kind": "official", "counts": {"train": 50_000}}}
    claim_and_leave(folder, nested)
    claim_and_leave(folder, nested, resume=True)
    other = {"model": "baseline", "data": {"kind": "official", "counts": {"train": 100}}}
    assert "train = 100, found 50000" in refused(folder, other, resume=True)


def test_equal_names_in_different_objects_are_different_fields(folder):
    claim_and_leave(folder, {"first": {"width": 1}, "second": {"width": 2}})
    assert "width" in refused(folder, {"first": {"width": 3}, "second": {"width": 2}}, resume=True)


@pytest.mark.parametrize("content", [b"", b'{"model": "base', b"[1, 2]", b"null", b"\xff\xfe\x00"])
@pytest.mark.parametrize("resume", [False, True])
def test_a_damaged_configuration_is_refused(folder, content, resume):
    claim_and_leave(folder)
    (folder / "config.json").write_bytes(content)
    assert "config.json" in refused(folder, resume=resume)


def test_remains_of_a_killed_write_are_cleared_away_and_nothing_else(folder):
    claim_and_leave(folder)
    kept = ["checkpoint.npz", "history.csv", "notes.txt"]
    for name in [*kept, ".checkpoint.npz.4711", ".new.keras"]:
        (folder / name).write_text(name)
    claim_and_leave(folder, resume=True)
    assert sorted(contents(folder)) == sorted([*kept, "config.json"])
    assert (folder / "checkpoint.npz").read_text() == "checkpoint.npz"


def test_a_run_killed_while_its_configuration_was_written_can_be_started_again(folder):
    folder.mkdir(parents=True)
    (folder / ".config.json.4711").write_text('{"model"')
    claim_and_leave(folder)
    assert json.loads((folder / "config.json").read_text()) == ASKED


def test_the_configuration_of_another_program_is_no_run_and_is_left_alone(folder):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"name": "x", "version": "1.0"}')
    for resume in (False, True):
        told = refused(folder, resume=resume)
        assert "expected a run's configuration, found another program's" in told
    assert [entry.name for entry in folder.iterdir()] == ["config.json"], "and no lock"


def test_a_configuration_that_is_too_deep_is_damaged(folder):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("[" * 100_000)
    assert "expected a run's configuration" in refused(folder, resume=True)


# One at a time


def test_a_folder_is_held_until_it_is_let_go(folder):
    with runs.claim(folder, ASKED, resume=False):
        for resume in (False, True):
            with pytest.raises(CifarlibError, match="another process is training"):
                claim_and_leave(folder, resume=resume)
    claim_and_leave(folder, resume=True)


def test_an_error_lets_a_folder_go(folder):
    with pytest.raises(ZeroDivisionError), runs.claim(folder, ASKED, resume=False):
        raise ZeroDivisionError
    claim_and_leave(folder, resume=True)
    with pytest.raises(InputError):
        claim_and_leave(folder)
    claim_and_leave(folder, resume=True)


HOLDER = """
import json, sys, types
# Seconds of start-up that claiming does not need.
for name in ("keras", "cifarlib.models"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["keras"].Model = object
from cifarlib import runs
with runs.claim(sys.argv[1], json.loads(sys.argv[2]), resume=True) as run:
    print("claimed", flush=True)
    sys.stdin.readline()
"""


def test_a_folder_that_another_process_holds_is_refused_until_that_one_dies(folder, run_python):
    process = run_python(HOLDER, folder, json.dumps(ASKED), stdin=-1)
    assert process.stdout.readline() == "claimed\n", process.communicate()
    with pytest.raises(CifarlibError, match="another process is training") as error:
        claim_and_leave(folder, resume=True)
    assert not isinstance(error.value, InputError) and error.value.exit_status == 1
    process.kill()
    process.wait()
    claim_and_leave(folder, resume=True)


# Checkpoints


@pytest.fixture
def run(folder):
    with runs.claim(folder, ASKED, resume=False) as run:
        yield run


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    for name, asked in (("one", ASKED), ("other", {**ASKED, "seed": 1})):
        with runs.claim(tmp_path / name, asked, resume=False) as run:
            run.save_checkpoint(ARRAYS, HISTORY)
    shutil.copy(tmp_path / "one" / "checkpoint.npz", tmp_path / "other")
    told = pytest.raises(InputError, match=r"expected a checkpoint, .*of another run")
    with runs.claim(tmp_path / "other", asked, resume=True) as run, told:
        run.load_checkpoint()


def test_a_checkpoint_of_an_older_version_lacks_an_option_as_its_configuration_does(folder):
    with runs.claim(folder, ASKED, resume=False) as run:
        run.save_checkpoint(ARRAYS, HISTORY)
    with runs.claim(folder, {**ASKED, "new_option": None}, resume=True) as run:
        _, history = run.load_checkpoint()
    assert history == HISTORY


@pytest.mark.parametrize("parameters", [None, "142"])
def test_parameters_that_are_no_number_are_damage(finished, parameters):
    metrics = {**METRICS, "parameters": parameters}
    (finished / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(InputError, match="a damaged one"):
        runs.read(finished)


def test_a_network_that_is_not_the_one_the_figures_are_of_is_refused(finished):
    inputs = keras.Input((4, 3))
    other = keras.Model(inputs, keras.layers.Dense(10)(keras.layers.Flatten()(inputs)))
    other.save(finished / "model.keras")
    with pytest.raises(InputError, match=r"of 142 parameters, as metrics\.json says, found .*130"):
        runs.read(finished)


INTEGERS = ("uint8", "int8", "int32", "uint32", "int64", "uint64")


@pytest.mark.parametrize("dtype", ["bool", *INTEGERS, "float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3, 4, 5)])
def test_arrays_come_back_from_a_checkpoint_bit_by_bit(run, dtype, shape):
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    content = np.random.default_rng(0).bytes(size)
    array = np.frombuffer(content, "uint8" if dtype == "bool" else dtype)
    array = (array % 2 == 1 if dtype == "bool" else array).reshape(shape)
    run.save_checkpoint({"some": array}, HISTORY)
    found, _ = run.load_checkpoint()
    assert list(found) == ["some"]
    assert found["some"].dtype == array.dtype and found["some"].shape == array.shape
    assert found["some"].tobytes() == array.tobytes()


def test_numbers_that_are_none_come_back_too(run):
    values = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45], np.float32)
    run.save_checkpoint({"values": values}, HISTORY)
    assert run.load_checkpoint()[0]["values"].tobytes() == values.tobytes()


def test_the_history_comes_back_exactly_and_lies_beside_as_a_table(run):
    run.save_checkpoint(ARRAYS, HISTORY)
    assert run.load_checkpoint()[1] == HISTORY
    text = (run.path / "history.csv").read_bytes().decode()
    assert text.splitlines()[0] == "epoch,loss,accuracy,validation_accuracy" and "\r" not in text
    rows = csv.DictReader(text.splitlines())
    assert [{name: float(value) for name, value in row.items()} for row in rows] == HISTORY


def test_the_last_checkpoint_counts(run):
    run.save_checkpoint({"a": np.arange(100)}, HISTORY[:1])
    run.save_checkpoint({"b": np.arange(3)}, HISTORY)
    arrays, history = run.load_checkpoint()
    assert list(arrays) == ["b"] and history == HISTORY
    assert not runs.is_finished(run.path)


class FullDisk:
    """An array that cannot be written."""

    def __array__(self, dtype=None, copy=None):
        raise OSError(28, "No space left on device")


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(run):
    run.save_checkpoint(ARRAYS, HISTORY[:1])
    with pytest.raises(CifarlibError, match=r"No space.*can be resumed"):
        run.save_checkpoint({**ARRAYS, "variable_00002": FullDisk()}, HISTORY)
    arrays, history = run.load_checkpoint()
    assert set(arrays) == set(ARRAYS) and history == HISTORY[:1]
    assert len(pd.read_csv(run.path / "history.csv")) == 1


def test_a_checkpoint_cut_off_anywhere_is_refused(run):
    run.save_checkpoint(ARRAYS, HISTORY)
    path = run.path / "checkpoint.npz"
    content = path.read_bytes()
    for length in [*range(0, len(content), 37), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match=r"checkpoint\.npz.*Delete"):
            run.load_checkpoint()


@pytest.mark.parametrize("bits", [0x01, 0xFF])
def test_a_checkpoint_with_a_damaged_byte_is_refused_or_whole_all_the_same(run, bits):
    run.save_checkpoint(ARRAYS, HISTORY)
    path = run.path / "checkpoint.npz"
    content = path.read_bytes()
    unnoticed = []
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= bits
        path.write_bytes(damaged)
        try:
            arrays, history = run.load_checkpoint()
        except InputError:
            continue
        except Exception as error:
            unnoticed.append((place, repr(error)))
            continue
        same = set(arrays) == set(ARRAYS) and all(
            arrays[name].tobytes() == array.tobytes() and arrays[name].shape == array.shape
            for name, array in ARRAYS.items()
        )
        if not same or history != HISTORY:
            unnoticed.append((place, "other contents"))
    assert not unnoticed


@pytest.mark.parametrize("content", [b"nonsense", b"\x93NUMPY", b"PK\x05\x06" + bytes(18)])
def test_a_file_that_is_no_checkpoint_is_refused(run, content):
    (run.path / "checkpoint.npz").write_bytes(content)
    with pytest.raises(InputError, match="a checkpoint"):
        run.load_checkpoint()


def test_a_checkpoint_does_not_unpickle(run, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    array = np.array([Bomb()], dtype=object)
    np.savez(run.path / "checkpoint.npz", history=np.array("[]"), array=array)
    with pytest.raises(InputError):
        run.load_checkpoint()
    assert not (tmp_path / "exploded").exists()


# The end


def test_a_finished_run_is_read_as_it_was_written(finished, network):
    run = runs.read(finished)
    np.testing.assert_array_equal(predictions(run.model), predictions(network))
    pd.testing.assert_frame_equal(run.history, pd.DataFrame(HISTORY))
    assert run.metrics == METRICS and run.folder == finished
    names = ["config.json", "history.csv", "metrics.json", "model.keras"]
    assert sorted(contents(finished)) == names, "the checkpoint has gone, nothing is left over"
    assert runs.read(str(finished)).folder == finished


def test_a_model_that_cannot_be_written_leaves_the_run_to_be_resumed(run):
    class Unwritable:
        def save(self, path):
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")

    run.save_checkpoint(ARRAYS, HISTORY)
    with pytest.raises(OSError, match="No space"):
        run.finish(Unwritable(), HISTORY, METRICS)
    assert not runs.is_finished(run.path) and not (run.path / "model.keras").exists()
    assert run.load_checkpoint()[1] == HISTORY
    with pytest.raises(InputError, match="unfinished"):
        runs.read(run.path)


def test_figures_that_cannot_be_written_leave_the_run_to_be_resumed(run, network):
    run.save_checkpoint(ARRAYS, HISTORY)
    with pytest.raises(TypeError):
        run.finish(network, HISTORY, {"not JSON": object()})
    assert not runs.is_finished(run.path)
    assert run.load_checkpoint()[1] == HISTORY


# Reading


def unread(path) -> str:
    with pytest.raises(InputError) as error:
        runs.read(path)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_is_no_run_is_not_read(tmp_path):
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "nowhere", tmp_path / "file", tmp_path):
        assert "cifarlib train" in unread(path)


def test_an_unfinished_run_is_not_read(folder):
    claim_and_leave(folder)
    assert "--resume" in unread(folder)


@pytest.mark.parametrize("name", ["history.csv", "model.keras"])
def test_a_run_without_one_of_its_files_is_not_read(finished, name):
    (finished / name).unlink()
    assert name in unread(finished)


@pytest.mark.parametrize(
    "content",
    [b"", b'{"validation', b"\xff\xfe\x00", b"null", pytest.param(b"[" * 100_000, id="deep")],
)
def test_a_run_with_damaged_figures_is_not_read(finished, content):
    (finished / "metrics.json").write_bytes(content)
    assert "damaged" in unread(finished)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"color": None}, "has no color"),
        ({"config": None}, "has no config"),
        ({"accelerators": None}, "has no accelerators"),
        ({"color": "pink"}, "the color 'pink'"),
        ({"config": {}}, "no validation_fraction"),
        ({"config": {"validation_fraction": "x"}}, "no validation_fraction"),
        ({"config": {"validation_fraction": 1.5}}, "no validation_fraction"),
    ],
)
def test_a_run_whose_figures_lack_something_is_not_read(finished, changes, told):
    figures = json.loads((finished / "metrics.json").read_text())
    lacking = {name for name, value in changes.items() if value is None}
    kept = {name: value for name, value in (figures | changes).items() if name not in lacking}
    (finished / "metrics.json").write_text(json.dumps(kept))
    assert told in unread(finished)


def test_a_run_whose_network_takes_other_images_than_it_says_is_not_read(finished):
    figures = json.loads((finished / "metrics.json").read_text())
    other = {"gray": "rgb", "rgb": "gray"}[figures["color"]]
    (finished / "metrics.json").write_text(json.dumps({**figures, "color": other}))
    assert f"a run in {other}" in unread(finished)


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe\x00\x80", b'a,b\n1,2,3\n"4', b"a,b\n1,2", b"epoch,loss,accuracy\n1,x,y"],
)
def test_a_run_with_a_damaged_history_is_not_read(finished, content):
    (finished / "history.csv").write_bytes(content)
    assert "damaged" in unread(finished)


def test_a_model_cut_off_anywhere_is_refused(finished):
    path = finished / "model.keras"
    content = path.read_bytes()
    for length in (0, 1, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match=r"model\.keras: expected a network saved by Keras"):
            runs.load_model(path)
    assert "model.keras" in unread(finished)


def test_a_model_with_damaged_weights_is_refused(finished):
    path = finished / "model.keras"
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        weights = archive.read("model.weights.h5")
    place = content.index(weights) + len(weights) // 2
    path.write_bytes(content[:place] + b"damage" + content[place + 6 :])
    with pytest.raises(InputError):
        runs.load_model(path)


def test_a_model_that_is_not_there_is_told(tmp_path):
    with pytest.raises(InputError, match=r"nothing\.keras"):
        runs.load_model(tmp_path / "nothing.keras")


def test_a_model_is_loaded_uncompiled_and_by_its_path_as_text(finished, network):
    network.compile("sgd", "mse")
    network.save(finished / "compiled.keras")
    loaded = runs.load_model(str(finished / "compiled.keras"))
    assert not loaded.compiled
    np.testing.assert_array_equal(predictions(loaded), predictions(network))


# Files with code of their own


@pytest.fixture
def marker(tmp_path):
    return tmp_path / "executed"


def test_a_model_with_python_code_is_refused_and_the_code_not_run(tmp_path, marker):
    def code(x):
        marker.write_text("!")
        return x * 2

    inputs = keras.Input((3,))
    outputs = keras.layers.Lambda(lambda x: code(x), output_shape=(3,))(inputs)
    path = tmp_path / "evil.keras"
    keras.Model(inputs, outputs).save(path)
    marker.unlink(missing_ok=True)
    with pytest.raises(InputError, match=r"evil\.keras.*code of their own") as error:
        runs.load_model(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500
    assert not marker.exists()


def rewritten(path, change) -> None:
    """Change the configuration within a ``.keras`` file."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members["config.json"])
    change(config)
    members["config.json"] = json.dumps(config).encode()
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    path.write_bytes(content.getvalue())


@pytest.mark.parametrize(
    ("module", "name", "key"),
    [("os", "system", "command"), ("builtins", "exec", "source"), ("subprocess", "run", "args")],
)
def test_a_model_that_names_functions_of_other_modules_is_refused(
    finished, marker, module, name, key
):
    def change(config):
        code = {
            "system": f"touch {marker}",
            "exec": f"open({str(marker)!r}, 'w')",
            "run": ["touch", str(marker)],
        }
        layer = config["config"]["layers"][-1]
        layer.update(module=module, class_name=name, registered_name=name)
        layer["config"] = {key: code[name]}

    path = finished / "model.keras"
    rewritten(path, change)
    with pytest.raises(InputError), contextlib.redirect_stdout(None):
        runs.load_model(path)
    assert not marker.exists()
