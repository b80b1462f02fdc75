"""Table 1: runs grouped into rows; mean, deviations over seeds and intervals over patients; the paper's beside them."""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

from mammo_dp.metrics.bootstrap import interval, patient_draws
from mammo_dp.metrics.classification import IN_TABLE, weighted_metrics
from mammo_dp.reporting import paper
from mammo_dp.reporting.collect import PUBLIC, Run, group
from mammo_dp.rounding import rounded_up

SOURCES = {"cbis_ddsm": "CBIS-DDSM", "bcdr": "BCDR", "toy_cbis": "toy", "toy_bcdr": "toy external"}
PAPER_SOURCES = ("cbis_ddsm", "bcdr")
_SETUPS = ("real", "syn", "synpre", "real_syn", "synpre_realft")
EXPERIMENTS = (*_SETUPS, *(f"{name}{PUBLIC}" for name in _SETUPS))
END_TO_END = "† The epsilon is end to end: it covers everything that shaped the model."


@dataclass(frozen=True)
class Score:
    """One metric of a row: over its seeds, and over resampled patients."""

    mean: float
    population_std: float  # the paper's
    sample_std: float | None  # of more than one seed
    seeds: int
    interval: list[float] | None  # 95 %, of the mean over the seeds; of patients, not of seeds

    @property
    def words(self) -> str:
        """'.657 ± .012'; without the deviation of a single seed."""
        shown = [self.mean, *([self.population_std] if self.seeds > 1 else [])]
        return " ± ".join(short(value) for value in shown)


@dataclass(frozen=True)
class Row:
    """One setup at one epsilon: all its seeds."""

    experiment: str
    epsilon: float
    privacy: str
    runs: tuple[Run, ...]
    seeds_together: float | None = None  # epsilon of all its seeds' training mechanisms, released together
    mark: str = (
        ""  # tells apart rows of one setup under other settings: " [2]"; the column of privacy says which
    )

    @property
    def headline(self) -> float:
        """End-to-end epsilon of one run; the worst of them."""
        return max(run.headline for run in self.runs)

    @property
    def dagger(self) -> str:
        """' †' where the epsilon is end to end (END_TO_END)."""
        return " †" if math.isfinite(self.epsilon) and math.isfinite(self.headline) else ""

    @property
    def seeds(self) -> list[int]:
        return sorted(run.seed for run in self.runs)

    @property
    def setup(self) -> str:
        """The paper's name, with the mark where it needs one."""
        return self.experiment + self.mark

    @property
    def name(self) -> str:
        return f"{self.setup}, epsilon {self.epsilon:g}".replace("inf", "∞")

    @cached_property
    def resampled(self) -> dict[str, dict[str, np.ndarray]]:
        """source -> metric -> (resamples,) mean over the seeds, each resample on the same patients for all rows."""
        found: dict[str, dict[str, np.ndarray]] = {}
        for source in dict.fromkeys(s for run in self.runs for s in run.test):
            each = [_resampled(run, source) for run in self.runs if source in run.test]
            each = [values for values in each if values]
            if each:
                found[source] = {m: np.mean([values[m] for values in each], axis=0) for m in each[0]}
        return found

    def score(self, source: str, metric: str) -> Score | None:
        """Over seeds and patients, or None where no seed has the metric."""
        values = [run.test[source][metric] for run in self.runs if source in run.test]
        values = [value for value in values if value is not None]
        if not values:
            return None
        drawn = self.resampled.get(source, {}).get(metric)
        return Score(
            statistics.fmean(values),
            statistics.pstdev(values),
            statistics.stdev(values) if len(values) > 1 else None,
            len(values),
            None if drawn is None else interval(drawn),
        )


_draws: dict[tuple[str, ...], np.ndarray] = {}


def _resampled(run: Run, source: str) -> dict[str, np.ndarray]:
    table = run.predictions_on(source)
    if table.empty:
        return {}
    patients = table["patient"].to_numpy(str)
    key = tuple(patients)
    if key not in _draws:
        _draws.clear()  # of one test set at a time
        _draws[key] = patient_draws(patients)
    columns = table["malignant"].to_numpy(np.int64), table["p_malignant"].to_numpy(float)
    return weighted_metrics(*columns, _draws[key])


@dataclass(frozen=True)
class Study:
    """Rows that differ in setup, privacy and seed alone."""

    title: str
    sources: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def has_paper(self) -> bool:
        """Whether the paper reports any of its test sets, and its weights are not random ones."""
        known = any(source in PAPER_SOURCES for source in self.sources)
        return known and all(run.beside_paper for row in self.rows for run in row.runs)

    @property
    def seeds(self) -> set[int]:
        """Of the paper's setups, or of all rows where there is none of them."""
        papers = [row for row in self.rows if not row.experiment.endswith(PUBLIC)]
        return {seed for row in papers or self.rows for seed in row.seeds}

    def seeds_of(self, row: Row) -> str:
        """'2/3': how many of the study's seeds it has."""
        return f"{len(row.runs)}/{max(len(self.seeds), len(row.runs))}"

    @property
    def missing(self) -> list[str]:
        """What a whole Table 1 would have and this study has not."""
        full = len(self.seeds)
        rows = [f"{row.name}: {len(row.runs)}/{full} seeds" for row in self.rows if len(row.runs) < full]
        there = {(row.experiment, row.epsilon) for row in self.rows}
        return rows + [
            f"{e}, epsilon {x:g}".replace("inf", "∞") for e, x in paper.ROWS if (e, x) not in there
        ]

    def paper(self, row: Row, source: str, metric: str) -> paper.Score | None:
        return paper.score(row.experiment, row.epsilon, source, metric) if self.has_paper else None


def studies(
    runs: Iterable[Run], *, together: Callable[[Sequence[Run]], float | None] = lambda runs: None
) -> list[Study]:
    """Group runs; order as in the paper: not private first, then by rising epsilon, then by setup.

    `together` gives the epsilon of several seeds of one row, released together.
    """
    found = []
    for members in group(runs).values():
        rows: dict[tuple[float, str, str, str], list[Run]] = {}
        for run in members:
            rows.setdefault((run.epsilon, run.experiment, run.privacy, run.setting), []).append(run)
        ordered = sorted(
            rows, key=lambda key: (key[0] != paper.INF, key[0], EXPERIMENTS.index(key[1]), *key[2:])
        )
        marks = _marks(ordered)
        found.append(
            Study(
                title=_title(members),
                sources=_in_order({source for run in members for source in run.test}),
                rows=tuple(
                    Row(
                        experiment,
                        epsilon,
                        privacy,
                        tuple(sorted(rows[epsilon, experiment, privacy, setting], key=lambda run: run.seed)),
                        together(rows[epsilon, experiment, privacy, setting]),
                        marks[epsilon, experiment, privacy, setting],
                    )
                    for epsilon, experiment, privacy, setting in ordered
                ),
            )
        )
    return _told_apart(sorted(found, key=lambda study: study.title))


def _told_apart(studies: Sequence[Study]) -> list[Study]:
    """Equal titles get numbers: a fingerprint in them would change with any file of any patient."""
    titles = [study.title for study in studies]
    return [
        replace(s, title=f"{s.title} ({titles[: i + 1].count(s.title)})") if titles.count(s.title) > 1 else s
        for i, s in enumerate(studies)
    ]


Key = tuple[float, str, str, str]  # epsilon, experiment, privacy in words, setting


def _marks(keys: Sequence[Key]) -> dict[Key, str]:
    """Numbers for rows of one setup that differ in more than epsilon, the same at each epsilon."""
    variants: dict[
        Key, tuple[str, int]
    ] = {}  # the description, and its index among equal descriptions at this epsilon
    for key in keys:
        same = [other for other in variants if other[:3] == key[:3]]
        variants[key] = (key[2], len(same))
    marks = {}
    for key in keys:
        private = key[0] != paper.INF
        fellows = [other for other in keys if other[1] == key[1] and (other[0] != paper.INF) == private]
        distinct = list(dict.fromkeys(variants[other] for other in fellows))
        marks[key] = f" [{distinct.index(variants[key]) + 1}]" if len(distinct) > 1 else ""
    return marks


def _title(members: Sequence[Run]) -> str:
    """Data, backbone and recipe."""
    own = next((run.recipe_name for run in members if run.recipe is not None), members[0].recipe_name)
    return f"{members[0].title}, recipe {own}"


def _in_order(sources: set[str]) -> tuple[str, ...]:
    """Development before external, as listed in SOURCES; others after them by name."""
    known = list(SOURCES)
    return tuple(sorted(sources, key=lambda s: (known.index(s) if s in SOURCES else len(known), s)))


# --- as words ---------------------------------------------------------------------------------------------------


def short(value: float) -> str:
    """0.6571 -> '.657'."""
    text = f"{value:.3f}"
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


def interval_words(ends: Sequence[float] | None) -> str:
    return "" if ends is None else f"[{short(ends[0])}, {short(ends[1])}]"


def against_paper(ours: Score | None, theirs: paper.Score | None) -> str:
    """'+.031', with a ▲ or ▼ where the interval over patients excludes the paper's number."""
    if ours is None or theirs is None:
        return ""
    difference = ours.mean - theirs.mean
    marker = ""
    if ours.interval is not None and not ours.interval[0] <= theirs.mean <= ours.interval[1]:
        marker = " ▲" if difference > 0 else " ▼"
    return f"{'+' if difference >= 0 else '−'}{short(abs(difference))}{marker}"


def frame(study: Study) -> pd.DataFrame:
    """The table as words: one row a setup and epsilon, ours and the paper's columns for each test set."""
    lines = []
    for row in study.rows:
        line: dict[str, str] = {
            "setup": row.setup + row.dagger,
            "epsilon": f"{row.epsilon:g}",
            "seeds": study.seeds_of(row),
        }
        for source in study.sources:
            for metric, name in IN_TABLE.items():
                ours, title = row.score(source, metric), f"{SOURCES.get(source, source)} {name}"
                line[title] = "–" if ours is None else ours.words
                line[f"{title} 95 %"] = "" if ours is None else interval_words(ours.interval)
                if study.has_paper and source in PAPER_SOURCES:
                    theirs = study.paper(row, source, metric)
                    line[f"paper {title}"] = "–" if theirs is None else " ± ".join(short(v) for v in theirs)
                    line[f"ours − paper, {title}"] = against_paper(ours, theirs)
        line["end-to-end epsilon"] = rounded_up(row.headline, digits=4)
        line["privacy"] = row.privacy
        lines.append(line)
    return pd.DataFrame(lines)


def numbers(all_studies: Iterable[Study]) -> pd.DataFrame:
    """The tidy form of all tables: one line a study, setup, epsilon, test set and metric."""
    lines = []
    for study in all_studies:
        for row in study.rows:
            for source in study.sources:
                for metric in IN_TABLE:
                    ours = row.score(source, metric)
                    if ours is None:
                        continue
                    theirs = study.paper(row, source, metric)
                    low, high = ours.interval or (None, None)
                    lines.append(
                        {
                            "study": study.title,
                            "experiment": row.experiment,
                            "mark": row.mark.strip(" []"),
                            "epsilon": row.epsilon,
                            "privacy": row.privacy,
                            "end_to_end_epsilon": row.headline,
                            "all_seeds_mechanism_epsilon": row.seeds_together,
                            "test_set": source,
                            "metric": metric,
                            "mean": ours.mean,
                            "population_std": ours.population_std,
                            "sample_std": ours.sample_std,
                            "low_95": low,
                            "high_95": high,
                            "n_seeds": ours.seeds,
                            "n": row.runs[0].test.get(source, {}).get("n"),
                            "n_malignant": row.runs[0].test.get(source, {}).get("n_malignant"),
                            "seeds": " ".join(map(str, row.seeds)),
                            "paper_mean": theirs.mean if theirs else None,
                            "paper_population_std": theirs.std if theirs else None,
                        }
                    )
    return pd.DataFrame(lines)


def markdown(all_studies: Iterable[Study], *, narrow: bool = False) -> str:
    """All tables in Markdown; `narrow` for a terminal, without intervals, differences and the words on privacy."""
    blocks = []
    for study in all_studies:
        table = frame(study)
        if narrow:
            table = table[
                [c for c in table.columns if not c.endswith("95 %") and "−" not in c and c != "privacy"]
            ]
        cells = [list(table.columns), *table.to_numpy().tolist()]
        widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
        lines = [
            "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in cells
        ]
        lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
        note = f"\n\n{END_TO_END}" if any(row.dagger for row in study.rows) else ""
        blocks.append(f"### {study.title}\n\n" + "\n".join(lines) + note)
    return "\n\n".join(blocks) + "\n"


def latex(all_studies: Iterable[Study]) -> str:
    """All tables for LaTeX with the package booktabs: mean and population deviation, the paper's in brackets."""
    blocks = []
    for study in all_studies:
        columns = [(source, metric) for source in study.sources for metric in IN_TABLE]
        heads = [f"{SOURCES.get(s, s)} {IN_TABLE[m]}".replace("_", r"\_") for s, m in columns]
        lines = [
            f"% {study.title}",
            rf"\begin{{tabular}}{{ll{'l' * len(columns)}}}",
            r"\toprule",
            " & ".join(["setup", r"$\varepsilon$", *heads]) + r" \\",
            r"\midrule",
        ]
        for row in study.rows:
            cells = [
                row.setup.replace("_", r"\_"),
                r"$\infty$" if math.isinf(row.epsilon) else f"{row.epsilon:g}",
            ]
            for source, metric in columns:
                ours, theirs = row.score(source, metric), study.paper(row, source, metric)
                cell = "--" if ours is None else ours.words.replace("±", r"$\pm$")
                cells.append(cell + (f" [{short(theirs.mean)}]" if theirs else ""))
            lines.append(" & ".join(cells) + r" \\")
        blocks.append("\n".join([*lines, r"\bottomrule", r"\end{tabular}"]))
    return "\n\n".join(blocks) + "\n"
