"""Six views, written out."""

import numpy as np

from cifarlib import compute, models, views


def test_scores_are_the_weighted_mean_over_six_views():
    network = models.build("baseline", "gray")
    pictures = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 1)).astype(np.float32)
    padded = np.pad(pictures, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    expected = 0
    for view, share in (
        (pictures, 0.5),
        (padded[:, :32, :32], 0.25),
        (padded[:, 2:, 2:], 0.25),
    ):
        for side in (view, view[:, :, ::-1]):
            expected = expected + share / 2 * compute.predict(network, np.ascontiguousarray(side))
    ours = compute.predict(views.averaged(network), pictures)
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-3)
    assert np.abs(ours - compute.predict(network, pictures)).max() > 1e-2
