"""Ten recognisable classes drawn by code, for when no photographs can be had.

Every picture is painted from a few shapes (an ellipse, a rod, a box, a polygon) with random
pose, colours, background and noise. A convolutional network learns them far better than a
linear model, as it does with photographs; nothing else about them is like CIFAR-10, so no
figure measured on them says anything about CIFAR-10. Not for augmentation.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from cifarlib import archives, progress
from cifarlib.splits import CLASS_NAMES, Split

SIZE = 32
BLOCK = 1_000  # pictures painted at a time: 4 MB an array, which stays in the processor's cache
NOTE = "synthetic stand-in, drawn by cifarlib.synthetic with seed {seed}: not CIFAR-10\n"


def generate(num_train: int = 50_000, num_test: int = 10_000, seed: int = 0) -> tuple[Split, Split]:
    """Draw a training and a test set, the ten classes in turn.

    Args:
        num_train: number of training images.
        num_test: number of test images.
        seed: the same seed gives the same images.

    Returns:
        Training and test set: images uint8 of shape (n, 32, 32, 3), labels uint8 (n,).

    Example:
        >>> train, test = generate(num_train=20, num_test=10)
        >>> train, test.labels.tolist()
        (Split(images=uint8 (20, 32, 32, 3), labels=uint8 (20,)), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    """
    train_seed, test_seed = np.random.SeedSequence(seed).spawn(2)
    with progress.bar(num_train + num_test, "Drawing images", "image") as bar:
        return _draw(num_train, train_seed, bar), _draw(num_test, test_seed, bar)


def write_archive(
    path: Path, num_train: int = 50_000, num_test: int = 10_000, seed: int = 0
) -> Path:
    """Draw a data set and write it in the official binary layout, marked as synthetic."""
    train, test = generate(num_train, num_test, seed)
    return archives.write_binary(path, train, test, NOTE.format(seed=seed), synthetic=True)


def _draw(num_images: int, seed: np.random.SeedSequence, bar: progress.tqdm) -> Split:
    labels = (np.arange(num_images) % len(CLASS_NAMES)).astype(np.uint8)
    images = np.empty((num_images, SIZE, SIZE, 3), np.uint8)
    for label, class_seed in enumerate(seed.spawn(len(CLASS_NAMES))):
        rng = np.random.default_rng(class_seed)
        indices = np.flatnonzero(labels == label)
        for start in range(0, len(indices), BLOCK):
            block = indices[start : start + BLOCK]
            picture = Pictures(rng, len(block))
            _PAINTERS[CLASS_NAMES[label]](picture)
            images[block] = picture.finish()
            bar.update(len(block))
    return Split(images, labels)


class Pictures:
    """A stack of n pictures being painted, each in its own pose.

    Coordinates run from -1 to 1, x to the right and y upwards, and are turned, scaled,
    shifted and mirrored for each picture, so that a painter draws one upright figure.
    Every argument may be a number or an array of shape (n,), from ``between``.
    """

    def __init__(self, rng: np.random.Generator, num_pictures: int):
        self.rng = rng
        self.n = num_pictures
        axis = ((np.arange(SIZE) + 0.5) / SIZE * 2 - 1).astype(np.float32)
        self.height = -axis[None, :, None]  # of the picture itself: horizon and sky stay level
        angle = self._per_picture(rng.normal(0, 0.15, self.n))
        self.scale = self._per_picture(rng.uniform(0.6, 1.25, self.n))
        mirror = self._per_picture(rng.choice([-1.0, 1.0], self.n))
        dx = axis[None, None, :] - self._per_picture(rng.uniform(-0.35, 0.35, self.n))
        dy = self.height - self._per_picture(rng.uniform(-0.25, 0.25, self.n))
        self.x = mirror * (dx * np.cos(angle) + dy * np.sin(angle)) / self.scale
        self.y = (dy * np.cos(angle) - dx * np.sin(angle)) / self.scale
        self.pixels = np.zeros((self.n, SIZE, SIZE, 3), np.float32)

    def between(self, low: float, high: float) -> np.ndarray:
        """Return one random number a picture, shape (n,)."""
        return self.rng.uniform(low, high, self.n).astype(np.float32)

    def color(self, *choices: tuple[int, int, int], spread: float = 30) -> np.ndarray:
        """Return one random colour a picture, near one of the choices, shape (n, 3)."""
        chosen = np.array(choices, np.float32)[self.rng.integers(len(choices), size=self.n)]
        return chosen + self.rng.normal(0, spread, (self.n, 3)).astype(np.float32)

    def any_color(self) -> np.ndarray:
        """Return one random colour a picture, from all there are, shape (n, 3)."""
        return self.rng.uniform(0, 255, (self.n, 3)).astype(np.float32)

    def background(self, above: np.ndarray, below: np.ndarray, softness: float = 0.05) -> None:
        """Paint two colours with a level horizon between them, sharp or soft."""
        horizon = self._per_picture(self.between(-0.5, 0.3))
        share = np.clip((self.height - horizon) / softness + 0.5, 0, 1)[..., None]
        self.pixels[:] = above[:, None, None] * share + below[:, None, None] * (1 - share)
        # Patches of light and shade: a coarse grid of noise, enlarged.
        patches = self.rng.normal(0, 14, (self.n, 5, 5)).astype(np.float32)
        weights = _enlarging_weights(5)
        self.pixels += (weights @ patches @ weights.T)[..., None]

    def ellipse(self, x, y, radius_x, radius_y, color) -> None:
        """Paint an ellipse around (x, y)."""
        x, y, radius_x, radius_y = map(self._per_picture, (x, y, radius_x, radius_y))
        distance = np.hypot((self.x - x) / radius_x, (self.y - y) / radius_y) - 1
        self._paint(distance * np.minimum(radius_x, radius_y), color)

    def rod(self, x0, y0, x1, y1, radius, color) -> None:
        """Paint a line from (x0, y0) to (x1, y1) with round ends."""
        x0, y0, x1, y1, radius = map(self._per_picture, (x0, y0, x1, y1, radius))
        along_x, along_y = x1 - x0, y1 - y0
        share = (self.x - x0) * along_x + (self.y - y0) * along_y
        share = np.clip(share / (along_x**2 + along_y**2 + 1e-6), 0, 1)
        rest_x, rest_y = self.x - x0 - share * along_x, self.y - y0 - share * along_y
        self._paint(np.hypot(rest_x, rest_y) - radius, color)

    def box(self, left, right, bottom, top, color) -> None:
        """Paint an upright rectangle."""
        left, right, bottom, top = map(self._per_picture, (left, right, bottom, top))
        across = np.maximum(left - self.x, self.x - right)
        self._paint(np.maximum(across, np.maximum(bottom - self.y, self.y - top)), color)

    def polygon(self, *corners: tuple, color) -> None:
        """Paint a convex polygon, its corners given clockwise."""
        distance = None
        for (x0, y0), (x1, y1) in zip(corners, (*corners[1:], corners[0]), strict=True):
            x0, y0, x1, y1 = map(self._per_picture, (x0, y0, x1, y1))
            length = np.hypot(x1 - x0, y1 - y0) + 1e-6
            outside = ((self.y - y0) * (x1 - x0) - (self.x - x0) * (y1 - y0)) / length
            distance = outside if distance is None else np.maximum(distance, outside)
        self._paint(distance, color)

    def finish(self) -> np.ndarray:
        """Return the pictures, under changing light and with noise, uint8 (n, 32, 32, 3)."""
        contrast = self.rng.uniform(0.6, 1.1, (self.n, 1, 1, 1)).astype(np.float32)
        light = self.rng.normal(0, 22, (self.n, 1, 1, 1)).astype(np.float32)
        noise = self.rng.standard_normal(self.pixels.shape, np.float32) * 9
        pixels = (self.pixels - 128) * contrast + 128 + light + noise
        return np.clip(pixels + 0.5, 0, 255).astype(np.uint8)

    def _paint(self, distance: np.ndarray, color: np.ndarray) -> None:
        """Mix a colour in where the signed distance is negative, with a soft edge of a pixel."""
        coverage = np.clip(0.5 - distance * self.scale * (SIZE / 2), 0, 1)[..., None]
        self.pixels += coverage * (np.broadcast_to(color, (self.n, 3))[:, None, None] - self.pixels)

    def _per_picture(self, value) -> np.ndarray:
        return np.asarray(value, np.float32).reshape(-1, 1, 1)


def _enlarging_weights(size: int) -> np.ndarray:
    """Return the matrix that enlarges ``size`` points to the width of a picture, linearly."""
    position = np.linspace(0, size - 1, SIZE)[:, None]
    return np.clip(1 - np.abs(position - np.arange(size)), 0, 1).astype(np.float32)


SKY = ((120, 170, 230), (180, 205, 235), (235, 190, 150), (150, 150, 160))
WATER = ((40, 90, 140), (70, 120, 130), (90, 100, 110))
GRASS = ((90, 140, 60), (150, 150, 80), (110, 120, 90))
ROAD = ((110, 110, 110), (150, 140, 130), (90, 85, 95))
WALL = ((200, 190, 170), (130, 110, 100), (90, 100, 120), (220, 220, 220))
FUR = ((120, 85, 55), (60, 50, 45), (190, 160, 120), (220, 215, 205), (140, 140, 140))
DARK = (25, 25, 30)
LIGHT = (235, 235, 230)


def _airplane(p: Pictures) -> None:
    p.background(p.color(*SKY), p.color(*SKY, *WATER, *GRASS), softness=1.5)
    body, wing = p.color(LIGHT, (150, 155, 165), (200, 60, 50)), p.color((140, 140, 150), LIGHT)
    sweep = p.between(-0.5, -0.2)
    p.rod(-0.1, 0, sweep, p.between(0.45, 0.75), 0.09, wing)
    p.rod(-0.75, 0.02, 0.7, 0, 0.14, body)
    p.rod(0.05, -0.05, sweep + 0.1, p.between(-0.75, -0.45), 0.1, wing)
    p.rod(-0.72, 0.05, -0.9, p.between(0.3, 0.45), 0.07, wing)
    p.ellipse(0.62, 0.05, 0.08, 0.05, DARK)


def _automobile(p: Pictures) -> None:
    p.background(p.color(*SKY, *WALL, *GRASS), p.color(*ROAD))
    paint = p.any_color()
    roof = p.between(0.3, 0.5)
    p.polygon((-0.5, 0), (-0.28, roof), (0.25, roof), (0.5, 0), color=paint)
    p.polygon((-0.36, 0), (-0.22, roof - 0.08), (0.2, roof - 0.08), (0.36, 0), color=DARK)
    p.box(-0.85, 0.85, -0.32, p.between(0, 0.08), paint)
    p.rod(-0.78, -0.08, -0.78, -0.12, 0.06, p.color((240, 220, 120), (200, 40, 40)))
    for x in (-0.5, 0.5):
        p.ellipse(x, -0.34, 0.2, 0.2, DARK)
        p.ellipse(x, -0.34, 0.09, 0.09, p.color((170, 170, 170)))


def _bird(p: Pictures) -> None:
    p.background(p.color(*SKY, *GRASS, *WALL), p.color(*SKY, *GRASS, *WATER), softness=0.8)
    feathers, wing = p.any_color(), p.any_color()
    x, y = p.between(0.3, 0.4), p.between(0.28, 0.42)
    for leg in (-0.05, 0.1):
        p.rod(leg, -0.2, leg + 0.05, -0.62, 0.025, p.color((160, 110, 50), DARK))
    p.polygon((-0.85, p.between(-0.3, 0.1)), (-0.3, 0.1), (-0.3, -0.15), color=wing)
    p.ellipse(0, 0, 0.45, 0.28, feathers)
    p.ellipse(-0.08, 0.02, 0.3, p.between(0.1, 0.2), wing)
    p.ellipse(x, y, 0.2, 0.19, feathers)
    p.polygon((x + 0.15, y + 0.09), (x + 0.42, y - 0.02), (x + 0.15, y - 0.07),
              color=p.color((230, 160, 40), (60, 50, 40)))  # fmt: skip
    p.ellipse(x + 0.07, y + 0.05, 0.045, 0.045, DARK)


def _cat(p: Pictures) -> None:
    p.background(p.color(*WALL, *GRASS), p.color(*WALL, *ROAD))
    fur = p.color(*FUR)
    ear = p.between(0.62, 0.78)
    p.ellipse(0, -0.8, 0.5, 0.5, fur)
    for side in (-1, 1):
        corners = ((side * 0.5, 0.2), (side * 0.42, ear), (side * 0.1, 0.42))
        p.polygon(*(corners if side < 0 else corners[::-1]), color=fur)
    p.ellipse(0, 0.08, p.between(0.48, 0.58), 0.43, fur)
    iris = p.color((120, 170, 60), (220, 180, 60), (90, 150, 190))
    for side in (-1, 1):
        p.ellipse(side * 0.22, 0.15, 0.12, 0.1, iris)
        p.ellipse(side * 0.22, 0.15, 0.04, 0.1, DARK)
        for tip in (-0.02, -0.2):
            p.rod(side * 0.15, -0.1, side * 0.75, tip, 0.015, p.color(LIGHT))
    p.ellipse(0, -0.06, 0.07, 0.05, p.color((220, 130, 130), (70, 50, 50)))


def _four_legs(p: Pictures, fur, *, length, reach, thickness) -> None:
    """Paint body and legs of an animal that looks to the right."""
    hoof = -0.05 - reach
    for x in (-0.38, -0.22, 0.22, 0.36):
        p.rod(x, -0.05, x + p.between(-0.1, 0.1), hoof, thickness, fur * 0.85)
    p.ellipse(0, 0, length, 0.24, fur)


def _deer(p: Pictures) -> None:
    p.background(p.color(*GRASS, *SKY, (60, 90, 50)), p.color(*GRASS))
    fur = p.color((150, 105, 60), (120, 95, 70), (175, 140, 100), spread=15)
    _four_legs(p, fur, length=0.48, reach=p.between(0.55, 0.7), thickness=0.05)
    p.rod(-0.45, 0.08, -0.52, -0.02, 0.07, p.color(LIGHT))
    x, y = p.between(0.5, 0.6), p.between(0.45, 0.55)
    p.rod(0.35, 0.05, x, y, 0.1, fur)
    p.rod(x, y, x + 0.22, y - 0.08, 0.09, fur)
    antler = p.color((90, 65, 40), (190, 170, 130))
    for lean in (-0.18, 0.12):
        p.rod(x, y + 0.05, x + lean, y + 0.42, 0.03, antler)
        p.rod(x + lean / 2, y + 0.22, x + lean / 2 + 0.18, y + 0.36, 0.025, antler)
        p.rod(x + lean / 2, y + 0.22, x + lean / 2 - 0.16, y + 0.38, 0.025, antler)


def _dog(p: Pictures) -> None:
    p.background(p.color(*WALL, *GRASS), p.color(*WALL, *GRASS, *ROAD))
    fur, ear = p.color(*FUR), p.color(*FUR[:2], (90, 60, 40))
    p.ellipse(0, -0.8, 0.5, 0.5, fur)
    p.ellipse(0, 0.15, 0.4, p.between(0.42, 0.52), fur)
    for side in (-1, 1):
        p.ellipse(side * 0.45, p.between(-0.05, 0.1), 0.14, p.between(0.32, 0.42), ear)
        p.ellipse(side * 0.17, 0.25, 0.06, 0.06, DARK)
    p.ellipse(0, -0.1, 0.23, 0.2, p.color(LIGHT, *FUR))
    p.ellipse(0, 0, 0.1, 0.08, DARK)
    p.rod(0, -0.26, 0, p.between(-0.45, -0.3), 0.08, p.color((215, 100, 110)))


def _frog(p: Pictures) -> None:
    p.background(p.color(*GRASS, *WATER, (90, 70, 50)), p.color(*GRASS, *WATER, (110, 90, 70)))
    skin = p.color((80, 140, 50), (120, 130, 60), (110, 85, 55), (60, 110, 90), spread=22)
    for side in (-1, 1):
        p.ellipse(side * 0.55, -0.35, 0.28, 0.2, skin * 0.8)
        p.rod(side * 0.35, -0.3, side * p.between(0.3, 0.5), -0.6, 0.07, skin * 0.8)
    p.ellipse(0, -0.12, 0.56, p.between(0.36, 0.46), skin)
    for side in (-1, 1):
        p.ellipse(side * 0.32, 0.3, 0.18, 0.18, skin)
        p.ellipse(side * 0.32, 0.33, 0.11, 0.11, p.color((230, 200, 80), (240, 240, 230)))
        p.ellipse(side * 0.32, 0.33, 0.05, 0.07, DARK)
    p.rod(-0.3, -0.12, 0.3, -0.12, 0.025, skin * 0.45)


def _horse(p: Pictures) -> None:
    p.background(p.color(*SKY, *GRASS, *WALL), p.color(*GRASS, (150, 120, 90)))
    fur = p.color(*FUR, (110, 60, 35))
    mane = p.color((40, 30, 25), (220, 200, 160), (90, 60, 40))
    p.rod(-0.5, 0.12, p.between(-0.8, -0.65), -0.35, 0.08, mane)
    _four_legs(p, fur, length=0.55, reach=p.between(0.55, 0.68), thickness=0.075)
    x, y = p.between(0.55, 0.65), p.between(0.5, 0.6)
    p.rod(0.28, 0.2, x - 0.1, y + 0.04, 0.12, mane)
    p.rod(0.38, 0.1, x, y, 0.14, fur)
    p.rod(x, y, x + 0.24, y - 0.24, 0.11, fur)
    p.polygon((x - 0.08, y + 0.1), (x - 0.02, y + 0.28), (x + 0.07, y + 0.1), color=fur)


def _ship(p: Pictures) -> None:
    p.background(p.color(*SKY), p.color(*WATER))
    hull, deck = p.any_color(), p.color(LIGHT, (200, 190, 170))
    bow = p.between(0.75, 0.95)
    p.rod(0.1, 0, 0.1, p.between(0.55, 0.8), 0.03, DARK)
    p.box(-0.5, 0.3, 0, p.between(0.15, 0.25), deck)
    p.box(-0.4, p.between(-0.1, 0.1), 0.15, p.between(0.3, 0.5), deck)
    p.box(-0.3, -0.18, 0.35, p.between(0.45, 0.65), p.any_color())
    p.polygon((-0.85, 0.05), (bow, 0.08), (0.55, -0.35), (-0.7, -0.35), color=hull)
    p.polygon((-1.6, -0.3), (1.6, -0.3), (1.6, -0.42), (-1.6, -0.42), color=p.color(*WATER))


def _truck(p: Pictures) -> None:
    p.background(p.color(*SKY, *WALL, *GRASS), p.color(*ROAD))
    cargo, cab = p.any_color(), p.any_color()
    p.box(-0.85, p.between(0.2, 0.3), -0.25, p.between(0.45, 0.65), cargo)
    p.box(0.3, 0.82, -0.28, p.between(0.22, 0.35), cab)
    p.box(0.48, 0.78, 0, 0.2, p.color((170, 200, 220), DARK))
    p.box(-0.85, 0.82, -0.35, -0.25, DARK)
    for x in (-0.62, -0.3, 0.55):
        p.ellipse(x, -0.4, 0.17, 0.17, DARK)
        p.ellipse(x, -0.4, 0.07, 0.07, p.color((150, 150, 150)))


_PAINTERS: dict[str, Callable[[Pictures], None]] = {
    "airplane": _airplane,
    "automobile": _automobile,
    "bird": _bird,
    "cat": _cat,
    "deer": _deer,
    "dog": _dog,
    "frog": _frog,
    "horse": _horse,
    "ship": _ship,
    "truck": _truck,
}
