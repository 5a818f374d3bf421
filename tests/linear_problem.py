"""What the tests of linear models share, and the programs they start in other processes."""

import numpy as np
import pytest

# A warning of scikit-learn is a mistake, and so is a deprecation by anybody.
NO_WARNINGS = [
    pytest.mark.filterwarnings("error::FutureWarning"),
    pytest.mark.filterwarnings("error::UserWarning:sklearn"),
    pytest.mark.filterwarnings("error::sklearn.exceptions.ConvergenceWarning"),
]


def make_problem() -> tuple[np.ndarray, np.ndarray]:
    """Return 90 rows of 6 features and labels of 3 classes that overlap."""
    rng = np.random.default_rng(0)
    y = np.arange(90) % 3
    return rng.normal(size=(90, 6)) + np.eye(3, 6)[y] * 1.2, y
