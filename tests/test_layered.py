"""Designs by numbers: the baseline among them, every number felt, nothing left of the image."""

import dataclasses
import json
import re

import keras
import numpy as np
import pytest

from cifarlib import layered, models, training
from cifarlib.errors import InputError
from cifarlib.layered import LayeredCNN

FIELDS = [field.name for field in dataclasses.fields(LayeredCNN)]
PADDED = LayeredCNN(padding="same")
# Each field with another value than there.
CHANGES = {
    "blocks": 2,
    "depth": 2,
    "width": 16,
    "max_width": 48,
    "kernel": 2,
    "padding": "valid",
    "pooling": "average",
    "batch_normalization": True,
    "dropout": 0.25,
    "ending": "average",
    "dense": 32,
    "dense_dropout": 0.5,
}
TINY = {"blocks": 2, "width": 2, "max_width": 4, "dense": 4}


def told(network) -> list[tuple]:
    """Return a network's layers and what they were told, apart from their names."""
    layers = [(type(layer).__name__, layer.get_config()) for layer in network.layers]
    return [
        (kind, {key: value for key, value in config.items() if key != "name"})
        for kind, config in layers
    ]


def kinds(**numbers) -> list[str]:
    return [kind for kind, _ in told(models.build(LayeredCNN(**numbers)))][1:]


@pytest.mark.parametrize("color", models.CHANNELS)
def test_without_numbers_it_is_the_baseline_to_the_bit(color):
    networks = []
    for model in (LayeredCNN(), "baseline"):
        keras.utils.set_random_seed(3)
        networks.append(models.build(model, color))
    ours, baseline = networks
    assert told(ours) == told(baseline)
    assert ours.count_params() == baseline.count_params()
    for weight, expected in zip(ours.get_weights(), baseline.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)


def test_every_number_is_tested_for_its_effect():
    assert list(CHANGES) == FIELDS


@pytest.mark.parametrize("field", CHANGES)
def test_a_number_changes_the_network(field):
    changed = dataclasses.replace(PADDED, **{field: CHANGES[field]})
    assert told(models.build(changed)) != told(models.build(PADDED))


def test_layers_come_in_the_order_that_was_told():
    block = ["Conv2D", "BatchNormalization", "ReLU"]
    assert kinds(
        blocks=2,
        depth=2,
        batch_normalization=True,
        pooling="average",
        dropout=0.1,
        ending="average",
        dense_dropout=0.2,
    ) == [
        *(2 * block + ["AveragePooling2D", "Dropout"]) * 2,
        *("GlobalAveragePooling2D", "Dense", "Dropout", "Dense"),
    ]
    assert kinds(blocks=1, depth=2, pooling="stride", dense=0) == ["Conv2D"] * 2 + [
        "Flatten",
        "Dense",
    ]


def test_filters_double_up_to_the_limit():
    network = models.build(LayeredCNN(blocks=4, width=24, max_width=100, padding="same"))
    convolutions = [layer for layer in network.layers if isinstance(layer, keras.layers.Conv2D)]
    assert [layer.filters for layer in convolutions] == [24, 48, 96, 100]


def test_only_the_last_convolution_of_a_block_strides():
    network = models.build(LayeredCNN(blocks=1, depth=3, pooling="stride", padding="same"))
    strides = [layer.strides for layer in network.layers if isinstance(layer, keras.layers.Conv2D)]
    assert strides == [(1, 1), (1, 1), (2, 2)]


def test_a_bias_is_left_out_where_normalisation_has_one():
    for normalised in (False, True):
        network = models.build(LayeredCNN(**TINY, batch_normalization=normalised))
        convolutions = [la for la in network.layers if isinstance(la, keras.layers.Conv2D)]
        assert {layer.use_bias for layer in convolutions} == {not normalised}


def draw(rng) -> dict:
    """Return numbers that decide about the size of what is left, small enough to be refused."""
    return {
        "blocks": int(rng.integers(1, 6)),
        "depth": int(rng.integers(1, 4)),
        "kernel": int(rng.integers(1, 10)),
        "padding": str(rng.choice(layered.PADDINGS)),
        "pooling": str(rng.choice(layered.POOLINGS)),
        "width": 1,
        "dense": 0,
    }


@pytest.mark.skipif(
    keras.backend.backend() == "jax",
    reason="sizes are the same there, and each takes seconds to compile",
)
def test_what_is_refused_is_what_keras_could_not_build(monkeypatch):
    rng, refused = np.random.default_rng(1), 0
    for _ in range(50):
        numbers = draw(rng)
        try:
            design = LayeredCNN(**numbers)
        except InputError as error:
            refused += 1
            assert "something left of the image" in str(error)
            with monkeypatch.context() as patch:
                patch.setattr(LayeredCNN, "_check_size", lambda self: None)
                design = LayeredCNN(**numbers)
            with pytest.raises(ValueError):
                models.build(design)
        else:
            assert models.build(design).layers[-2].output.shape[-1] > 0
    assert 10 < refused < 40, "both kinds are tried"


def test_layers_that_leave_nothing_say_after_which_block():
    with pytest.raises(InputError, match=r"nothing after block 3.*fewer or smaller.*same"):
        LayeredCNN(kernel=5, depth=2)
    assert LayeredCNN(kernel=5, depth=2, padding="same")


def test_a_convolution_that_strides_leaves_the_larger_half_and_pooling_the_smaller():
    # 32, 31 → 16, 15 → 8, 7 → 4, 3 → 2, 1 → 1; pooling has nothing left of the last.
    design = LayeredCNN(blocks=5, kernel=2, pooling="stride", width=1, ending="average", dense=0)
    assert models.build(design).layers[-3].output.shape[1:3] == (1, 1)
    with pytest.raises(InputError, match="nothing after block 5"):
        dataclasses.replace(design, pooling="max")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("blocks", 0, "a whole number from 1 to 5, found 0"),
        ("blocks", 6, "from 1 to 5"),
        ("depth", 1.5, "a whole number"),
        ("depth", True, "found True"),
        ("width", "32", "found '32'"),
        ("width", None, "found None"),
        ("dense", -1, "from 0"),
        ("dropout", 0.95, "a number from 0 to 0.9"),
        ("dropout", float("nan"), "found nan"),
        ("dense_dropout", float("inf"), "found inf"),
        ("kernel", [3], "found"),
        ("padding", "Same", "Did you mean same"),
        ("pooling", "mean", "max or average or stride"),
        ("ending", 3, "flatten or average"),
        ("batch_normalization", 1, "true or false"),
        ("batch_normalization", "yes", "true or false"),
    ],
)
def test_a_number_that_does_not_fit_is_refused_by_its_name(name, value, message):
    with pytest.raises(InputError, match=message) as caught:
        LayeredCNN(**{name: value})
    assert str(caught.value).startswith(f"{name}: ")
    with pytest.raises(InputError, match=message):
        dataclasses.replace(LayeredCNN(), **{name: value})


def test_numbers_of_other_types_become_plain_ones():
    design = LayeredCNN(blocks=2.0, width=np.int64(8), dropout=np.float64(0.5), dense_dropout=0)
    assert design == LayeredCNN(blocks=2, width=8, dropout=0.5)
    assert {type(value) for value in (design.blocks, design.width)} == {int}
    assert json.loads(json.dumps(design.as_json())) == design.as_json()


def test_json_and_back_is_the_same_design():
    design = LayeredCNN(**CHANGES)
    assert layered.from_json(json.loads(json.dumps(design.as_json()))) == design
    assert layered.from_json({}) == LayeredCNN()


def test_a_number_that_is_not_known_names_those_that_are():
    with pytest.raises(InputError, match=r"blocks, depth.*'widht'.*Did you mean width"):
        layered.from_json({"widht": 3})


def test_a_number_out_of_range_is_told_with_what_it_was_read_from(tmp_path):
    path = tmp_path / "found.json"
    path.write_text('{"model": {"depth": 99}}')
    with pytest.raises(InputError, match=r"found\.json: depth: expected a whole number from 1"):
        layered.read(path)


# Where a name stands, a file or JSON may


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a file and gives its path."""

    def write(content, name="found.json"):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path)

    return write


def test_a_file_stands_for_a_model(write):
    path = write({"model": TINY, "recipe": {"learning_rate": 0.01}, "search": {"trials": 3}})
    found = layered.read(path)
    assert found == (LayeredCNN(**TINY), {"learning_rate": 0.01}, {"trials": 3})
    assert told(models.build(path)) == told(models.build(LayeredCNN(**TINY)))
    assert models.find(path).name == models.build(path, "gray").name == "layered_cnn"


def test_a_file_may_name_a_registered_model(write):
    path = write({"model": "baseline"})
    assert layered.read(path) == ("baseline", {}, {})
    assert models.find(path) is models.DESIGNS["baseline"]
    assert told(models.build(path)) == told(models.build("baseline"))


def test_numbers_as_json_stand_for_a_model():
    assert models.find('{"kernel": 2}').features == LayeredCNN(kernel=2)
    assert models.find("{}").features == LayeredCNN()


def examples() -> list[str]:
    """Return the JSON that help, messages and docstrings give as examples."""
    with pytest.raises(InputError) as caught:
        models.find("{")
    model = dataclasses.fields(training.Config)[0]
    texts = [str(caught.value), model.metadata["help"], models.find.__doc__]
    return [text for one in texts for text in re.findall(r"\{.*?\}", one)]


def test_the_examples_of_help_and_messages_are_designs():
    assert len(examples()) >= 3
    for example in examples():
        assert isinstance(models.find(example).features, LayeredCNN)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no JSON"),
        ("{", "no JSON"),
        ("\0\0", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("[]", "no model"),
        ("3", "no model"),
        ({}, "no model"),
        ({"model": None}, "no model"),
        ({"model": ["baseline"]}, "no model"),
        ({"model": TINY, "recipe": [1]}, "a recipe that is no object"),
        ({"model": TINY, "search": None}, "no object"),
        ({"model": "baseline", "color": "gray", "epochs": 1}, "one with 'color' in it"),
        ({"model": {"depht": 2}}, "Did you mean depth"),
        ({"model": {"depth": 20}}, "from 1 to 8"),
        ({"model": "baselin"}, "Did you mean baseline"),
    ],
)
def test_a_file_that_holds_something_else_is_refused(write, content, message):
    with pytest.raises(InputError, match=message):
        models.find(write(content))


def test_a_file_that_is_not_there_or_a_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.json.*cifarlib tune wrote"):
        models.find(str(tmp_path / "nowhere.json"))
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(InputError, match="cifarlib tune wrote"):
        models.find(str(tmp_path / "folder.json"))


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="no JSON"):
        layered.read(tmp_path / "bytes.json")


def test_a_file_that_names_itself_is_refused(write, tmp_path):
    with pytest.raises(InputError):
        models.find(write({"model": str(tmp_path / "found.json")}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "numbers of layers as JSON"),
        ('{"depth": }', "numbers of layers as JSON"),
        ("{'depth': 2}", "numbers of layers as JSON"),
        ('{"depht": 2}', "Did you mean depth"),
        ('{"depth": 2, "kernel": 9}', "something left of the image"),
    ],
)
def test_json_that_tells_no_layers_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        models.find(text)
    with pytest.raises(InputError, match=message):
        training.Config(text)
