"""The command line: exit statuses, one line of error, JSON alone on standard output."""

import argparse
import dataclasses
import importlib.util
import json
import re
import shlex
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from cifarlib import (
    __version__,
    assignments,
    classical,
    cli,
    data,
    results,
    settings,
    training_commands,
)
from cifarlib.errors import CifarlibError


def subcommands(parser):
    """Yield the words that lead to this parser and to every one below it."""
    yield []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, child in action.choices.items():
                yield from ([name, *words] for words in subcommands(child))


COMMANDS = list(subcommands(cli._parser()))


@pytest.fixture(autouse=True)
def keep_warnings(monkeypatch):
    """Undo afterwards how the command line shows warnings."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)


@pytest.fixture
def archive(tmp_path, build, tiny):
    return build.pack(tmp_path / "mine.tar.gz", build.binary(*tiny))


@pytest.fixture
def fail(monkeypatch):
    """Return a function that makes every command that describes the data fail."""

    def fail(error):
        def describe(source):
            raise error

        monkeypatch.setattr(data, "describe", describe)

    return fail


@pytest.fixture
def error_of(capsys):
    """Return a function that runs a command, and gives its status and its line of error."""

    def run(*arguments):
        status = cli.main(arguments)
        output, errors = capsys.readouterr()
        assert output == ""
        (line,) = errors.splitlines()
        assert line.startswith("cifarlib: ")
        return status, line

    return run


# Help


def test_commands_are_found():
    assert ["data", "fetch"] in COMMANDS
    assert ["run"] in COMMANDS


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_has_an_example(command, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([*command, "--help"])
    assert caught.value.code == 0
    output, errors = capsys.readouterr()
    assert errors == ""
    example = " ".join(output.rpartition("Example: ")[2].split())
    assert example.startswith(" ".join(["cifarlib", *command]))


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_names_debug(command, capsys):
    with pytest.raises(SystemExit):
        cli.main([*command, "--help"])
    assert "--debug" in capsys.readouterr().out


def test_help_of_grading_tells_its_limits(capsys):
    with pytest.raises(SystemExit):
        cli.main(["assignment", "grade", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert f"a cell may take (default: {assignments.CELL_SECONDS})" in told
    assert f"a notebook may take (default: {assignments.TOTAL_SECONDS})" in told


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_examples_in_the_help_are_understood(command, capsys):
    with pytest.raises(SystemExit):
        cli.main([*command, "--help"])
    for example in capsys.readouterr().out.rpartition("Example: ")[2].split("&&"):
        program, *words = example.split()
        assert program == "cifarlib"
        _, rest = cli._parser().parse_known_args(words)
        if rest:
            parsers = {
                "train": training_commands.train_parser,
                "tune": training_commands.tune_parser,
            }
            parsers[words[0]]().parse_args(rest)


def test_version_is_told(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"cifarlib {__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [[], ["data"], ["datum"], ["data", "info", "--jsn"], ["run", "--quick", "--full"]],
    ids=" ".join,
)
def test_arguments_that_are_none_are_bad_input(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert re.fullmatch(r"cifarlib[ \w]*: .*--help\)\n", errors)


def test_debug_may_stand_anywhere(archive, capsys):
    for arguments in (["--debug", "data", "info"], ["data", "--debug", "info"]):
        assert cli.main([*arguments, "--source", "nowhere"]) == 2
        assert "Traceback" in capsys.readouterr().err


# cifarlib data


def test_fetch_tells_what_was_fetched(archive, capsys, tmp_path):
    assert cli.main(["data", "fetch", "--source", str(archive)]) == 0
    output, errors = capsys.readouterr()
    assert output.startswith("CIFAR-10 (copy): 50 training and 20 test images")
    assert str(tmp_path / "cache") in output
    assert errors == ""


@pytest.mark.parametrize("arguments", [["--source", "mine.tar.gz"], []])
def test_info_in_json_is_alone_on_standard_output(archive, capsys, monkeypatch, sha256, arguments):
    if not arguments:
        monkeypatch.setenv("CIFARLIB_SOURCE", str(archive))
    assert cli.main(["data", "info", "--json", *arguments]) == 0
    output, errors = capsys.readouterr()
    told = json.loads(output)
    assert told["kind"] == "copy"
    assert told["official"] is False
    assert told["origin"] == str(archive)
    assert told["archive_sha256"] == sha256(archive)
    assert (told["num_train"], told["num_test"]) == (50, 20)
    assert told["class_counts"]["test"]["frog"] == 2
    assert len(told["fingerprint"]) == 64
    assert errors == ""


def test_info_for_people_tells_the_same(archive, capsys):
    assert cli.main(["data", "info", "--source", str(archive)]) == 0
    output = capsys.readouterr().out
    for told in (str(archive), "copy", "official binary", data.describe(archive).fingerprint):
        assert told in output
    assert "frog 5" in output
    assert "frog 2" in output


def test_json_stays_alone_when_there_are_warnings(capsys):
    assert cli.main(["data", "info", "--json", "--source", "synthetic"]) == 0
    output, errors = capsys.readouterr()
    assert json.loads(output)["kind"] == "synthetic"
    assert "THESE ARE NOT PHOTOGRAPHS" in errors
    assert "SyntheticDataWarning" not in errors


def test_fetch_without_a_network_says_so(capsys):
    assert cli.main(["data", "fetch"]) == 0
    output, errors = capsys.readouterr()
    assert "synthetic" in output
    assert "THESE ARE NOT PHOTOGRAPHS" in errors
    assert "could not be" in errors


def test_force_reaches_the_data(archive, monkeypatch):
    told = []

    def fetch(source, force):
        told.append((source, force))
        return data.describe(source)

    monkeypatch.setattr(data, "fetch", fetch)
    for arguments in ([], ["--force"]):
        assert cli.main(["data", "fetch", "--source", str(archive), *arguments]) == 0
    assert told == [(str(archive), False), (str(archive), True)]


# Errors


def test_bad_input_is_status_2_and_one_line(error_of, tmp_path):
    status, line = error_of("data", "fetch", "--source", "nowhere.tar.gz")
    assert status == 2
    assert str(tmp_path / "nowhere.tar.gz") in line
    assert "found nothing there" in line


def test_damaged_archive_is_status_2_and_one_line(error_of, archive):
    archive.write_bytes(archive.read_bytes()[:-100])
    status, line = error_of("data", "info", "--source", str(archive))
    assert status == 2
    assert f"{archive}: expected a complete tar or zip archive, found" in line


def test_failure_is_status_1_and_one_line(error_of, fail):
    fail(CifarlibError("the disk is on fire"))
    assert error_of("data", "info") == (1, "cifarlib: the disk is on fire")


def test_mistake_in_the_program_is_status_1_and_one_line(error_of, fail):
    fail(KeyError("a\nb"))
    status, line = error_of("data", "info")
    assert status == 1
    assert "KeyError" in line
    assert "--debug" in line


def test_interruption_is_status_130_and_one_line(error_of, fail):
    fail(KeyboardInterrupt())
    status, line = error_of("data", "info")
    assert status == 130
    assert "interrupted" in line


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("models", "starts again"),
        ("results", "starts again"),
        ("data fetch", "continues"),
        ("data info", "continues"),
        ("run", "continues"),
        ("tune baseline", "continues"),
        ("train baseline", "with --resume continues"),
    ],
)
def test_only_what_keeps_its_work_says_that_it_continues(error_of, monkeypatch, command, told):
    def interrupt(*_):
        raise KeyboardInterrupt

    name = "_".join(word for word in command.split() if word != "baseline")
    monkeypatch.setattr(cli, f"_{name}", interrupt)
    assert error_of(*command.split())[1].endswith(f"the same command {told}.")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--debug", "data", "info"],
        ["data", "info", "--debug"],
        ["data", "info", "--debug", "--json"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize(("error", "status"), [(CifarlibError("no"), 1), (KeyError("no"), 1)])
def test_debug_shows_the_traceback_wherever_it_stands(capsys, fail, arguments, error, status):
    fail(error)
    assert cli.main(arguments) == status
    output, errors = capsys.readouterr()
    assert output == ""
    assert "Traceback (most recent call last)" in errors
    assert errors.splitlines()[-1].startswith("cifarlib: ")


@pytest.mark.parametrize("error", [CifarlibError("no"), KeyError("no")])
def test_no_traceback_without_debug(error_of, fail, error):
    fail(error)
    assert "Traceback" not in error_of("data", "info")[1]


# The program as it is started

START = "import sys; from cifarlib.cli import main; sys.exit(main(sys.argv[1:]))"


def test_module_runs_as_the_command_does(run_python, archive):
    script = "import runpy; runpy.run_module('cifarlib', run_name='__main__')"
    process = run_python(script, "data", "info", "--json", "--source", archive)
    output, errors = process.communicate(timeout=60)
    assert json.loads(output)["num_train"] == 50
    assert (process.returncode, errors) == (0, "")


def test_module_ends_with_the_status_of_the_command(run_python):
    script = "import runpy; runpy.run_module('cifarlib', run_name='__main__')"
    process = run_python(script, "data", "info", "--source", "nowhere")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert len(errors.splitlines()) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such pipes")
@pytest.mark.parametrize("arguments", [["--json"], []])
def test_reader_that_has_gone_is_no_error(run_python, archive, monkeypatch, arguments):
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # the output waits for its end
    data.fetch(archive)
    process = run_python(START, "data", "info", "--source", archive, *arguments)
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(60) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such pipes")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_reader_that_has_gone_changes_no_status(run_python, tmp_path, monkeypatch, unbuffered):
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    (tmp_path / "a.zip").write_bytes(b"none")
    process = run_python(START, "submit", "--verify", "--no-execute", tmp_path / "a.zip")
    process.stdout.close()
    told = "cifarlib: 1 of 1 submissions need to be looked into.\n"
    assert (process.stderr.read(), process.wait(60)) == (told, 1)


@pytest.mark.skipif(sys.platform != "linux", reason="has no full device")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_cannot_be_written_is_a_failure_told_in_a_line(
    run_python, archive, monkeypatch, unbuffered
):
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    with Path("/dev/full").open("w") as full:
        process = run_python(START, "data", "info", "--source", archive, stdout=full)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert re.fullmatch("cifarlib: .*No space left on device.*\n", errors)


def test_output_that_is_not_a_terminal_shows_no_progress_bar(run_python, monkeypatch):
    monkeypatch.delenv("CIFARLIB_UNATTENDED")
    monkeypatch.delenv("CI", raising=False)
    script = """
import functools
from cifarlib import synthetic
synthetic.write_archive = functools.partial(synthetic.write_archive, num_train=50, num_test=20)
"""
    process = run_python(script + START, "data", "fetch", "--source", "synthetic")
    output, errors = process.communicate(timeout=60)
    assert "50 training" in output
    assert "Drawing" not in errors


def test_every_model_is_listed_with_what_it_reproduces(capsys):
    assert cli.main(["models", "--json"]) == 0
    described = {model["name"]: model for model in json.loads(capsys.readouterr().out)}
    assert described["resnet18"]["trainable"] == 11_173_962
    assert described["baseline"]["parameters_gray"] == 72_842
    assert cli.main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split()[0] for line in lines] == list(described)
    assert all(
        model["reproduces"] in line for model, line in zip(described.values(), lines, strict=True)
    )


def test_results_are_printed_with_the_command_that_repeats_them_and_stale_ones_marked(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(settings, "checkout_folder", lambda: tmp_path)
    told = {"metric": "test accuracy", "command": "make it", "seeds": [0, 1]}
    code = {"code": classical.code_digest("raw")}
    linear = {"chapter": "03", "color": "gray", "details": code, **told}
    results.write("linear-raw-gray", values=[0.3, 0.32], **linear)
    details = {"config": {"model": "baseline"}, "code": "of old"}
    results.write(
        "network-baseline-gray-modern",
        chapter="06",
        values=[0.7, 0.72],
        color="gray",
        details=details,
        **told,
    )
    assert cli.main(["results"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["result", "mean", "sd", "n", "what"]
    assert lines[1].split() == ["linear-raw-gray", "0.31", "0.0141", "2", "test", "accuracy"]
    assert lines[2].endswith("; make it")
    assert lines[3].endswith("test accuracy  [stale: of other code]")
    assert lines[1].index("0.31") == lines[0].index("mean"), "figures under their headings"
    assert cli.main(["results", "--json"]) == 0
    found = {result["name"]: result for result in json.loads(capsys.readouterr().out)}
    assert found["linear-raw-gray"]["values"] == [0.3, 0.32]
    assert [result["is_stale"] for result in found.values()] == [False, True]


def test_a_backend_that_keras_does_not_have_is_bad_input(monkeypatch, capsys):
    monkeypatch.setenv("KERAS_BACKEND", "torsch")  # Keras itself has been imported before
    for command in (["models"], ["results"], ["run", "01"], ["submit", "task.ipynb"]):
        assert cli.main(command) == 2
        assert "KERAS_BACKEND: expected tensorflow, jax, torch, found 'torsch'" in (
            capsys.readouterr().err
        )


def test_a_backend_that_is_not_installed_is_told_with_what_to_do(monkeypatch, capsys):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert cli.main(["run", "01"]) == 2
    told = capsys.readouterr().err
    assert "expected one that is installed, found 'jax'" in told and "pip install" in told


def test_an_unknown_option_leads_to_the_help_of_its_command(capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["run", "01", "--bogus"])
    assert "see cifarlib run --help" in capsys.readouterr().err


# cifarlib train and evaluate

TRAIN = ["train", "baseline", "--validation-fraction", "0.2", "--batch-size", "10"]


@pytest.fixture
def synthetic_source(monkeypatch):
    monkeypatch.setenv("CIFARLIB_SOURCE", "synthetic")


def test_a_run_is_trained_judged_and_never_trained_over(synthetic_source, capsys):
    assert cli.main([*TRAIN, "--epochs", "2", "--color", "gray"]) == 0
    output, errors = capsys.readouterr()
    assert output.startswith("2 epochs in ") and "of 10 validation images" in output
    assert "THESE ARE NOT PHOTOGRAPHS" in errors
    assert re.search(r"\nbaseline, epoch 2 of 2: loss \d.*, validation \d.*%, \d+ s\n", errors)
    run = Path("runs/baseline-gray-0")
    assert f"next: cifarlib evaluate {run}" in output
    assert len(pd.read_csv(run / "history.csv")) == 2

    assert cli.main(["evaluate", str(run), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["num_test_images"] == 20 and 0 <= figures["accuracy"] <= 1
    assert figures == json.loads((run / "evaluation.json").read_text())
    assert cli.main(["evaluate", str(run)]) == 0
    output = capsys.readouterr().out
    assert f"{figures['accuracy']:.2%} of 20 test images right" in output
    assert "airplane" in output and "Report: " in output
    assert cli.main(["evaluate", str(run), "--views", "--json"]) == 0
    in_views = json.loads(capsys.readouterr().out)
    assert in_views["with_views"] and not figures["with_views"]
    assert in_views["calibration_error"] != figures["calibration_error"], "of other scores"
    assert cli.main(["evaluate", str(run), "--views"]) == 0
    assert "right in six views each" in capsys.readouterr().out

    assert cli.main([*TRAIN, "--epochs", "2", "--color", "gray"]) == 2
    assert "Resume it (--resume), or name another folder" in capsys.readouterr().err
    assert cli.main([*TRAIN, "--epochs", "3", "--color", "gray", "--resume"]) == 2
    assert "expected a run with epochs = 3, found 2" in capsys.readouterr().err
    assert cli.main([*TRAIN, "--epochs", "2", "--color", "gray", "--resume"]) == 0


def test_where_there_is_a_bar_no_line_tells_an_epoch(synthetic_source, monkeypatch, capsys):
    monkeypatch.setattr("cifarlib.progress.is_watched", lambda: True)
    assert cli.main([*TRAIN, "--epochs", "1", "--validation-fraction", "0"]) == 0
    assert "epoch 1 of 1:" not in capsys.readouterr().err


def test_a_run_goes_where_it_is_told_to(synthetic_source, capsys):
    assert cli.main([*TRAIN, "--epochs", "1", "--output", "some/where"]) == 0
    assert "next: cifarlib evaluate some/where" in capsys.readouterr().out
    assert Path("some/where/metrics.json").exists() and not Path("runs").exists()


def test_what_run_is_asked_reaches_the_chapters(monkeypatch):
    asked = []
    monkeypatch.setattr(
        "cifarlib.running.run", lambda names, **options: asked.append((names, options))
    )
    for words in ([], ["--full", "--output", "here", "--record"], ["--quick"]):
        assert cli.main(["run", *(["01", "03"] if words else []), *words]) == 0
    nothing = {"profile": None, "output": None, "record": False}
    recorded = {"profile": "full", "output": "here", "record": True}
    quick = {**nothing, "profile": "quick"}
    assert asked == [([], nothing), (["01", "03"], recorded), (["01", "03"], quick)]


def test_limits_of_grading_reach_it(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(
        "cifarlib.assignments.grade", lambda paths, **limits: asked.append((paths, limits)) or []
    )
    for words in ([], ["--cell-seconds", "7", "--total-seconds", "70"]):
        assert cli.main(["assignment", "grade", "handed in", *words]) == 1, "there was nothing"
    limits = {"cell_seconds": 7, "total_seconds": 70}
    assert asked == [(["handed in"], {}), (["handed in"], limits)]


def test_assignments_are_released_where_make_clean_spares_them(monkeypatch, capsys):
    pytest.importorskip("nbgrader")
    checkout = Path(cli.__file__).parent.parent
    monkeypatch.setattr(settings, "checkout_folder", lambda: checkout)
    assert cli.main(["assignment", "release", "01"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert Path(line).parts[:2] == ("build", "assignments") and Path(line).is_file()


def test_a_quick_profile_shortens_a_training_that_names_no_epochs(monkeypatch, capsys):
    from cifarlib import training

    trained = []
    metrics = {"epochs": 0, "seconds": 0, "data_kind": "none"}
    monkeypatch.setattr(
        training,
        "train",
        lambda config, **_: trained.append(config) or SimpleNamespace(metrics=metrics),
    )
    for profile in ("quick", "full", ""):
        monkeypatch.setenv("CIFARLIB_PROFILE", profile)
        for arguments in ([], ["--epochs", "7"]):
            assert cli.main(["train", "baseline", *arguments]) == 0
        told = capsys.readouterr().err
        assert told.count("CIFARLIB_PROFILE is quick: 3 epochs") == (profile == "quick")
    assert [config.epochs for config in trained] == [3, 7, 30, 7, 30, 7]
    monkeypatch.setenv("CIFARLIB_PROFILE", "slow")
    assert cli.main(["train", "baseline"]) == 2
    assert "CIFARLIB_PROFILE: expected quick or full" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["train", "resnet"], "Did you mean resnet18"),
        (["train", "baseline", "--color", "grey"], "Did you mean gray"),
        (["train", "baseline", "--schedule", "step"], "constant, plateau, cosine, one_cycle"),
        (["train", "vit_tiny", "--recipe", "published"], "a model with a published recipe"),
        (["train", "baseline", "--recipe", "moderne"], "Did you mean modern"),
        (["evaluate", "nowhere"], "the folder of a run"),
        (["tune", "layered"], "Did you mean layered_cnn"),
        (["tune", "layered_cnn", "--search", "widht"], "Did you mean width"),
        (["tune", "baseline", "--search", "width"], "any of learning_rate, schedule"),
        (["tune", "layered_cnn", "--num-trials", "0"], "num_trials"),
        (["tune", "layered_cnn", "--also", '{"widht": 8}'], "Did you mean width"),
        (["tune", '{"depht": 2}'], "Did you mean depth"),
        (["tune", "baseline", "--output", f"{__file__}/a.json"], "a file to write to"),
        (["tune", "nowhere.json"], "a model found by cifarlib tune"),
        (["train", "nowhere.json"], "a model found by cifarlib tune"),
        (["train", "baseline", "--recipe", "tuned"], "a model that a search has found"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_trained_searched_or_judged_is_told_in_one_line(arguments, told, capsys):
    assert cli.main(arguments) == 2
    output, errors = capsys.readouterr()
    assert output == "" and errors.count("\n") == 1 and told in errors


@pytest.mark.parametrize(
    "arguments",
    [
        ["train"],
        ["train", "baseline", "--epochs", "many"],
        ["train", "baseline", "--epoch", "3"],
        ["tune"],
        ["tune", "layered_cnn", "--num-trials", "many"],
        ["tune", "baseline", "--jornal"],
        ["tune", "layered_cnn", "--also", "width 64"],
        ["tune", "layered_cnn", "--also", "{}"],
    ],
    ids=" ".join,
)
def test_arguments_that_train_or_tune_does_not_take_are_bad_input(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    line = rf"cifarlib {arguments[0]}: .*--help\)\n"
    assert re.fullmatch(line, capsys.readouterr().err)


@pytest.mark.parametrize(
    "command",
    ["run", "submit x.ipynb", "assignment release", "train baseline", "tune baseline"],
)
def test_an_empty_output_is_no_path(command, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([*command.split(), "--output", ""])
    assert caught.value.code == 2
    assert "expected a path, found nothing" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["submit", "submit --verify", "evaluate", "assignment grade"])
def test_an_empty_path_is_not_the_folder_that_one_is_in(command, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([*command.split(), ""])
    assert caught.value.code == 2
    assert "expected a path, found nothing" in capsys.readouterr().err


def test_train_has_a_flag_for_every_field_of_the_configuration(capsys):
    from cifarlib import training

    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    told = capsys.readouterr().out
    for field in dataclasses.fields(training.Config):
        flag = rf"--{field.name.replace('_', '-')}(?![\w-])"
        assert re.search(flag, told) or field.name == "model"


# cifarlib tune

LAYERS = '{"blocks": 2, "width": 2, "max_width": 4, "dense": 4}'
TUNE = ["tune", LAYERS, "--color", "gray", "--epochs", "1", "--train-size", "20"]
TUNE += ["--validation-fraction", "0.2", "--batch-size", "10", "--search", "dense,learning_rate"]


@pytest.fixture
def wide(monkeypatch):
    """Let the dense layer of ``LAYERS`` be one of those that are searched."""
    from cifarlib import tuning

    choices = tuning.CategoricalDistribution([0, 4])
    monkeypatch.setitem(tuning.LAYERS, "dense", choices)


def test_what_a_search_finds_is_written_and_can_be_trained(synthetic_source, wide, capsys):
    assert cli.main([*TUNE, "--num-trials", "2"]) == 0
    first = capsys.readouterr().out.splitlines()
    assert first[0].startswith("trial 0: finished ") and "dense 4, learning_rate 0.003" in first[0]
    assert first[1].startswith("trial 1: ")
    path = "runs/tuned-layered_cnn-gray.json"
    assert first[-1] == f"{path} has it; next: cifarlib train {path} --recipe tuned --color gray"
    assert Path("runs/tuned-layered_cnn-gray.journal").exists()
    found = json.loads(Path(path).read_text())
    assert found["model"]["width"] == 2 and "learning_rate" in found["recipe"]
    assert found["search"]["data_kind"] == "synthetic"
    assert shlex.split(found["search"]["command"]) == ["cifarlib", *TUNE, "--num-trials", "2"]

    # The same command again finds the study finished; with more trials it goes on.
    assert cli.main([*TUNE, "--num-trials", "2"]) == 0
    assert not capsys.readouterr().out.startswith("trial")
    assert cli.main([*TUNE, "--num-trials", "3", "--seed", "1"]) == 2
    assert "a study with seed = 1, found 0" in capsys.readouterr().err

    # Another search does not replace what this one has found.
    before = Path(path).read_bytes()
    assert cli.main([*TUNE, "--num-trials", "1", "--journal", "mine/second.v2.journal"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("mine/second.v2.json has it")
    assert Path("mine/second.v2.json").exists() and Path(path).read_bytes() == before

    words = first[-1].rpartition("next: cifarlib ")[2].split()
    assert cli.main([*words, "--epochs", "1", "--validation-fraction", "0.2"]) == 0
    assert Path("runs/layered_cnn-gray-0/model.keras").exists()


def test_an_idea_of_ones_own_is_trained_with_the_finalists(synthetic_source, wide, capsys):
    idea = ["--also", '{"dense": 7}', "--final-epochs", "1", "--output", "best.json"]
    assert cli.main([*TUNE, "--num-trials", "1", *idea]) == 0
    told = capsys.readouterr().out
    assert re.search(r"^default .*\ndense 7 ", told, flags=re.MULTILINE)
    found = json.loads(Path("best.json").read_text())["search"]
    assert set(found["finals"]) == {"default", "dense 7"} and found["also"] == {
        "dense 7": {"dense": 7}
    }


def test_a_file_that_would_be_no_model_is_refused_before_the_search(synthetic_source, capsys):
    assert cli.main([*TUNE, "--num-trials", "1", "--output", "my best"]) == 2
    assert "a name that ends in .json, found 'my best'" in capsys.readouterr().err
    same = ["--journal", f"../{Path.cwd().name}/best.json", "--output", "best.json"]
    for arguments in (["--journal", "best.json"], same):
        assert cli.main([*TUNE, "--num-trials", "1", *arguments]) == 2
        assert "another file than the journal, found 'best.json'" in capsys.readouterr().err
    assert not Path("best.json").exists()
    Path("best.json").mkdir()
    assert cli.main([*TUNE, "--num-trials", "1", "--output", "best.json"]) == 2
    assert "a file to write to, found a folder" in capsys.readouterr().err


@pytest.mark.parametrize("content", ['{"name": "settings"}', '{"model": "a", "seconds": 1}', ""])
def test_a_search_writes_over_no_file_but_that_of_an_earlier_search(
    synthetic_source, capsys, content
):
    Path("mine.json").write_text(content)
    assert cli.main([*TUNE, "--num-trials", "1", "--journal", "mine.journal"]) == 2
    told = "mine.json: expected none yet, or what an earlier search has found, found another file"
    assert told in capsys.readouterr().err
    assert Path("mine.json").read_text() == content and not Path("mine.journal").exists()


@pytest.mark.parametrize("option", ["--finalists", "--final-epochs"])
def test_finals_that_make_no_sense_are_refused_before_the_search(synthetic_source, capsys, option):
    assert cli.main([*TUNE, "--num-trials", "1", option, "-1"]) == 2
    output, errors = capsys.readouterr()
    assert output == "" and f"{option}: expected at least" in errors


def test_a_quick_profile_shortens_the_trials_of_a_search(monkeypatch, capsys):
    from cifarlib import tuning

    searched = []
    monkeypatch.setattr(tuning, "tune", lambda start, *_, **__: searched.append(start) or 1 / 0)
    monkeypatch.setenv("CIFARLIB_PROFILE", "quick")
    for words in ([], ["--epochs", "5"]):
        assert cli.main(["tune", "layered_cnn", *words]) == 1, "stopped by the test"
    assert [start.epochs for start in searched] == [3, 5]
    assert capsys.readouterr().err.count("CIFARLIB_PROFILE is quick: 3 epochs") == 1

    commands = []
    monkeypatch.setattr(tuning, "tune", lambda *_, **__: "found")
    monkeypatch.setattr(tuning, "finals", lambda *_, **__: SimpleNamespace(table=pd.DataFrame))
    monkeypatch.setattr(tuning, "write", lambda _, __, command, **___: commands.append(command))
    two = ["--finalists", "2"]
    for words in ([], two, [*two, "--epochs=5", "--final-epochs", "9"]):
        assert cli.main(["tune", "layered_cnn", *words]) == 0
    found = [shlex.split(command)[3:] for command in commands]
    assert found == [
        ["--epochs", "3"],
        [*two, "--epochs", "3", "--final-epochs", "3"],
        [*two, "--epochs=5", "--final-epochs", "9"],
    ]


def test_limits_of_a_search_reach_it(monkeypatch):
    from cifarlib import tuning

    asked = []
    monkeypatch.setattr(tuning, "tune", lambda *_, **options: asked.append(options) or 1 / 0)
    words = ["--time-budget", "60", "--max-multiply-adds", "9000", "--num-trials", "5"]
    for given in ([], words):
        assert cli.main(["tune", "layered_cnn", *given]) == 1, "stopped by the test"
    names = ("num_trials", "time_budget", "max_multiply_adds")
    assert [tuple(map(options.get, names)) for options in asked] == [
        (40, None, None),
        (5, 60, 9000),
    ]


def test_a_quick_profile_shortens_the_finals_of_a_search(
    synthetic_source, wide, monkeypatch, capsys
):
    from cifarlib import tuning

    budgets = []
    monkeypatch.setattr(tuning, "finals", lambda *_, **budget: budgets.append(budget) or 1 / 0)
    monkeypatch.setenv("CIFARLIB_PROFILE", "quick")
    for words in ([], ["--final-epochs", "5"]):
        assert cli.main([*TUNE, "--num-trials", "1", "--finalists", "1", *words]) == 1
    assert [budget["epochs"] for budget in budgets] == [3, 5]


def test_the_command_of_a_quick_search_repeats_it_in_any_profile(
    synthetic_source, wide, monkeypatch
):
    monkeypatch.setenv("CIFARLIB_PROFILE", "quick")
    assert cli.main([*TUNE, "--num-trials", "1", "--also", '{"width": 3}']) == 0
    found = json.loads(Path("runs/tuned-layered_cnn-gray.json").read_text())
    assert shlex.split(found["search"]["command"])[-2:] == ["--final-epochs", "3"]
    assert found["recipe"]["epochs"] == 3, "as that command would write"


@pytest.fixture
def diverging_finals(monkeypatch):
    """Let all finals of a search diverge."""
    from cifarlib import training, tuning

    def finals(*_, **__):
        raise training.DivergedError("layered_cnn: the loss is not finite.")

    monkeypatch.setattr(tuning, "finals", finals)


def test_a_finalist_that_diverges_does_not_lose_the_search(
    synthetic_source, wide, diverging_finals, capsys
):
    assert cli.main([*TUNE, "--num-trials", "1", "--finalists", "1"]) == 1
    path = "runs/tuned-layered_cnn-gray.json"
    assert f"not finite. {path} has the best trial" in capsys.readouterr().err
    assert json.loads(Path(path).read_text())["model"]["width"] == 2


def test_what_is_written_instead_of_a_finalist_trains_for_as_long(
    synthetic_source, wide, diverging_finals
):
    words = ("--num-trials", "1", "--finalists", "1", "--final-epochs", "5")
    assert cli.main([*TUNE, *words]) == 1
    found = json.loads(Path("runs/tuned-layered_cnn-gray.json").read_text())
    assert found["recipe"]["epochs"] == 5


def test_an_interrupted_search_says_that_the_same_command_continues(
    synthetic_source, wide, monkeypatch, capsys
):
    from cifarlib import training

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "train", interrupt)
        assert cli.main([*TUNE, "--num-trials", "1"]) == 130
    assert "interrupted; the same command continues" in capsys.readouterr().err
    assert cli.main([*TUNE, "--num-trials", "1"]) == 0
    assert capsys.readouterr().out.startswith("trial 1: finished")


def test_the_help_of_tune_tells_its_own_defaults(capsys):
    with pytest.raises(SystemExit):
        cli.main(["tune", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    for option in ("--search", "--num-trials", "--time-budget", "--max-multiply-adds", "--journal"):
        assert option in told
    assert "(default: 8)" in told and "(default: 10000)" in told


def test_a_tuned_recipe_that_names_no_field_is_told_in_one_line(capsys):
    Path("found.json").write_text('{"model": "baseline", "recipe": {"lerning_rate": 0.01}}')
    assert cli.main(["train", "found.json", "--recipe", "tuned"]) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1 and "found.json" in errors and "learning_rate" in errors


# cifarlib submit


@pytest.fixture
def submitted(monkeypatch):
    """Replace the work of ``submit`` by a note of what it was asked for."""
    from cifarlib import submission

    asked = []

    def submit(path, **options):
        asked.append((path, options))
        problems = ("a task is not solved yet",) if path == "open.ipynb" else ()
        zipped = Path("a.zip") if options["incomplete"] or not problems else None
        student = {"name": "Ada", "id": "1"}
        return submission.Submission(zipped, student, problems, ("Left out: b.bin.",))

    monkeypatch.setattr(submission, "submit", submit)
    return asked


def test_what_is_handed_in_is_told_on_standard_output(submitted, capsys):
    options = ["--name", "Ada", "--id", "1", "--output", "a.zip", "--full"]
    assert cli.main(["submit", "a.ipynb", *options]) == 0
    told = {"name": "Ada", "student_id": "1", "output": "a.zip", "profile": "full"}
    assert submitted == [("a.ipynb", told | {"incomplete": False})]
    output, errors = capsys.readouterr()
    assert output == "Left out: b.bin.\na.zip is complete: Ada, 1\n" and errors == ""


@pytest.mark.parametrize(
    ("options", "told"), [([], "No zip was written"), (["--incomplete"], "a.zip holds what there")]
)
def test_what_is_missing_is_told_with_status_1(submitted, capsys, options, told):
    assert cli.main(["submit", "open.ipynb", *options]) == 1
    output, errors = capsys.readouterr()
    assert output == "Left out: b.bin.\n"
    assert errors.startswith("cifarlib: not complete yet:\n  - a task is not solved yet\n")
    assert told in errors


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere.ipynb"], "a notebook or a folder, found nothing there"),
        (["a.ipynb", "b.ipynb"], "b.ipynb: expected one notebook or folder at a time"),
        (["a.ipynb", "--json"], "--json: expected --verify beside it"),
        (["a.ipynb", "--timeout", "0"], "--timeout: expected --verify beside it"),
        (["a.ipynb", "--no-execute"], "--no-execute: expected --verify beside it"),
        (["--verify", "a.zip", "--quick"], "--quick: expected no --verify beside it"),
        (["--verify", "a.zip", "--incomplete"], "--incomplete: expected no --verify beside it"),
        (["--verify", "a.zip", "--memory", "0"], "--memory: expected a number above 0"),
        (["--verify", "nowhere"], "a zip, or a folder that holds some, found nothing there"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_handed_in_or_verified_is_told_in_one_line(arguments, told, error_of):
    status, line = error_of("submit", *arguments)
    assert status == 2 and told in line


def test_verdicts_are_a_table_or_json_alone_and_the_status_tells_if_all_are_fine(
    monkeypatch, capsys
):
    from cifarlib import verification

    fine = verification.Verdict("a.zip", "Ada", "1", True, "ok", "ran", 3, 0)
    bad = verification.Verdict("b.zip", executed="broken zip: it is no zip file")
    asked = []

    def verify(paths, **options):
        asked.append((paths, options))
        return [fine, bad][: len(paths)]

    monkeypatch.setattr(verification, "verify", verify)
    assert cli.main(["submit", "--verify", "a.zip", "--timeout", "9", "--jobs", "2"]) == 0
    output, errors = capsys.readouterr()
    assert output.splitlines()[1].split() == ["a.zip", "Ada", "1", "ok", "ran", "0", "of", "3"]
    assert errors == ""
    assert asked == [(["a.zip"], {"is_executed": True, "seconds": 9, "num_jobs": 2})]
    options = ["--json", "--no-execute", "--memory", "2"]
    assert cli.main(["submit", "--verify", "a.zip", "b.zip", *options]) == 1
    output, errors = capsys.readouterr()
    assert [verdict["is_fine"] for verdict in json.loads(output)] == [True, False]
    assert errors == "cifarlib: 1 of 2 submissions need to be looked into.\n"
    assert asked[1][1] == {"is_executed": False, "gibibytes": 2}


def test_the_help_of_submit_says_what_the_limits_are_not(capsys):
    with pytest.raises(SystemExit):
        cli.main(["submit", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert "NO SANDBOX: what was handed in runs with your rights" in told
    assert f"(default: {verification_default('SECONDS')})" in told
    assert f"(default: {verification_default('GIBIBYTES')})" in told


def verification_default(name: str) -> int:
    from cifarlib import verification

    return getattr(verification, name)
