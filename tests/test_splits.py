"""Splits behave as named tuples; a recorded one also writes down where it was used."""

import copy
import inspect
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cifarlib import splits
from cifarlib.splits import (
    CLASS_NAMES,
    RecordedSplit,
    RecordedUse,
    Split,
    split_validation,
    uses_of_test_set,
)


@pytest.fixture
def recorded(tiny):
    return RecordedSplit(*tiny[1])


def parts_used():
    """Return what the one place that used the test set has used."""
    (use,) = uses_of_test_set()
    return use.parts


def line(offset=0):
    """Return the place of the caller, as the record writes it."""
    frame = inspect.currentframe().f_back
    return f"{Path(__file__).name}:{frame.f_lineno + offset}"


def test_class_names_are_those_of_cifar_10():
    expected = "airplane automobile bird cat deer dog frog horse ship truck"
    assert " ".join(CLASS_NAMES) == expected


def test_split_tells_its_shapes_and_not_its_pixels(tiny):
    assert repr(tiny[0]) == "Split(images=uint8 (50, 32, 32, 3), labels=uint8 (50,))"


# A recorded split is a split


def test_recorded_split_is_a_split_and_a_tuple(recorded):
    assert isinstance(recorded, Split)
    assert isinstance(recorded, tuple)
    assert recorded._fields == ("images", "labels")
    assert len(recorded) == 2


ACCESSES = {
    "names": lambda split: (split.images, split.labels),
    "indices": lambda split: (split[0], split[1]),
    "negative indices": lambda split: (split[-2], split[-1]),
    "a full slice": lambda split: split[:],
    "two slices": lambda split: split[:1] + split[1:],
    "a reversed slice": lambda split: split[::-1][::-1],
    "iteration": lambda split: tuple(part for part in split),
    "reversal": lambda split: tuple(reversed(split))[::-1],
    "arguments": lambda split: (lambda images, labels: (images, labels))(*split),
    "tuple": tuple,
    "list": list,
    "zip": lambda split: next(zip(*([part] for part in split), strict=True)),
    "dictionary": lambda split: tuple(split._asdict().values()),
    "getattr": lambda split: tuple(getattr(split, name) for name in split._fields),
    "pickle": lambda split: pickle.loads(pickle.dumps(split)),
    "old pickle": lambda split: pickle.loads(pickle.dumps(split, protocol=0)),
    "copy": copy.copy,
    "deep copy": copy.deepcopy,
    "replacement": lambda split: split._replace(),
}


@pytest.mark.parametrize("access", ACCESSES)
def test_every_access_gives_both_arrays_and_is_recorded(recorded, tiny, access):
    found = ACCESSES[access](recorded)
    assert set(parts_used()) == {"images", "labels"}
    images, labels = found
    np.testing.assert_array_equal(images, tiny[1].images)
    np.testing.assert_array_equal(labels, tiny[1].labels)


def test_unpacking_gives_both_arrays_and_is_recorded(recorded, tiny):
    images, labels = recorded
    assert images is tiny[1].images
    assert labels is tiny[1].labels
    assert parts_used() == ("images", "labels")


def test_pattern_gives_both_arrays_and_is_recorded(recorded, tiny):
    match recorded:
        case Split(images, labels):
            assert images is tiny[1].images
            assert labels is tiny[1].labels
    assert set(parts_used()) == {"images", "labels"}


@pytest.mark.parametrize(
    ("access", "part"),
    [
        (lambda split: split.images, "images"),
        (lambda split: split.labels, "labels"),
        (lambda split: split[0], "images"),
        (lambda split: split[-1], "labels"),
        (lambda split: split[1:], "labels"),
        (lambda split: split[:1], "images"),
    ],
)
def test_only_the_part_that_is_used_is_recorded(recorded, access, part):
    access(recorded)
    assert parts_used() == (part,)


@pytest.mark.parametrize("access", [repr, str, len, type, "{}".format, lambda split: split[2:]])
def test_looking_at_its_description_is_no_use(recorded, access):
    access(recorded)
    assert uses_of_test_set() == ()


def test_description_is_that_of_a_split(recorded):
    assert repr(recorded) == "RecordedSplit(images=uint8 (20, 32, 32, 3), labels=uint8 (20,))"


@pytest.mark.parametrize("index", [2, -3])
def test_index_beyond_the_two_parts_is_an_error(recorded, index):
    with pytest.raises(IndexError):
        recorded[index]
    assert uses_of_test_set() == ()


def test_pickled_test_set_is_plain_in_the_other_process(recorded):
    # joblib's workers have a record of their own, which nobody would read.
    assert type(pickle.loads(pickle.dumps(recorded))) is Split


def test_recorded_split_cannot_be_changed(recorded):
    with pytest.raises(AttributeError):
        recorded.images = None


# The record


def test_nothing_is_recorded_before_it_is_used(recorded):
    assert uses_of_test_set() == ()


def test_use_tells_file_and_line(recorded):
    recorded.images  # noqa: B018
    assert uses_of_test_set() == (RecordedUse(line(-1), ("images",)),)


def test_arithmetic_of_pairs_is_a_use(recorded, tiny):
    """As in ``x, y, x_test, y_test = train + test``."""
    train = tiny[0]
    for put_together in (
        lambda: train + recorded,
        lambda: recorded + (1,),  # noqa: RUF005
        lambda: (1,) + recorded,  # noqa: RUF005
        lambda: recorded * 1,
        lambda: 1 * recorded,
    ):
        splits.forget_uses_of_test_set()
        put_together()
        (use,) = splits.uses_of_test_set()
        assert use.parts == ("images", "labels")
    assert (train + recorded)[3] is tuple.__getitem__(recorded, 1)


def test_uses_are_listed_in_order_and_once_a_place(recorded):
    for _ in range(3):
        recorded.labels  # noqa: B018
    first = line(-1)
    recorded.images, recorded.labels  # noqa: B018
    assert uses_of_test_set() == (
        RecordedUse(first, ("labels",)),
        RecordedUse(line(-3), ("images", "labels")),
    )


def test_record_can_be_forgotten(recorded):
    recorded.images  # noqa: B018
    splits.forget_uses_of_test_set()
    assert uses_of_test_set() == ()


@pytest.mark.parametrize("access", ACCESSES)
def test_use_through_a_library_belongs_to_the_code_that_called_it(recorded, access):
    ACCESSES[access](recorded)
    for use in uses_of_test_set():
        assert use.place.startswith(f"{Path(__file__).name}:")


def test_use_by_this_package_belongs_to_the_code_that_called_it(recorded):
    split_validation(recorded, 0.5)
    assert uses_of_test_set() == (RecordedUse(line(-1), ("images", "labels")),)


@pytest.mark.parametrize("name", ["cifarlib_notes.py", "cifarlib2/lesson.py"])
def test_file_beside_this_package_is_not_part_of_it(recorded, name):
    path = Path(splits.__file__).parent.parent / name
    exec(compile("\n\nsplit.images", str(path), "exec"), {"split": recorded})
    assert uses_of_test_set() == (RecordedUse(f"{path.name}:3", ("images",)),)


@pytest.mark.parametrize("store_history", [True, False], ids=["Jupyter", "nbval"])
def test_use_in_a_notebook_tells_the_cell(run_python, store_history):
    script = """
from IPython.core.interactiveshell import InteractiveShell
cells = [
    "import numpy as np; from cifarlib import splits",
    "test = splits.RecordedSplit(np.zeros(1), np.zeros(1))",
    "test.images",
    "def use():\\n    return test.labels\\nuse()",
    "pass",
    "print(*[(use.place, *use.parts) for use in splits.uses_of_test_set()], sep='; ')",
]
shell = InteractiveShell.instance()
for cell in cells:
    shell.run_cell(cell, store_history=STORE_HISTORY).raise_error()
"""
    script = script.replace("STORE_HISTORY", str(store_history))
    output, errors = run_python(script).communicate(timeout=60)
    assert "('cell: test.images', 'images'); ('cell: use()', 'labels')" in output, errors


def test_use_in_a_script_under_ipython_tells_the_script(recorded, monkeypatch):
    shell = SimpleNamespace(user_ns={})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    recorded.images  # noqa: B018
    assert uses_of_test_set() == (RecordedUse(line(-1), ("images",)),)


# The validation set


@pytest.fixture(scope="module")
def numbered():
    """Return 200 images, 20 a class in random order, each with its number in its pixels."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10, dtype=np.uint8), 20))
    images = np.arange(200, dtype=np.uint8)[:, None, None, None] * np.ones((32, 32, 3), np.uint8)
    return Split(images, labels)


def numbers(split):
    return split.images[:, 5, 6, 1].tolist()


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_validation_set_has_equal_shares_of_every_class(numbered, fraction):
    train, validation = split_validation(numbered, fraction)
    assert np.bincount(validation.labels).tolist() == [20 * fraction] * 10
    assert np.bincount(train.labels).tolist() == [20 * (1 - fraction)] * 10


def test_unequal_classes_keep_their_proportions(numbered):
    order = np.flatnonzero((numbered.labels != 3) | (np.arange(200) % 2 == 0))
    uneven = Split(numbered.images[order], numbered.labels[order])
    validation = split_validation(uneven, 0.25)[1]
    counts = np.bincount(uneven.labels)
    np.testing.assert_allclose(np.bincount(validation.labels), counts * 0.25, atol=1)


def test_every_image_is_in_one_of_the_two_sets(numbered):
    train, validation = split_validation(numbered, 0.3)
    assert sorted(numbers(train) + numbers(validation)) == list(range(200))


def test_images_keep_their_labels_and_their_order(numbered):
    for split in split_validation(numbered, 0.3):
        np.testing.assert_array_equal(split.labels, numbered.labels[numbers(split)])
        assert numbers(split) == sorted(numbers(split))


def test_same_seed_gives_the_same_validation_set(numbered):
    first, second = (split_validation(numbered, 0.3, seed=5)[1] for _ in range(2))
    assert numbers(first) == numbers(second)


def test_another_seed_gives_another_validation_set(numbered):
    first, second = (split_validation(numbered, 0.3, seed=seed)[1] for seed in (0, 1))
    assert numbers(first) != numbers(second)


def test_training_set_is_not_changed(numbered):
    before = copy.deepcopy(numbered)
    train, _ = split_validation(numbered)
    train.images[:] = 0
    train.labels[:] = 0
    np.testing.assert_array_equal(numbered.images, before.images)
    np.testing.assert_array_equal(numbered.labels, before.labels)


@pytest.mark.parametrize("fraction", [-0.1, 0.0, 1.5, "half"])
def test_impossible_fraction_is_refused(numbered, fraction):
    with pytest.raises(ValueError, match="test_size"):
        split_validation(numbered, fraction)


@pytest.mark.parametrize(
    ("images", "labels", "told"),
    [
        (40, np.arange(30) % 10, "40 images, labels of shape \\(30,\\)"),
        (30, np.arange(40) % 10, "30 images, labels of shape \\(40,\\)"),
        (40, np.eye(10)[np.arange(40) % 10], "labels of shape \\(40, 10\\)"),
    ],
)
def test_images_without_a_label_each_are_refused(images, labels, told):
    pictures = np.zeros((images, 2, 2, 3), np.uint8)
    with pytest.raises(ValueError, match=f"a label for each image, found .*{told}"):
        split_validation(Split(pictures, labels), 0.4)


@pytest.mark.parametrize("seed", [-1, 2**32, 0.5, None])
def test_a_seed_that_is_none_is_called_so(numbered, seed):
    with pytest.raises(ValueError, match="seed: expected a whole number"):
        split_validation(numbered, 0.3, seed=seed)


def test_a_fraction_may_be_a_number_of_numpys(numbered):
    found = [split_validation(numbered, kind(0.25))[1].labels for kind in (float, np.float32)]
    np.testing.assert_array_equal(*found)


def test_a_class_so_small_that_one_side_would_go_without_it_is_refused(tiny):
    labels = np.repeat(np.arange(10), [505] * 9 + [3])
    images = np.zeros((len(labels), 1, 1, 1), np.uint8)
    with pytest.raises(ValueError, match="leave a class on one side"):
        split_validation(Split(images, labels), 0.1)


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_a_side_without_some_class_is_refused(numbered, fraction):
    told = f"{fraction} chosen of .* images of 10 classes, less than one of each on one side"
    with pytest.raises(ValueError, match=told):
        split_validation(numbered, fraction)
