"""The layouts in which people have CIFAR-10, read from and written to files.

====================  ==========================================================
official binary       ``data_batch_1.bin`` … ``test_batch.bin``: records of a label byte
                      and 3,072 pixel bytes (1,024 in our grayscale archive)
official python       ``data_batch_1`` … ``test_batch``: pickled dictionaries
class folders         ``train/<class>/*.jpg`` and ``test/<class>/*.png``
====================  ==========================================================

Each may be a folder or an archive (`containers`). Not for choosing among sources nor for
keeping the result: `data` and `cache` do.
"""

import gzip
import hashlib
import io
import os
import pickle
import pickletools
import re
import tarfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from cifarlib import containers, files, progress
from cifarlib.containers import GET_ANOTHER
from cifarlib.errors import InputError
from cifarlib.splits import CLASS_NAMES, Split

# https://www.cs.toronto.edu/~kriz/cifar.html, hashed when this project began.
OFFICIAL_SHA256 = {
    "cifar-10-binary.tar.gz": "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    "cifar-10-python.tar.gz": "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
}

# Of its members, by which torchvision checks what was unpacked (datasets/cifar.py). They tell
# copies from the original, not forgeries.
OFFICIAL_BATCH_MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}

TRAIN_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
BATCHES = (*TRAIN_BATCHES, "test_batch")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
SYNTHETIC_MARK = "SYNTHETIC.txt"
NUM_PIXELS = 32 * 32
_NAME_ONE = "Name one of them; unpack an archive first."


class Archive(NamedTuple):
    """What an archive holds.

    Attributes:
        train: the training images and labels.
        test: the test images and labels.
        layout: ``"official binary"``, ``"official python"`` or ``"class folders"``.
        kind: ``"official"`` only if the file's hash is the published one, or those of all six
            pickled batches are; else ``"JPEG copy"``, ``"PNG copy"``, ``"copy"`` or
            ``"synthetic"``.
        sha256: hash of the archive file, None for a folder.
    """

    train: Split
    test: Split
    layout: str
    kind: str
    sha256: str | None


def read(path: Path | str) -> Archive:
    """Read CIFAR-10 from an archive or a folder, whichever of the layouts it has.

    The official layouts keep their order. Class folders have none, so their images are
    taken in turn, one of each class, by file name: any stretch of the result is balanced.

    Args:
        path: the archive or folder.

    Returns:
        An ``Archive``; images uint8 of shape (n, 32, 32, C), labels uint8 of shape (n,).

    Raises:
        InputError: if the file is damaged, unsafe, or not CIFAR-10 in a known layout.
    """
    path = Path(path)
    members = containers.read_members(path, is_wanted)
    names = {}
    for name in members:
        base = PurePosixPath(name).name
        if base in names and base.removesuffix(".bin") in BATCHES:
            found = f"{names[base]} and {name}"
            raise InputError(path, "one copy of the data set", found, _NAME_ONE)
        names[base] = name
    sha256 = _sha256(path)
    is_official = sha256 in OFFICIAL_SHA256.values() or _has_official_batches(members, names)
    pictures = [content for name, content in members.items() if _class_folder(name)]
    if any(f"{batch}.bin" in names for batch in BATCHES):
        layout, copy = "official binary", "copy"
        train, test = _read_batches(path, members, names, _parse_binary_batch, ".bin")
    elif any(batch in names for batch in BATCHES):
        layout, copy = "official python", "copy"
        train, test = _read_batches(path, members, names, _parse_python_batch, "")
    elif pictures:
        # By what they hold: a name may promise another format.
        is_lossless = all(content.startswith(b"\x89PNG") for content in pictures)
        layout, copy = "class folders", "PNG copy" if is_lossless else "JPEG copy"
        train, test = _read_class_folders(path, members)
    else:
        raise InputError(
            path,
            "CIFAR-10 (batches in the official binary or python layout, or train/<class>/*.png)",
            "none of these",
            "Name the archive or the folder that holds train/ and test/.",
        )
    kind = "official" if is_official else copy
    if SYNTHETIC_MARK in names:
        kind = "synthetic"
    return Archive(train, test, layout, kind, sha256)


def write_binary(
    path: Path | str, train: Split, test: Split, note: str = "", *, synthetic: bool = False
) -> Path:
    """Write a data set as a .tar.gz in the official binary layout.

    The same arrays under the same name give the same bytes, on any day. The file appears whole or
    not at all.

    Args:
        path: the archive to write, ``.tar.gz``; an existing one is replaced.
        train: training images, uint8 of shape (n, 32, 32, C) with C 1 or 3, and labels; n is
            a multiple of 5, the number of training batches.
        test: test images and labels, likewise, of any number but none.
        note: text for a ``readme.txt`` inside the archive.
        synthetic: mark the archive, so that nobody takes it for photographs.

    Returns:
        The path.

    Raises:
        InputError: if the images do not have such a shape, or the file cannot be written.
    """
    path = Path(path)
    if not path.name.endswith((".tar.gz", ".tgz")):
        raise InputError(path, "a name that ends in .tar.gz", path.name, "Rename it.")
    for images, labels in (train, test):
        _check_writable(images, labels)
    if len(train.labels) % len(TRAIN_BATCHES):
        advice = "Leave some images out."
        raise InputError("train", "a multiple of 5 images", f"{len(train.labels)}", advice)
    if train.images.shape[1:] != test.images.shape[1:]:
        found = f"{train.images.shape} and {test.images.shape}"
        raise InputError("train and test", "images of one kind", found, "Convert one of them.")
    contents = {"readme.txt": note.encode()} if note else {}
    if synthetic:
        contents[SYNTHETIC_MARK] = b"Drawn by cifarlib.synthetic: not CIFAR-10.\n"
    contents["batches.meta.txt"] = ("\n".join(CLASS_NAMES) + "\n").encode()
    for index, batch in enumerate(TRAIN_BATCHES):
        size = len(train.labels) // len(TRAIN_BATCHES)
        part = slice(index * size, (index + 1) * size)
        contents[f"{batch}.bin"] = _to_records(train.images[part], train.labels[part])
    contents["test_batch.bin"] = _to_records(*test)

    # Named after the file, but never as what is hidden, which nobody would read.
    stem = re.sub(r"(\.tar\.gz|\.tgz)$", "", path.name).replace("binary", "batches-bin")
    # A tar takes no longer one than 155 bytes.
    shortened = os.fsencode(stem.lstrip("."))[:100].decode(errors="ignore")
    folder = shortened or "cifar-10-batches-bin"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            files.replacing(path) as file,
            # Level 1: photographs hardly get smaller at 9, which takes five times as long.
            gzip.GzipFile(filename="", mode="wb", fileobj=file, compresslevel=1, mtime=0) as zipped,
            tarfile.open(fileobj=zipped, mode="w", format=tarfile.USTAR_FORMAT) as archive,
        ):
            for name, content in contents.items():
                info = tarfile.TarInfo(f"{folder}/{name}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    except OSError as error:
        advice = "Free space there, or write somewhere else."
        raise InputError(path, "a writable place", str(error), advice) from error
    return path


def is_wanted(name: str) -> bool:
    """Tell by its name whether a file may be a part of CIFAR-10, in any layout."""
    base = PurePosixPath(name).name
    is_batch = base.removesuffix(".bin") in BATCHES
    return is_batch or base == SYNTHETIC_MARK or base.lower().endswith(IMAGE_SUFFIXES)


def _sha256(path: Path) -> str | None:
    if path.is_dir():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _has_official_batches(members: dict[str, bytes], names: dict[str, str]) -> bool:
    """Tell whether all six pickled batches are the official ones, in whatever they are."""

    def md5(content: bytes) -> str:
        return hashlib.md5(content, usedforsecurity=False).hexdigest()

    return all(
        batch in names and md5(members[names[batch]]) == published
        for batch, published in OFFICIAL_BATCH_MD5.items()
    )


def _read_batches(
    path: Path, members: dict[str, bytes], names: dict[str, str], parse: Callable, suffix: str
) -> tuple[Split, Split]:
    batches = {}
    for batch in BATCHES:
        if f"{batch}{suffix}" not in names:
            raise InputError(path, "six batches in an official layout", f"no {batch}", GET_ANOTHER)
        name = names[f"{batch}{suffix}"]
        batches[batch] = parse(f"{path}:{name}", members.pop(name))
    if len({batch.images.shape[-1] for batch in batches.values()}) > 1:
        raise InputError(path, "batches of one kind", "colour and grayscale mixed", GET_ANOTHER)
    test = batches.pop("test_batch")
    sizes = [len(batch.labels) for batch in batches.values()]
    if len(set(sizes)) > 1:
        found = f"{', '.join(f'{size:,}' for size in sizes)} images"
        raise InputError(path, "training batches of equal size", found, GET_ANOTHER)
    return Split(*map(np.concatenate, zip(*batches.values(), strict=True))), test


def _to_split(where: str, planes: np.ndarray, labels: np.ndarray) -> Split:
    """Turn rows of channel planes (all red, all green, all blue) into images."""
    _check_labels(where, labels)
    images = planes.reshape(len(labels), -1, 32, 32).transpose(0, 2, 3, 1)
    return Split(np.ascontiguousarray(images), labels.astype(np.uint8))


def _check_labels(where: str, labels: np.ndarray, advice: str = GET_ANOTHER) -> None:
    if not len(labels) or labels.min() < 0 or labels.max() >= len(CLASS_NAMES):
        found = f"{labels.min()} to {labels.max()}" if len(labels) else "no record"
        raise InputError(where, "labels from 0 to 9", found, advice)


def _check_writable(images: np.ndarray, labels: np.ndarray) -> None:
    is_image = images.dtype == np.uint8 and images.shape[1:] in ((32, 32, 1), (32, 32, 3))
    is_label = labels.dtype.kind in "iu" and labels.shape == images.shape[:1]
    if not is_image or not is_label:
        found = f"{images.dtype} {images.shape} and {labels.dtype} {labels.shape}"
        advice = "Write the images as loaded or as images.to_grayscale makes them."
        told = "uint8 (n, 32, 32, 1 or 3) and integers (n,)"
        raise InputError("images, labels", told, found, advice)
    _check_labels("labels", labels, "Number the classes as CLASS_NAMES does.")


def _to_records(images: np.ndarray, labels: np.ndarray) -> bytes:
    planes = images.transpose(0, 3, 1, 2).reshape(len(labels), -1)
    return np.hstack([labels.astype(np.uint8)[:, None], planes]).tobytes()


def _parse_binary_batch(where: str, content: bytes) -> Split:
    fitting = [
        np.frombuffer(content, np.uint8).reshape(-1, 1 + num_channels * NUM_PIXELS)
        for num_channels in (3, 1)
        if len(content) % (1 + num_channels * NUM_PIXELS) == 0
    ]
    if not fitting:
        found = f"{len(content):,} bytes"
        raise InputError(where, "records of 3,073 bytes (grayscale: 1,025)", found, GET_ANOTHER)
    # A multiple of both record sizes is told by its labels.
    plausible = [r for r in fitting if len(r) and r[:, 0].max() < len(CLASS_NAMES)]
    records = (plausible or fitting)[0]
    return _to_split(where, records[:, 1:], records[:, 0])


def _parse_python_batch(where: str, content: bytes) -> Split:
    try:
        _check_memo(content)
        batch = _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
        # Keys are bytes in the official files, which Python 2 wrote.
        batch = {str(k, "ascii") if isinstance(k, bytes) else k: v for k, v in batch.items()}
        planes, labels = (
            value.array if isinstance(value, _PickledArray) else _whole_numbers(value)
            for value in (batch["data"], batch["labels"])
        )
    except Exception as error:  # a damaged pickle can raise anything
        found = f"{error or type(error).__name__}"
        raise InputError(where, "a pickle of plain arrays", found, GET_ANOTHER) from error
    is_batch = planes.dtype == np.uint8 and labels.dtype.kind in "iu" and labels.ndim == 1
    if not is_batch or planes.shape != (len(labels), 3 * NUM_PIXELS):
        found = f"{planes.dtype} {planes.shape} and {labels.dtype} {labels.shape}"
        raise InputError(where, "uint8 data (n, 3072) and labels (n,)", found, GET_ANOTHER)
    return _to_split(where, planes, labels)


def _check_memo(content: bytes) -> None:
    """Refuse a pickle that numbers what it remembers otherwise than in turn.

    The unpickler would make room for as many as the highest number tells.
    """
    for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument > count:
            raise pickle.UnpicklingError(f"a memo of {argument:,} entries")


def _whole_numbers(value: Any) -> np.ndarray:
    """Return a list as an array; one of lists could hold the same one many times over."""
    if type(value) is not list or not all(type(number) is int for number in value):
        raise pickle.UnpicklingError("neither an array nor a list of whole numbers")
    return np.array(value)


class _ArrayUnpickler(pickle.Unpickler):
    """Rebuilds NumPy arrays, lists, dictionaries, strings and numbers; refuses all else.

    A pickle is a program that may call anything it can name. This one can name five things,
    and all of them are ours: not even NumPy's own unpickling sees what the file says.
    """

    def find_class(self, module: str, name: str) -> Callable:
        module = module.replace("numpy._core", "numpy.core")
        allowed = {
            ("numpy.core.multiarray", "_reconstruct"): _PickledArray,
            ("numpy.core.numeric", "_frombuffer"): _PickledArray.from_buffer,
            ("numpy", "ndarray"): _plain_array,
            ("numpy", "dtype"): _PickledType,
            ("_codecs", "encode"): _latin1_bytes,
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"a call of {module}.{name}, refused")
        return allowed[module, name]


def _plain_array(*arguments) -> None:
    """Stand for the class of a plain array, which `_reconstruct` is told."""
    raise pickle.UnpicklingError("a call of numpy.ndarray, refused")


class _PickledType:
    """Stand in for a dtype: plain numbers only, in either byte order."""

    def __init__(self, name: str | bytes, *flags: bool):
        name = str(name, "latin1") if isinstance(name, bytes) else name
        if not re.fullmatch(r"[|<>=]?[biuf][1248]", name):
            raise pickle.UnpicklingError(f"an array of {name!r}, refused")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: tuple) -> None:
        _, order, *rest = state
        order = str(order, "latin1") if isinstance(order, bytes) else order
        # What follows describes fields, items and objects, which plain numbers do not have.
        if order not in ("|", "<", ">", "=") or rest not in _PLAIN_STATES:
            raise pickle.UnpicklingError("an array of other than plain numbers, refused")
        self.dtype = self.dtype.newbyteorder(order)


_PLAIN_STATES = ([None, None, None, -1, -1, 0],)


class _PickledArray:
    """Stand in for an array, which gets its content after it was made."""

    def __init__(self, kind: Callable, shape: tuple, code: bytes):
        if kind is not _plain_array or shape != (0,):
            raise pickle.UnpicklingError("an array that is not plain, refused")

    def __setstate__(self, state: tuple) -> None:
        _, shape, pickled_type, is_fortran, content = state
        self._fill(content, pickled_type, shape, "F" if is_fortran else "C")

    @classmethod
    def from_buffer(cls, content, pickled_type, shape, order):
        """Stand in for NumPy's `_frombuffer`, which pickle protocol 5 uses."""
        array = cls(_plain_array, (0,), b"b")
        array._fill(content, pickled_type, shape, order)
        return array

    def _fill(self, content, pickled_type, shape, order) -> None:
        if not isinstance(pickled_type, _PickledType):
            raise pickle.UnpicklingError("an array of an unknown type, refused")
        self.array = np.frombuffer(content, pickled_type.dtype).reshape(shape, order=order)


def _latin1_bytes(text: str, encoding: str) -> bytes:
    """Stand in for `_codecs.encode`, by which Python 3 writes bytes for Python 2."""
    if encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError(f"text in {encoding!r}, refused")
    return text.encode("latin1")


def _class_folder(name: str) -> tuple[str, str] | None:
    """Return ``("train", "cat")`` for ``any/train/cat/0001.jpg``, None for other names."""
    parts = PurePosixPath(name).parts
    if len(parts) < 3 or parts[-3] not in ("train", "test"):
        return None
    return parts[-3], parts[-2]


def _read_class_folders(path: Path, members: dict[str, bytes]) -> tuple[Split, Split]:
    names: dict[tuple[str, str], list[str]] = {}
    roots = set()
    for name in members:
        if folder := _class_folder(name):
            names.setdefault(folder, []).append(name)
            roots.add(str(PurePosixPath(name).parents[2]))
    if len(roots) > 1:
        found = f"one in each of {', '.join(sorted(roots))}"
        raise InputError(path, "one copy of the data set", found, _NAME_ONE)
    for split in ("train", "test"):
        found = {class_name for part, class_name in names if part == split}
        if found != set(CLASS_NAMES):
            missing, unknown = set(CLASS_NAMES) - found, found - set(CLASS_NAMES)
            told = [f"no {', '.join(sorted(missing))}"] if missing else []
            told += [f"the unknown {', '.join(sorted(unknown))}"] if unknown else []
            raise InputError(
                f"{path}:{split}/",
                f"the ten class folders {', '.join(CLASS_NAMES)}",
                f"{len(found)}: {' and '.join(told)}",
                "Complete or rename the folders.",
            )

    with progress.bar(sum(map(len, names.values())), "Decoding images", "image") as bar:
        return tuple(
            _decode_split(path, {c: names[split, c] for c in CLASS_NAMES}, members, bar)
            for split in ("train", "test")
        )


def _decode_split(path: Path, names: dict, members: dict[str, bytes], bar: progress.tqdm) -> Split:
    in_turn = sorted(
        (turn, label, name)
        for label, class_name in enumerate(CLASS_NAMES)
        # The length first, so that 2.png comes before 10.png.
        for turn, name in enumerate(sorted(names[class_name], key=lambda name: (len(name), name)))
    )
    images = np.empty((len(in_turn), 32, 32, 3), np.uint8)
    for index, (_, _, name) in enumerate(in_turn):
        images[index] = _decode_image(f"{path}:{name}", members.pop(name))
        bar.update()
    return Split(images, np.array([label for _, label, _ in in_turn], np.uint8))


# Gray with 16 bits or more; Pillow would cut off what is above 255.
_DEEP_MODES = ("I", "F")


def _decode_image(where: str, content: bytes) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as image:
            mode, size = image.mode, image.size  # told by the header, before anything is decoded
            if size == (32, 32) and not mode.startswith(_DEEP_MODES):
                return np.asarray(image if mode == "RGB" else image.convert("RGB"))
    except UnidentifiedImageError as error:
        advice = "Replace or remove this file."
        raise InputError(where, "a JPEG or PNG image", "a file that is none", advice) from error
    except Exception as error:  # Pillow raises many kinds for damaged files
        advice = "Replace or remove this file."
        raise InputError(where, "a JPEG or PNG image", f"{error}", advice) from error
    if size == (32, 32):
        advice = "Save it with 8 bits, scaled as you think right."
        raise InputError(where, "an image of 8 bits a channel", f"more, mode {mode}", advice)
    found = "×".join(map(str, size))
    raise InputError(where, "an image of 32×32 pixels", found, "Resize or remove this file.")
