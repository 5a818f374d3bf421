"""Muon for convolutions, with momentum or AdamW for everything else.

The first is that of the fast recipes, for networks made for it; the second takes AdamW's learning
rate and suits any network. Keras's own Muon covers matrices only. Here is told, too, how each
optimizer of a recipe is built. Not for schedules (`schedules`).
"""

import inspect
import math

import keras
from keras import ops

# Coefficients of the odd polynomial of degree five that pushes all singular values towards 1
# fastest (Jordan et al., "Muon", 2024); it does not settle there, but between 0.7 and 1.2.
_A, _B, _C = 3.4445, -4.7750, 2.0315


@keras.saving.register_keras_serializable("cifarlib")
class Muon(keras.optimizers.Optimizer):
    """Updates of convolution kernels made orthogonal; Nesterov's momentum for all other weights.

    A kernel of shape (height, width, inputs, outputs) is a matrix to it, a column for each
    filter. Its update has all singular values near 1: every direction is learned as fast as any
    other. Its norm is set to the root of the number of filters before each step, so that the
    learning rate means the same throughout.

    Other weights take steps of stochastic gradient descent. As in the recipe of Jordan
    (airbench, 2024) their rates are for gradients summed over a batch.

    Args:
        learning_rate: of kernels, a number or a schedule.
        momentum: of kernels.
        matrix_ratio: rate of matrices, in units of ``learning_rate``.
        vector_ratio: rate of biases and the like, in units of ``learning_rate``.
        other_momentum: of matrices and vectors.
        num_iterations: of the polynomial, for each kernel and step.
        **options: what every Keras optimizer takes.
    """

    def __init__(
        self,
        learning_rate=0.24,
        momentum=0.6,
        matrix_ratio=1.0,
        vector_ratio=1.0,
        other_momentum=0.85,
        num_iterations=3,
        name="muon",
        **options,
    ):
        super().__init__(learning_rate=learning_rate, name=name, **options)
        self.momentum, self.other_momentum = momentum, other_momentum
        self.matrix_ratio, self.vector_ratio = matrix_ratio, vector_ratio
        self.num_iterations = num_iterations

    def build(self, variables):
        """Make a momentum for each variable."""
        if self.built:
            return
        super().build(variables)
        self.momenta = [
            self.add_variable_from_reference(variable, name="momentum") for variable in variables
        ]

    def update_step(self, gradient, variable, learning_rate):
        """Change a variable and its momentum."""
        rate = ops.cast(learning_rate, variable.dtype)
        gradient = ops.cast(gradient, variable.dtype)
        is_kernel = len(variable.shape) == 4
        memory = self.momentum if is_kernel else self.other_momentum
        momentum = self.momenta[self._get_variable_index(variable)]
        moved = ops.convert_to_tensor(momentum) * memory + gradient
        self.assign(momentum, moved)
        step = gradient + moved * memory
        if is_kernel:
            num_filters = variable.shape[-1]
            weights = ops.convert_to_tensor(variable)
            norm = ops.sqrt(ops.sum(ops.square(weights)))
            step = ops.reshape(
                orthogonal(ops.reshape(step, (-1, num_filters)), self.num_iterations),
                variable.shape,
            )
            self.assign(variable, weights * (math.sqrt(num_filters) / norm) - step * rate)
        else:
            ratio = self.matrix_ratio if len(variable.shape) == 2 else self.vector_ratio
            self.assign_sub(variable, step * (rate * ratio))

    def get_config(self):
        """Return what makes an equal optimizer."""
        names = ("momentum", "matrix_ratio", "vector_ratio", "other_momentum", "num_iterations")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


@keras.saving.register_keras_serializable("cifarlib")
class MuonAdamW(keras.optimizers.AdamW):
    """Updates of convolution kernels made orthogonal; AdamW for all other weights.

    Unlike `Muon` it leaves a kernel's norm alone, so that convolutions with biases, or without
    normalisation behind them, may be trained with it. An orthogonal update of a matrix with m rows
    and n columns has entries of size 1 / √max(m, n); scaled by 0.2 √max(m, n) they are as large as
    AdamW's usually are, and one learning rate and one weight decay do for both (Liu et al., "Muon
    is scalable for LLM training", 2025).

    Args:
        learning_rate: of all weights, a number or a schedule.
        weight_decay: of all weights, in units of ``learning_rate``.
        momentum: of kernels.
        update_size: root of the mean square of a kernel's update, in units of ``learning_rate``.
        num_iterations: of the polynomial, for each kernel and step.
        **options: what Keras's AdamW takes.
    """

    def __init__(
        self,
        learning_rate=3e-3,
        weight_decay=0.05,
        momentum=0.95,
        update_size=0.2,
        num_iterations=5,
        name="muon_adamw",
        **options,
    ):
        super().__init__(learning_rate, weight_decay=weight_decay, name=name, **options)
        self.momentum, self.update_size = momentum, update_size
        self.num_iterations = num_iterations

    def build(self, variables):
        """Make a momentum for each kernel, beside AdamW's own, which kernels leave unused."""
        if self.built:
            return
        super().build(variables)
        self.kernel_momenta = {
            self._get_variable_index(variable): self.add_variable_from_reference(
                variable, name="kernel_momentum"
            )
            for variable in variables
            if len(variable.shape) == 4
        }

    def update_step(self, gradient, variable, learning_rate):
        """Change a variable and its momentum."""
        momentum = self.kernel_momenta.get(self._get_variable_index(variable))
        if momentum is None:
            super().update_step(gradient, variable, learning_rate)
            return
        rate = ops.cast(learning_rate, variable.dtype)
        gradient = ops.cast(gradient, variable.dtype)
        moved = ops.convert_to_tensor(momentum) * self.momentum + gradient
        self.assign(momentum, moved)
        step = ops.reshape(gradient + moved * self.momentum, (-1, variable.shape[-1]))
        size = self.update_size * math.sqrt(max(step.shape))
        step = ops.reshape(orthogonal(step, self.num_iterations), variable.shape)
        self.assign_sub(variable, step * (rate * size))

    def get_config(self):
        """Return what makes an equal optimizer."""
        names = ("momentum", "update_size", "num_iterations")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def orthogonal(matrix, num_iterations: int = 3):
    """Return a matrix with the same singular vectors and all singular values near 1.

    Newton-Schulz iterations: products of matrices only, where a decomposition would be slow.

    Args:
        matrix: tensor of shape (m, n).
        num_iterations: of the polynomial; with five, values above a hundredth of the largest end
            between 0.7 and 1.2.
    """
    matrix = matrix / (ops.sqrt(ops.sum(ops.square(matrix))) + 1e-7)
    is_tall = matrix.shape[0] > matrix.shape[1]
    for _ in range(num_iterations):
        turned = ops.transpose(matrix)
        square = turned @ matrix if is_tall else matrix @ turned
        factor = _B * square + _C * (square @ square)
        matrix = _A * matrix + (matrix @ factor if is_tall else factor @ matrix)
    return matrix


def _adamw(rate, weight_decay, batch_size):
    return keras.optimizers.AdamW(rate, weight_decay=weight_decay)


def _adam(rate, weight_decay, batch_size):
    return keras.optimizers.Adam(rate, weight_decay=weight_decay or None)


def _rmsprop(rate, weight_decay, batch_size):
    return keras.optimizers.RMSprop(rate, weight_decay=weight_decay or None)


def _sgd(rate, weight_decay, batch_size):
    return keras.optimizers.SGD(
        rate, momentum=0.9, nesterov=True, weight_decay=weight_decay or None
    )


def _muon(rate, weight_decay, batch_size):
    # Published for gradients summed over a batch of 2,000; ours are averaged.
    ratio = batch_size / 0.24
    return Muon(
        rate,
        matrix_ratio=0.0049 * ratio,
        vector_ratio=0.053 * ratio,
        weight_decay=weight_decay or None,
    )


def _muon_adamw(rate, weight_decay, batch_size):
    return MuonAdamW(rate, weight_decay=weight_decay)


# What builds each, and what that needs of this module.
_BUILDERS = {
    "adamw": (_adamw,),
    "adam": (_adam,),
    "rmsprop": (_rmsprop,),
    "sgd": (_sgd,),
    "muon": (_muon, Muon, orthogonal),
    "muon_adamw": (_muon_adamw, MuonAdamW, orthogonal),
}
NAMES = tuple(_BUILDERS)


def build(name: str, rate, weight_decay: float, batch_size: int) -> keras.optimizers.Optimizer:
    """Return a new optimizer.

    Args:
        name: one of ``NAMES``.
        rate: the learning rate, a number or a schedule.
        weight_decay: decoupled, in units of the learning rate; 0 for none.
        batch_size: images a step.
    """
    return _BUILDERS[name][0](rate, weight_decay, batch_size)


# For a digest, each with what it needs of this module; of Keras nothing. Read here, when it is
# imported: whoever edits this file while it trains does not change what has been said of that.
SOURCES = {
    name: "".join([*map(inspect.getsource, parts), str((_A, _B, _C))])
    for name, parts in _BUILDERS.items()
}
