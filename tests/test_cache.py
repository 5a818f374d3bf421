"""The decoded cache: opened at once, built once, and never served when it is damaged."""

import errno
import hashlib
import json
import mmap
import os
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from cifarlib import cache
from cifarlib.errors import InputError
from cifarlib.splits import Split

ABOUT = {"kind": "copy", "state": [1, 2, 3]}
FILES = [f"{name}.npy" for name in cache.ARRAYS]

# A data set in a script of its own; the first argument is the cache folder.
PREAMBLE = """
import sys, time
from pathlib import Path
import numpy as np
from cifarlib import cache
from cifarlib.splits import Split
folder, *arguments = map(Path, sys.argv[1:])
images = np.arange(10 * 3072, dtype=np.uint32).astype(np.uint8).reshape(10, 32, 32, 3)
split = Split(images, np.arange(10, dtype=np.uint8))
"""


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache" / "decoded" / "tiny"


@pytest.fixture
def stored(folder, tiny):
    """Return a cache that has just been written."""
    cache.store(folder, *tiny, ABOUT)
    return folder


@pytest.fixture
def at_rest(stored):
    """Return a cache that has been verified and left alone, as between two sessions."""
    time.sleep(1.5 * cache._REST_NS / 1e9)
    cache.load(stored)
    return stored


def flip_bit(path, index):
    with path.open("r+b") as file:
        file.seek(index, os.SEEK_SET if index >= 0 else os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


def everything_in(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*"))


def test_what_is_stored_is_loaded(stored, tiny, assert_same_split):
    train, test, about = cache.load(stored)
    assert_same_split(train, tiny[0])
    assert_same_split(test, tiny[1])
    assert about == {**ABOUT, "fingerprint": cache.fingerprint(*tiny)}


def test_loaded_images_are_mapped_from_the_disk(stored):
    for split in cache.load(stored)[:2]:
        base = split.images
        while isinstance(base, np.ndarray):
            base = base.base
        assert isinstance(base, mmap.mmap)
        assert type(split.images) is np.ndarray


def test_loaded_images_cannot_be_written_to(stored):
    for split in cache.load(stored)[:2]:
        with pytest.raises(ValueError, match="read-only"):
            split.images[0, 0, 0, 0] = 1


def test_loaded_types_are_bytes_and_whole_numbers(stored):
    for split in cache.load(stored)[:2]:
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int64
        assert split.labels.ndim == 1


def test_memory_mapped_arrays_can_be_stored_again(stored, tiny, assert_same_split):
    train, test, _ = cache.load(stored)
    cache.store(stored.with_name("second"), train, test, ABOUT)
    assert_same_split(cache.load(stored.with_name("second"))[0], tiny[0])


def test_storing_replaces_the_older_data_set(stored, tiny, assert_same_split):
    cache.store(stored, tiny[1], tiny[0], {"kind": "other"})
    train, _, about = cache.load(stored)
    assert_same_split(train, tiny[1])
    assert about["kind"] == "other"
    assert [path.name for path in stored.parent.iterdir()] == ["tiny"]


def test_nothing_stored_is_nothing_found(folder):
    assert cache.about(folder) is None
    with pytest.raises(FileNotFoundError):
        cache.load(folder)


# The fingerprint


def test_fingerprint_is_64_hexadecimal_digits(tiny):
    assert len(cache.fingerprint(*tiny)) == 64
    int(cache.fingerprint(*tiny), 16)


def test_fingerprint_is_of_types_shapes_and_bytes_in_this_order():
    """What is recorded names images by it."""
    train = Split(np.full((1, 32, 32, 3), 7, np.uint8), np.array([2]))
    test = Split(np.full((2, 32, 32, 3), 9, np.uint8), np.array([1, 0]))
    content = b"uint8(1, 32, 32, 3)" + b"\x07" * 3072 + b"uint8(1,)" + b"\x02"
    content += b"uint8(2, 32, 32, 3)" + b"\x09" * 6144 + b"uint8(2,)" + b"\x01\x00"
    assert cache.fingerprint(train, test) == hashlib.sha256(content).hexdigest()


def test_fingerprint_does_not_depend_on_how_the_arrays_lie_in_memory(tiny):
    train, test = tiny
    fortran = Split(np.asfortranarray(train.images), train.labels.astype(np.int64))
    assert cache.fingerprint(fortran, test) == cache.fingerprint(train, test)


def change_a_pixel(train, test):
    images = train.images.copy()
    images[-1, -1, -1, -1] ^= 1
    return Split(images, train.labels), test


def change_a_label(train, test):
    labels = test.labels.copy()
    labels[3] = 9
    return train, Split(test.images, labels)


CHANGES = {
    "a pixel": change_a_pixel,
    "a label": change_a_label,
    "the order": lambda train, test: (Split(train.images[::-1], train.labels[::-1]), test),
    "the splits": lambda train, test: (test, train),
    "the shape": lambda train, test: (
        Split(train.images.reshape(-1, 16, 64, 3), train.labels),
        test,
    ),
    "the border": lambda train, test: (
        Split(*map(np.concatenate, zip(train, [part[:1] for part in test], strict=True))),
        Split(*(part[1:] for part in test)),
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_changes_the_fingerprint(tiny, change):
    assert cache.fingerprint(*CHANGES[change](*tiny)) != cache.fingerprint(*tiny)


# Damage


@pytest.mark.parametrize("state", ["stored", "at_rest"])
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("keep_time", [False, True])
def test_changed_byte_is_noticed(request, state, name, keep_time):
    folder = request.getfixturevalue(state)
    cache.load(folder)
    before = (folder / name).stat()
    flip_bit(folder / name, -1)
    if keep_time:
        os.utime(folder / name, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(cache.DamagedError):
        cache.load(folder)


def test_byte_changed_within_one_tick_of_the_clock_is_noticed(stored, monkeypatch):
    monkeypatch.setattr(cache, "_REST_NS", 60_000_000_000)  # a clock of long ticks
    cache.load(stored)
    state = cache._file_state(stored)
    flip_bit(stored / "train_images.npy", -1)
    # The kernel had not counted on when the byte was changed.
    monkeypatch.setattr(cache, "_file_state", lambda folder: state)
    with pytest.raises(cache.DamagedError):
        cache.load(stored)


@pytest.mark.parametrize("state", ["stored", "at_rest"])
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("length", [0, 1, 50, 128, -1])
def test_truncated_array_is_noticed(request, state, name, length):
    path = request.getfixturevalue(state) / name
    os.truncate(path, length if length >= 0 else path.stat().st_size + length)
    with pytest.raises(cache.DamagedError, match=name):
        cache.load(path.parent)


@pytest.mark.parametrize("name", FILES)
def test_missing_array_is_noticed(at_rest, name):
    (at_rest / name).unlink()
    with pytest.raises(cache.DamagedError, match=name):
        cache.load(at_rest)


@pytest.mark.parametrize("name", FILES)
def test_array_of_another_data_set_is_noticed(at_rest, tiny, name):
    other = at_rest.with_name("other")
    cache.store(other, *reversed(tiny), ABOUT)
    (other / name).replace(at_rest / name)
    with pytest.raises(cache.DamagedError):
        cache.load(at_rest)


@pytest.mark.parametrize("name", ["train_images.npy", "test_labels.npy"])
def test_no_flipped_bit_in_the_header_of_an_array_changes_what_is_served(
    stored, tiny, name, assert_same_split
):
    num_noticed = 0
    for index in range(128):
        flip_bit(stored / name, index)
        try:
            train, test, _ = cache.load(stored)
        except cache.DamagedError:
            num_noticed += 1
        else:
            assert_same_split(train, tiny[0])
            assert_same_split(test, tiny[1])
        flip_bit(stored / name, index)
    assert num_noticed > 50


@pytest.mark.parametrize("state", ["stored", "at_rest"])
@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"3", b'"copy"', b"\xff\xfe", b'{"kind": "copy"}']
)
def test_damaged_about_is_noticed(request, state, content):
    folder = request.getfixturevalue(state)
    (folder / "about.json").write_bytes(content)
    with pytest.raises(cache.DamagedError):
        cache.load(folder)


@pytest.mark.parametrize("state", ["stored", "at_rest"])
def test_changed_fingerprint_in_about_is_noticed(request, state):
    path = request.getfixturevalue(state) / "about.json"
    about = json.loads(path.read_text())
    about["fingerprint"] = "0" * 64
    path.write_text(json.dumps(about))
    with pytest.raises(cache.DamagedError):
        cache.load(path.parent)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"3", b"null", b"\xff\xfe", b"{}", b'{"at_ns": 1e99, "state": 0}']
)
def test_damaged_note_of_verification_is_no_verification(at_rest, tiny, content, assert_same_split):
    (at_rest / "verified.json").write_bytes(content)
    assert_same_split(cache.load(at_rest)[0], tiny[0])
    (at_rest / "verified.json").write_bytes(content)
    flip_bit(at_rest / "train_images.npy", -1)
    with pytest.raises(cache.DamagedError):
        cache.load(at_rest)


def test_cache_at_rest_is_not_hashed_again(at_rest, monkeypatch):
    def fail(train, test):
        raise AssertionError("hashed again")

    monkeypatch.setattr(cache, "fingerprint", fail)
    cache.load(at_rest)


def test_cache_that_cannot_be_noted_as_verified_is_served(stored, monkeypatch):
    def fail(path, value):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(cache.files, "write_json", fail)
    assert len(cache.load(stored)[0].labels) == 50


# Building


class Builder:
    """Counts how often it had to build."""

    def __init__(self, folder, tiny):
        self.folder, self.tiny, self.num_builds = folder, tiny, 0

    def build(self):
        self.num_builds += 1
        cache.store(self.folder, *self.tiny, ABOUT)

    def load(self, is_current=lambda about: True):
        return cache.load_or_build(self.folder, is_current, self.build)


@pytest.fixture
def builder(folder, tiny):
    return Builder(folder, tiny)


def test_missing_cache_is_built_once(builder, tiny, assert_same_split):
    for _ in range(2):
        train, test, about, damage = builder.load()
        assert_same_split(train, tiny[0])
        assert_same_split(test, tiny[1])
        assert (about["kind"], damage) == ("copy", None)
    assert builder.num_builds == 1


def test_outdated_cache_is_built_again(builder):
    builder.load()
    told = []
    builder.load(lambda about: told.append(about) or False)
    assert builder.num_builds == 2
    assert told[0]["state"] == ABOUT["state"]


DAMAGES = {
    "a changed byte": lambda folder: flip_bit(folder / "test_images.npy", -1),
    "a truncated array": lambda folder: os.truncate(folder / "train_images.npy", 1000),
    "a missing array": lambda folder: (folder / "train_labels.npy").unlink(),
    "an empty about": lambda folder: (folder / "about.json").write_bytes(b""),
    "another about": lambda folder: (folder / "about.json").write_bytes(b"[]"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_cache_is_built_again_and_the_damage_told(
    builder, folder, tiny, damage, assert_same_split
):
    builder.load()
    DAMAGES[damage](folder)
    train, test, _, told = builder.load()
    assert_same_split(train, tiny[0])
    assert_same_split(test, tiny[1])
    assert builder.num_builds == 2
    assert told


def test_failed_build_leaves_the_older_cache(builder, folder, tiny, assert_same_split):
    builder.load()

    def fail():
        raise InputError("source", "an archive", "a damaged one", "Get it again.")

    with pytest.raises(InputError, match="a damaged one"):
        cache.load_or_build(folder, lambda about: False, fail)
    assert_same_split(cache.load(folder)[0], tiny[0])


def test_two_programs_at_once_build_once(folder, tmp_path, run_python):
    script = PREAMBLE + textwrap.dedent("""
        mine, other, log = arguments
        def build():
            while not other.exists():  # both have seen that there is no cache
                time.sleep(0.01)
            time.sleep(0.2)
            with log.open("a") as file:
                file.write("built\\n")
            cache.store(folder, split, split, {"kind": "copy"})
        try:
            cache.load(folder)
        except FileNotFoundError:
            mine.touch()
        train, test, about, damage = cache.load_or_build(folder, lambda about: True, build)
        print(about["fingerprint"], len(train.labels), damage)
    """)
    names = [tmp_path / "first", tmp_path / "second"]
    log = tmp_path / "log"
    processes = [run_python(script, folder, *pair, log) for pair in (names, names[::-1])]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [errors for _, errors in outputs] == ["", ""]
    assert all(name.exists() for name in names)
    assert outputs[0][0] == outputs[1][0]
    assert " 10 None" in outputs[0][0]
    assert log.read_text() == "built\n"


def test_build_that_was_killed_is_never_served(
    folder, tmp_path, run_python, wait_until, builder, tiny
):
    script = PREAMBLE + textwrap.dedent("""
        ready, = arguments
        save, calls = np.save, []
        def save_some(*arguments):
            calls.append(arguments)
            if len(calls) == 3:
                ready.touch()
                time.sleep(600)
            save(*arguments)
        np.save = save_some
        cache.load_or_build(
            folder, lambda about: True, lambda: cache.store(folder, split, split, {}))
    """)
    process = run_python(script, folder, tmp_path / "ready")
    wait_until((tmp_path / "ready").exists, process)
    assert [path.name for path in folder.parent.glob("*/train_images.npy")], "nothing was written"
    process.kill()
    process.wait()
    with pytest.raises(FileNotFoundError):
        cache.load(folder)
    assert cache.about(folder) is None
    train, *_, damage = builder.load()
    assert (len(train.labels), damage) == (50, None)
    left = [path.name for path in folder.parent.iterdir() if path.is_dir()]
    assert left == [folder.name]


def test_a_cache_is_kept_if_the_new_one_cannot_take_its_place(
    stored, tiny, monkeypatch, assert_same_split
):
    replace = Path.replace

    def refuse(path, target):
        if path.name.endswith(".new"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(PermissionError):
        cache.store(stored, tiny[1], tiny[0], ABOUT)
    assert_same_split(cache.load(stored)[0], tiny[0])
    assert [path.name for path in stored.parent.iterdir()] == ["tiny"]


# Places that cannot be written


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("num_saved", range(4))
def test_full_disk_keeps_the_older_cache(
    builder, folder, tiny, monkeypatch, number, num_saved, assert_same_split
):
    builder.load()
    before = everything_in(folder.parent)
    save, calls = np.save, []

    def save_some(*arguments):
        calls.append(arguments)
        if len(calls) > num_saved:
            raise OSError(number, os.strerror(number))
        save(*arguments)

    monkeypatch.setattr(np, "save", save_some)
    with pytest.raises(InputError, match=r"free bytes .*CIFARLIB_CACHE") as caught:
        builder.load(lambda about: False)
    assert caught.value.exit_status == 1, "no input is at fault"
    assert_same_split(cache.load(folder)[0], tiny[0])
    assert everything_in(folder.parent) == before


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such limit")
def test_disk_that_really_fills_up_is_told(folder, run_python):
    # numpy.save loses the number of the error: "7168 requested and 872 written".
    script = PREAMBLE + textwrap.dedent("""
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        try:
            cache.store(folder, split, split, {})
        except cache.InputError as error:
            print("told:", error)
    """)
    output, errors = run_python(script, folder).communicate(timeout=60)
    assert output.startswith("told:"), errors
    assert "free bytes" in output
    assert list(folder.parent.iterdir()) == []


def test_cache_place_that_is_a_file_is_told(tmp_path, tiny):
    (tmp_path / "file").write_bytes(b"mine")
    for folder in (tmp_path / "file" / "tiny", tmp_path / "file" / "decoded" / "tiny"):
        with pytest.raises(InputError, match="CIFARLIB_CACHE"):
            Builder(folder, tiny).load()
    assert (tmp_path / "file").read_bytes() == b"mine"
    (tmp_path / "decoded").mkdir()
    (tmp_path / "decoded" / "tiny").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"/decoded/tiny: .*CIFARLIB_CACHE"):
        Builder(tmp_path / "decoded" / "tiny", tiny).load()


def test_cache_place_that_cannot_have_such_a_name_is_told(tmp_path, tiny):
    with pytest.raises(InputError, match="CIFARLIB_CACHE"):
        Builder(tmp_path / ("long" * 100) / "tiny", tiny).load()


@pytest.mark.usefixtures("not_root")
def test_cache_place_without_permission_is_told(tmp_path, tiny):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(InputError, match=r"Permission denied.*CIFARLIB_CACHE"):
        Builder(tmp_path / "locked" / "decoded" / "tiny", tiny).load()
