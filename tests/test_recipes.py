"""Recipes beside what the projects published, and beside what training accepts."""

import json
import shlex
from dataclasses import replace

import keras
import pytest

from cifarlib import (
    augmentation,
    entries,
    models,
    optimizers,
    recipes,
    training,
    training_commands,
)
from cifarlib.errors import InputError

# As the five projects published them: optimizer, batch size, epochs, share held out; None
# where nothing is told.
TOLD = {
    "baseline": ("rmsprop", 32, 50, None),
    "baseline_regularized": ("rmsprop", 32, 50, None),
    "small_cnn": ("adam", 64, 25, None),
    "small_cnn_two_blocks": ("adam", 64, 25, None),
    "vgg6": ("rmsprop", 256, 31, 0.3),
    "vgg6_dropout": ("rmsprop", 256, 31, 0.3),
    "dense_net": ("adam", 128, 15, 0.2),
    "residual_cnn": (None, None, None, None),
    "resnet18": (None, None, 82, None),
}

every_recipe = pytest.mark.parametrize("model", TOLD)


def test_every_model_with_a_published_recipe_has_one_and_no_other():
    assert set(recipes.PUBLISHED) == set(TOLD) <= set(models.DESIGNS)


@every_recipe
def test_a_published_recipe_is_what_was_told(model):
    recipe = recipes.find("published", model)
    names = ("optimizer", "batch_size", "epochs", "validation_fraction")
    for name, told in zip(names, TOLD[model], strict=True):
        if told is not None:
            assert recipe[name] == told, name


@every_recipe
def test_a_published_recipe_holds_images_out_and_adds_nothing_that_nobody_told(model):
    config = training.Config(model, **recipes.find("published", model))
    assert config.model == model
    assert config.validation_fraction > 0, "none of them may choose epochs on the test set"
    assert (config.label_smoothing, config.weight_decay, config.ema) == (0, 0, 0)
    assert config.scaling == "unit"
    assert config.patience is None and config.train_size is None


@every_recipe
def test_the_learning_rate_is_the_one_that_keras_takes_by_itself(model):
    config = training.Config(model, **recipes.find("published", model))
    optimizer = {"adam": keras.optimizers.Adam, "rmsprop": keras.optimizers.RMSprop}
    default = optimizer[config.optimizer]().learning_rate
    assert config.learning_rate == pytest.approx(float(keras.ops.convert_to_numpy(default)))


def test_only_the_residual_network_was_augmented_with_turns_shifts_and_flips():
    for model in TOLD:
        names = recipes.find("published", model)["augmentation"]
        assert set(names) == ({"rotate", "shift", "flip"} if model == "residual_cnn" else set())
    assert (augmentation.MAX_DEGREES, augmentation.MAX_SHIFT) == (15, 0.1)
    config = training.Config("residual_cnn", **recipes.find("published", "residual_cnn"))
    assert config.augmentation_strength == 1


def test_only_the_deep_residual_network_has_a_schedule_that_waits_for_plateaus():
    for model in TOLD:
        schedule = recipes.find("published", model)["schedule"]
        assert schedule == ("plateau" if model == "resnet18" else "constant")


@pytest.mark.parametrize("model", models.DESIGNS)
def test_the_modern_recipe_is_what_training_does_by_itself(model):
    """But for the rate of the Transformer, whose loss is not finite after 1,500 steps else."""
    found = recipes.find("modern", model)
    assert found == ({"learning_rate": 1e-3} if model == "vit_tiny" else {})
    assert training.Config(model, **found).learning_rate <= training.Config(model).learning_rate


@pytest.mark.parametrize("model", ["resnet18", "vit_tiny"])
def test_the_long_recipe_is_the_modern_one_with_more_epochs_and_augmentation(model):
    modern, long = (
        training.Config(model, **recipes.find(name, model)).as_json() for name in ("modern", "long")
    )
    assert {name for name in long if long[name] != modern[name]} == {"epochs", "augmentation"}
    assert long["epochs"] > modern["epochs"]
    assert set(long["augmentation"]) > set(modern["augmentation"])


def test_what_is_done_to_a_found_recipe_stays_there():
    found = recipes.find("published", "baseline")
    expected = dict(found)
    found["epochs"] = 1
    try:
        assert recipes.find("published", "baseline") == expected
        assert recipes.find("published", "baseline_regularized") == expected
    finally:
        found["epochs"] = expected["epochs"]


@pytest.mark.parametrize(("asked", "meant"), [("publish", "published"), ("Modern", "modern")])
def test_an_unknown_recipe_is_told_the_nearest(asked, meant):
    with pytest.raises(InputError, match=f"Did you mean {meant}"):
        recipes.find(asked, "baseline")


def test_a_model_without_a_published_recipe_is_told_those_with_one():
    with pytest.raises(InputError, match=r"baseline, .*resnet18.*found 'vit_tiny'.*modern"):
        recipes.find("published", "vit_tiny")


@pytest.mark.parametrize("model", ["resnet18", "vgg6", "layered_cnn"])
def test_a_model_that_the_fast_recipe_is_not_made_for_is_told_so(model):
    with pytest.raises(InputError, match=rf"fast, fast_deep, fast_wide\), found '{model}'.*modern"):
        recipes.find("fast", model)


def test_erasing_is_all_that_is_added_to_the_modern_recipe_but_for_alternate_flips():
    modern = recipes.find("modern", "vit_tiny")
    augmentation = ("alternate", "crop", "erase")
    assert recipes.find("erase", "vit_tiny") == {**modern, "augmentation": augmentation}


def test_what_the_recipe_of_muon_is_not_made_for_is_told_so():
    """Attention, for one, diverges at its rate."""
    assert recipes.find("muon", "custom_cnn")["optimizer"] == "muon_adamw"
    with pytest.raises(InputError, match=r"custom_cnn\), found 'vit_tiny'.*modern"):
        recipes.find("muon", "vit_tiny")


def test_the_tuned_recipe_is_the_one_in_the_file(tmp_path):
    path = tmp_path / "found.json"
    recipe = {"learning_rate": 0.01, "augmentation": ["flip"]}
    path.write_text(json.dumps({"model": {"width": 2}, "recipe": recipe}))
    assert recipes.find("tuned", str(path)) == recipe
    config = training.Config(str(path), **recipes.find("tuned", str(path)))
    assert config.augmentation == ("flip",) and config.learning_rate == 0.01


@pytest.mark.parametrize("model", ["vit_tiny", "vgg6", "fast_deep"])
def test_a_file_that_names_a_network_is_trained_with_the_recipes_of_that_network(model, tmp_path):
    path = tmp_path / "found.json"
    path.write_text(json.dumps({"model": model, "recipe": {"learning_rate": 0.02}}))
    assert recipes.usual(str(path)) == recipes.usual(model)
    names = {"modern", "long"} | ({"fast"} if model == "fast_deep" else set())
    names |= {"published"} if model in recipes.PUBLISHED else set()
    for name in names:
        assert recipes.find(name, str(path)) == recipes.find(name, model)
    config = training.Config(str(path), **recipes.find("modern", str(path)))
    assert "--learning-rate" not in training.command(config)


def test_a_file_with_numbers_of_layers_is_trained_as_any_other_network(tmp_path):
    path = tmp_path / "found.json"
    path.write_text(json.dumps({"model": {"width": 2}, "recipe": {}}))
    assert recipes.usual(str(path)) == "modern" and recipes.find("modern", str(path)) == {}
    with pytest.raises(InputError, match="a model with a published recipe"):
        recipes.find("published", str(path))


@pytest.mark.parametrize("model", ["baseline", '{"width": 2}'])
def test_a_model_that_no_search_has_found_has_no_tuned_recipe(model):
    with pytest.raises(InputError, match=r"a model that a search has found.*cifarlib tune"):
        recipes.find("tuned", model)


def test_a_file_that_is_not_there_has_no_tuned_recipe():
    with pytest.raises(InputError, match=r"nowhere\.json"):
        recipes.find("tuned", "nowhere.json")


def test_the_fast_recipe_is_what_its_author_published():
    """airbench94_muon.py (Jordan, 2024): batches of 2,000, shifts of 2 pixels.

    That images grow is ours, and for how long: with less arithmetic than theirs in 8 epochs.
    """
    config = training.Config("fast", **recipes.find("fast", "fast"))
    assert config.image_sizes[-1] == models.IMAGE_SIZE
    theirs = replace(config, epochs=8, image_sizes=(models.IMAGE_SIZE,))
    assert entries.cost(config) < entries.cost(theirs)
    assert (config.batch_size, config.label_smoothing) == (2000, 0.2)
    assert (config.optimizer, config.learning_rate) == ("muon", 0.24)
    assert augmentation.CROP_PADDING * config.augmentation_strength == 2
    ours = optimizers.build(
        config.optimizer, config.learning_rate, config.weight_decay, config.batch_size
    )
    rates = ours.get_config()
    assert (rates["momentum"], rates["other_momentum"], rates["num_iterations"]) == (0.6, 0.85, 3)
    # Theirs are for the sum over a batch and for scores divided by 256 after normal weights of
    # standard deviation 1; ours for the mean, and for Glorot's weights divided by 22.
    assert 0.24 * rates["vector_ratio"] == pytest.approx(0.053 * 2000)
    assert 0.24 * rates["matrix_ratio"] / 22**2 == pytest.approx(0.67 / 256**2 * 2000, rel=0.02)
    assert 0.24 * rates["weight_decay"] == pytest.approx(2e-6 * 2000 / (1 - 0.85), rel=0.02)


def test_the_larger_network_learns_by_the_same_recipe_for_longer():
    config = training.Config("fast_deep", **recipes.find("fast", "fast_deep"))
    small = training.Config("fast", **recipes.find("fast", "fast"))
    changed = {"model", "epochs", "batch_size", "augmentation", "augmentation_strength"}
    changed |= {"image_sizes"}
    found, other = config.as_json(), small.as_json()
    assert {name for name in found if found[name] != other[name]} == changed
    assert recipes.usual("fast_deep") == recipes.usual("fast_wide") == "fast"


def test_the_widest_learns_by_its_recipe_for_longer_with_one_augmentation_more():
    deep, wide = (recipes.find("fast", model) for model in ("fast_deep", "fast_wide"))
    assert {name for name in wide if wide[name] != deep[name]} == {"epochs", "augmentation"}
    assert wide["epochs"] > deep["epochs"]
    assert set(wide["augmentation"]) - set(deep["augmentation"]) == {"randaugment"}


def test_the_command_of_a_run_says_when_its_recipe_is_not_the_usual_one():
    own = training.Config("fast", **recipes.find("fast", "fast"))
    assert training.command(training.Config("fast")) == "cifarlib train fast --recipe modern"
    attentive = training.Config("vit_tiny", learning_rate=1e-3)
    assert training.command(attentive) == "cifarlib train vit_tiny"
    others = (training.Config("fast"), training.Config("vgg6", seed=3), training.Config("vit_tiny"))
    for config in (own, attentive, *others):
        words = shlex.split(training.command(config))[2:]
        asked = vars(training_commands.train_parser().parse_args(words))
        del asked["output"], asked["resume"]
        assert training_commands._config(asked) == config
