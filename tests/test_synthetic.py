"""The drawn pictures: the same for a seed, of ten classes, and worth a convolution."""

import itertools
import tarfile

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from cifarlib import archives, images, synthetic
from cifarlib.splits import CLASS_NAMES


def test_images_and_labels_have_the_form_of_cifar_10(tiny):
    for split, num_images in zip(tiny, (50, 20), strict=True):
        assert (split.images.dtype, split.labels.dtype) == (np.uint8, np.uint8)
        assert split.images.shape == (num_images, 32, 32, 3)
        assert split.labels.shape == (num_images,)


def test_classes_come_in_turn(tiny):
    assert tiny[0].labels.tolist() == [*range(10)] * 5
    assert tiny[1].labels.tolist() == [*range(10)] * 2


@pytest.mark.parametrize("num_images", [1, 7, 13])
def test_any_number_of_images_can_be_drawn(num_images):
    train, test = synthetic.generate(num_images, num_images + 1)
    assert len(train.images) == len(train.labels) == num_images
    assert len(test.images) == len(test.labels) == num_images + 1


def test_same_seed_draws_the_same_images(tiny, assert_same_split):
    for found, expected in zip(synthetic.generate(50, 20), tiny, strict=True):
        assert_same_split(found, expected)


def test_another_seed_draws_other_images(tiny):
    other = synthetic.generate(50, 20, seed=1)
    for found, expected in zip(other, tiny, strict=True):
        assert (found.images != expected.images).any((1, 2, 3)).all()


def test_number_of_test_images_does_not_change_the_training_images(tiny, assert_same_split):
    assert_same_split(synthetic.generate(50, 30)[0], tiny[0])


def test_no_image_is_drawn_twice(tiny):
    pictures = [image.tobytes() for split in tiny for image in split.images]
    assert len(set(pictures)) == len(pictures)


def test_training_and_test_images_differ_even_if_they_are_as_many():
    train, test = synthetic.generate(20, 20)
    assert (train.images != test.images).any((1, 2, 3)).all()


def test_blocks_do_not_repeat_one_another(monkeypatch):
    monkeypatch.setattr(synthetic, "BLOCK", 2)
    train, _ = synthetic.generate(50, 10)
    assert len({image.tobytes() for image in train.images}) == 50


def test_images_of_a_class_vary_and_use_the_range_of_values(tiny):
    train = tiny[0]
    for label in range(10):
        cats = train.images[train.labels == label].astype(float)
        assert cats.std(axis=0).mean() > 20, CLASS_NAMES[label]
    assert train.images.min() < 20
    assert train.images.max() > 235


def test_classes_differ_in_their_mean_image():
    train, _ = synthetic.generate(1000, 10)
    means = [train.images[train.labels == label].mean(axis=0) for label in range(10)]
    for one, other in itertools.combinations(range(10), 2):
        difference = np.abs(means[one] - means[other]).max()
        assert difference > 20, (CLASS_NAMES[one], CLASS_NAMES[other])


def test_archive_holds_the_generated_images_and_says_what_they_are(tmp_path, assert_same_split):
    path = synthetic.write_archive(tmp_path / "a.tar.gz", num_train=50, num_test=20, seed=3)
    archive = archives.read(path)
    expected = synthetic.generate(50, 20, seed=3)
    assert_same_split(archive.train, expected[0])
    assert_same_split(archive.test, expected[1])
    assert (archive.kind, archive.layout) == ("synthetic", "official binary")
    with tarfile.open(path) as opened:
        notes = {info.name.rpartition("/")[2]: opened.extractfile(info) for info in opened}
        assert b"not CIFAR-10" in notes["readme.txt"].read()
        assert b"seed 3" in opened.extractfile("a/readme.txt").read()


@pytest.mark.filterwarnings("ignore:lbfgs failed to converge")  # it no longer gets better
def test_convolutional_network_beats_a_linear_model_clearly():
    import keras  # only here: it takes seconds

    train, test = synthetic.generate(num_train=2000, num_test=1000, seed=1)
    train_pixels, test_pixels = (
        images.to_unit_range(train.images),
        images.to_unit_range(test.images),
    )

    linear = LogisticRegression(C=0.01, max_iter=40)
    linear.fit(images.flatten(train_pixels), train.labels)
    linear_accuracy = linear.score(images.flatten(test_pixels), test.labels)

    keras.utils.set_random_seed(0)
    network = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(64, 3, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(64, 3, activation="relu"),
            keras.layers.GlobalMaxPooling2D(),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    network.compile(
        optimizer=keras.optimizers.Adam(0.003),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    network.fit(train_pixels, train.labels, batch_size=32, epochs=5, verbose=0)
    _, accuracy = network.evaluate(test_pixels, test.labels, verbose=0)

    assert linear_accuracy > 0.3, "far above chance: the linear model was trained, too"
    assert accuracy > linear_accuracy + 0.15, (accuracy, linear_accuracy)
