"""Submissions of every kind, each judged whatever the others are."""

import hashlib
import json
import os
import shutil
import struct
import zipfile
from pathlib import Path

import nbformat
import pytest

from cifarlib import confinement, data, execution, report, settings, submission, verification
from cifarlib.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore::cifarlib.data.SyntheticDataWarning")


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    """Offer drawn pictures and this package, which need not be installed."""
    monkeypatch.setenv("CIFARLIB_SOURCE", "synthetic")
    checkout = Path(confinement.__file__).parent.parent
    monkeypatch.setattr(settings, "checkout_folder", lambda: checkout)
    monkeypatch.setattr(report, "browser", lambda: None)


@pytest.fixture
def hand_in(write_notebook, monkeypatch):
    """Return a function that makes a zip as ``submit`` does, without executing anything."""

    def execute(notebook, folder, *, facts, **_):
        notebook.metadata["cifarlib"] = facts
        for cell in notebook.cells:
            if cell.source.startswith("print("):
                text = f"{eval(cell.source.removeprefix('print'))}\n"
                cell.outputs = [nbformat.v4.new_output("stream", text=text)]
        return []

    def hand_in(name: str, *sources: str, profile: str = "quick") -> Path:
        who = f'STUDENT_NAME = "Student {name}"\nSTUDENT_ID = "{name}"'
        path = write_notebook(f"made/{name}.ipynb", who, *sources)
        Path("handed in").mkdir(exist_ok=True)
        with monkeypatch.context() as patch:
            patch.setattr(execution, "execute", execute)
            made = submission.submit(path, output=f"handed in/{name}.zip", profile=profile)
        assert not made.problems
        return made.path

    return hand_in


def repack(path: Path, **changes: bytes | None) -> Path:
    """Write a zip again with members changed, added or, for None, left out."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members |= {name.replace("__", "/").replace("_json", ".json"): c for name, c in changes.items()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            if content is not None:
                archive.writestr(name, content)
    return path


def read_only(*paths) -> list[verification.Verdict]:
    return verification.verify(paths, is_executed=False)


LOADS = (
    "from cifarlib import data\ntrain, test = data.load_cifar10()\nassert len(test.labels) == 20"
)


def test_a_folder_of_ten_of_which_three_are_faulty(hand_in, tmp_path):
    for number in range(3, 10):
        hand_in(f"{number}", f"print({number} + 1)", LOADS if number == 9 else "x = 1")
    hand_in("0", "import time; time.sleep(600)")  # and no endless loop, which the others feel
    truncated = hand_in("1", "x = 1")
    truncated.write_bytes(truncated.read_bytes()[:-30])
    elsewhere = tmp_path / "grades.csv"
    # In parts, or handing it in would be refused for a path of one machine.
    hand_in("2", f"import pathlib; pathlib.Path(*{elsewhere.parts}).write_text('all right')")
    verdicts = verification.verify(["handed in"], seconds=60, num_jobs=2)
    told = {verdict.file: verdict.executed for verdict in verdicts}
    assert told == {
        "0.zip": "timed out",
        "1.zip": "broken zip: a damaged or truncated file (File is not a zip file)",
        "2.zip": "failed in cell 2: PermissionError",
        **{f"{number}.zip": "ran" for number in range(3, 10)},
    }
    assert [verdict.is_fine for verdict in verdicts] == [False] * 3 + [True] * 7
    assert verdicts[2].outside == (str(elsewhere),) and not elsewhere.exists()
    assert [v.outside for v in verdicts if v.file != "2.zip"] == [()] * 9
    assert verdicts[3].remarks == (), "its writing was watched, its data is the teacher's"
    assert verdicts[3][:5] == ("3.zip", "Student 3", "3", True, "ok")
    assert (verdicts[3].num_cells, verdicts[3].num_differing) == (3, 0)
    table = verification.table(verdicts).splitlines()
    assert len(table) == 12 and table[-1] == "7 of 10 without anything to look into"
    assert f"wrote, or tried to, outside its folder: {elsewhere}" in table[3]


IN_CLASS = """
import os, sys
from cifarlib import data, settings
train, test = data.load_cifar10()
assert "copy" in data.current().kind and "CIFARLIB_SOURCE" not in os.environ, data.current()
assert settings.profile() == "quick"
if sys.platform == "linux":
    import resource
    assert resource.getrlimit(resource.RLIMIT_DATA)[0] == 3 * 2**30
"""


def test_photographs_are_the_teachers_and_limits_are_kept(
    hand_in, tmp_path, monkeypatch, build, tiny
):
    source = build.pack(tmp_path / "photos", build.folders(*tiny))
    monkeypatch.setenv("CIFARLIB_SOURCE", str(source))
    monkeypatch.setenv("CIFARLIB_PROFILE", "full")  # of the teacher, who asked for nothing here
    path = hand_in("1", IN_CLASS.strip())
    (verdict,) = verification.verify([path], gibibytes=3)
    assert (verdict.executed, verdict.remarks) == ("ran", ())
    assert (verdict.num_cells, verdict.num_differing) == (2, 0)


def test_what_shows_something_else_or_is_killed_is_told(hand_in):
    hand_in("a", "x = 1", "print(2)", "print(7)")
    hand_in("b", "import os; os._exit(3)")
    # As if somebody had written another result into the notebook.
    path = Path("handed in/a.zip")
    with zipfile.ZipFile(path) as archive:
        name = "notebooks/a.ipynb"
        forged = archive.read(name).replace(b"7\\n", b"8\\n")
        manifest = json.loads(archive.read("manifest.json"))
    manifest["members"][name] = hashlib.sha256(forged).hexdigest()
    changes = {"notebooks__a.ipynb": forged, "manifest_json": json.dumps(manifest).encode()}
    repack(path, **changes)
    first, second = verification.verify(["handed in"], num_jobs=2)
    assert (first.checksums, first.executed) == ("ok", "ran")
    assert (first.num_cells, first.num_differing) == (4, 1)
    assert "1 of 4" in verification.table([first])
    assert second.executed == "failed in cell 2: DeadKernelError"


def test_outputs_of_another_profile_or_other_data_are_not_compared(hand_in, monkeypatch):
    path = hand_in("a", "x = 1", profile="full")
    handed = []

    def run(*_, root, **__):
        files = sorted(p.name for p in (root / confinement.WORK).iterdir())
        handed.append(files)
        outcome = {"file": "a.ipynb", "status": "ran", "num_cells": 2, "num_differing": 1}
        (root / confinement.RESULT).write_text(json.dumps([outcome]))

    monkeypatch.setattr(confinement, "run", run)
    (verdict,) = verification.verify([path])
    assert handed == [["a.ipynb"]]
    assert verdict.num_cells is None and "handed in with the full profile" in verdict.remarks
    assert "its writing was not watched" in verdict.remarks and not verdict.is_fine
    other = data.current()._replace(fingerprint="0" * 64)
    path = hand_in("b", "x = 1")
    monkeypatch.setattr(data, "describe", lambda: other)
    (verdict,) = verification.verify([path])
    assert verdict.num_cells is None and "handed in with other data" in verdict.remarks


OUTCOME = {"file": "a.ipynb", "status": "ran", "num_cells": 1, "num_differing": 0}


@pytest.mark.parametrize(
    ("ended", "result", "told"),
    [
        ("timed out", [OUTCOME], "timed out"),
        ("out of memory", None, "out of memory"),
        (None, None, "broke off"),
        (None, [], "broke off"),
        (None, [{**OUTCOME, "status": "running"}], "broke off"),
        (None, [OUTCOME] * 2, "broke off"),
        (None, [{**OUTCOME, "status": "failed\x1b[31m" + "x" * 200}], "failed�[31mxxx"),
        (None, {"forged": 1}, "broke off"),
        (None, [{**OUTCOME, "num_cells": "many"}], "broke off"),
        (None, [{**OUTCOME, "num_cells": 10**7}], "broke off"),
        (None, [{**OUTCOME, "num_differing": -1}], "broke off"),
        (None, [{**OUTCOME, "num_differing": float("inf")}], "broke off"),
        (None, "[" * 100_000, "broke off"),
    ],
    ids=str,
)
def test_what_a_submission_leaves_is_read_with_care(hand_in, monkeypatch, ended, result, told):
    def run(*_, root, **__):
        if result is not None:
            text = result if isinstance(result, str) else json.dumps(result)
            (root / confinement.RESULT).write_text(text)
        return ended

    path = hand_in("a", "x = 1")
    monkeypatch.setattr(confinement, "run", run)
    (verdict,) = verification.verify([path])
    assert verdict.executed.startswith(told) and len(verdict.executed) <= 80
    assert not verdict.is_fine


def test_a_notebook_that_is_none_has_no_kernel_that_could_be_watched(hand_in, monkeypatch):
    path = hand_in("a", "x = 1")
    outcome = {**OUTCOME, "status": "cannot be executed: NotJSONError"}

    def run(*_, root, **__):
        (root / confinement.RESULT).write_text(json.dumps([outcome]))

    monkeypatch.setattr(confinement, "run", run)
    (verdict,) = verification.verify([path])
    assert verdict.executed == outcome["status"] and not verdict.is_fine
    assert "its writing was not watched" not in verdict.remarks


def test_a_profile_that_is_none_is_not_taken_for_the_full_one(hand_in, monkeypatch):
    monkeypatch.setattr(confinement, "run", lambda *_, **__: None)
    (verdict,) = verification.verify([hand_in("a", "x = 1", profile="forged")])
    assert "handed in with an unknown profile" in verdict.remarks


def test_of_several_notebooks_the_one_that_failed_is_named():
    outcomes = [OUTCOME, {**OUTCOME, "file": "b.ipynb", "status": "failed in cell 2: KeyError"}]
    assert verification._told(outcomes, None, ["a.ipynb", "b.ipynb"]) == (
        "failed in cell 2: KeyError in b.ipynb"
    )
    outcomes[1]["status"] = "running"
    assert (
        verification._told(outcomes, "timed out", ["a.ipynb", "b.ipynb"]) == "timed out in b.ipynb"
    )


# Without executing anything


def test_a_sound_zip_is_fine(hand_in):
    (verdict,) = read_only(hand_in("a", "x = 1"))
    assert verdict.is_fine and verdict.executed == "not executed"


def test_what_differs_from_the_manifest_is_told(hand_in):
    path = repack(hand_in("a"), notebooks__a=b"new", pages__b=b"")
    assert read_only(path)[0].checksums == "added: notebooks/a, pages/b"
    path = repack(hand_in("b"), **{"notebooks__b.ipynb": b"{}", "pages__b.html": None})
    (verdict,) = read_only(path)
    assert verdict.checksums == "changed: notebooks/b.ipynb; missing: pages/b.html"
    assert not verdict.is_fine


def test_one_that_was_handed_in_as_incomplete_is_not_fine(hand_in):
    path = hand_in("a", "x = 1")
    with zipfile.ZipFile(path) as archive:
        manifest = json.loads(archive.read("manifest.json"))
    nobody = {"student": {"name": None, "id": {"a": 1}}}
    for change in ({"complete": False}, {"complete": "yes"}, nobody, {"student": {"name": "Ada"}}):
        (verdict,) = read_only(repack(path, manifest_json=json.dumps(manifest | change).encode()))
        assert not verdict.is_fine
    assert "without name or id" in verification.table([verdict])
    assert "handed in as incomplete" in verification.table([verdict._replace(is_complete=False)])


def test_files_of_several_folders_are_told_apart(hand_in):
    hand_in("a", "x = 1")
    for group in ("first", "second"):
        shutil.copytree("handed in", group)
    verdicts = read_only("first", "second")
    assert [verdict.file for verdict in verdicts] == ["first/a.zip", "second/a.zip"]


NAMED = {"format": submission.FORMAT, "student": {}, "members": {}}
MANIFESTS = {
    "no manifest.json in it": None,
    "manifest.json cannot be read": b"{",
    "manifest.json cannot be read ": b"[" * 100_000,
    "manifest.json is not what": b"[]",
    "manifest.json is not what c": json.dumps(NAMED | {"format": "other"}).encode(),
    "manifest.json is not what ci": json.dumps(NAMED | {"student": "Ada"}).encode(),
    "manifest.json is not what cif": json.dumps(NAMED | {"members": []}).encode(),
    "no notebook in it": json.dumps(NAMED).encode(),
}


@pytest.mark.parametrize("told", MANIFESTS)
def test_a_manifest_that_is_none_breaks_only_its_own_zip(hand_in, told):
    hand_in("b", "x = 1")
    repack(hand_in("a", "x = 1"), manifest_json=MANIFESTS[told])
    first, second = read_only("handed in")
    assert first.executed.startswith(f"broken zip: {told.strip()}")
    assert second.is_fine


def escaping(name: str):
    return lambda archive: archive.writestr(name, b"evil")


def link(archive):
    info = zipfile.ZipInfo("notebooks/link")
    info.external_attr = 0o120777 << 16
    archive.writestr(info, "/etc/passwd")


def twice(archive):
    for _ in range(2):
        archive.writestr("notebooks/x.py", b"x = 1")


def many(archive):
    for number in range(submission.LIMITS.num_members):
        archive.writestr(f"notebooks/{number}.py", b"")


def large(archive):
    content = bytes(submission.LIMITS.member_bytes + 1)
    archive.writestr("notebooks/zeros.csv", content, zipfile.ZIP_DEFLATED)


def large_in_all(archive):
    for number in range(5):
        content = bytes(submission.LIMITS.member_bytes)
        archive.writestr(f"notebooks/{number}.csv", content, zipfile.ZIP_DEFLATED)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("add", "told"),
    [
        (escaping("../evil.py"), "points outside"),
        (escaping("/etc/evil.py"), "points outside"),
        (escaping("notebooks/..\\..\\evil.py"), "points outside"),
        (escaping("notebooks//etc/evil.py"), "points outside"),
        (escaping("notebooks/C:evil.py"), "points outside"),
        (link, "a link or device"),
        (twice, "two members of one name"),
        (many, "201 members"),
        (large, "4 members with 33,"),
        (large_in_all, "bytes up to 'notebooks/3.csv'"),
    ],
)
def test_a_hostile_zip_is_refused_and_the_next_is_read(hand_in, add, told, tmp_path):
    path = hand_in("a", "x = 1")
    hand_in("b", "x = 1")
    with zipfile.ZipFile(path, "a") as archive:
        add(archive)
    before = sorted(tmp_path.rglob("*"))
    first, second = read_only("handed in")
    assert first.executed.startswith("broken zip: ") and told in first.executed
    assert second.is_fine
    assert sorted(tmp_path.rglob("*")) == before


def test_a_name_with_a_drive_is_refused(hand_in):
    path = hand_in("a", "x = 1")
    name, content = "notebooks/C:evil.ipynb", b"{}"
    manifest = NAMED | {"members": {name: hashlib.sha256(content).hexdigest()}}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("manifest.json", json.dumps(manifest))
        archive.writestr(name, content)
    assert read_only(path)[0].executed == "broken zip: a name that points outside"


def test_a_flipped_bit_in_a_member_is_noticed(hand_in):
    path = hand_in("a", "x = 1")
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("notebooks/a.ipynb")
    content = bytearray(path.read_bytes())
    (length,) = struct.unpack_from("<H", content, info.header_offset + 26)
    content[info.header_offset + 30 + length + 20] ^= 1
    path.write_bytes(content)
    assert read_only(path)[0].executed.startswith("broken zip: a damaged or truncated file")


@pytest.mark.parametrize("content", [b"", b"hello", b"PK", b"PK\x05\x06" + bytes(18)])
def test_what_is_no_zip_is_broken(content):
    Path("a.zip").write_bytes(content)
    assert read_only("a.zip")[0].executed.startswith("broken zip: ")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such pipes")
def test_a_pipe_is_not_waited_for():
    os.mkfifo("a.zip")
    assert read_only("a.zip")[0].executed.startswith("broken zip: a device or pipe")


def test_words_of_a_student_cannot_rule_the_terminal(hand_in):
    path = hand_in("a", "x = 1")
    student = {"name": "Eve\x1b[2J\n\u202e" + "x" * 500, "id": ["1"]}
    manifest = {**NAMED, "complete": True, "student": student}
    with zipfile.ZipFile(path) as archive:
        members = json.loads(archive.read("manifest.json"))["members"]
    (verdict,) = read_only(
        repack(path, manifest_json=json.dumps(manifest | {"members": members}).encode())
    )
    assert verdict.name.startswith("Eve�[2J��xxx") and len(verdict.name) == 40
    assert len(verification.table([verdict]).splitlines()) == 3


def test_a_submission_that_trips_the_program_does_not_stop_the_others(hand_in, monkeypatch):
    hand_in("a", "x = 1")
    hand_in("b", "x = 1")
    read = verification._read

    def trip(path):
        if path.name == "a.zip":
            raise OSError(28, "No space left on device")
        return read(path)

    monkeypatch.setattr(verification, "_read", trip)
    first, second = read_only("handed in")
    assert "could not be judged: OSError" in first.executed and second.is_fine


def test_zips_in_folders_below_are_found_and_others_are_passed_over(hand_in):
    path = hand_in("a", "x = 1")
    for name in ("handed in/ada/week.zip", "handed in/.hidden.zip", "handed in/notes.txt"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(path.read_bytes())
    assert [verdict.file for verdict in read_only("handed in")] == ["a.zip", "ada/week.zip"]


@pytest.mark.parametrize(("path", "found"), [("nowhere", "nothing there"), ("empty", "found none")])
def test_where_there_is_nothing_to_verify_that_is_told(path, found):
    Path("empty").mkdir()
    with pytest.raises(InputError, match=found):
        read_only(path)


@pytest.mark.parametrize("limit", ["seconds", "gibibytes", "num_jobs"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_a_limit_that_makes_no_sense_is_refused(limit, value):
    with pytest.raises(InputError, match="a number above 0"):
        verification.verify(["nowhere"], **{limit: value})
