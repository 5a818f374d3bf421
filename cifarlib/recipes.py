"""How the models of the registry were trained by those who published them.

A recipe is what `training.Config` should be told besides model, colour and seed. ``published``
repeats what a project says it did, apart from its mistakes: here as everywhere, epochs are
chosen on held-out training images. ``modern`` is what Config does by itself, but for the rate of
a network that cannot bear it. ``erase`` and ``long`` augment more: the one for a network that
would learn its images by heart, the other for those who have a GPU and want the last points.
``muon`` is what trains a plain network further, ``tuned`` what a search found together with the
model, ``fast`` what trains the networks that are made for it in minutes.
"""

from typing import Any

from cifarlib import layered
from cifarlib.errors import InputError, nearest

NAMES = ("modern", "erase", "long", "muon", "published", "tuned", "fast")

# None of these projects smoothed labels, decayed weights or averaged them.
_PLAIN = {
    "scaling": "unit",
    "augmentation": (),
    "label_smoothing": 0.0,
    "weight_decay": 0.0,
    "ema": 0.0,
    "schedule": "constant",
    "learning_rate": 1e-3,
}
_COURSE = {**_PLAIN, "optimizer": "rmsprop", "batch_size": 32, "epochs": 50}
_SMALL_CNN = {**_PLAIN, "optimizer": "adam", "batch_size": 64, "epochs": 25}
_VGG6 = {
    **_PLAIN,
    "optimizer": "rmsprop",
    "batch_size": 256,
    "epochs": 31,
    "validation_fraction": 0.3,
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "baseline": _COURSE,
    "baseline_regularized": _COURSE,
    "small_cnn": _SMALL_CNN,
    "small_cnn_two_blocks": _SMALL_CNN,
    "vgg6": _VGG6,
    "vgg6_dropout": _VGG6,
    "dense_net": {
        **_PLAIN,
        "optimizer": "adam",
        "batch_size": 128,
        "epochs": 15,
        "validation_fraction": 0.2,
    },
    # Their optimizers and batch sizes are not published: Keras's most used, and Config's.
    "residual_cnn": {**_PLAIN, "optimizer": "adam", "augmentation": ("rotate", "shift", "flip")},
    "resnet18": {**_PLAIN, "optimizer": "adam", "schedule": "plateau", "epochs": 82},
}


# What Config does by itself is made for convolutions. Attention diverges at such a rate.
_MODERN: dict[str, dict[str, Any]] = {"vit_tiny": {"learning_rate": 1e-3}}
# For a network whose best epoch of the modern recipe came well before its last.
_ERASE: dict[str, Any] = {"augmentation": ("alternate", "crop", "erase")}
# More epochs pay only if each shows the images in a new way.
_LONG: dict[str, Any] = {
    "epochs": 100,
    "augmentation": ("flip", "crop", "randaugment", "cutmix"),
}
# The rate is the best on images held out among three, with 10,000 images and 12 epochs.
_MUON: dict[str, dict[str, Any]] = {
    "custom_cnn": {
        "epochs": 36,
        "augmentation": ("alternate", "crop", "erase"),
        "optimizer": "muon_adamw",
        "learning_rate": 1e-2,
    }
}
# Of airbench94 (Jordan, 2024); that images grow is ours, and so are two epochs more, which they
# pay for. Chapter 7 says what each idea is worth.
FAST: dict[str, Any] = {
    "epochs": 10,
    "batch_size": 2000,
    "augmentation": ("alternate", "crop"),
    "augmentation_strength": 0.5,
    "image_sizes": (24, 24, 24, 32),
    "label_smoothing": 0.2,
    "optimizer": "muon",
    "learning_rate": 0.24,
    "weight_decay": 0.11,
    "warmup": 0.0,
    "ema": 0.0,
}
# The same for the larger network, which learns for longer: stronger augmentation, whole images.
FAST_DEEP: dict[str, Any] = {
    **FAST,
    "epochs": 40,
    "batch_size": 1000,
    "augmentation": ("alternate", "crop", "erase"),
    "augmentation_strength": 1.0,
    "image_sizes": (32,),
}
# Wider, longer and with stronger augmentation still: the best on images held out among five, of
# which two were ResNet-18 with CutMix.
FAST_WIDE: dict[str, Any] = {
    **FAST_DEEP,
    "epochs": 60,
    "augmentation": ("alternate", "crop", "randaugment", "erase"),
}
# Of nothing else: resnet18, whose normalisation learns a scale, diverged in its first epoch.
_FAST_BY_MODEL = {"fast": FAST, "fast_deep": FAST_DEEP, "fast_wide": FAST_WIDE}


def find(name: str, model: str) -> dict[str, Any]:
    """Return what a recipe tells `training.Config` about a model.

    Args:
        name: one of ``NAMES``.
        model: a key of the registry, or a file of `tuning`.

    Raises:
        InputError: if there is no such recipe, or none for this model: nobody published one, or
            it is not one of the networks that the fast recipe, or that of Muon, is made for.

    >>> find("published", "dense_net")["epochs"]
    15
    """
    if name not in NAMES:
        raise InputError("recipe", " or ".join(NAMES), repr(name), nearest(name, NAMES))
    if name == "tuned":
        return _tuned(model)
    network = _registered(model)
    if name == "modern":
        return dict(_MODERN.get(network, {}))
    if name == "erase":
        return {**find("modern", network), **_ERASE}
    if name == "long":
        return {**find("modern", network), **_LONG}
    made_for = {"fast": _FAST_BY_MODEL, "muon": _MUON, "published": PUBLISHED}[name]
    if network not in made_for:
        advice = "Leave --recipe out: modern suits every model."
        told = f"a model with a {name} recipe ({', '.join(made_for)})"
        raise InputError(f"recipe {name}", told, repr(model), advice)
    return dict(made_for[network])


def usual(model: str) -> str:
    """Return the name of the recipe that a model is trained with if nothing is said.

    >>> usual("resnet18"), usual("fast")
    ('modern', 'fast')
    """
    return "fast" if _registered(model) in _FAST_BY_MODEL else "modern"


def _registered(model: str) -> str:
    """Return the key of the registry that a file of `tuning` names, if it does, else the model."""
    if not model.endswith(".json"):
        return model
    found = layered.read(model).model
    return found if isinstance(found, str) else model


def _tuned(model: str) -> dict[str, Any]:
    if model == "tuned_cnn":
        return layered.read(layered.TUNED).recipe
    if model.endswith(".json"):
        return layered.read(model).recipe
    advice = "Find one with cifarlib tune, and name its file as the model."
    raise InputError("recipe tuned", "a model that a search has found", repr(model), advice)
