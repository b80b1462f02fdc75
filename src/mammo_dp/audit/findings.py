"""What an audit found, as records for metrics.json: claims, lower bounds, rates, and the risk of single records."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import pandas as pd
from scipy.stats import chi2

from mammo_dp.audit.bounds import Rates, fitted_mu, halves_bound, noise_ratio, rates_at
from mammo_dp.audit.dependence import CROSSTALK, Dependence
from mammo_dp.audit.membership import LEVELS, Attack
from mammo_dp.audit.one_run import one_run_epsilon, one_run_mu
from mammo_dp.audit.residuals import TESTS
from mammo_dp.audit.work import Records
from mammo_dp.files import Cache
from mammo_dp.privacy.events import Event, Mechanism, Unit
from mammo_dp.privacy.gaussian import gaussian_epsilon, gaussian_mu
from mammo_dp.privacy.ledger import Ledger

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)  # of the distribution of risk
CANARIES_A_DELTA = 100  # one-run auditing is done at a delta of at most 1 over so many times the canaries
INTERVALS_OF_RETRAINS = 3  # AUC and two rates


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
            "mu": gaussian_mu(account.epsilon or 0.0, delta=delta),
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
    """What runs of the real trainer with canaries showed.

    inside, outside: scores of canaries in the training set and not; noise_squares: sum over noise_draws, in units of
    the claimed noise; p_values: of `residuals.TESTS`, the smallest of all runs times their number;
    differing: weights of a pair of runs; weights: sum of squares of the noise in the released head, and of how many
    coordinates, None where it cannot be read.
    """

    inside: np.ndarray
    outside: np.ndarray
    noise_squares: float
    noise_draws: int
    runs: int
    p_values: Mapping[str, float]
    dependence: Dependence
    differing: int
    weights: tuple[float, int] | None


def shares(attacks: Mapping[Unit, Attack], canaries: Canaried | None, *, gaussian: bool) -> int:
    """How many bounds, intervals and tests share the audit's alpha."""
    number = (2 + INTERVALS_OF_RETRAINS) * len(attacks)
    if canaries is None:
        return max(number, 1)
    bounds = 4 if gaussian else 2
    return number + bounds + len(TESTS) + 1 + 1 + len(LEVELS)  # released weights, ratio of the noise, rates


def checks(canaries: Canaried | None, *, each: float) -> dict[str, dict[str, Any]]:
    """What a sound trainer passes, but for a chance of `each` a test: what was seen, and whether it passed."""
    if canaries is None:
        return {}
    found = {
        name: {"p": canaries.p_values[name], "passed": canaries.p_values[name] >= each, "fault": fault}
        for name, fault in TESTS.items()
    }
    own = canaries.dependence
    found["clipping"] = {
        "longest_unit_over_clip": own.longest, "passed": own.longest <= 1,
        "fault": "a unit is longer than the clipping norm: units are not clipped as claimed",
    }  # fmt: skip
    if own.defect is not None:
        found["additivity"] = {
            "defect_over_clip": own.defect, "passed": own.defect <= (0 if own.exact else CROSSTALK),
            "fault": "the sum of a step is not the sum of its units: one unit changes what others contribute",
        }  # fmt: skip
    found["pairs"] = {
        "differing_weights": canaries.differing, "passed": canaries.differing == 0,
        "fault": "other units' sums, or the weights under the same noisy sums, depend on a unit's data: something "
        "passes by the noise",
    }  # fmt: skip
    if canaries.weights is not None:
        p = float(chi2.cdf(*canaries.weights))
        found["released_weights"] = {
            "p": p, "noise_over_claim": (canaries.weights[0] / canaries.weights[1]) ** 0.5, "passed": p >= each,
            "fault": "the released weights carry less noise than claimed",
        }  # fmt: skip
    return found


def contradicted(
    claim: Mapping[str, Any] | None, bound: Mapping[str, Any], found: Mapping[str, Mapping[str, Any]]
) -> bool:
    """Whether what was found cannot be under the claim. bound: of the same unit, empty where there is none."""
    if claim is None:
        return False
    return (
        not all(check["passed"] for check in found.values()) or bound.get("epsilon", 0.0) > claim["epsilon"]
    )


def all_bounds(
    attacks: Mapping[Unit, Attack],
    canaries: Canaried | None,
    *,
    own: Unit,
    each: float,
    alpha: float,
    delta: float,
    gaussian: bool,
) -> dict[str, Any]:
    """Lower bounds for both units, each at its share of alpha. own: the unit that canaries stand for.

    gaussian: the mechanism is mu-GDP.
    """
    given: dict[str, Any] = {"each": each, "delta": delta, "gaussian": gaussian}
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
            mu, most = (one_run_mu(*scores, alpha=each) for scores in _and_perfect(canaries))
            found["canaries_one_run"] = {
                "epsilon": gaussian_epsilon(mu, delta=delta), "ceiling": gaussian_epsilon(most, delta=delta),
            }  # fmt: skip
    if attack is not None:
        seen, perfect = attack.mean_bound(alpha=each, **at)
        found["retrains_mean"] = {"epsilon": seen.epsilon(**at), "ceiling": perfect.epsilon(**at)}
        _, seen, perfect = attack.worst_bound(alpha=each)
        found["retrains_worst"] = {"epsilon": seen.epsilon(**at), "ceiling": perfect.epsilon(**at)}
    best = max(found, key=lambda name: found[name]["epsilon"] or 0.0)
    ceilings = [record["ceiling"] for record in found.values() if record["ceiling"] is not None]
    return {
        "epsilon": found[best]["epsilon"],
        "mu": gaussian_mu(found[best]["epsilon"] or 0.0, delta=delta),
        "by": best,
        "ceiling": max(ceilings),
        "methods": found,
    }


def _and_perfect(canaries: Canaried) -> list[tuple[np.ndarray, np.ndarray]]:
    perfect = np.ones(len(canaries.inside)), np.zeros(len(canaries.outside))
    return [(canaries.inside, canaries.outside), perfect]


def canary_record(
    canaries: Canaried, claim: Claim, mechanism: Mechanism, *, each: float, delta: float
) -> dict[str, Any]:
    """Rates of the white-box attack, the noise that was added against the claimed one, and one-run auditing.

    One-run auditing of (epsilon, delta) pays for its own delta with the number of canaries; it is done at a smaller
    one, beside the claim's epsilon there. mu: of full batches, claimed, and as the measured noise makes it.
    """
    n, k = len(canaries.inside), len(canaries.outside)
    ratio, low, high = noise_ratio(canaries.noise_squares, canaries.noise_draws, alpha=each)
    small = min(delta, 1 / (CANARIES_A_DELTA * (n + k)))
    once, ceiling = (one_run_epsilon(*scores, alpha=each, delta=small) for scores in _and_perfect(canaries))
    record: dict[str, Any] = {
        "members": n,
        "others": k,
        "runs": canaries.runs,
        "noise_over_claim": {"value": ratio, "low": low, "high": high},
        "longest_unit_over_clip": canaries.dependence.longest,
        "one_run": {"epsilon": once, "delta": small, "claim": claim.epsilon(small), "ceiling": ceiling},
    }
    if mechanism.is_full_batch:
        record["mu"] = {
            "claimed": mechanism.mu, "measured": mechanism.mu / ratio, "low": mechanism.mu / high,
            "high": mechanism.mu / low,
        }  # fmt: skip
    for level in LEVELS:
        threshold = float(np.quantile(canaries.outside, 1 - level))
        hits = int((canaries.inside > threshold).sum())
        ends = rates_at(canaries.inside, canaries.outside, threshold=threshold, alpha=each)
        most = Rates.of_counts(n - hits, n, 0, k, alpha=each)
        record[f"tpr_at_{100 * level:g}_percent_fpr"] = {
            "value": hits / n, "low": ends.true_positive, "high": 1 - most.true_positive,
        }  # fmt: skip
    return record


def retrain_record(attack: Attack, records: Records, *, seed: int, each: float) -> dict[str, Any]:
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
        **attack.rates(seed=seed, alpha=each),
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


def attack_table(attacks: Mapping[Unit, Attack], records: Mapping[Unit, Records]) -> pd.DataFrame:
    """One line a record: how far its membership moves its margin in retrained heads, with the ends of 95 %.

    At these sizes most of the spread over records is sampling noise: `risk.csv` of the classifier is exact.
    """
    tables = []
    for unit, attack in attacks.items():
        separation, error = attack.fit.separation, attack.separation_error
        tables.append(
            pd.DataFrame(
                {
                    "unit": unit,
                    "record": records[unit].names,
                    "images": records[unit].images,
                    "separation": separation,
                    "low": separation - 1.96 * error,
                    "high": separation + 1.96 * error,
                    "tpr_at_1_percent_fpr": attack.fit.true_positive_rate(LEVELS[0]),
                }
            )
        )
    return pd.concat(tables)
