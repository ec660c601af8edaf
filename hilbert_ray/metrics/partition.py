"""Sums over the predictions that may be compared with each other.

A set is a test set (one fold of one repeat) or all test sets of one repeat. Every metric of this package
is made of sums over sets under document weights: weights of 1 give the score, resampled counts give its
bootstrap.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse


@dataclass(frozen=True, kw_only=True, slots=True)
class Partition:
    """Which set each prediction belongs to: `index` int64 [rows] in 0..count-1."""

    index: Int[np.ndarray, " rows"]
    count: int

    def __getitem__(self, rows: np.ndarray) -> "Partition":
        """Return the same partition for some of the rows."""
        return Partition(index=self.index[rows], count=self.count)

    def sums(self, values: np.ndarray, weights: Float[np.ndarray, "rows draws"]) -> np.ndarray:
        """Return sums of weight times value: [rows] -> [sets, draws]; [rows, m] adds an axis m."""
        # A sparse matrix product: with a thousand draws it is many times faster than np.add.at, and keeps one
        # [rows, draws] array of weights for all metrics.
        rows, columns = len(values), math.prod(values.shape[1:])
        where = self.index[:, None] * columns + np.arange(columns)
        matrix = sparse.csr_array(
            (values.ravel(), (where.ravel(), np.repeat(np.arange(rows), columns))),
            shape=(self.count * columns, rows),
        )
        return np.asarray(matrix @ weights).reshape(self.count, *values.shape[1:], weights.shape[1])

    def counts(
        self, cell: Int[np.ndarray, " rows"], cells: int, weights: Float[np.ndarray, "rows draws"]
    ) -> Float[np.ndarray, "sets cells draws"]:
        """Return the weight that falls into each cell (0..cells-1) of each set."""
        where = self.index * cells + cell
        rows = len(cell)
        matrix = sparse.csr_array((np.ones(rows), (where, np.arange(rows))), shape=(self.count * cells, rows))
        return np.asarray(matrix @ weights).reshape(self.count, cells, weights.shape[1])


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Return numerator / denominator, NaN where the denominator is 0 (a metric that is not defined there)."""
    # np.divide with `where` neither warns nor divides; NaN marks "not defined", which is never an error here.
    quotient = np.full(np.broadcast(numerator, denominator).shape, np.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator != 0)
    return quotient


def defined_mean(values: np.ndarray, axis: int = 0) -> np.ndarray:
    """Return the mean over the defined (not NaN) values along an axis; NaN where none is defined."""
    defined = np.isfinite(values)
    return ratio(np.where(defined, values, 0.0).sum(axis), defined.sum(axis))
