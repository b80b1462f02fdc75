"""Figures as SVG text."""

import math

import numpy as np
from matplotlib.axes import Axes
from sklearn.metrics import precision_recall_curve, roc_curve

from mammo_dp.metrics.bootstrap import BINS, bins_of
from mammo_dp.metrics.classification import IN_TABLE, METRICS
from mammo_dp.reporting import paper
from mammo_dp.reporting.collect import PUBLIC
from mammo_dp.reporting.svg import plt, to_svg
from mammo_dp.reporting.table1 import SOURCES, Row, Study

COLOURS = {
    "real": "#1f6fb4",
    "syn": "#7f7f7f",
    "synpre": "#9467bd",
    "real_syn": "#2a9d4b",
    "synpre_realft": "#d1690e",
    f"real{PUBLIC}": "#c2255c",
    f"real_syn{PUBLIC}": "#6d4c41",
}
MARKERS = "osD^vP*X"
GRID = np.linspace(0, 1, 101)  # where curves of several seeds are averaged


def privacy_utility(study: Study) -> str:
    """Score against epsilon, one panel for each metric and test set; the paper's points dashed where it has any.

    Bars are population deviations over seeds.
    """
    epsilons = sorted(
        {row.epsilon for row in study.rows} | ({1, 6, 12, 20, 60, paper.INF} if study.has_paper else set())
    )
    places = {epsilon: place for place, epsilon in enumerate(epsilons)}
    figure, axes = plt.subplots(
        len(IN_TABLE),
        len(study.sources),
        figsize=(4.6 * len(study.sources), 5.6),
        squeeze=False,
        sharex=True,
        sharey="row",
    )
    for line, metric in zip(axes, IN_TABLE, strict=True):
        for panel, source in zip(line, study.sources, strict=True):
            _panel(panel, study, source, metric, places)
            panel.set_title(f"{SOURCES.get(source, source)}: {METRICS[metric].label}")
    for panel in axes[-1]:
        panel.set_xticks(list(places.values()), [f"{e:g}".replace("inf", "∞") for e in places])
        panel.set_xlabel("epsilon")
    axes[0][0].legend(fontsize=7)
    return to_svg(figure)


def _panel(panel: Axes, study: Study, source: str, metric: str, places: dict[float, int]) -> None:
    drawn: set[str] = set()
    chance = _chance(study, source, metric)
    if chance is not None:
        panel.axhline(chance, color="0.6", linewidth=0.8, linestyle=":")
    for number, (experiment, setup) in enumerate(
        dict.fromkeys((row.experiment, row.setup) for row in study.rows)
    ):
        colour, first = COLOURS.get(experiment), experiment not in drawn
        drawn.add(experiment)
        points = [
            (places[row.epsilon], score.mean, score.population_std)
            for row in study.rows
            if row.setup == setup and (score := row.score(source, metric)) is not None
        ]
        if points:
            xs, means, stds = zip(*sorted(points), strict=True)
            panel.errorbar(
                xs,
                means,
                yerr=stds,
                marker=MARKERS[number % len(MARKERS)],
                capsize=3,
                color=colour,
                label=setup,
            )
        theirs = [(places[e], s.mean) for e, s in paper.curve(experiment, source, metric) if e in places]
        if theirs and study.has_paper and first:
            panel.plot(
                *zip(*theirs, strict=True), "x--", color=colour, alpha=0.6, label=f"{experiment}, paper"
            )
    panel.grid(alpha=0.25)


def _chance(study: Study, source: str, metric: str) -> float | None:
    """What guessing gives: a number, or that of the first run that says it."""
    chance = METRICS[metric].chance
    if not isinstance(chance, str):
        return chance
    found = [run.test[source].get(chance) for row in study.rows for run in row.runs if source in run.test]
    return next((value for value in found if value is not None), None)


def curves(study: Study, epsilon: float) -> str:
    """ROC, precision-recall (benign) and reliability of every setup at one epsilon, one line of panels a test set.

    Each curve is the mean over the seeds, at 101 points; of reliability, over the bins.
    """
    rows = [row for row in study.rows if row.epsilon == epsilon]
    figure, axes = plt.subplots(len(study.sources), 3, figsize=(10, 3.2 * len(study.sources)), squeeze=False)
    for line, source in zip(axes, study.sources, strict=True):
        where = SOURCES.get(source, source)
        titles = (f"{where}: ROC", f"{where}: precision-recall (benign)", f"{where}: reliability")
        labels = (
            ("1 − specificity", "sensitivity"),
            ("recall", "precision"),
            ("predicted probability of malignant", "share malignant"),
        )
        for panel, title, (x, y) in zip(line, titles, labels, strict=True):
            panel.set(title=title, xlabel=x, ylabel=y, xlim=(0, 1), ylim=(0, 1))
            panel.grid(alpha=0.25)
        for panel in (line[0], line[2]):
            panel.plot([0, 1], [0, 1], color="0.6", linewidth=0.8, linestyle=":")
        if (chance := _chance(study, source, "auprc_benign")) is not None:
            line[1].axhline(chance, color="0.6", linewidth=0.8, linestyle=":")
        for row in rows:
            _draw(line, row, source)
    if axes[0][0].get_legend_handles_labels()[1]:
        axes[0][0].legend(fontsize=7)
    return to_svg(figure)


def _draw(line: list[Axes], row: Row, source: str) -> None:
    roc, precision, reliability = [], [], []
    for run in row.runs:
        table = run.predictions_on(source)
        labels = table["malignant"].to_numpy()
        if not 0 < labels.sum() < len(labels):
            continue
        p = table["p_malignant"].to_numpy()
        false_rate, sensitivity, _ = roc_curve(labels, p)
        roc.append(np.interp(GRID, false_rate, sensitivity))
        found, recall, _ = precision_recall_curve(1 - labels, 1 - p)
        precision.append(np.interp(GRID, recall[::-1], found[::-1]))
        reliability.append(_reliability(labels, p))
    if not roc:
        return
    colour = COLOURS.get(row.experiment)
    line[0].plot(GRID, np.mean(roc, axis=0), color=colour, label=row.setup)
    line[1].plot(GRID, np.mean(precision, axis=0), color=colour)
    with np.errstate(all="ignore"):
        sums = np.sum(reliability, axis=0)
        line[2].plot(sums[1] / sums[0], sums[2] / sums[0], "o-", markersize=3, color=colour)


def _reliability(labels: np.ndarray, p: np.ndarray) -> np.ndarray:
    """(3, BINS): number of predictions in each bin, sum of their probabilities, number of malignant ones."""
    bins = bins_of(p)
    return np.stack([np.bincount(bins, weights=w, minlength=BINS) for w in (np.ones(len(p)), p, labels)])


def epsilons(study: Study) -> list[float]:
    """Those of the study, not private first."""
    return sorted({row.epsilon for row in study.rows}, key=lambda e: (not math.isinf(e), e))
