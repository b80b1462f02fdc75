"""Figures as SVG text."""

from matplotlib.axes import Axes

from mammo_dp.reporting import paper
from mammo_dp.reporting.svg import plt, to_svg
from mammo_dp.reporting.table1 import METRICS, SOURCES, Study

COLOURS = {
    "real": "#1f6fb4",
    "syn": "#7f7f7f",
    "synpre": "#9467bd",
    "real_syn": "#2a9d4b",
    "synpre_realft": "#d1690e",
}


def privacy_utility(study: Study) -> str:
    """Score against epsilon, one panel for each metric and test set; the paper's points dashed where it has any."""
    epsilons = sorted(
        {row.epsilon for row in study.rows} | ({1, 6, 12, 20, 60, paper.INF} if study.has_paper else set())
    )
    places = {epsilon: place for place, epsilon in enumerate(epsilons)}
    figure, axes = plt.subplots(
        len(METRICS),
        len(study.sources),
        figsize=(4.6 * len(study.sources), 5.6),
        squeeze=False,
        sharex=True,
        sharey="row",
    )
    for line, (metric, name) in zip(axes, METRICS.items(), strict=True):
        for panel, source in zip(line, study.sources, strict=True):
            _panel(panel, study, source, metric, places)
            panel.set_title(
                f"{SOURCES.get(source, source)}: {name}{' (benign)' if metric != 'auroc' else ''}"
            )
    for panel in axes[-1]:
        panel.set_xticks(list(places.values()), [f"{e:g}".replace("inf", "∞") for e in places])
        panel.set_xlabel("epsilon")
    axes[0][0].legend(fontsize=8)
    return to_svg(figure)


def _panel(panel: Axes, study: Study, source: str, metric: str, places: dict[float, int]) -> None:
    for experiment in dict.fromkeys(row.experiment for row in study.rows):
        colour = COLOURS.get(experiment)
        points = [
            (places[row.epsilon], *score)
            for row in study.rows
            if row.experiment == experiment and (score := row.score(source, metric)) is not None
        ]
        if points:
            xs, means, stds, _ = zip(*sorted(points), strict=True)
            panel.errorbar(xs, means, yerr=stds, marker="o", capsize=3, color=colour, label=experiment)
        theirs = [(places[e], s.mean) for e, s in paper.curve(experiment, source, metric) if e in places]
        if theirs:
            panel.plot(
                *zip(*theirs, strict=True), "x--", color=colour, alpha=0.6, label=f"{experiment}, paper"
            )
    if metric == "auroc":
        panel.axhline(0.5, color="0.6", linewidth=0.8, linestyle=":")
    panel.grid(alpha=0.25)
