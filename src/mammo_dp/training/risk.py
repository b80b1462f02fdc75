"""A number for every training unit: what the run has revealed about it (`privacy.individual`), for the owner alone."""

import numpy as np
import pandas as pd

from mammo_dp.data import synthetic
from mammo_dp.privacy.gaussian import gaussian_mu
from mammo_dp.privacy.individual import Individual, epsilons
from mammo_dp.training.build import Task

RISK = "risk.csv"
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


def risk_table(task: Task, individual: Individual, *, spent: float) -> pd.DataFrame:
    """One line a real unit: its name, number of images, mu, and epsilon at privacy.delta. spent: epsilon of the run.

    mu is exact for full batches, and an upper bound under Poisson sampling.
    """
    delta, mechanism = task.config.privacy.delta, task.plan.mechanism
    assert mechanism is not None
    most = mechanism.mu if mechanism.is_full_batch else gaussian_mu(spent, delta=delta)
    mu = individual.mu(delta=delta, most=most)
    members, unit = task.units.members(), task.config.privacy.unit
    names = task.patches.patients if unit == "patient" else task.patches.index["patch"].to_numpy(str)
    sources = task.patches.index["source"].to_numpy(str)
    real = [
        i for i, positions in enumerate(members) if positions and sources[positions[0]] != synthetic.SOURCE
    ]
    first = [members[i][0] for i in real]
    return pd.DataFrame(
        {
            "unit": unit,
            "record": names[first],
            "images": [len(members[i]) for i in real],
            "mu": mu[real],
            "epsilon": epsilons(mu[real], delta=delta),
            "mu_over_run": mu[real] / most,
        }
    )


def spread(values: np.ndarray) -> dict[str, float]:
    """Quantiles, without a name."""
    found = np.quantile(values, QUANTILES) if len(values) else np.full(len(QUANTILES), np.nan)
    return {f"{100 * q:g} %": float(value) for q, value in zip(QUANTILES, found, strict=True)}
