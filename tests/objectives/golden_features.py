"""Reference values of `features` and `ensembles`, written from their formulas.

As in `golden.py`, nothing here uses the package: plain float64 arithmetic, one example
at a time.
"""

import math

import numpy as np
from golden import cross_entropy, kl, one_hot, softmax


def attention(maps: np.ndarray) -> np.ndarray:
    """Mean over channels of the squares of `[h, w, channels]`."""
    height, width, channels = maps.shape
    return np.array(
        [
            [
                math.fsum(maps[i, j, k] ** 2 for k in range(channels)) / channels
                for j in range(width)
            ]
            for i in range(height)
        ]
    )


def blocks(values: np.ndarray, height: int, width: int) -> list[float]:
    """Means over equal blocks of `[h, w]`, row by row."""
    rows, columns = values.shape[0] // height, values.shape[1] // width
    return [
        math.fsum(
            values[i * rows + a, j * columns + b]
            for a in range(rows)
            for b in range(columns)
        )
        / (rows * columns)
        for i in range(height)
        for j in range(width)
    ]


def unit(values: list[float]) -> list[float]:
    """v / |v|."""
    norm = math.sqrt(math.fsum(v * v for v in values))
    return [v / norm for v in values]


def attention_distance(maps: np.ndarray, other: np.ndarray) -> float:
    """mean_i (Q_i / |Q| - R_i / |R|)^2 at the smaller size in each direction."""
    height = min(maps.shape[0], other.shape[0])
    width = min(maps.shape[1], other.shape[1])
    q, r = (unit(blocks(attention(m), height, width)) for m in (maps, other))
    return math.fsum((a - b) ** 2 for a, b in zip(q, r, strict=True)) / len(q)


def feature_distance(f: list[float], g: list[float]) -> float:
    """sum_d (f_d - g_d)^2."""
    return math.fsum((a - b) ** 2 for a, b in zip(f, g, strict=True))


def native_ensemble(
    y: int, logits: list[list[float]], gates: list[float], r: float
) -> float:
    """ONE: sum_i CE_i + CE_e + r 9 sum_i KL(p_e,3 || p_i,3), z_e = sum_i g_i z_i."""
    together = [
        math.fsum(g * z[k] for g, z in zip(gates, logits, strict=True))
        for k in range(len(logits[0]))
    ]
    label = one_hot(y)
    hard = [cross_entropy(label, softmax(z)) for z in [*logits, together]]
    soft = [kl(softmax(together, 3.0), softmax(z, 3.0)) for z in logits]
    return math.fsum(hard) + r * 9 * math.fsum(soft)
