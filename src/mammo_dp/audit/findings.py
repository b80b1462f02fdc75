"""What an audit found, as records for metrics.json: claims, lower bounds, rates, and the risk of single records."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import pandas as pd

from mammo_dp.audit.bounds import Rates, fitted_mu, halves_bound, noise_ratio, rates_at
from mammo_dp.audit.membership import LEVELS, Attack
from mammo_dp.audit.one_run import one_run_epsilon
from mammo_dp.audit.work import Records
from mammo_dp.files import Cache
from mammo_dp.privacy.events import Event, Unit
from mammo_dp.privacy.gaussian import gaussian_epsilon
from mammo_dp.privacy.ledger import Ledger

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)  # of the distribution of risk
LONGEST = 1.001  # length of a clipped unit over C beyond which it is no rounding
CANARIES_A_DELTA = 100  # one-run auditing is done at a delta of at most 1 over so many times the canaries


@dataclass(frozen=True)
class Claim:
    """What training promises to one unit: `event` with its mechanism, None where nothing limits it."""

    event: Event | None
    unit: Unit
    most_images: int
    cache: Cache

    def epsilon(self, delta: float) -> float:
        """Infinite without a mechanism."""
        return self._ledger(delta).headline_epsilon if self.event else float("inf")

    def record(self, delta: float) -> dict[str, Any] | None:
        if self.event is None:
            return None
        account = self._ledger(delta).headline
        assert account is not None
        return {
            "epsilon": account.epsilon,
            "delta": delta,
            "largest_tpr_at_1_percent_fpr": account.attack,
            "images": account.images_per_patient,
        }

    def _ledger(self, delta: float) -> Ledger:
        assert self.event is not None
        return Ledger(
            (self.event,), claimed=self.unit, delta=delta, cache=self.cache, most_images=self.most_images
        )


@dataclass(frozen=True)
class Canaried:
    """Scores of canaries inside and outside the training set, and the noise that hid them, over all runs."""

    inside: np.ndarray
    outside: np.ndarray
    noise_squares: float
    noise_draws: int
    runs: int
    longest_unit: float  # of real ones, after clipping, over C

    @property
    def clipped(self) -> bool:
        """Whether no real unit was longer than C, rounding aside."""
        return self.longest_unit <= LONGEST


def contradicted(
    claim: Mapping[str, Any] | None, bound: Mapping[str, Any], canaries: Canaried | None
) -> bool:
    """Whether what was found cannot be under the claim. bound: of the same unit, empty where there is none."""
    if claim is None or not bound:
        return False
    return bound["epsilon"] > claim["epsilon"] or (canaries is not None and not canaries.clipped)


def all_bounds(
    attacks: Mapping[Unit, Attack],
    canaries: Canaried | None,
    *,
    own: Unit,
    alpha: float,
    delta: float,
    gaussian: bool,
) -> dict[str, Any]:
    """Lower bounds for both units, each at alpha over the number of all, so that together they hold at alpha.

    own: the unit that canaries stand for. gaussian: the mechanism is mu-GDP.
    """
    number = 2 * len(attacks) + (1 + gaussian if canaries else 0)
    given: dict[str, Any] = {"each": alpha / max(number, 1), "delta": delta, "gaussian": gaussian}
    found = {
        unit: bounds_of(attacks.get(unit), canaries if unit == own else None, **given)
        for unit in get_args(Unit)
    }
    return {
        unit: bound | ({"alpha": alpha, "delta": delta} if bound else {}) for unit, bound in found.items()
    }


def bounds_of(
    attack: Attack | None, canaries: Canaried | None, *, each: float, delta: float, gaussian: bool
) -> dict[str, Any]:
    """Lower bounds of epsilon at `delta` for one unit, each at its own alpha.

    A ceiling is what the same bound gives an attack that never errs; a fit has none.
    """
    if attack is None and canaries is None:
        return {}
    at = {"delta": delta, "gaussian": gaussian}
    found: dict[str, dict[str, float | None]] = {}
    if canaries is not None:
        n, k = len(canaries.inside), len(canaries.outside)
        seen = halves_bound(canaries.inside, canaries.outside, alpha=each, **at)
        perfect = Rates.of_counts(n - n // 2, n - n // 2, 0, k - k // 2, alpha=each)
        found["canaries_threshold"] = {"epsilon": seen.epsilon(**at), "ceiling": perfect.epsilon(**at)}
        if gaussian:
            mu = fitted_mu(canaries.inside, canaries.outside, alpha=each)
            found["canaries_gaussian_fit"] = {"epsilon": gaussian_epsilon(mu, delta=delta), "ceiling": None}
    if attack is not None:
        seen, perfect = attack.mean_bound(alpha=each, **at)
        found["retrains_mean"] = {"epsilon": seen.epsilon(**at), "ceiling": perfect.epsilon(**at)}
        _, seen, perfect = attack.worst_bound(alpha=each)
        found["retrains_worst"] = {"epsilon": seen.epsilon(**at), "ceiling": perfect.epsilon(**at)}
    best = max(found, key=lambda name: found[name]["epsilon"] or 0.0)
    ceilings = [record["ceiling"] for record in found.values() if record["ceiling"] is not None]
    return {
        "epsilon": found[best]["epsilon"],
        "by": best,
        "ceiling": max(ceilings),
        "methods": found,
    }


def canary_record(canaries: Canaried, claim: Claim, *, alpha: float, delta: float) -> dict[str, Any]:
    """Rates of the white-box attack, the noise that was added against the claimed one, and one-run auditing.

    One-run auditing pays for its own delta with the number of canaries; it is done at a smaller one, beside the claim's
    epsilon there.
    """
    n, k = len(canaries.inside), len(canaries.outside)
    ratio, low, high = noise_ratio(canaries.noise_squares, canaries.noise_draws, alpha=alpha)
    small = min(delta, 1 / (CANARIES_A_DELTA * (n + k)))
    record: dict[str, Any] = {
        "members": n,
        "others": k,
        "runs": canaries.runs,
        "noise_over_claim": {"value": ratio, "low": low, "high": high},
        "longest_unit_over_clip": canaries.longest_unit,
        "clipped_as_claimed": canaries.clipped,
        "one_run": {
            "epsilon": one_run_epsilon(canaries.inside, canaries.outside, alpha=alpha, delta=small),
            "delta": small,
            "claim": claim.epsilon(small),
            "ceiling": one_run_epsilon(np.ones(n), np.zeros(k), alpha=alpha, delta=small),
        },
    }
    for level in LEVELS:
        threshold = float(np.quantile(canaries.outside, 1 - level))
        hits = int((canaries.inside > threshold).sum())
        ends = rates_at(canaries.inside, canaries.outside, threshold=threshold, alpha=alpha)
        most = Rates.of_counts(n - hits, n, 0, k, alpha=alpha)
        record[f"tpr_at_{100 * level:g}_percent_fpr"] = {
            "value": hits / n, "low": ends.true_positive, "high": 1 - most.true_positive,
        }  # fmt: skip
    return record


def retrain_record(attack: Attack, records: Records, *, seed: int) -> dict[str, Any]:
    """Rates of the attack on retrained heads, and how risk is spread over the records.

    The worst record is the one that the first half of the models gives away most; its risk is that on the second half,
    since the largest of many noisy numbers exaggerates.
    """
    first, second = attack.fits
    worst = int(np.argmax(first.separation))
    whole = attack.fit
    return {
        "records": len(records.names),
        "models": attack.margins.shape[1],
        **attack.rates(seed=seed),
        "separation": _spread(whole.separation),
        "tpr_at_1_percent_fpr_of_records": _spread(whole.true_positive_rate(LEVELS[0])),
        "worst": {
            "record": records.names[worst],
            "images": int(records.images[worst]),
            "separation": float(second.separation[worst]),
            "tpr_at_1_percent_fpr": float(second.true_positive_rate(LEVELS[0])[worst]),
        },
    }


def _spread(values: np.ndarray) -> dict[str, float]:
    return {
        f"{100 * q:g} %": float(value)
        for q, value in zip(QUANTILES, np.quantile(values, QUANTILES), strict=True)
    }


def risk_table(attacks: Mapping[Unit, Attack], records: Mapping[Unit, Records]) -> pd.DataFrame:
    """One line a record: how far its membership moves its margin, on either half of the models and on all."""
    tables = []
    for unit, attack in attacks.items():
        first, second = attack.fits
        tables.append(
            pd.DataFrame(
                {
                    "unit": unit,
                    "record": records[unit].names,
                    "images": records[unit].images,
                    "separation": attack.fit.separation,
                    "separation_first_half": first.separation,
                    "separation_second_half": second.separation,
                    "tpr_at_1_percent_fpr": attack.fit.true_positive_rate(LEVELS[0]),
                }
            )
        )
    return pd.concat(tables)
