"""Studies: who is dead, what a damaged journal says, and that nobody proposes the same twice."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import optuna
import psutil
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from cifarlib import studies
from cifarlib.errors import InputError

ASKED = {"model": "baseline", "epochs": 3, "augmentation": ["flip"]}
SPACE = {
    "width": IntDistribution(1, 500),
    "rate": FloatDistribution(1e-4, 1e-1, log=True),
    "share": FloatDistribution(0.0, 0.5, step=0.125),
    "kind": CategoricalDistribution(["a", "b", 3]),
}
DEFAULT = {"width": 7, "rate": 0.01, "share": 0.25, "kind": "b"}
posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")


@pytest.fixture(autouse=True)
def quiet():
    with studies.quiet():
        yield


@pytest.fixture
def journal(tmp_path):
    return tmp_path / "study.journal"


def begin(journal=None, **changes) -> optuna.Study:
    return studies.begin(journal, {**ASKED, **changes}, optuna.pruners.NopPruner())


def go_on(study, num_trials: int, seed=0) -> None:
    """Finish so many trials, whose value is their width."""
    for _ in range(num_trials):
        trial = studies.ask(study, SPACE, DEFAULT, seed)
        study.tell(trial, trial.params["width"] / 500)


def interrupt(*_, **__):
    raise KeyboardInterrupt


def proposals(study) -> list[dict]:
    return [trial.params for trial in study.trials]


# What is proposed


def test_the_default_comes_first():
    study = begin()
    go_on(study, 3)
    assert study.trials[0].params == DEFAULT
    assert DEFAULT not in proposals(study)[1:]


@pytest.mark.parametrize("at", [0, 2])
def test_a_trial_that_is_interrupted_while_it_is_proposed_is_proposed_again(monkeypatch, at):
    whole, study = begin(), begin()
    go_on(whole, 4)
    go_on(study, at)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        values = iter([whole.trials[at].params["width"]])
        patch.setattr(optuna.Trial, "suggest_int", lambda *_, **__: next(values))
        patch.setattr(optuna.Trial, "suggest_float", interrupt)
        studies.ask(study, SPACE, DEFAULT, 0)
    go_on(study, 4 - at)
    counted = [trial.params for trial in studies.begun(study, DEFAULT)]
    assert counted == proposals(whole)


def test_a_trial_that_is_tried_again_and_interrupted_while_it_is_proposed_is_not_lost(monkeypatch):
    study = begin()
    go_on(study, 1)
    given = {**DEFAULT, "width": 99}
    studies.give_up(study, studies.ask(study, SPACE, DEFAULT, 0), given)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(studies, "_suggest", interrupt)
        studies.ask(study, SPACE, DEFAULT, 0)
    go_on(study, 1)
    assert study.trials[-1].params == given


@pytest.mark.parametrize("kept", [False, True])
def test_equal_seeds_propose_the_same_and_others_do_not(kept, tmp_path):
    found = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        study = begin(tmp_path / name if kept else None)
        go_on(study, 14, seed)
        found.append(proposals(study)[1:])
    assert found[0] == found[1]
    assert not any(params in found[2] for params in found[0])


def test_every_seed_of_a_training_will_do():
    study = begin()
    go_on(study, 2, seed=2**31 - 1)
    assert len(study.trials) == 2


def test_a_study_that_is_opened_again_before_every_trial_proposes_the_same(journal):
    whole = begin()
    go_on(whole, 16)
    for _ in range(16):
        go_on(begin(journal), 1)
    assert proposals(begin(journal)) == proposals(whole)


@pytest.mark.parametrize("stopped_at", [0, 3, 13])
def test_a_trial_that_was_given_up_moves_none_that_follow(journal, stopped_at):
    whole = begin()
    go_on(whole, 16)
    study = begin(journal)
    go_on(study, stopped_at)
    trial = studies.ask(study, SPACE, DEFAULT, 0)
    studies.give_up(study, trial, trial.params)
    go_on(begin(journal), 16 - stopped_at)
    found = [t.params for t in begin(journal).trials if not studies.was_given_up(t)]
    assert found == proposals(whole)


def test_two_that_share_a_journal_never_propose_the_same(journal):
    studies_ = [begin(journal), begin(journal)]
    for _ in range(8):
        # Both ask before either of them tells.
        trials = [studies.ask(study, SPACE, DEFAULT, 0) for study in studies_]
        for study, trial in zip(studies_, trials, strict=True):
            study.tell(trial, trial.params["width"] / 500)
    found = [json.dumps(params) for params in proposals(begin(journal))]
    assert len(set(found)) == len(found) == 16


def test_every_kind_of_parameter_keeps_to_its_range(journal):
    study = begin(journal)
    go_on(study, 14)
    for params in proposals(study):
        assert list(params) == list(SPACE)
        assert 1 <= params["width"] <= 500 and isinstance(params["width"], int)
        assert 1e-4 <= params["rate"] <= 1e-1
        assert params["share"] in (0, 0.125, 0.25, 0.375, 0.5)
        assert params["kind"] in ("a", "b", 3)


# Who is dead


@pytest.fixture
def sleeper():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    yield process
    process.kill()
    process.wait()


def run_by(study, worker) -> int:
    """Begin a trial, say that this worker runs it, and return its number."""
    trial = studies.ask(study, SPACE, DEFAULT, 0)
    trial.set_user_attr("worker", worker)
    return trial.number


def is_counted(study, number) -> bool:
    return number in [trial.number for trial in studies.begun(study, DEFAULT)]


def told_of(process) -> list:
    found = psutil.Process(process.pid)
    return [socket.gethostname(), found.pid, found.create_time()]


def test_a_trial_of_a_living_process_counts(sleeper):
    study = begin()
    assert is_counted(study, run_by(study, told_of(sleeper)))
    go_on(study, 1)
    assert len(studies.begun(study, DEFAULT)) == 2


def test_a_trial_of_this_process_counts():
    study = begin()
    studies.ask(study, SPACE, DEFAULT, 0)
    assert len(studies.begun(study, DEFAULT)) == 1
    host, pid, _ = study.trials[0].user_attrs["worker"]
    assert (host, pid) == (socket.gethostname(), os.getpid())


@posix
def test_a_trial_of_a_killed_process_is_tried_again_once(sleeper):
    study = begin()
    go_on(study, 1)
    number = run_by(study, told_of(sleeper))
    sleeper.kill()
    sleeper.wait()
    for _ in range(3):
        assert not is_counted(study, number)
    waiting = [trial for trial in study.trials if trial.state == TrialState.WAITING]
    assert len(waiting) == 1
    assert studies.was_given_up(study.trials[number])
    go_on(study, 1)
    assert study.trials[-1].params == study.trials[number].params
    assert len(studies.begun(study, DEFAULT)) == 2


def test_what_kills_its_process_twice_is_not_tried_for_ever():
    study = begin()
    dead = [socket.gethostname(), 2**22 + 1, 0.0]  # a number that no process has
    first = run_by(study, dead)
    assert not is_counted(study, first)
    second = run_by(study, dead)
    assert study.trials[second].params == study.trials[first].params
    assert len(studies.begun(study, DEFAULT)) == 1, "it counts as soon as that is known"
    assert study.trials[second].state == TrialState.PRUNED
    third = run_by(study, dead)
    assert study.trials[third].params != study.trials[first].params


def test_what_the_user_interrupts_is_tried_again_however_often():
    study = begin()
    for _ in range(3):
        trial = studies.ask(study, SPACE, DEFAULT, 0)
        trial.set_user_attr("interrupted", True)
        studies.give_up(study, trial, trial.params)
        assert study.trials[trial.number].state == TrialState.FAIL
    assert len({str(trial.params) for trial in study.trials[:3]}) == 1
    assert studies.begun(study, DEFAULT) == []


@posix
def test_a_killed_process_that_nobody_has_waited_for_is_dead(sleeper, wait_until):
    study = begin()
    number = run_by(study, told_of(sleeper))
    sleeper.send_signal(signal.SIGKILL)
    wait_until(lambda: psutil.Process(sleeper.pid).status() == psutil.STATUS_ZOMBIE)
    assert not is_counted(study, number)


def test_a_process_that_got_the_number_of_a_dead_one_is_another():
    study = begin()
    host, pid, created = studies._worker()
    assert not is_counted(study, run_by(study, [host, pid, created - 1000]))


def test_a_clock_that_was_set_right_kills_nobody(sleeper):
    # psutil tells when a process began by the clock, which moves by seconds when it is set.
    study = begin()
    host, pid, created = told_of(sleeper)
    assert is_counted(study, run_by(study, [host, pid, created + 1]))


def test_a_trial_of_another_machine_counts_whatever_runs_here():
    study = begin()
    assert is_counted(study, run_by(study, ["elsewhere", 2**22 + 1, 0.0]))


def test_a_killed_trial_0_is_tried_again_with_the_default_even_if_it_had_no_values(sleeper):
    study = begin()
    worker = told_of(sleeper)
    study.ask().set_user_attr("worker", worker)  # killed before it was told its values
    sleeper.kill()
    sleeper.wait()
    assert studies.begun(study, DEFAULT) == []
    go_on(study, 1)
    assert study.trials[1].params == DEFAULT


def test_a_trial_that_is_tried_again_and_killed_while_it_is_proposed_is_not_lost(sleeper):
    study = begin()
    go_on(study, 1)
    given = {**DEFAULT, "width": 99}
    studies.give_up(study, studies.ask(study, SPACE, DEFAULT, 0), given)
    study.ask().set_user_attr("worker", told_of(sleeper))  # killed before it was told its values
    sleeper.kill()
    sleeper.wait()
    studies.begun(study, DEFAULT)
    go_on(study, 1)
    assert study.trials[-1].params == given


def test_a_trial_killed_before_it_said_whose_it_is_counts_for_a_minute(monkeypatch):
    study = begin()
    go_on(study, 1)
    numbers = [study.ask().number for _ in range(2)]
    assert all(is_counted(study, number) for number in numbers)

    later = time.time() + 61
    monkeypatch.setattr(studies, "time", SimpleNamespace(time=lambda: later))
    assert not any(is_counted(study, number) for number in numbers), "nor as killed twice"


def test_of_two_that_notice_a_dead_process_one_tries_again(journal, sleeper):
    first, second = begin(journal), begin(journal)
    run_by(first, told_of(sleeper))
    noticed = second.get_trials(deepcopy=False)[0]
    sleeper.kill()
    sleeper.wait()
    studies.begun(first, DEFAULT)
    studies.give_up(second, noticed, noticed.params)
    assert [t.state for t in begin(journal).trials] == [TrialState.FAIL, TrialState.WAITING]


def test_a_trial_that_failed_is_not_tried_again():
    study = begin()
    trial = studies.ask(study, SPACE, DEFAULT, 0)
    trial.set_user_attr("failed", "out of memory")
    study.tell(trial, state=TrialState.FAIL)
    assert len(studies.begun(study, DEFAULT)) == 1
    assert not studies.was_given_up(study.trials[0])


# The journal


def test_the_same_question_continues_a_study(journal):
    go_on(begin(journal), 2)
    study = begin(journal)
    go_on(study, 1)
    assert len(study.trials) == 3


def test_a_folder_for_the_journal_is_made(tmp_path):
    begin(tmp_path / "runs" / "deep" / "study.journal")
    assert (tmp_path / "runs" / "deep" / "study.journal").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 4}, "a study with epochs = 4, found 3"),
        ({"augmentation": ["crop"]}, "a study with augmentation = .*crop.*found .*flip"),
        ({"space of width": "1 to 2"}, "a study with space of width = 1 to 2, found not searched"),
    ],
)
def test_another_question_is_refused_and_says_what_differs(journal, changes, message):
    go_on(begin(journal), 2)
    before = journal.read_bytes()
    with pytest.raises(InputError, match=message):
        begin(journal, **changes)
    assert journal.read_bytes() == before


def test_a_parameter_that_is_no_longer_searched_is_told(journal):
    begin(journal, **{"space of width": "1 to 2"})
    with pytest.raises(InputError, match="space of width = not searched, found 1 to 2"):
        begin(journal)


@pytest.fixture
def finished(journal):
    """Return a journal of three trials; the last one finished with 0.2500."""
    study = begin(journal)
    go_on(study, 2)
    trial = studies.ask(study, SPACE, DEFAULT, 0)
    study.tell(trial, 0.25)
    return journal


def lines_of(journal) -> list[bytes]:
    return journal.read_bytes().splitlines(keepends=True)


def garbage_in_the_middle(lines):
    return [*lines[:-9], b"\x00\xff garbage\n", *lines[-9:]]


def a_broken_byte(lines):
    return [*lines[:-4], lines[-4][:10] + b"\x00" + lines[-4][11:], *lines[-3:]]


def a_hole_of_zeros(lines):
    return [*lines, bytes(4096)]


def half_a_last_line(lines):
    return [*lines, lines[-1][:20]]


def a_last_line_without_its_end(lines):
    return [*lines[:-1], lines[-1].rstrip(b"\n")]


def an_empty_line(lines):
    return [*lines, b"\n"]


def another_list(lines):
    return [*lines, b'["op_code"]\n']


def a_lost_beginning(lines):
    return [lines[0][5:], *lines[1:]]


DAMAGES = {
    garbage_in_the_middle: None,
    a_broken_byte: None,
    a_hole_of_zeros: "number 2, with 0.25",
    half_a_last_line: "number 2, with 0.25",
    a_last_line_without_its_end: "number 1, with",
    an_empty_line: "number 2, with 0.25",
    another_list: "number 2, with 0.25",
    a_lost_beginning: "something else",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_journal_is_told_with_its_last_good_trial_and_left_alone(finished, damage):
    finished.write_bytes(b"".join(damage(lines_of(finished))))
    before = finished.read_bytes()
    with pytest.raises(InputError, match=DAMAGES[damage] or "Its last good trial is") as caught:
        begin(finished)
    assert str(finished) in str(caught.value)
    assert finished.read_bytes() == before


def test_of_a_damaged_journal_the_lines_that_are_named_can_be_continued(finished, tmp_path):
    lines = lines_of(finished)
    finished.write_bytes(b"".join(garbage_in_the_middle(lines)))
    message = f"a damaged line {len(lines) - 8} of {len(lines) + 1}"
    with pytest.raises(InputError, match=message) as caught:
        begin(finished)
    assert f"its first {len(lines) - 9} lines" in str(caught.value)
    saved = tmp_path / "saved.journal"
    saved.write_bytes(b"".join(lines[:-9]))
    go_on(begin(saved), 1)


def test_a_damage_before_the_first_trial_says_that_none_is_good(finished):
    finished.write_bytes(b"".join([*lines_of(finished)[:2], b"garbage\n"]))
    with pytest.raises(InputError, match="last good trial is none"):
        begin(finished)


def test_a_trial_that_failed_or_runs_is_not_the_last_good_one(finished):
    study = begin(finished)
    study.tell(studies.ask(study, SPACE, DEFAULT, 0), state=TrialState.FAIL)
    studies.ask(study, SPACE, DEFAULT, 0)
    finished.write_bytes(finished.read_bytes() + b"garbage\n")
    with pytest.raises(InputError, match=r"last good trial is number 2, with 0\.25"):
        begin(finished)


@pytest.mark.parametrize(
    "content", [b"epoch,loss\n1,2\n", b"\x89PNG\r\n\x1a\n\x00", b"{}\n", b"[1, 2]\n", b"\n", b"7\n"]
)
def test_another_file_altogether_is_refused_and_left_alone(journal, content):
    journal.write_bytes(content)
    with pytest.raises(InputError, match="a study's journal, found something else"):
        begin(journal)
    assert journal.read_bytes() == content


def test_an_empty_file_is_a_study_not_begun(journal):
    # So leaves it who is killed between making the file and writing its first line.
    journal.touch()
    go_on(begin(journal), 1)


def test_a_study_that_optuna_keeps_for_somebody_else_is_refused_and_left_alone(journal):
    backend = optuna.storages.journal.JournalFileBackend(str(journal))
    storage = optuna.storages.JournalStorage(backend)
    optuna.create_study(study_name="mine", storage=storage)
    before = journal.read_bytes()
    with pytest.raises(InputError):
        begin(journal)
    assert journal.read_bytes() == before


def test_a_folder_is_no_journal(tmp_path):
    with pytest.raises(InputError, match="a file for the study, found"):
        begin(tmp_path)


def test_a_file_in_the_way_of_the_folder_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="a file for the study, found"):
        begin(tmp_path / "file" / "study.journal")


@pytest.mark.parametrize("name", ["append_logs", "read_logs"])
def test_a_journal_that_may_not_be_written_or_read_is_told(finished, monkeypatch, name):
    # As for users other than root, who may do everything.
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(optuna.storages.journal.JournalFileBackend, name, refuse)
    before = finished.read_bytes()
    finished.unlink() if name == "append_logs" else None
    with pytest.raises(InputError, match="a file for the study, found Permission denied"):
        begin(finished)
    if name == "read_logs":
        assert finished.read_bytes() == before


def test_a_last_line_that_another_process_is_still_writing_is_waited_for(finished, monkeypatch):
    lines = lines_of(finished)
    finished.write_bytes(b"".join(lines)[:-10])
    monkeypatch.setattr(studies.time, "sleep", lambda _: finished.write_bytes(b"".join(lines)))
    assert len(begin(finished).trials) == 3


def test_optuna_is_as_loud_afterwards_as_it_was_before():
    optuna.logging.set_verbosity(optuna.logging.DEBUG)
    try:
        with pytest.raises(KeyError), studies.quiet():
            assert optuna.logging.get_verbosity() == optuna.logging.ERROR
            raise KeyError
        assert optuna.logging.get_verbosity() == optuna.logging.DEBUG
    finally:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
