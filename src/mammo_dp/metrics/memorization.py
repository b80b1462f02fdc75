"""Does a generator remember its training images? Whether they lie nearer to its samples than held-out patients do.

An attack by distance (Chen et al. 2020, GAN-Leaks): a real image scores by its nearest synthetic one, and the AUC tells
training images (members) from held-out ones. Both kinds meet the same synthetic set, so their numbers may differ.
0.5: no trace. A private score near 0.5 proves nothing: the epsilon is the claim, this is a check.
"""

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from mammo_dp.metrics.subsets import each_unknown_alone

CHUNK = 64  # real images at a time


@dataclass(frozen=True)
class Nearest:
    """For each of n vectors, the nearest of the other set: correlation, its number, and the flip that matched."""

    correlation: np.ndarray  # (n,) Pearson's
    partner: np.ndarray  # (n,)
    flip: np.ndarray  # (n,)


def nearest(real: torch.Tensor, synthetic: torch.Tensor) -> tuple[Nearest, Nearest]:
    """For each real image its nearest synthetic one, and for each synthetic image its nearest real one.

    real: (n, flips, d), all flips of each image; synthetic: (m, d). Nearest by Pearson correlation.
    """
    made = _standardised(synthetic)
    count = len(made)
    of_real = [np.empty(len(real)), np.empty(len(real), np.int64), np.empty(len(real), np.int64)]
    best = torch.full((count,), -2.0)
    partner, flip = torch.zeros(count, dtype=torch.int64), torch.zeros(count, dtype=torch.int64)
    for start in range(0, len(real), CHUNK):
        part = _standardised(real[start : start + CHUNK].float())
        found = part.flatten(0, 1) @ made.T  # (images * flips, m)
        over_flips, which_flip = found.view(len(part), -1, count).max(dim=1)
        value, which = over_flips.max(dim=1)
        stop = start + len(part)
        of_real[0][start:stop] = value.numpy()
        of_real[1][start:stop] = which.numpy()
        of_real[2][start:stop] = which_flip[torch.arange(len(part)), which].numpy()
        value, which = over_flips.max(dim=0)
        better = value > best
        best = torch.where(better, value, best)
        partner = torch.where(better, which + start, partner)
        flip = torch.where(better, which_flip[which, torch.arange(count)], flip)
    return Nearest(*of_real), Nearest(best.numpy(), partner.numpy(), flip.numpy())


def _standardised(vectors: torch.Tensor) -> torch.Tensor:
    """Centred and of unit length, so that inner products are correlations."""
    centred = vectors.float() - vectors.float().mean(dim=-1, keepdim=True)
    return torch.nn.functional.normalize(centred, dim=-1)


def membership_auc(
    members: np.ndarray,
    others: np.ndarray,
    *,
    member_patients: np.ndarray,
    other_patients: np.ndarray,
    draws: int,
    seed: int,
) -> dict[str, float | int | None]:
    """AUC of telling `members` from `others` by a score, with a 95 % interval from a bootstrap over patients.

    Patients, not images, are drawn with replacement: images of one patient resemble each other. `draws` 0: no interval.
    """
    scores = np.concatenate([members, others])
    truth = np.repeat([1, 0], [len(members), len(others)])
    rng = np.random.default_rng(seed)
    sampled = []
    for _ in range(draws):
        weights = np.concatenate([_patient_weights(p, rng) for p in (member_patients, other_patients)])
        sampled.append(roc_auc_score(truth, scores, sample_weight=weights))
    low, high = np.quantile(sampled, [0.025, 0.975]) if sampled else (None, None)
    return {
        "auc": float(roc_auc_score(truth, scores)),
        "low": None if low is None else float(low),
        "high": None if high is None else float(high),
        "members": len(members),
        "held_out": len(others),
    }


def _patient_weights(patients: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """How often each image's patient comes up when as many patients are drawn as there are."""
    names, of_image = np.unique(each_unknown_alone(patients), return_inverse=True)
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)))
    return drawn[of_image].astype(float)


CALIBRATED = (0.95, 0.99)  # quantiles of how near held-out images come to training images


def copies(
    made: np.ndarray, held_out: np.ndarray, *, held_out_patients: np.ndarray, draws: int, seed: int
) -> dict[str, dict[str, float | int | None]]:
    """Synthetic images nearer to a training image than nearly all real images of held-out patients are.

    made, held_out: correlation of each with its nearest training image. For each quantile of the held-out ones: the
    share of synthetic images above it, which is one less the quantile for a fresh sample of real images, with a 95 %
    interval from a bootstrap over held-out patients. Blurred images correlate with everything, so that a large share
    calls for a look at the pairs, and a small one says that the nearest training image is no nearer than chance.
    """
    rng = np.random.default_rng(seed)
    weights = [_patient_weights(held_out_patients, rng) for _ in range(draws)]
    found: dict[str, dict[str, float | int | None]] = {}
    for level in CALIBRATED:
        threshold = float(np.quantile(held_out, level))
        sampled = [float((made > _quantile(held_out, w, level)).mean()) for w in weights]
        low, high = np.quantile(sampled, [0.025, 0.975]) if sampled else (None, None)
        found[f"nearer_than_{100 * level:g}_percent"] = {
            "expected": 1 - level,
            "share": float((made > threshold).mean()),
            "low": None if low is None else float(low),
            "high": None if high is None else float(high),
            "images": int((made > threshold).sum()),
            "correlation": threshold,
        }
    return found


def _quantile(values: np.ndarray, weights: np.ndarray, level: float) -> float:
    """The smallest value with at least a share `level` of the weight at or below it."""
    order = np.argsort(values)
    below = np.cumsum(weights[order]) / weights.sum()
    return float(values[order][np.searchsorted(below, level)])
