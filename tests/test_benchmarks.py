"""The benchmarks of the fast recipe: what they take from others, what they refuse and record."""

import importlib.util
import json
import os
import runpy
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest

from cifarlib import errors, pages, recipes, results, staleness, training

ROOT = Path(__file__).parents[1]
if not (ROOT / "benchmarks").is_dir():
    pytest.skip("benchmarks are part of the checkout", allow_module_level=True)


_tells_what_is_used = pytest.mark.skipif(not hasattr(os, "wait4"), reason="Windows does not tell")


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda p: p.stem)
def test_every_benchmark_says_how_it_is_used(path, capsys, monkeypatch):
    """Each is a program, and imports what it needs."""
    monkeypatch.setattr(sys, "argv", [path.name, "--help"])
    with pytest.raises(SystemExit) as ended:
        loaded(path.stem).main()
    assert ended.value.code == 0 and "--record" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        *(
            (name, [], "nowhere: expected an archive or a folder")
            for name in ("ablation", "data", "fast", "grid", "linear", "training")
        ),
        pytest.param("assignments", [], "nowhere: expected an archive", marks=_tells_what_is_used),
        ("networks", ["--list"], "nowhere: expected an archive or a folder"),
        ("prediction", ["resnet"], "Did you mean resnet18?"),
        ("networks", ["resnet"], "Did you mean resnet18?"),
        ("data", ["--repeat", "0"], "--repeat: expected at least 1"),
        ("networks", ["vit_tiny", "--recipe", "published"], "recipe published: expected"),
        ("networks", ["baseline", "--seeds", "-1"], "seed: expected"),
    ],
)
def test_bad_input_ends_a_benchmark_in_one_line(name, arguments, told, monkeypatch, capsys):
    monkeypatch.setenv("CIFARLIB_SOURCE", "nowhere")
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "benchmarks" / f"{name}.py"), run_name="__main__")
    line = capsys.readouterr().err
    assert ended.value.code == 2 and line.startswith(f"{name}.py: ") and line.count("\n") == 1
    assert told in line


@pytest.mark.parametrize(
    ("name", "option", "value", "told"),
    [
        ("data", "--repeat", "2", "--record: expected --repeat"),
        ("assignments", "--repeat", "1", "--record: expected --repeat"),
        ("prediction", "--repeats", "2", "--record: expected --repeats"),
        ("grid", "--size", "40000", "--record: expected all images"),
        ("training", "--size", "4000", "--record: expected the default --size"),
        ("training", "--epochs", "3", "--record: expected the default --size, --epochs"),
    ],
)
def test_what_is_recorded_is_what_its_command_repeats(
    name, option, value, told, monkeypatch, capsys
):
    module = loaded(name)
    monkeypatch.setattr("cifarlib.devices.accelerators", list)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", option, value, "--record"])
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("grid", ["--size", "-5"], "--size: expected at least"),
        ("training", ["--size", "300"], "--size: expected at least"),
        ("linear", ["--seeds", "-1"], "--seeds: expected different ones, from 0"),
        ("networks", ["--missing", "--color", "gray"], "expected a MODEL"),
        ("networks", ["--list", "--seeds", "7"], "expected a MODEL"),
        ("networks", ["--list", "--record"], "--list: expected nothing beside it"),
        ("networks", ['{"width": 64}'], "MODEL: expected a name of cifarlib models"),
        ("networks", ["--missing", "--time-budget", "nan"], "--time-budget: expected seconds"),
        ("prediction", ['{"width": 64}', "--record"], "--record: expected names of cifarlib"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_measured(
    name, arguments, told, monkeypatch, capsys
):
    monkeypatch.setattr("cifarlib.data.load_cifar10", None)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        loaded(name).main()
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


def loaded(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def fast():
    return loaded("fast")


@pytest.fixture(scope="module")
def ablation():
    return loaded("ablation")


@pytest.fixture
def photographs(fast, monkeypatch, tmp_path, tiny):
    """Take drawn images for photographs, since drawn ones are not recorded, and record nearby."""
    monkeypatch.setattr(fast.results.settings, "checkout_folder", lambda: tmp_path)
    monkeypatch.setattr(fast.pages, "stamp_readme", lambda: None)
    monkeypatch.setenv("CIFARLIB_SOURCE", "synthetic")
    current = fast.data.current
    monkeypatch.setattr(fast.data, "current", lambda: current()._replace(kind="JPEG copy"))


DATA = {
    *("copy-grayscale", "grayscale", "start-help", "start-import", "warm-cache"),
    "warm-cache-read",
}


@pytest.mark.parametrize(
    ("name", "without_the_work", "expected"),
    [
        ("data", {"_python": lambda words: None}, DATA),
        ("grid", {"GRID": [{"classify__C": [0.1, 1.0]}]}, {"grid-search"}),
        (
            "training",
            {
                "ours": lambda *asked: (300.0, 0.5),
                "theirs": lambda *asked: (100.0, 0.4),
                "input_share": lambda *asked: 0.1,
            },
            {"training-keras", "training-keras-with-xla"},
        ),
    ],
)
def test_times_are_recorded_with_the_code_that_they_are_of(
    name, without_the_work, expected, photographs, monkeypatch
):
    module = loaded(name)
    for part, instead in without_the_work.items():
        monkeypatch.setattr(module, part, instead)
    monkeypatch.setattr("cifarlib.devices.accelerators", list)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--record"])
    module.main()
    recorded = results.read_all()
    assert {found.name.removeprefix("benchmark-") for found in recorded} == expected
    assert staleness.stale(recorded) == set()
    for found in recorded:
        assert f"benchmarks/{name}.py" in found.details["code_of"]
        assert f"python benchmarks/{name}.py --record" in found.command and found.seconds > 0
        assert found.data_kind == ("none" if "start" in found.name else "JPEG copy")


def test_the_code_of_a_programs_start_is_what_it_imports():
    for words, told in loaded("data").STARTING.values():
        command = [sys.executable, "-X", "importtime", *words]
        said = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stderr
        names = {line.rpartition("|")[2].strip() for line in said.splitlines()}
        imported = {name for name in names if name.split(".")[0] == "cifarlib"}
        ours = {"cifarlib/" + name.removeprefix("cifarlib").lstrip(".") for name in imported}
        ours = {f"{path}.py" if path != "cifarlib/" else "cifarlib/__init__.py" for path in ours}
        if "-m" in words:
            ours.add("cifarlib/__main__.py")  # which is executed, and imported by nobody
        assert ours | {"benchmarks/data.py"} == set(told["code_of"])


def test_every_benchmark_that_is_recorded_can_be_stale(monkeypatch):
    monkeypatch.setattr(results.settings, "checkout_folder", lambda: ROOT)
    timed = [
        found
        for found in results.read_all()
        if found.name.startswith("benchmark-") and not found.name.startswith("benchmark-fast")
    ]
    assert timed and all({"code", "code_of"} <= set(found.details) for found in timed)


@pytest.fixture
def grading(photographs, monkeypatch, tmp_path):
    """Return the benchmark of assignments, with one source that answers nothing."""
    module = loaded("assignments")
    path = tmp_path / "assignments" / "source" / "01_none" / "01_none.ipynb"
    path.parent.mkdir(parents=True)
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("pass")]), path)
    tmp_path.joinpath("benchmarks").mkdir()
    (tmp_path / "benchmarks" / "assignments.py").write_text("pass\n")
    monkeypatch.setattr(module.timed, "_ROOT", tmp_path)
    return module


@_tells_what_is_used
def test_what_grading_takes_is_recorded_until_the_assignment_changes(
    grading, monkeypatch, tmp_path
):
    figures = iter([(3.0, 4.0, 0.5), (1.0, 2.0, 0.7), (2.0, 6.0, 0.6)])
    monkeypatch.setattr(grading, "graded", lambda path: grading.Grading(*next(figures)))
    monkeypatch.setattr(sys, "argv", ["assignments.py", "--record"])
    grading.main()
    (found,) = recorded = results.read_all()
    assert (found.name, found.chapter, found.values) == ("assignment-01", "02", (3.0, 1.0, 2.0))
    assert staleness.stale(recorded) == set()
    place = "<!-- results: assignments --><!-- end -->"
    row = f"| 2 (1 to 3) | 4 (2 to 6) | 0.7 | 3 | {found.hardware} (JPEG copy of the data) |"
    assert f"| 01_none {row}" in pages.stamp(place)
    path = next(tmp_path.rglob("01_none.ipynb"))
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_markdown_cell("A sentence is no code."))
    nbformat.write(notebook, path)
    assert staleness.stale(recorded) == set()
    path.write_text(path.read_text().replace('"pass"', '"fail"'))
    assert staleness.stale(recorded) == {"assignment-01"}
    assert f"| 01_none (stale: of other code) {row}" in pages.stamp(place)
    path.write_text("<<<<<<< HEAD")
    assert staleness.stale(recorded) == {"assignment-01"}, "half edited"


@_tells_what_is_used
@pytest.mark.parametrize(
    ("graded", "told"),
    [
        ({"points": 2, "by_hand": 1}, "expected a solution that earns all points, found count"),
        ({"problem": "timed out"}, "found timed out"),
    ],
)
def test_a_grading_that_was_cut_short_is_not_timed(graded, told, grading, monkeypatch):
    whole = {"points": 3, "by_hand": 1, "possible": 4, "problem": ""}
    marks = [{"task": "count", "reason": "no"}, {"task": "tell", "reason": ""}]
    line = json.dumps([{**whole, "marks": marks, **graded}])
    start = subprocess.Popen
    monkeypatch.setattr(
        grading.subprocess,
        "Popen",
        lambda command, **files: start([sys.executable, "-c", f"print({line!r})"], **files),
    )
    with pytest.raises(errors.CifarlibError, match=told):
        grading.graded(Path("01_none.ipynb"))


@_tells_what_is_used
def test_a_grading_that_fails_tells_why(grading):
    """The program itself, which refuses a file that is not there."""
    with pytest.raises(errors.CifarlibError, match=r"nowhere.ipynb could not be graded: .*nowhere"):
        grading.graded(Path("nowhere.ipynb"))


@pytest.fixture
def linear(photographs, monkeypatch):
    """Return the benchmark of linear models, one of whose fits takes no time."""
    module = loaded("linear")
    table = pd.DataFrame({"C": [1.0], "accuracy": [0.3], "converged": [True]})
    right = SimpleNamespace(predict=lambda rows: np.arange(len(rows)) % 10)
    fitted = SimpleNamespace(model=right, C=1.0, validation=table)
    fits = []
    monkeypatch.setattr(module.classical, "fit", lambda *args: fits.append(1) or fitted)
    monkeypatch.setattr(module.classical, "code_digest", lambda rung: f"of today's {rung}")
    module.fits = fits
    return module


def test_the_command_of_a_linear_record_measures_it_again(linear, monkeypatch, capsys):
    named = ["--rung", "raw", "--color", "gray"]
    monkeypatch.setattr(sys, "argv", ["linear.py", *named, "--missing"])
    for _ in range(2):
        linear.main()
    assert len(linear.fits) == 1, "the second time it is there"
    command = linear.results.read("linear-raw-gray").command
    assert command == "python benchmarks/linear.py --rung 'raw' --color gray --record"
    monkeypatch.setattr(sys, "argv", shlex.split(command)[1:])
    linear.main()
    assert len(linear.fits) == 2


def test_whether_the_model_that_is_judged_converged_is_recorded(linear, monkeypatch):
    """Not the one without held-out images, of which the table of strengths tells."""
    monkeypatch.setattr(linear.fitting, "has_converged", lambda model: False)
    monkeypatch.setattr(sys, "argv", ["linear.py", "--rung", "raw", "--color", "gray", "--record"])
    linear.main()
    assert linear.results.read("linear-raw-gray").details["final_converged"] == [False]


def test_linear_models_go_on_with_the_seeds_that_are_missing(linear, monkeypatch, capsys):
    arguments = ["linear.py", "--rung", "patches", "--color", "gray"]
    fit = linear.classical.fit

    def stopped_at_the_second(*rest):
        if len(linear.fits) == 1:
            raise KeyboardInterrupt
        return fit(*rest)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(linear.classical, "fit", stopped_at_the_second)
        patch.setattr(sys, "argv", [*arguments, "--record"])
        linear.main()
    first = linear.results.read("linear-patches-gray")
    assert first.seeds == (0,) and first.command.endswith("--seeds 0 --record")
    monkeypatch.setattr(sys, "argv", [*arguments, "--missing"])
    linear.main()
    found = linear.results.read("linear-patches-gray")
    assert len(linear.fits) == 3 and found.seeds == (0, 1, 2)
    assert found.details["seconds"][:1] == first.details["seconds"]
    assert {len(found.details[key]) for key in ("C", "validation_accuracy", "seconds")} == {3}
    assert found.command == "python benchmarks/linear.py --rung 'patches' --color gray --record"


def test_linear_models_of_other_images_are_missing_of_these(linear, monkeypatch, capsys):
    arguments = ["linear.py", "--rung", "raw", "--color", "gray", "--missing"]
    monkeypatch.setattr(sys, "argv", arguments)
    linear.main()
    assert len(linear.fits) == 1
    current = linear.data.current
    monkeypatch.setattr(linear.data, "current", lambda: current()._replace(fingerprint="other"))
    linear.main()
    assert len(linear.fits) == 2


def test_linear_models_of_other_code_are_missing(linear, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["linear.py", "--rung", "raw", "--color", "gray", "--missing"])
    linear.main()
    monkeypatch.setattr(linear.classical, "code_digest", lambda rung: "other")
    linear.main()
    assert len(linear.fits) == 2
    assert linear.results.read("linear-raw-gray").details["code"] == "other"


def test_a_seed_of_another_machine_joins_those_that_are_there(linear, monkeypatch, capsys):
    arguments = ["linear.py", "--rung", "patches", "--color", "gray"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--record"])
    linear.main()
    before = linear.results.read("linear-patches-gray")
    monkeypatch.setattr(linear.devices, "describe_cpu", lambda: "another machine")
    monkeypatch.setattr(sys, "argv", [*arguments, "--seeds", "5", "--missing"])
    linear.main()
    found = linear.results.read("linear-patches-gray")
    assert found.seeds == (0, 1, 2, 5) and found.values[:3] == before.values
    assert found.hardware == f"{before.hardware}; another machine"
    assert found.details["hardware"] == [before.hardware] * 3 + ["another machine"]


def test_readme_has_what_an_interrupted_linear_benchmark_recorded(linear, monkeypatch, capsys):
    stamped = []
    monkeypatch.setattr(linear.pages, "stamp_readme", lambda: stamped.append(1))

    def stopped(*rest):
        raise KeyboardInterrupt

    monkeypatch.setattr(linear.classical, "fit", stopped)
    monkeypatch.setattr(sys, "argv", ["linear.py", "--rung", "raw", "--color", "gray", "--record"])
    with pytest.raises(KeyboardInterrupt):
        linear.main()
    assert stamped == [1]


def test_what_is_missing_of_networks_is_asked_of_the_images_in_use(monkeypatch, capsys):
    networks = loaded("networks")
    asked = []
    monkeypatch.setattr(networks.data, "load_cifar10", lambda: asked.append("images"))
    monkeypatch.setattr(networks.measuring, "missing", lambda: asked.append("missing") or [])
    monkeypatch.setattr(sys, "argv", ["networks.py", "--list"])
    networks.main()
    assert asked == ["images", "missing"]


@pytest.mark.parametrize("found", [{"accuracy": 0.5}, ValueError("no")])
def test_a_training_that_failed_is_told_by_the_status(monkeypatch, capsys, found):
    networks = loaded("networks")
    monkeypatch.setattr(networks.data, "load_cifar10", lambda: None)
    monkeypatch.setattr(networks.measuring, "missing", lambda: [("entry", 0), ("entry", 1)])
    compute = lambda *_, **__: {("entry", 0): found}  # noqa: E731
    monkeypatch.setattr(networks.measuring, "compute", compute)
    monkeypatch.setattr(sys, "argv", ["networks.py", "--missing", "--time-budget", "5"])
    with pytest.raises(SystemExit) as ended:
        networks.main()
    assert ended.value.code == isinstance(found, Exception)


def program(tmp_path, *lines, name="peer.py") -> list[str]:
    path = tmp_path / name
    path.write_text("\n".join(lines))
    return [sys.executable, str(path)]


def test_the_peer_finds_the_images_and_its_last_line_counts(fast, tmp_path):
    images = tmp_path / "images.npz"
    np.savez(images, x_train=np.zeros((3, 2)))
    command = program(
        tmp_path,
        "import json, os, numpy as np",
        "print('epoch 1 of 1')",
        "n = len(np.load(os.environ['CIFARLIB_PEER_DATA'])['x_train'])",
        "print(json.dumps({'accuracy': 0.5, 'seconds': n}))",
    )
    (found,) = fast.measured(command, images)
    assert (found["accuracy"], found["seconds"]) == (0.5, 3)
    assert found["process_seconds"] > 0


def test_a_process_of_several_runs_tells_each_in_a_line(fast, tmp_path):
    lines = [json.dumps({"accuracy": seed / 10, "seconds": 1}) for seed in (1, 2)]
    command = program(tmp_path, "print('compiled')", *(f"print({line!r})" for line in lines))
    found = fast.measured(command, tmp_path / "images.npz", 2)
    assert [run["accuracy"] for run in found] == [0.1, 0.2]
    with pytest.raises(SystemExit, match="of 3 runs, found"):
        fast.measured(command, tmp_path / "images.npz", 3)


@pytest.mark.parametrize(
    "lines",
    [
        ["print('done')"],
        ["pass"],
        ["print('{\"accuracy\": 1}')"],
        ["1 / 0"],
        ["print('[1]')"],
        ["print('{\"seconds\": 0}')"],
        ['print(\'{"seconds": 1, "accuracy": "good"}\')'],
        ['print(\'{"seconds": 1, "accuracy": 93.4}\')'],
        ['print(\'{"seconds": 1, "accuracy": NaN}\')'],
    ],
    ids=[
        *("words", "nothing", "no seconds", "an error", "a list", "no time", "no share"),
        *("percent", "no number"),
    ],
)
def test_a_peer_that_does_not_tell_its_seconds_ends_the_benchmark(fast, tmp_path, lines):
    with pytest.raises(SystemExit, match="expected a JSON object with seconds as the last line"):
        fast.measured(program(tmp_path, *lines), tmp_path / "images.npz")


def test_what_a_peer_does_not_know_it_may_leave_empty(fast, tmp_path):
    line = json.dumps({"accuracy": 0.5, "accuracy_with_views": None, "seconds": 2})
    (run,) = fast.measured(program(tmp_path, f"print({line!r})"), tmp_path / "images.npz")
    assert "accuracy_with_views" not in run and "50.00%" in fast.told(run)


def test_the_peer_cannot_pass_for_ours(fast, monkeypatch, capsys):
    arguments = ["--peer", sys.executable, "--peer-name", "ours"]
    monkeypatch.setattr(sys, "argv", ["fast.py", *arguments])
    with pytest.raises(SystemExit):
        fast.main()
    assert "another name than ours" in capsys.readouterr().err


def test_both_sides_are_told_with_mean_spread_and_median(fast):
    runs = [
        {"accuracy": 0.9, "accuracy_with_views": 0.91, "seconds": 10.0},
        {"accuracy": 0.92, "accuracy_with_views": 0.93, "seconds": 30.0},
        {"accuracy": 0.91, "accuracy_with_views": 0.92, "seconds": 20.0},
    ]
    told = fast.summary(runs)
    assert told == (
        "accuracy 91.0 ± 1.0 (n = 3), with six views 92.0 ± 1.0 (n = 3), "
        "20.00 s (median; 10.00 to 30.00)"
    )
    del runs[0]["accuracy_with_views"]
    assert "views" not in fast.summary(runs), "not all of them tell it"


def test_recording_needs_a_peer(fast, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["fast.py", "--record"])
    with pytest.raises(SystemExit):
        fast.main()
    assert "expected --peer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "field", "found"),
    [
        ("--image-sizes", "5", "image_sizes", "found (5,)."),
        ("--image-sizes", "24,a", "argument --image-sizes", "found '24,a'"),
        ("--epochs", "0", "epochs", "found 0."),
    ],
)
def test_what_no_recipe_can_be_is_refused_before_anything_trains(
    fast, monkeypatch, capsys, option, value, field, found
):
    """The sentence of the library, in a line, and nothing measured."""
    monkeypatch.setattr(fast, "measured", None)
    monkeypatch.setattr(sys, "argv", ["fast.py", option, value])
    with pytest.raises(SystemExit) as ended:
        fast.main()
    told = capsys.readouterr().err
    assert ended.value.code == 2
    assert told.startswith(f"fast.py: {field}: expected") and found in told
    assert told.count("\n") == 1


@pytest.mark.parametrize("peer", ["no-such-program {seed}", "python 'unbalanced", " "])
def test_a_peer_that_cannot_run_is_refused_before_ours_trains(fast, monkeypatch, capsys, peer):
    monkeypatch.setattr(sys, "argv", ["fast.py", "--peer", peer])
    monkeypatch.setattr(fast, "measured", None)
    with pytest.raises(SystemExit) as ended:
        fast.main()
    line = capsys.readouterr().err.splitlines()[-1]
    assert ended.value.code == 2 and "--peer: " in line


def test_two_peers_in_turn(fast, tmp_path, monkeypatch, capsys, tiny):
    """Ours is replaced as well: what is tested is who runs when, on what, and what is printed."""
    line = json.dumps({"accuracy": 0.5, "seconds": 2.0})
    ours = program(tmp_path, f"print({line!r})", name="ours.py")
    monkeypatch.setattr(fast, "command_of_ours", lambda options: ours)
    peer = program(
        tmp_path,
        "import json, os, sys, numpy as np",
        "images = np.load(os.environ['CIFARLIB_PEER_DATA'])",
        "assert images['x_train'].shape[1:] == (32, 32, 1) and images['x_test'].dtype == 'uint8'",
        "print(json.dumps({'accuracy': 0.25, 'seconds': 3 + int(sys.argv[1])}))",
    )
    arguments = ["--color", "gray", "--num-runs", "2", "--peer", f"{' '.join(peer)} {{seed}}"]
    monkeypatch.setattr(sys, "argv", ["fast.py", *arguments])
    monkeypatch.setenv("CIFARLIB_SOURCE", "synthetic")
    fast.main()
    told = capsys.readouterr().out
    assert "the peer: accuracy 25.0 ± 0.0 (n = 2), 3.50 s (median; 3.00 to 4.00)" in told
    assert "ours is 1.75 times as fast as the peer" in told


def test_a_benchmark_that_was_stopped_goes_on_with_the_runs_that_are_missing(
    fast, tmp_path, monkeypatch, capsys, photographs
):
    two_cards = {"accelerators": ["Tesla T4"] * 2}
    calls = tmp_path / "calls"
    log = f"open({str(calls)!r}, 'a').write(sys.argv[1])"
    count = f"len(open({str(calls)!r}).read())"
    line = json.dumps({"accuracy": 0.5, "seconds": 2.0, "seconds_to_compile": None})
    ours = program(tmp_path, "import sys", log, f"print({line!r})", name="ours.py")
    monkeypatch.setattr(fast, "command_of_ours", lambda options: [*ours, "{seed}"])
    # A record of a GPU would have another name; and `make test` installs no PyTorch to ask.
    monkeypatch.setattr("cifarlib.devices.accelerators", list)
    # The peer fails in the second pair, as a machine may be taken away.
    fails = f"if sys.argv[1] == '1' and {count} == 4: sys.exit(1)"
    told = "print(json.dumps({'accuracy': 0.25, 'seconds': 5.0}))"
    peer = program(tmp_path, "import json, sys", log, fails, told)
    arguments = ["--num-runs", "2", "--peer", f"{' '.join(peer)} {{seed}}", "--record"]
    monkeypatch.setattr(sys, "argv", ["fast.py", *arguments])
    with pytest.raises(SystemExit, match="expected a JSON object"):
        fast.main()
    found = fast.results.read("benchmark-fast-rgb")
    assert found.values == (2.5,) and found.seeds == (0,) and "--num-runs 2 " in found.command
    assert found.details["ours_accuracy"] == [0.5, 0.5], "a run that has no pair yet is kept"
    assert found.details["peer_seconds"] == [5.0]
    calls.write_text("....")
    fast.main()
    assert calls.read_text() == "....1", "what is recorded is not run again"
    found = fast.results.read("benchmark-fast-rgb")
    assert found.values == (2.5, 2.5) and found.seeds == (0, 1)
    assert found.details["ours_accuracy"] == [0.5, 0.5]
    assert found.details["peer_seconds"] == [5.0, 5.0]
    assert "ours: accuracy 50.0 ± 0.0 (n = 2)" in capsys.readouterr().out
    # Of another setting nothing is taken over, and nothing is lost.
    monkeypatch.setattr(sys, "argv", ["fast.py", *arguments, "--epochs", "9"])
    calls.write_text("....")
    fast.main()
    assert calls.read_text() == "....0011"
    other = fast.results.read("benchmark-fast-rgb-9-epochs")
    assert "fast recipe (9 epochs) in colour" in other.metric and "--epochs 9" in other.command
    assert fast.results.read("benchmark-fast-rgb") == found
    # Nor does another program take the place of the recorded one.
    monkeypatch.setattr(sys, "argv", ["fast.py", *arguments, "--peer-name", "another"])
    with pytest.raises(fast.errors.InputError, match="as in results/"):
        fast.main()
    # Nor two cards that of one, which has the same name.
    monkeypatch.setattr(sys, "argv", ["fast.py", *arguments])
    with monkeypatch.context() as patch:
        patch.setattr(fast, "facts", lambda options, was=fast.facts: {**was(options), **two_cards})
        with pytest.raises(fast.errors.InputError, match=r"accelerators .*as in results/"):
            fast.main()
    # Nor another backend.
    monkeypatch.setattr(sys, "argv", ["fast.py", *arguments])
    with monkeypatch.context() as patch:
        patch.setattr("keras.backend.backend", lambda: "other")
        with pytest.raises(fast.errors.InputError, match=r"backend .*as in results/"):
            fast.main()
    assert fast.results.read("benchmark-fast-rgb") == found
    # Of other code nothing is taken over, and what nobody can repeat is replaced.
    monkeypatch.setattr(sys, "argv", ["fast.py", *arguments])
    monkeypatch.setattr("cifarlib.training.code_digest", lambda config: "other")
    calls.write_text("....")
    fast.main()
    assert calls.read_text() == "....0011"


@pytest.fixture
def quick_race(fast, tmp_path, monkeypatch, photographs):
    """Ask for a recorded race of two programs that only print; return the file of their calls."""
    calls = tmp_path / "calls"
    line = json.dumps({"accuracy": 0.5, "seconds": 2.0})
    log = f"open({str(calls)!r}, 'a').write('.')"
    quick = program(tmp_path, log, f"print({line!r})")
    monkeypatch.setattr(fast, "command_of_ours", lambda options: quick)
    monkeypatch.setattr("cifarlib.devices.accelerators", list)
    arguments = ["fast.py", "--num-runs", "2", "--peer", " ".join(quick), "--record"]
    monkeypatch.setattr(sys, "argv", arguments)
    return calls


def test_no_run_is_filed_under_code_that_it_is_not_of(fast, monkeypatch, quick_race):
    """Each run is a process of its own, which imports what lies there when it begins."""
    sources = iter([b"as it was"] * 3 + [b"edited"])
    monkeypatch.setattr(fast, "source", lambda: next(sources))
    with pytest.raises(SystemExit, match="code has changed"):
        fast.main()
    assert quick_race.read_text() == ".."
    assert fast.results.read("benchmark-fast-rgb").seeds == (0,), "the first pair is kept"


def test_the_commit_is_that_of_the_code_that_raced(fast, monkeypatch, quick_race):
    commits = iter(["before", "after"])
    monkeypatch.setattr(fast.results, "current_commit", lambda: next(commits))
    fast.main()
    assert fast.results.read("benchmark-fast-rgb").commit == "before"


def test_two_races_for_a_record_are_refused(fast, monkeypatch, quick_race):
    refused = pytest.raises(fast.errors.InputError, match="another that is running")
    with fast.results.undisturbed(is_recorded=True), refused:
        fast.main()
    assert not quick_race.exists()
    fast.main()
    assert quick_race.read_text() == "...."


@pytest.mark.parametrize("name", ["data", "grid", "prediction", "training"])
def test_times_are_recorded_by_one_benchmark_at_a_time(name, monkeypatch, tmp_path):
    module = loaded(name)
    monkeypatch.setattr(results, "folder", lambda: tmp_path)
    monkeypatch.setattr("cifarlib.results.check_recordable", lambda: None)
    monkeypatch.setattr("cifarlib.data.fetch", lambda: None)
    monkeypatch.setattr("cifarlib.data.load_cifar10", None)
    monkeypatch.setattr("cifarlib.devices.accelerators", list)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--record"])
    refused = pytest.raises(errors.InputError, match="another that is running")
    with results.undisturbed(is_recorded=True), refused:
        module.main()


def test_what_one_run_of_a_peer_does_not_tell_is_null_there(
    fast, tmp_path, monkeypatch, quick_race
):
    shares = "{'accuracy': 0.5} if sys.argv[1] == '0' else {'accuracy_with_views': 0.6}"
    lines = "import json, sys", f"print(json.dumps({{'seconds': 2.0, **({shares})}}))"
    peer = program(tmp_path, *lines, name="changing.py")
    arguments = ["--num-runs", "2", "--peer", f"{' '.join(peer)} {{seed}}", "--record"]
    monkeypatch.setattr(sys, "argv", ["fast.py", *arguments])
    fast.main()
    details = fast.results.read("benchmark-fast-rgb").details
    assert details["peer_accuracy"] == [0.5, None]
    assert details["peer_accuracy_with_views"] == [None, 0.6]
    fast.main()  # reads what is there, and has nothing to do


def test_a_recorded_race_tells_compiling_apart(fast, monkeypatch, capsys):
    """The last size would have one epoch, and its compiling would count for ours only."""
    arguments = ["--epochs", "4", "--peer", sys.executable, "--record"]
    monkeypatch.setattr(sys, "argv", ["fast.py", *arguments])
    with pytest.raises(SystemExit):
        fast.main()
    assert "two epochs of each size" in capsys.readouterr().err


def test_runs_of_one_process_get_their_numbers_together(fast, tmp_path, monkeypatch, capsys, tiny):
    line = json.dumps({"accuracy": 0.5, "seconds": 2.0})
    several = f"for _ in sys.argv[1].split(','): print({line!r})"
    ours = program(tmp_path, "import sys", several, name="ours.py")
    monkeypatch.setattr(fast, "command_of_ours", lambda options: [*ours, "{seed}"])
    log = f"open({str(tmp_path / 'calls')!r}, 'a').write(sys.argv[1] + ' ')"
    peer = program(tmp_path, "import sys", log, several)
    arguments = ["--num-runs", "5", "--in-a-process", "2", "--peer", f"{' '.join(peer)} {{seed}}"]
    monkeypatch.setattr(sys, "argv", ["fast.py", *arguments])
    monkeypatch.setenv("CIFARLIB_SOURCE", "synthetic")
    fast.main()
    assert (tmp_path / "calls").read_text() == "0,1 2,3 4 "
    assert "the peer: accuracy 50.0 ± 0.0 (n = 5)" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["fast.py", "--in-a-process", "0"])
    with pytest.raises(SystemExit):
        fast.main()


@pytest.mark.parametrize(
    ("accelerators", "asked", "name"),
    [
        ([], {}, "fast-gray"),
        (["NVIDIA H200"], {"model": "fast_deep"}, "fast-deep-gray-nvidia-h200"),
        (["Tesla T4"] * 2, {}, "fast-gray-tesla-t4"),
        ([], {"epochs": 10, "image_sizes": (24, 24, 24, 32)}, "fast-gray"),  # as the recipe says
        (["Tesla T4"], {"epochs": 12}, "fast-gray-12-epochs-tesla-t4"),
        ([], {"epochs": 9, "image_sizes": (24, 32)}, "fast-gray-9-epochs-24-32-pixels"),
    ],
)
def test_each_model_setting_and_accelerator_has_a_record_of_its_own(
    fast, monkeypatch, accelerators, asked, name
):
    monkeypatch.setattr(fast.devices, "accelerators", lambda: accelerators)
    options = {"model": "fast", "color": "gray", "epochs": None, "image_sizes": None, **asked}
    assert fast.name_of_record(SimpleNamespace(**options)) == f"benchmark-{name}"


def test_every_record_of_a_race_has_the_name_of_what_raced(fast, monkeypatch):
    monkeypatch.setattr(fast.results.settings, "checkout_folder", lambda: ROOT)
    recorded = fast.results.read_all()
    races = [result for result in recorded if result.name.startswith("benchmark-fast")]
    assert races
    for race in races:
        config, accelerators = race.details["config"], race.details["accelerators"]
        asked = {name: config[name] for name in ("model", "color", "epochs", "image_sizes")}
        asked["image_sizes"] = tuple(asked["image_sizes"])
        monkeypatch.setattr(fast.devices, "accelerators", lambda found=accelerators: found)
        assert fast.name_of_record(SimpleNamespace(**asked)) == race.name


@pytest.mark.parametrize(
    ("asked", "differs"),
    [
        ([], {}),
        (["--color", "gray", "--epochs", "9"], {"color": "gray", "epochs": 9}),
        (
            ["--model", "fast_deep", "--image-sizes", "24,24,32"],
            {"model": "fast_deep", "image_sizes": [24, 24, 32]},
        ),
    ],
)
def test_what_is_asked_of_ours_is_what_its_process_trains(
    fast, monkeypatch, capsys, tiny, asked, differs
):
    told = []
    monkeypatch.setattr(fast, "command_of_ours", lambda options: told.append(options) or ["false"])
    monkeypatch.setattr(sys, "argv", ["fast.py", *asked])
    monkeypatch.setenv("CIFARLIB_SOURCE", "synthetic")
    with pytest.raises(SystemExit):
        fast.main()
    monkeypatch.undo()
    monkeypatch.setattr(fast, "ours", lambda config: config.as_json())
    words = [word.replace("{seed}", "3") for word in fast.command_of_ours(*told)[1:]]
    monkeypatch.setattr(sys, "argv", words)
    capsys.readouterr()
    fast.main()
    model = differs.get("model", "fast")
    recipe = {**recipes.find("fast", model), "validation_fraction": 0.0}
    expected = {**training.Config(model, seed=3, **recipe).as_json(), **differs}
    assert json.loads(capsys.readouterr().out) == expected


@pytest.mark.parametrize(
    ("sizes", "seconds", "expected"),
    [
        ([32, 32, 32], [9.0, 5.0, 7.0], 3.0),
        ([24, 24, 32, 32], [6.0, 2.0, 9.0, 4.0], 9.0),
        ([32, 32, 24, 24], [9.0, 5.0, 4.0, 6.0], 4.0),
        ([24, 24, 32], [6.0, 2.0, 9.0], None),
        ([32], [4.0], None),
    ],
)
def test_seconds_to_compile_are_what_first_epochs_take_longer(fast, sizes, seconds, expected):
    assert fast.seconds_to_compile(sizes, seconds) == expected


def test_each_idea_is_left_out_alone(ablation):
    whole, *others = ablation.variants("rgb").values()
    configs = [config.as_json() for config in others]
    for changes, config in zip(ablation.WITHOUT.values(), configs, strict=False):
        changed = {name for name in config if config[name] != whole.as_json()[name]}
        assert changed == set(changes)
    assert len({training.code_digest(config) for config in (whole, *others)}) == len(others) + 1
    assert len(others) == len(ablation.WITHOUT) + 1
    costs = [ablation.entries.cost(config) for config in (whole, others[-1])]
    assert costs[1] == pytest.approx(costs[0], rel=0.15), "the control has as much arithmetic"


def test_what_each_idea_is_worth_is_recorded_by_variant_and_seed(
    ablation, monkeypatch, capsys, photographs
):
    small = {"epochs": 1, "batch_size": 10, "validation_fraction": 0.2}
    whole = ablation.training.Config("baseline", color="gray", **small)
    asked = {"whole": whole, "without flips": replace(whole, augmentation=("crop",))}
    monkeypatch.setattr(ablation, "variants", lambda color: asked)
    monkeypatch.setattr(ablation.run_report, "trained_on", lambda metrics: "a card")
    arguments = ["--color", "gray", "--seeds", "1", "2", "--record"]
    monkeypatch.setattr(sys, "argv", ["ablation.py", *arguments])
    ablation.main()
    found = ablation.results.read("ablation-fast-gray")
    by_seed = found.details["validation_accuracy"]
    assert found.seeds == (1, 2) and list(found.values) == by_seed["whole"]
    assert {name: len(row) for name, row in by_seed.items()} == {"whole": 2, "without flips": 2}
    assert found.details["num_validation_images"] == 10 and found.hardware == "a card"
    assert found.command.endswith("--color gray --seeds 1 2 --record")
    assert "without flips" in capsys.readouterr().out
    assert found.details["hardware"]["whole"] and found.commit == ablation.results.current_commit()
    with monkeypatch.context() as patch:
        patch.setattr(ablation.results, "current_commit", lambda: "that of another day")
        ablation.main()
    assert ablation.results.read("ablation-fast-gray").commit == "unknown", "all were kept"


def test_an_ablation_needs_different_seeds(ablation, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["ablation.py", "--seeds", "1", "1"])
    with pytest.raises(SystemExit):
        ablation.main()
    assert "different --seeds" in capsys.readouterr().err
