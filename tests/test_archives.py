"""The layouts of CIFAR-10: read alike whatever they come in, refused with a reason."""

import functools
import gzip
import hashlib
import io
import os
import pickle
import re
import struct
import tarfile
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from cifarlib import archives, cache
from cifarlib.archives import BATCHES
from cifarlib.errors import InputError
from cifarlib.splits import CLASS_NAMES, Split

CONTAINERS = ("", ".tar.gz", ".tar.xz", ".zip")


def shuffled(split):
    order = np.random.default_rng(0).permutation(len(split.labels))
    return Split(split.images[order], split.labels[order])


@pytest.fixture(scope="module")
def official(tiny):
    """Return the tiny data set in a random order, as the official archives have theirs."""
    return tuple(map(shuffled, tiny))


@pytest.fixture
def read_python_batches(tmp_path, build, official):
    """Return a function that reads the official python layout with one batch replaced."""

    def read(content: bytes, batch: str = "data_batch_3"):
        members = build.python(*official)
        members[f"cifar-10-batches-py/{batch}"] = content
        return archives.read(build.pack(tmp_path / "cifar-10-batches-py", members))

    return read


@pytest.mark.parametrize("container", CONTAINERS)
def test_official_binary_layout_is_read(tmp_path, build, official, assert_same_split, container):
    archive = archives.read(build.pack(tmp_path / f"a{container}", build.binary(*official)))
    assert_same_split(archive.train, official[0])
    assert_same_split(archive.test, official[1])
    assert archive.layout == "official binary"


@pytest.mark.parametrize("container", CONTAINERS)
def test_official_python_layout_is_read(tmp_path, build, official, assert_same_split, container):
    archive = archives.read(build.pack(tmp_path / f"a{container}", build.python(*official)))
    assert_same_split(archive.train, official[0])
    assert_same_split(archive.test, official[1])
    assert archive.layout == "official python"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_every_protocol_give_the_fingerprint_of_the_binary_layout(
    tmp_path, build, official, protocol
):
    dump = functools.partial(pickle.dumps, protocol=protocol)
    python = archives.read(build.pack(tmp_path / "py", build.python(*official, dump)))
    binary = archives.read(build.pack(tmp_path / "bin", build.binary(*official)))
    assert cache.fingerprint(*python[:2]) == cache.fingerprint(*binary[:2])


def test_pickles_of_python_2_give_the_fingerprint_of_the_binary_layout(tmp_path, build, official):
    members = build.python(*official, build.python2_pickle)
    # The real ones begin like this: protocol 2, a dictionary, strings of a byte a character.
    assert members["cifar-10-batches-py/data_batch_1"].startswith(b"\x80\x02}(U\x0bbatch_label")
    python = archives.read(build.pack(tmp_path / "py", members))
    binary = archives.read(build.pack(tmp_path / "bin", build.binary(*official)))
    assert cache.fingerprint(*python[:2]) == cache.fingerprint(*binary[:2])


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize("dtype", ["u1", "<i2", "<i8"])
def test_labels_in_a_pickle_may_be_an_array(read_python_batches, official, dtype, protocol):
    labels = official[0].labels[20:30]
    batch = {"data": np.zeros((10, 3072), np.uint8), "labels": labels.astype(dtype)}
    archive = read_python_batches(pickle.dumps(batch, protocol))
    np.testing.assert_array_equal(archive.train.labels[20:30], labels)


@pytest.mark.parametrize("protocol", [2, 5])
def test_arrays_in_a_pickle_may_lie_in_memory_by_columns(read_python_batches, official, protocol):
    rows = np.random.default_rng(0).integers(0, 256, (10, 3072), np.uint8)
    batch = {"data": np.asfortranarray(rows), "labels": [0] * 10}
    images = read_python_batches(pickle.dumps(batch, protocol)).train.images[20:30]
    np.testing.assert_array_equal(images[3, 5, 7], rows[3].reshape(3, 32, 32)[:, 5, 7])


@pytest.mark.parametrize("layout", ["binary", "python", "folders"])
def test_red_green_and_blue_keep_their_places(tmp_path, build, layout):
    images = np.zeros((10, 32, 32, 3), np.uint8)
    images[0, 1, 2] = (11, 22, 33)
    split = Split(images, np.arange(10))
    archive = archives.read(build.pack(tmp_path / "a", getattr(build, layout)(split, split)))
    expected = np.zeros((32, 32, 3), np.uint8)
    expected[1, 2] = (11, 22, 33)
    np.testing.assert_array_equal(archive.train.images[0], expected)
    np.testing.assert_array_equal(archive.test.images[0], expected)


def test_an_archive_made_of_a_dot_folder_is_read(tmp_path, build, official, assert_same_split):
    members = {f"./{name}": content for name, content in build.binary(*official).items()}
    archive = archives.read(build.pack(tmp_path / "a.tar", members))
    assert_same_split(archive.train, official[0])


def test_grayscale_binary_layout_is_read(tmp_path, build, tiny_gray, assert_same_split):
    archive = archives.read(build.pack(tmp_path / "a.tar", build.binary(*tiny_gray)))
    assert_same_split(archive.train, tiny_gray[0])
    assert_same_split(archive.test, tiny_gray[1])


def test_grayscale_batch_as_long_as_a_colour_batch_is_told_by_its_labels(tmp_path, build):
    # 3,073 records of 1,025 bytes are as long as 1,025 records of 3,073.
    images = np.full((3073, 32, 32, 1), 200, np.uint8)
    batch = Split(images, np.full(3073, 7, np.uint8))
    members = {f"{name}.bin": build.records(batch) for name in BATCHES}
    archive = archives.read(build.pack(tmp_path / "folder", members))
    assert archive.test.images.shape == (3073, 32, 32, 1)
    assert np.unique(archive.test.labels).tolist() == [7]


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("suffix", ["png", "PNG"])
def test_class_folders_of_png_are_read_exactly(
    tmp_path, build, tiny, assert_same_split, container, suffix
):
    members = build.folders(*tiny, suffix, root="cifar-10-images/")
    archive = archives.read(build.pack(tmp_path / f"a{container}", members))
    # The tiny data set has the ten classes in turn, as class folders are read.
    assert_same_split(archive.train, tiny[0])
    assert_same_split(archive.test, tiny[1])
    assert archive.layout == "class folders"


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "JPG"])
def test_class_folders_of_jpeg_are_read_as_pillow_decodes_them(
    tmp_path, build, tiny, assert_same_split, container, suffix
):
    members = build.folders(*tiny, suffix)
    archive = archives.read(build.pack(tmp_path / f"a{container}", members))
    for split, folder in ((archive.train, "train"), (archive.test, "test")):
        for index, image in enumerate(split.images):
            name = f"{folder}/{CLASS_NAMES[index % 10]}/{index // 10:04d}.{suffix}"
            decoded = Image.open(io.BytesIO(members[name])).convert("RGB")
            np.testing.assert_array_equal(image, decoded)
    assert archive.kind == "JPEG copy"


def test_class_folders_of_png_are_labelled_so(tmp_path, build, tiny):
    archive = archives.read(build.pack(tmp_path / "a.zip", build.folders(*tiny)))
    assert archive.kind == "PNG copy"


def test_class_folders_with_some_jpeg_are_labelled_jpeg(tmp_path, build, tiny):
    picture = build.image_file(tiny[0].images[0], "jpg")
    for name in ("9.jpg", "9.png"):  # whatever its name promises
        members = build.folders(*tiny) | {f"train/cat/{name}": picture}
        assert archives.read(build.pack(tmp_path / name, members, "")).kind == "JPEG copy"


def test_class_folders_are_read_in_turn(tmp_path, build):
    images = np.arange(30, dtype=np.uint8)[:, None, None, None] * np.ones((32, 32, 3), np.uint8)
    by_class = Split(images, np.repeat(np.arange(10), 3))
    members = build.folders(by_class, by_class)
    train = archives.read(build.pack(tmp_path / "a.zip", members)).train
    assert train.labels.tolist() == [*range(10)] * 3
    assert train.images[:, 0, 0, 0].tolist() == [
        *range(0, 30, 3),
        *range(1, 30, 3),
        *range(2, 30, 3),
    ]


def test_image_2_comes_before_image_10(tmp_path, build, tiny):
    members = build.folders(*tiny)
    for name in [name for name in members if name.startswith("train/cat/")]:
        del members[name]
    for number in (10, 9, 2, 1, 100):
        pixels = np.full((32, 32, 3), number, np.uint8)
        members[f"train/cat/{number}.png"] = build.image_file(pixels)
    train = archives.read(build.pack(tmp_path / "a", members)).train
    cats = train.images[train.labels == CLASS_NAMES.index("cat"), 0, 0, 0]
    assert cats.tolist() == [1, 2, 9, 10, 100]


def test_class_folders_are_read_in_turn_whatever_their_files_are_called(tmp_path, build, tiny):
    # cat_0000.png is a shorter name than airplane_0000.png, yet has the same turn.
    members = {
        re.sub(r"(\w+)/(\d+)", r"\1/\1_\2", name): content
        for name, content in build.folders(*tiny).items()
    }
    assert "train/cat/cat_0000.png" in members
    train = archives.read(build.pack(tmp_path / "a", members)).train
    assert train.labels.tolist() == [*range(10)] * 5


def test_gray_and_transparent_images_become_colour(tmp_path, build, tiny):
    members = build.folders(*tiny)
    gray = np.arange(1024, dtype=np.uint16).reshape(32, 32).astype(np.uint8)
    members["train/airplane/0000.png"] = build.image_file(gray)
    members["train/automobile/0000.png"] = build.image_file(np.dstack([gray] * 4))
    images = archives.read(build.pack(tmp_path / "a", members)).train.images
    np.testing.assert_array_equal(images[0], np.dstack([gray] * 3))
    np.testing.assert_array_equal(images[1], np.dstack([gray] * 3))


@pytest.mark.parametrize("layout", ["binary", "python"])
def test_archive_in_official_layout_with_another_hash_is_a_copy(
    tmp_path, build, official, sha256, layout
):
    path = tmp_path / f"cifar-10-{layout}.tar.gz"
    build.pack(path, getattr(build, layout)(*official))
    archive = archives.read(path)
    assert archive.kind == "copy"
    assert archive.sha256 == sha256(path)


@pytest.mark.parametrize("layout", ["binary", "python"])
def test_archive_with_the_published_hash_is_official(
    tmp_path, build, official, sha256, monkeypatch, layout
):
    path = build.pack(tmp_path / "renamed.tar.gz", getattr(build, layout)(*official))
    monkeypatch.setitem(archives.OFFICIAL_SHA256, f"cifar-10-{layout}.tar.gz", sha256(path))
    assert archives.read(path).kind == "official"


def test_unpacked_batches_are_official_if_each_has_the_published_hash(
    tmp_path, build, official, monkeypatch
):
    folder = build.pack(tmp_path / "cifar-10-batches-py", build.python(*official))
    assert archives.read(folder).kind == "copy"
    for batch in archives.BATCHES:
        md5 = hashlib.md5(next(folder.rglob(batch)).read_bytes()).hexdigest()
        monkeypatch.setitem(archives.OFFICIAL_BATCH_MD5, batch, md5)
    found = archives.read(folder)
    assert (found.kind, found.sha256) == ("official", None)
    monkeypatch.setitem(archives.OFFICIAL_BATCH_MD5, "test_batch", "0" * 32)
    assert archives.read(folder).kind == "copy"


def test_the_published_hashes_of_batches_are_six_different_ones():
    assert tuple(archives.OFFICIAL_BATCH_MD5) == archives.BATCHES
    assert len({*archives.OFFICIAL_BATCH_MD5.values()}) == 6
    assert all(re.fullmatch("[0-9a-f]{32}", md5) for md5 in archives.OFFICIAL_BATCH_MD5.values())


def test_published_hashes_are_those_of_the_assignment():
    assert archives.OFFICIAL_SHA256 == {
        "cifar-10-binary.tar.gz": (
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
        ),
        "cifar-10-python.tar.gz": (
            "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
        ),
    }


def test_folder_has_no_hash_and_is_a_copy(tmp_path, build, official):
    archive = archives.read(build.pack(tmp_path / "folder", build.binary(*official)))
    assert (archive.sha256, archive.kind) == (None, "copy")


@pytest.mark.parametrize("layout", ["binary", "python", "folders"])
def test_synthetic_mark_makes_any_archive_synthetic(tmp_path, build, tiny, layout):
    members = getattr(build, layout)(*tiny) | {"SYNTHETIC.txt": b"drawn"}
    assert archives.read(build.pack(tmp_path / "a.tar.gz", members)).kind == "synthetic"


# What is not CIFAR-10 is refused, with the reason


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize(("layout", "suffix"), [("binary", ".bin"), ("python", "")])
def test_missing_batch_is_named(tmp_path, build, official, batch, layout, suffix):
    members = getattr(build, layout)(*official)
    kept = {name: members[name] for name in members if not name.endswith(f"/{batch}{suffix}")}
    assert len(kept) == len(members) - 1
    with pytest.raises(InputError, match=f"six batches .* found no {batch}"):
        archives.read(build.pack(tmp_path / "a.tar.gz", kept))


def test_unequal_batches_are_refused(tmp_path, build, official):
    members = build.binary(*official)
    longer = members["cifar-10-batches-bin/data_batch_2.bin"] + bytes(3073)
    members["cifar-10-batches-bin/data_batch_2.bin"] = longer
    with pytest.raises(InputError, match="equal size, found 10, 11, 10, 10, 10 images"):
        archives.read(build.pack(tmp_path / "a.tar.gz", members))


def test_colour_and_grayscale_batches_are_not_mixed(tmp_path, build, official, tiny_gray):
    members = build.binary(*official)
    gray = build.binary(*tiny_gray)["cifar-10-batches-bin/test_batch.bin"]
    members["cifar-10-batches-bin/test_batch.bin"] = gray
    with pytest.raises(InputError, match="colour and grayscale mixed"):
        archives.read(build.pack(tmp_path / "a.tar.gz", members))


@pytest.mark.parametrize("change", [-1, 1, 1024])
def test_wrong_record_size_is_refused(tmp_path, build, official, change):
    members = build.binary(*official)
    content = members["cifar-10-batches-bin/data_batch_4.bin"]
    resized = content[:change] if change < 0 else content + bytes(change)
    members["cifar-10-batches-bin/data_batch_4.bin"] = resized
    with pytest.raises(InputError, match=rf"data_batch_4\.bin: .*3,073.*found {len(resized):,}"):
        archives.read(build.pack(tmp_path / "a.tar.gz", members))


@pytest.mark.parametrize("fixture", ["official", "tiny_gray"])
@pytest.mark.parametrize("label", [10, 255])
def test_label_of_10_or_more_in_a_binary_batch_is_refused(tmp_path, build, request, fixture, label):
    train, test = request.getfixturevalue(fixture)
    labels = test.labels.copy()
    labels[13] = label
    members = build.binary(train, Split(test.images, labels))
    with pytest.raises(InputError, match=rf"test_batch\.bin: expected labels .*{label}"):
        archives.read(build.pack(tmp_path / "a.tar.gz", members))


def test_empty_batch_is_refused(tmp_path, build, official):
    members = build.binary(*official) | {"cifar-10-batches-bin/test_batch.bin": b""}
    with pytest.raises(InputError, match=r"test_batch\.bin: .*no record"):
        archives.read(build.pack(tmp_path / "a.tar.gz", members))


ROWS = np.zeros((10, 3072), np.uint8)
BAD_BATCHES = {
    "a list": [1, 2, 3],
    "no data": {"labels": [0] * 10},
    "no labels": {"data": ROWS},
    "too few labels": {"data": ROWS, "labels": [0] * 9},
    "a label of 10": {"data": ROWS, "labels": [10] * 10},
    "a negative label": {"data": ROWS, "labels": [-1] * 10},
    "a label beyond 64 bits": {"data": ROWS, "labels": [2**80] * 10},
    "labels of text": {"data": ROWS, "labels": ["cat"] * 10},
    "labels of fractions": {"data": ROWS, "labels": [0.5] * 10},
    "labels in columns": {"data": ROWS, "labels": np.zeros((10, 1), np.int64)},
    "one label for all": {"data": ROWS, "labels": 3},
    "labels in a dictionary": {"data": ROWS, "labels": {"cat": 3}},
    "labels of unequal length": {"data": ROWS, "labels": [[1, 2], [3]] * 5},
    "a key that is no text": {"data": ROWS, "labels": [0] * 10, b"\xff": 0},
    "data of floats": {"data": ROWS.astype(np.float32), "labels": [0] * 10},
    "grayscale data": {"data": ROWS[:, :1024], "labels": [0] * 10},
    "data as images": {"data": ROWS.reshape(10, 32, 32, 3), "labels": [0] * 10},
    "data in a list": {"data": ROWS[:, :3].tolist(), "labels": [0] * 10},
    "data of objects": {"data": ROWS.astype(object), "labels": [0] * 10},
    "data of records": {"data": np.zeros(10, "u1,u1"), "labels": [0] * 10},
    "labels of objects": {"data": ROWS, "labels": np.array([0] * 10, object)},
    "data of text": {"data": np.zeros((10, 3072), "U1"), "labels": [0] * 10},
}


@pytest.mark.parametrize("bad", BAD_BATCHES)
@pytest.mark.parametrize("protocol", [2, 5])
def test_pickle_of_something_else_is_refused(read_python_batches, bad, protocol):
    content = pickle.dumps(BAD_BATCHES[bad], protocol)
    with pytest.raises(InputError, match=r"data_batch_3: expected"):
        read_python_batches(content)


def test_damaged_pickle_is_refused(read_python_batches, build, official):
    content = build.python(*official)["cifar-10-batches-py/data_batch_3"]
    for length in (0, 1, 10, 100, len(content) // 2, len(content) - 1):
        with pytest.raises(InputError, match=r"data_batch_3: expected a pickle of plain arrays"):
            read_python_batches(content[:length])


class Call:
    """Pickled, it becomes a call of a function, whose result is then told its state."""

    def __init__(self, function, *arguments, state=None):
        self.call = function, arguments, state

    def __reduce__(self):
        return self.call


HARMLESS = np.zeros(2, np.uint8)
CALLS = {
    "eval": Call(eval, "__import__('os').getpid()"),
    "exec": Call(exec, "pass"),
    "getattr": Call(getattr, HARMLESS, "tobytes"),
    "open": Call(open, os.devnull),
    "import": Call(__import__, "os"),
    "bytearray": Call(bytearray, 10),
    "numpy.load": Call(np.load, "x.npy"),
    "numpy.memmap": Call(np.memmap, "/etc/hostname"),
    "numpy.fromfile": Call(np.fromfile, "/etc/hostname"),
    "an array of whatever memory holds": Call(np.ndarray, (2, 3072), np.dtype("u1")),
    "an array of one byte a million times": Call(
        np.ndarray, (10**6,), np.dtype("u1"), b"x", 0, (0,)
    ),
    "an array of references": Call(np.dtype, "O"),
    # NumPy takes the inner flags of a type that is not its own, such as "holds references",
    # from the pickle, and then follows references that are not there.
    "a type with forged flags": Call(
        np.dtype, ">i8", False, True, state=(3, ">", None, None, None, -1, -1, 63)
    ),
    "an array of a subclass": HARMLESS.view(np.recarray),
    "a masked array": np.ma.zeros(2, np.uint8),
    "a scalar": np.uint8(1),
    "a pickle in a pickle": Call(pickle.loads, pickle.dumps(1)),
}


def nested(depth: int) -> list:
    found = [0] * 10
    for _ in range(depth):
        found = [found] * 10  # ten times the same one
    return found


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02}r" + struct.pack("<I", 2**25) + b".",  # one entry, with a high number
        b"\x80\x02}p33554432\n.",
        pickle.dumps({"data": nested(6), "labels": [1]}, 2),
        pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": nested(6)}, 2),
    ],
    ids=["binary", "text", "data", "labels"],
)
def test_small_pickle_does_not_fill_the_memory(read_python_batches, content):
    assert len(content) < 5_000
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="expected a pickle of plain arrays"):
            read_python_batches(content)
        assert tracemalloc.get_traced_memory()[1] < 5 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("stem", ["n" * 200, "é" * 80])
def test_an_archive_may_have_a_long_name(tmp_path, tiny, stem):
    path = archives.write_binary(tmp_path / f"{stem}.tar.gz", *tiny)
    assert archives.read(path).layout == "official binary"


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("name", CALLS)
def test_pickle_that_calls_anything_is_refused(read_python_batches, name, protocol):
    batch = {"data": ROWS, "labels": [0] * 10, "extra": CALLS[name]}
    with pytest.raises(InputError, match=r"expected a pickle of plain arrays, found .*refused"):
        read_python_batches(pickle.dumps(batch, protocol))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("batch", BATCHES)
def test_pickle_never_runs_code(tmp_path, read_python_batches, batch, protocol):
    marker = tmp_path / "marker"
    content = pickle.dumps(Call(os.system, f"touch {marker}"), protocol)
    pickle.loads(content)
    assert marker.exists(), "the pickle is harmless, and the test proves nothing"
    marker.unlink()
    with pytest.raises(InputError, match=r"system, refused"):
        read_python_batches(content, batch)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("module", "name"), [("os", "system"), ("builtins", "eval"), ("numpy.core.numeric", "load")]
)
@pytest.mark.parametrize("opcode", ["GLOBAL", "STACK_GLOBAL", "INST"])
def test_pickle_may_not_even_name_a_function(read_python_batches, opcode, module, name):
    texts = [b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, name)]
    content = {
        "GLOBAL": f"c{module}\n{name}\n.".encode(),
        "STACK_GLOBAL": b"\x80\x04" + texts[0] + texts[1] + b"\x93.",
        "INST": f"(S'x'\ni{module}\n{name}\n.".encode(),
    }[opcode]
    with pytest.raises(InputError, match=f"{name}, refused"):
        read_python_batches(content)


@pytest.mark.parametrize("split", ["train", "test"])
def test_nine_classes_are_refused(tmp_path, build, tiny, split):
    members = build.folders(*tiny)
    kept = {name: members[name] for name in members if not name.startswith(f"{split}/frog/")}
    with pytest.raises(InputError, match=rf"{split}/: expected the ten .* found 9: no frog\."):
        archives.read(build.pack(tmp_path / "a", kept))


def test_unknown_class_is_refused(tmp_path, build, tiny):
    members = build.folders(*tiny)
    renamed = {name.replace("airplane", "plane"): members[name] for name in members}
    with pytest.raises(InputError, match="no airplane and the unknown plane"):
        archives.read(build.pack(tmp_path / "a", renamed))


def test_missing_test_folder_is_refused(tmp_path, build, tiny):
    members = build.folders(*tiny)
    kept = {name: members[name] for name in members if name.startswith("train/")}
    with pytest.raises(InputError, match="test/: expected the ten class folders"):
        archives.read(build.pack(tmp_path / "a", kept))


def test_gray_of_16_bits_is_refused_and_not_cut_off(tmp_path, build, tiny):
    deep = np.full((32, 32), 40_000, np.uint16)
    members = build.folders(*tiny) | {"test/dog/7.png": build.image_file(deep)}
    with pytest.raises(InputError, match=r"test/dog/7\.png: .*8 bits a channel.*mode I;16"):
        archives.read(build.pack(tmp_path / "a.zip", members))


@pytest.mark.parametrize("size", [(33, 32), (32, 31), (1, 1), (320, 320)])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_image_of_another_size_is_refused(tmp_path, build, tiny, size, suffix):
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    members = build.folders(*tiny) | {f"test/dog/7.{suffix}": build.image_file(pixels, suffix)}
    with pytest.raises(
        InputError, match=rf"test/dog/7\.{suffix}: .*32×32.* found {size[0]}×{size[1]}"
    ):
        archives.read(build.pack(tmp_path / "a.zip", members))


@pytest.mark.parametrize(
    "damage", ["empty", "text", "half a png", "half a jpg", "gif", "flipped png"]
)
def test_unreadable_image_is_refused(tmp_path, build, tiny, damage):
    image = tiny[0].images[0]
    png, jpg = build.image_file(image), build.image_file(image, "jpg")
    content = {
        "empty": b"",
        "text": b"not an image",
        "half a png": png[: len(png) // 2],
        "half a jpg": jpg[: len(jpg) // 2],
        "gif": build.image_file(image, "gif"),
        "flipped png": png[:1000] + bytes([png[1000] ^ 1]) + png[1001:],
    }[damage]
    members = build.folders(*tiny) | {"test/dog/7.png": content}
    with pytest.raises(InputError, match=r"test/dog/7\.png: expected a JPEG or PNG image"):
        archives.read(build.pack(tmp_path / "a.zip", members))


@pytest.mark.parametrize("container", CONTAINERS)
def test_archive_of_something_else_is_refused(tmp_path, build, container):
    path = build.pack(tmp_path / f"a{container}", {"readme.txt": b"hello", "model.keras": b""})
    with pytest.raises(InputError, match=r"expected CIFAR-10 .* found none of these"):
        archives.read(path)


# Writing


@pytest.mark.parametrize("name", ["a.tar.gz", ".b.tgz", "..c.tar.gz", ".tar.gz", ".tgz"])
def test_what_is_written_under_any_name_can_be_read(tmp_path, tiny, assert_same_split, name):
    path = archives.write_binary(tmp_path / name, *tiny)
    assert_same_split(archives.read(path).train, tiny[0])


@pytest.mark.parametrize(("fixture", "record"), [("tiny", 1 + 3072), ("tiny_gray", 1 + 1024)])
def test_written_archive_has_the_official_binary_layout(tmp_path, request, build, fixture, record):
    train, test = request.getfixturevalue(fixture)
    path = archives.write_binary(tmp_path / "cifar-10-binary.tar.gz", train, test)
    with tarfile.open(path) as archive:
        contents = {info.name: archive.extractfile(info).read() for info in archive}
    assert all(name.startswith("cifar-10-batches-bin/") for name in contents)
    contents = {name.rpartition("/")[2]: content for name, content in contents.items()}
    assert contents.pop("batches.meta.txt").decode().split() == list(CLASS_NAMES)
    assert set(contents) == {f"{batch}.bin" for batch in BATCHES}
    for index in range(5):
        content = contents[f"data_batch_{index + 1}.bin"]
        assert len(content) == 10 * record
        expected = build.records(Split(*(part[index * 10 : index * 10 + 10] for part in train)))
        assert content == expected
    assert contents["test_batch.bin"] == build.records(test)
    assert len(contents["test_batch.bin"]) == 20 * record


@pytest.mark.parametrize("fixture", ["tiny", "tiny_gray"])
def test_written_archive_is_read_back(tmp_path, request, assert_same_split, fixture):
    train, test = request.getfixturevalue(fixture)
    path = archives.write_binary(tmp_path / "new" / "folder" / "a.tar.gz", train, test)
    archive = archives.read(path)
    assert_same_split(archive.train, train)
    assert_same_split(archive.test, test)
    assert (archive.kind, archive.layout) == ("copy", "official binary")


def test_same_arrays_give_the_same_bytes(tmp_path, tiny, monkeypatch):
    first = archives.write_binary(tmp_path / "a.tar.gz", *tiny, note="note")
    monkeypatch.setattr("time.time", lambda: 2e9)
    second = archives.write_binary(tmp_path / "sub" / "a.tar.gz", *tiny, note="note")
    assert first.read_bytes() == second.read_bytes()


def test_written_archive_does_not_tell_who_wrote_it(tmp_path, tiny):
    path = archives.write_binary(tmp_path / "a.tar.gz", *tiny)
    with tarfile.open(path) as archive:
        told = {(info.uname, info.gname, info.uid, info.gid, info.mtime) for info in archive}
    assert told == {("", "", 0, 0, 0)}


def test_note_stands_in_the_archive(tmp_path, tiny):
    path = archives.write_binary(tmp_path / "a.tar.gz", *tiny, note="grün\n")
    assert "grün\n".encode() in gzip.decompress(path.read_bytes())


def test_archive_marked_synthetic_is_read_as_synthetic(tmp_path, tiny):
    path = archives.write_binary(tmp_path / "a.tar.gz", *tiny, synthetic=True)
    assert archives.read(path).kind == "synthetic"


def test_archive_marked_synthetic_is_never_official(tmp_path, tiny, sha256, monkeypatch):
    path = archives.write_binary(tmp_path / "a.tar.gz", *tiny, synthetic=True)
    monkeypatch.setitem(archives.OFFICIAL_SHA256, "cifar-10-binary.tar.gz", sha256(path))
    assert archives.read(path).kind == "synthetic"


@pytest.mark.parametrize("place", ["a file", "a folder", "a forbidden place"])
def test_place_that_cannot_be_written_is_told(tmp_path, tiny, place):
    (tmp_path / "file").write_bytes(b"mine")
    (tmp_path / "folder.tar.gz").mkdir()
    path = {
        "a file": tmp_path / "file" / "a.tar.gz",
        "a folder": tmp_path / "folder.tar.gz",
        "a forbidden place": tmp_path.__class__("/proc/nowhere/a.tar.gz"),
    }[place]
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=rf"{path.name}: expected a writable place"):
        archives.write_binary(path, *tiny)
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "file").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("error", "raised"), [(OSError(28, "No space left"), InputError), (KeyboardInterrupt(),) * 2]
)
def test_interrupted_writing_keeps_the_older_archive(tmp_path, tiny, monkeypatch, error, raised):
    path = archives.write_binary(tmp_path / "a.tar.gz", *tiny)
    before = path.read_bytes()
    add = tarfile.TarFile.addfile

    def add_some(archive, info, content):
        if "data_batch_3" in info.name:
            raise error
        add(archive, info, content)

    monkeypatch.setattr(tarfile.TarFile, "addfile", add_some)
    with pytest.raises(raised if isinstance(raised, type) else type(raised)):
        archives.write_binary(path, tiny[1], tiny[0])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def change(split, images=None, labels=None):
    return Split(
        images(split.images) if images else split.images,
        labels(split.labels) if labels else split.labels,
    )


BAD_SPLITS = {
    "49 images": (
        "a multiple of 5 images",
        lambda split: Split(split.images[:-1], split.labels[:-1]),
    ),
    "floats": ("uint8", lambda split: change(split, lambda images: images / 255)),
    "another size": ("uint8", lambda split: change(split, lambda images: images[:, :28, :28])),
    "two channels": ("uint8", lambda split: change(split, lambda images: images[..., :2])),
    "no channel": ("uint8", lambda split: change(split, lambda images: images[..., 0])),
    "half as many labels": (
        "uint8",
        lambda split: change(split, labels=lambda labels: labels[: len(labels) // 2]),
    ),
    "labels in a column, as Keras has them": (
        "uint8",
        lambda split: change(split, labels=lambda labels: labels[:, None]),
    ),
    "labels that are no integers": (
        "uint8",
        lambda split: change(split, labels=lambda labels: labels + 0.7),
    ),
    "a label of 10": ("labels from 0", lambda split: change(split, labels=lambda x: x + 1)),
    "a label of 256": (
        "labels from 0",
        lambda split: change(split, labels=lambda labels: labels + np.int64(256)),
    ),
    "a negative label": (
        "labels from 0",
        lambda split: change(split, labels=lambda labels: labels - np.int64(1)),
    ),
}


@pytest.mark.parametrize("bad", BAD_SPLITS)
def test_arrays_that_are_no_data_set_are_not_written(tmp_path, tiny, bad):
    told, spoil = BAD_SPLITS[bad]
    train, test = map(spoil, tiny)  # both, so that neither is refused for being unlike the other
    with pytest.raises(InputError, match=f"expected {told}"):
        archives.write_binary(tmp_path / "a.tar.gz", train, test)
    assert list(tmp_path.iterdir()) == []


def test_who_writes_labels_of_other_classes_is_not_told_to_get_a_file_again(tmp_path, tiny):
    split = change(tiny[0], labels=lambda labels: labels + np.int64(1))
    with pytest.raises(InputError, match="Number the classes as CLASS_NAMES does") as told:
        archives.write_binary(tmp_path / "a.tar.gz", split, split)
    assert "CIFARLIB_SOURCE" not in str(told.value)


def test_colour_and_grayscale_are_not_written_together(tmp_path, tiny, tiny_gray):
    with pytest.raises(InputError):
        archives.write_binary(tmp_path / "a.tar.gz", tiny[0], tiny_gray[1])
    assert list(tmp_path.iterdir()) == []


def test_two_trees_in_one_folder_are_refused(tmp_path, build, tiny):
    members = build.folders(*tiny, root="a/") | build.folders(*tiny, root="b/")
    with pytest.raises(InputError, match="one copy of the data set, found one in each of a, b"):
        archives.read(build.pack(tmp_path / "two", members))


def test_other_folders_beside_the_two_splits_are_passed_over(tmp_path, build, tiny):
    members = build.folders(*tiny)
    extra = {name.replace("train/", "validation/"): members[name] for name in members}
    read = archives.read(build.pack(tmp_path / "tree", members | extra))
    assert len(read.train.labels) == len(tiny[0].labels)


def test_two_copies_of_a_batch_are_refused(tmp_path, build, official):
    members = build.binary(*official) | build.binary(*official, folder="again")
    with pytest.raises(InputError, match="one copy of the data set"):
        archives.read(build.pack(tmp_path / "a.tar.gz", members))


def test_a_text_file_called_jpg_is_told_without_python_addresses(tmp_path, build, tiny):
    members = build.folders(*tiny) | {"train/cat/9999.jpg": b"hello"}
    with pytest.raises(InputError, match=r"9999\.jpg: .*found a file that is none") as caught:
        archives.read(build.pack(tmp_path / "tree", members))
    assert "0x" not in str(caught.value)


def test_another_suffix_than_what_is_written_is_refused(tmp_path, tiny):
    with pytest.raises(InputError, match=r"ends in \.tar\.gz"):
        archives.write_binary(tmp_path / "a.zip", *tiny)
