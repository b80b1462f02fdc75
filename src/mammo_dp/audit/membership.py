"""Membership inference from many models, each trained on a random half of the records (LiRA, Carlini et al. 2022).

The first half of the models tells how each record's margin is distributed with and without it in training, as two
normal distributions; the second half is attacked by the likelihood ratio. Everything measured on the second half is
therefore out of sample, and its models are independent of each other; records of one model are not.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import ndtr, ndtri

from mammo_dp.audit.bounds import Rates
from mammo_dp.metrics.bootstrap import RESAMPLES

LEVELS = (0.01, 0.001)  # false-positive rates at which the true-positive rate is given
BINS = 1000  # thresholds at which rates are counted, denser where few false positives are left
THRESHOLDS = np.linspace(-1, 3, 17)  # of one record's attack, in standard deviations from its mean without it


@dataclass(frozen=True)
class Fit:
    """Normal distributions of each record's margin: (records,) each."""

    mean_in: np.ndarray
    std_in: np.ndarray
    mean_out: np.ndarray
    std_out: np.ndarray

    @classmethod
    def of(cls, margins: np.ndarray, members: np.ndarray) -> "Fit":
        """margins, members: (records, models). Each record must be in, and out of, two models at least."""
        inside, outside = (np.where(which, margins, np.nan) for which in (members, ~members))
        return cls(
            np.nanmean(inside, axis=1), np.nanstd(inside, axis=1, ddof=1),
            np.nanmean(outside, axis=1), np.nanstd(outside, axis=1, ddof=1),
        )  # fmt: skip

    def scores(self, margins: np.ndarray) -> np.ndarray:
        """(records, models) log-likelihood ratios."""
        ratio = np.zeros_like(margins)
        for mean, std, sign in ((self.mean_in, self.std_in, 1), (self.mean_out, self.std_out, -1)):
            std = np.maximum(std, 1e-12)
            ratio -= sign * (((margins - mean[:, None]) / std[:, None]) ** 2 / 2 + np.log(std)[:, None])
        return ratio

    @property
    def separation(self) -> np.ndarray:
        """(records,) how far membership moves the margin, in standard deviations: the mu that this attack sees."""
        pooled = np.sqrt((self.std_in**2 + self.std_out**2) / 2)
        return (self.mean_in - self.mean_out) / np.maximum(pooled, 1e-12)

    def true_positive_rate(self, false_positive_rate: float) -> np.ndarray:
        """(records,) of the attack on high margins."""
        threshold = self.mean_out + ndtri(1 - false_positive_rate) * self.std_out
        return ndtr((self.mean_in - threshold) / np.maximum(self.std_in, 1e-12))


@dataclass(frozen=True)
class Attack:
    """Margins of all models, and the attack on the second half of them. (records, models) each."""

    margins: np.ndarray
    members: np.ndarray

    @property
    def halves(self) -> tuple[slice, slice]:
        middle = self.margins.shape[1] // 2
        return slice(0, middle), slice(middle, None)

    @cached_property
    def fits(self) -> tuple[Fit, Fit]:
        """Of the first half, which the attack knows, and of the second."""
        first, second = (Fit.of(self.margins[:, half], self.members[:, half]) for half in self.halves)
        return first, second

    @cached_property
    def fit(self) -> Fit:
        """Of all models."""
        return Fit.of(self.margins, self.members)

    @property
    def separation_error(self) -> np.ndarray:
        """(records,) standard error of `fit.separation`."""
        inside = self.members.sum(axis=1)
        outside = self.members.shape[1] - inside
        return np.sqrt(1 / inside + 1 / outside + self.fit.separation**2 / (2 * (inside + outside)))

    def rates(self, *, seed: int, alpha: float) -> dict[str, Any]:
        """AUC, and the true-positive rate at LEVELS, with intervals over the attacked models.

        Normal ones at alpha, whose standard error is that of resampled models.
        """
        _, second = self.halves
        scores, members = self.fits[0].scores(self.margins[:, second]), self.members[:, second]
        inside, outside = _counts(scores, members)
        weights = np.random.default_rng(seed).multinomial(
            len(inside), np.full(len(inside), 1 / len(inside)), size=RESAMPLES
        )
        seen = _curve(inside.sum(axis=0)[None], outside.sum(axis=0)[None])
        drawn = _curve(weights @ inside, weights @ outside)
        found = {}
        for name, value in seen.items():
            margin = float(ndtri(1 - alpha / 2) * drawn[name].std(ddof=1))
            ends = max(float(value[0]) - margin, 0.0), min(float(value[0]) + margin, 1.0)
            found[name] = {"value": float(value[0]), "low": ends[0], "high": ends[1]}
        return found

    def mean_bound(self, *, alpha: float, delta: float, gaussian: bool) -> tuple[Rates, Rates]:
        """Rates of the attack, averaged over records, and those of one that never errs: the ceiling at this size.

        Each record's rates lie below the mechanism's trade-off curve, which is concave, so their averages do. The
        threshold is chosen on the first half. A model's mean over records of (member and found) over the chance of
        membership, 1/2, has the average true-positive rate as its expectation.
        """
        first, second = self.halves
        fit = self.fits[0]
        early, late = fit.scores(self.margins[:, first]), fit.scores(self.margins[:, second])

        def rates(found: np.ndarray, half: slice) -> Rates:
            each = [2 * (found & which[:, half]).mean(axis=0) for which in (self.members, ~self.members)]
            return Rates.of_means(*each, largest=2.0, alpha=alpha)

        candidates = np.quantile(early, np.linspace(0.01, 0.99, 50))
        best = max(candidates, key=lambda t: rates(early > t, first).epsilon(delta=delta, gaussian=gaussian))
        return rates(late > best, second), rates(self.members[:, second], second)

    def worst_bound(self, *, alpha: float) -> tuple[int, Rates, Rates]:
        """The record that the first half of the models gives away most, its rates on the second, and the ceiling."""
        first, second = self.halves
        fit = self.fits[0]
        edges = fit.mean_out[:, None] + fit.std_out[:, None] * THRESHOLDS
        smoothed = [
            _share(self.margins[:, first], which[:, first], edges) for which in (self.members, ~self.members)
        ]
        record, place = np.unravel_index(
            np.argmax(ndtri(smoothed[0]) - ndtri(smoothed[1])), smoothed[0].shape
        )
        there = self.members[record, second]
        found = self.margins[record, second] > edges[record, place]
        n, k = int(there.sum()), int((~there).sum())
        rates = Rates.of_counts(int(found[there].sum()), n, int(found[~there].sum()), k, alpha=alpha)
        return int(record), rates, Rates.of_counts(n, n, 0, k, alpha=alpha)


def _share(margins: np.ndarray, which: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """(records, thresholds) share of the chosen models above each threshold, kept away from 0 and 1."""
    above = np.stack([((margins > edge[:, None]) & which).sum(axis=1) for edge in edges.T], axis=1)
    return (above + 0.5) / (which.sum(axis=1)[:, None] + 1)


def _counts(scores: np.ndarray, members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(models, BINS + 1) numbers of members, and of others, between two thresholds, highest first."""
    tails = np.concatenate([[0], np.geomspace(1e-5, 1, BINS - 1)])
    edges = np.unique(np.quantile(scores[~members], 1 - tails))
    place = len(edges) - np.searchsorted(edges, scores, side="right")
    models = np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
    flat, size = models * (len(edges) + 1) + place, scores.shape[1] * (len(edges) + 1)
    found = [np.bincount(flat[which], minlength=size) for which in (members, ~members)]
    return found[0].reshape(scores.shape[1], -1), found[1].reshape(scores.shape[1], -1)


def _curve(inside: np.ndarray, outside: np.ndarray) -> dict[str, np.ndarray]:
    """(rows,) AUC and true-positive rates at LEVELS, interpolated. inside, outside: (rows, bins), highest first."""
    hits, alarms = (
        np.cumsum(counts, axis=1) / counts.sum(axis=1, keepdims=True) for counts in (inside, outside)
    )
    start = np.zeros((len(hits), 1))
    hits, alarms = np.hstack([start, hits]), np.hstack([start, alarms])
    found = {"auc": ((hits[:, 1:] + hits[:, :-1]) / 2 * np.diff(alarms, axis=1)).sum(axis=1)}
    for level in LEVELS:
        found[f"tpr_at_{100 * level:g}_percent_fpr"] = np.array(
            [np.interp(level, x, y) for x, y in zip(alarms, hits, strict=True)]
        )
    return found
