"""Muon for convolutions: each kernel moves by its momentum with all singular values made equal, the rest by AdamW.

K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024); step sizes matched to AdamW's as in
J. Liu et al., "Muon is scalable for LLM training" (arXiv:2502.16982, 2025). Keras' own does so for matrices; here a
kernel ``[…, in, out]`` is taken as the matrix ``[… * in, out]``, and the iteration runs on its Gram matrix,
which for kernels five wide is a fifth of the size: half the work.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

# Quintic Newton-Schulz steps that raise small singular values fastest; the result's lie around 1, which is enough.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


def orthogonal(matrix: Any) -> Any:
    """The matrix ``[n, m]``, n >= m, with singular values near 1: U V' of its decomposition U S V', nearly.

    Where X is the matrix and G = X'X, a step X (a + b G + c G G) only multiplies X from the right, so the steps are
    taken on the factor Q ``[m, m]`` and on G, which all commute, and X Q is computed once. All of it in float32: where
    one singular value is far above the others, G rounded to bfloat16 has eigenvalues below zero, which the steps drive
    away from it until the result is hundreds of times too large.
    """
    a, b, c = COEFFICIENTS
    x = ops.cast(matrix, "float32")
    x = x / (ops.sqrt(ops.sum(ops.square(x))) + 1e-12)
    gram = ops.transpose(x) @ x
    factor = identity = ops.eye(x.shape[1], dtype=x.dtype)
    for last in (*[False] * (ITERATIONS - 1), True):
        step = a * identity + b * gram + c * (gram @ gram)
        factor = factor @ step
        if not last:
            gram = gram @ (step @ step)
    return x @ factor


class ConvMuon(keras.optimizers.Muon):  # type: ignore[misc]
    """Keras' Muon, for kernels of convolutions too. Heads, biases and scales move by AdamW."""

    def _should_use_adamw(self, variable: Any) -> bool:
        return len(variable.shape) not in (2, 3, 4) or any(name in variable.path for name in self.exclude_layers)

    def _muon_update_step(self, gradient: Any, variable: Any, lr: Any, m: Any) -> None:
        self.assign_add(m, (1.0 - self.momentum) * (gradient - m))
        direction = (1.0 - self.momentum) * gradient + self.momentum * m  # Nesterov's look ahead
        shape = variable.shape
        matrix = ops.reshape(direction, (-1, shape[-1]))
        wide = matrix.shape[0] < matrix.shape[1]
        update = orthogonal(ops.transpose(matrix) if wide else matrix)
        update = ops.cast(ops.reshape(ops.transpose(update) if wide else update, shape), variable.dtype)
        # Adam's updates have a root mean square of about 0.2; an orthogonal matrix [n, m] one of 1 / sqrt(max(n, m)).
        scale = self.rms_rate * max(matrix.shape) ** 0.5
        self.assign_sub(variable, ops.cast(lr, variable.dtype) * scale * update)
