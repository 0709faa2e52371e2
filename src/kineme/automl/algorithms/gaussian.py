"""A small Gaussian process with an RBF kernel, and its upper confidence bound.

Optuna's own process has no such bound, and needs torch; this one is NumPy and SciPy.

Promises: the same history and seed give the same point. The length scales and the noise are
those of the largest marginal likelihood, under a prior that keeps them in the size of the cube.
Method: Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), algorithm 2.1;
Srinivas et al. 2010 for the bound.

Shapes: n observations, d coordinates (a choice has one for each option), m candidates.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from kineme.automl.algorithms import draws
from kineme.automl.parameters import Kind, Parameter, Space
from kineme.automl.settings import Settings

KAPPA = 2.0
NUM_CANDIDATES = 1024
NUM_REFINEMENTS = 3
_MIN_NOISE = 1e-6
Point = Mapping[str, float]
Array = NDArray[np.float64]


def upper_confidence_bound(
    space: Space, settings: Settings, known: Sequence[tuple[Point, float]], number: int
) -> Point:
    """The point whose mean plus KAPPA standard deviations is the largest."""
    rng = np.random.default_rng(draws.derived_seed(settings.seed, "bound", number))
    keys = [one.key for one in space.parameters]
    points = np.array([[point[key] for key in keys] for point, _ in known])  # (n, keys)
    scores = np.array([score for _, score in known])
    spread = scores.std()
    process = _Process(_coordinates(space, points), (scores - scores.mean()) / (spread or 1.0))
    best = points[int(scores.argmax())]
    candidates = np.vstack([rng.random((NUM_CANDIDATES, len(keys))), best])
    for step in range(NUM_REFINEMENTS):
        bounds = process.bound(_coordinates(space, candidates))
        top = candidates[np.argsort(-bounds, kind="stable")[:8]]
        width = 0.2 * 0.3**step
        near = np.repeat(top, 32, axis=0) + rng.normal(0, width, (len(top) * 32, len(keys)))
        candidates = np.vstack([top, np.clip(near, 0, 1)])
    bounds = process.bound(_coordinates(space, candidates))
    return dict(zip(keys, map(float, candidates[int(bounds.argmax())]), strict=True))


def _coordinates(space: Space, points: Array) -> Array:
    """(rows, keys) -> (rows, d): the points that trials can really have."""
    columns = [_columns(one, points[:, i]) for i, one in enumerate(space.parameters)]
    return np.hstack(columns)


def _columns(parameter: Parameter, units: Array) -> Array:
    if parameter.kind == Kind.FLOAT and parameter.off is None:
        return units[:, None]
    if parameter.kind != Kind.CHOICE:
        held = [parameter.unit_of(parameter.value_of(float(unit))) for unit in units]
        return np.array(held)[:, None]
    places = {repr(choice): i for i, choice in enumerate(parameter.choices)}
    found = [places[repr(parameter.value_of(float(unit)))] for unit in units]
    hot = np.eye(len(parameter.choices), dtype=np.float64)[found]
    return np.asarray(hot / np.sqrt(2))  # two options are 1 apart


class _Process:
    """A Gaussian process of unit variance, fitted to scores of mean 0 and deviation 1."""

    def __init__(self, x: Array, y: Array) -> None:
        from scipy.linalg import cho_factor, cho_solve  # type: ignore[import-untyped]
        from scipy.optimize import minimize  # type: ignore[import-untyped]

        self.x = x

        def loss(logs: Array) -> float:
            kernel = _rbf(x, x, np.exp(logs[:-1])) + self._noise(logs) * np.eye(len(x))
            factor = cho_factor(kernel, lower=True)
            fit = 0.5 * y @ cho_solve(factor, y) + np.log(np.diag(factor[0])).sum()
            prior = ((logs[:-1] - np.log(0.5)) ** 2).sum() / 2 + (logs[-1] - np.log(1e-2)) ** 2 / 8
            return float(fit + prior)

        start = np.append(np.full(x.shape[1], np.log(0.5)), np.log(1e-2))
        limits = [(np.log(0.05), np.log(5.0))] * x.shape[1] + [(np.log(_MIN_NOISE), 0.0)]
        logs = minimize(loss, start, method="L-BFGS-B", bounds=limits, options={"maxiter": 30}).x
        self.scales = np.exp(logs[:-1])
        kernel = _rbf(x, x, self.scales) + self._noise(logs) * np.eye(len(x))
        self.factor = cho_factor(kernel, lower=True)
        self.weights = cho_solve(self.factor, y)

    def bound(self, x: Array) -> Array:
        """(m, d) -> (m,)"""
        from scipy.linalg import solve_triangular

        cross = _rbf(x, self.x, self.scales)  # (m, n)
        inner = solve_triangular(self.factor[0], cross.T, lower=True)
        variance = np.maximum(1.0 - (inner**2).sum(axis=0), 1e-12)
        return np.asarray(cross @ self.weights + KAPPA * np.sqrt(variance))

    @staticmethod
    def _noise(logs: Array) -> float:
        return float(np.exp(logs[-1])) + _MIN_NOISE


def _rbf(a: Array, b: Array, scales: Array) -> Array:
    distances = (((a[:, None, :] - b[None, :, :]) / scales) ** 2).sum(axis=-1)
    return np.asarray(np.exp(-0.5 * distances))
