"""Claim, audit and utility side by side: every private row, audited or not, and every other row that was audited."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from mammo_dp.reporting.table1 import Row, Study

LEVELS = ("tpr_at_1_percent_fpr", "tpr_at_0.1_percent_fpr")
UNITS = ("image", "patient")
METHODS = {
    "canaries_threshold": "canaries, a threshold",
    "canaries_gaussian_fit": "canaries, a normal fit",
    "canaries_one_run": "canaries, one run",
    "retrains_mean": "retrained heads, mean over records",
    "retrains_worst": "retrained heads, the worst record",
}
Audits = Mapping[str, Sequence[Mapping[str, Any]]]  # name of a classifier's artifact -> metrics of its audits


def audits(study: Study, found: Audits) -> pd.DataFrame:
    """One line a row and unit, and one for each control, which was trained with less noise than is claimed.

    Of several audited seeds the one with the highest lower bound represents the row. Bounds and claims are of the
    training mechanism alone, for the unit of the line.
    """
    lines = []
    for row in study.rows:
        utility = {
            f"auroc_{source}": score.mean
            for source in study.sources
            if (score := row.score(source, "auroc")) is not None
        }
        every = [chosen for run in row.runs for chosen in _one_a_fraction(found.get(run.artifact, ()))]
        fractions = sorted({m["noise_fraction"] for m in every}, reverse=True)
        if 1.0 not in fractions and row.epsilon != float("inf"):
            lines.append(_named(row) | {"noise_fraction": 1.0, "audited_runs": 0} | utility)
        for fraction in fractions:
            chosen = [m for m in every if m["noise_fraction"] == fraction]
            for unit in UNITS:
                bounded = [m for m in chosen if m["bounds"][unit]]
                if bounded:
                    worst = max(bounded, key=lambda m: m["bounds"][unit]["epsilon"])
                    # the highest of several bounds: their alphas add up
                    alpha = min(1.0, sum(m["bounds"][unit]["alpha"] for m in bounded))
                    counts = {"noise_fraction": fraction, "audited_runs": len(bounded), "alpha": alpha}
                    lines.append(_named(row) | counts | _line(worst, unit) | utility)
    return pd.DataFrame(lines)


def _one_a_fraction(audits: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Of several audits of one run, the one that looked hardest, whatever it found; for each share of the noise."""
    largest: dict[float, Mapping[str, Any]] = {}
    for metrics in sorted(audits, key=_effort):
        largest[metrics["noise_fraction"]] = metrics
    return list(largest.values())


def _effort(metrics: Mapping[str, Any]) -> tuple[int, int, float]:
    heads = sum(found["models"] for found in metrics["retrains"].values())
    canaries = metrics["canaries"]["members"] + metrics["canaries"]["others"] if metrics["canaries"] else 0
    return heads, canaries, -metrics["alpha"]


def _named(row: Row) -> dict[str, Any]:
    return {"setup": row.setup, "epsilon": row.epsilon, "privacy": row.privacy, "runs": len(row.runs)}


def _line(metrics: Mapping[str, Any], unit: str) -> dict[str, Any]:
    claim, bound = metrics["claims"][unit], metrics["bounds"][unit]
    private = (
        claim is not None and claim["images"] is not None
    )  # it rests on the largest number of images of a patient
    line = {
        "unit": unit,
        "claim": float("inf") if claim is None else float("nan") if private else claim["epsilon"],
        "lower_bound": bound["epsilon"],
        "by": METHODS[bound["by"]],
        "ceiling": bound["ceiling"],
        "contradicted": metrics["contradicted"][unit],
        "largest_tpr_at_1_percent_fpr": (
            1.0 if claim is None or private else claim["largest_tpr_at_1_percent_fpr"]
        ),
    }
    rates = metrics["retrains"].get(unit) or (metrics["canaries"] if unit == metrics["unit"] else None) or {}
    line["rates_of"] = "retrained heads" if unit in metrics["retrains"] else "canaries"
    for level in LEVELS:
        if level in rates:
            line |= {level: rates[level]["value"], f"{level}_low": rates[level]["low"],
                     f"{level}_high": rates[level]["high"]}  # fmt: skip
    if unit in metrics["retrains"]:
        line["median_separation"] = metrics["retrains"][unit]["separation"]["50 %"]
    if unit == metrics["unit"] and metrics["canaries"]:
        once = metrics["canaries"]["one_run"]
        line |= {"one_run_bound": once["epsilon"], "one_run_delta": once["delta"], "one_run_claim": once["claim"],
                 "noise_over_claim": metrics["canaries"]["noise_over_claim"]["value"]}  # fmt: skip
    return line
