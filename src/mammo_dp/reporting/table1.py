"""Table 1: runs grouped into rows, their mean and standard deviation over seeds, the paper's numbers beside them."""

import json
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from omegaconf import OmegaConf

from mammo_dp.artifacts import Artifact
from mammo_dp.files import fingerprint
from mammo_dp.reporting import paper
from mammo_dp.rounding import rounded_up

METRICS = {"auroc": "AUROC", "auprc_benign": "AUPRC"}
SOURCES = {"cbis_ddsm": "CBIS-DDSM", "bcdr": "BCDR", "toy_cbis": "toy", "toy_bcdr": "toy external"}
EXPERIMENTS = ("real", "syn", "synpre", "real_syn", "synpre_realft")


@dataclass(frozen=True)
class Run:
    """One finished classifier."""

    study: str  # fingerprint of everything but privacy, experiment and seed: what may stand in one table
    setting: str  # fingerprint of everything but the seed: what may stand in one row
    title: str
    experiment: str
    epsilon: float
    privacy: str  # the rest of the privacy settings, in words
    seed: int
    headline: float  # end-to-end epsilon of its ledger, infinite if anything that shaped it has no guarantee
    statement: str
    ledger: dict[str, Any]  # its record, for what several seeds reveal together
    test: dict[str, dict[str, Any]]  # source -> metric -> value

    @classmethod
    def of(cls, artifact: Artifact) -> "Run":
        settings = json.loads(json.dumps(artifact.manifest["settings"]))
        one_row = {key: value for key, value in settings.items() if key != "seed"}
        every_input = {role: record["fingerprint"] for role, record in artifact.manifest["inputs"].items()}
        synthetic = settings.pop("synthetic", None)
        if synthetic is not None:
            synthetic["from"] = artifact.manifest["inputs"]["synthetic"]["artifact"].partition("/")[2]
        privacy, seed, experiment = settings.pop("privacy"), settings.pop("seed"), settings.pop("experiment")
        norm = settings["recipe"].pop("max_grad_norm", None)
        inputs = {role: value for role, value in every_input.items() if not role.startswith("synthetic")}
        config: Any = OmegaConf.load(artifact.path("config.yaml"))
        study = fingerprint({**settings, "inputs": inputs, "version": artifact.manifest["stage_version"]})
        return cls(
            study=study,
            setting=fingerprint({**one_row, "inputs": every_input}),
            title=f"{config.dataset.name}, {config.classifier.backbone}, recipe {config.recipe.name} ({study})",
            experiment=experiment,
            epsilon=float(privacy["epsilon"]),
            privacy=_privacy_words(artifact.manifest["privacy"], norm, synthetic),
            seed=seed,
            headline=_headline(artifact.manifest["privacy"]["ledger"]),
            statement=artifact.manifest["privacy"]["ledger"]["statement"],
            ledger=artifact.manifest["privacy"]["ledger"],
            test=artifact.read_json("metrics.json")["test"],
        )


def _headline(ledger: dict[str, Any]) -> float:
    worst = ledger["headline"]
    return 0.0 if worst is None else math.inf if worst["epsilon"] is None else float(worst["epsilon"])


def _privacy_words(privacy: dict[str, Any], norm: float | None, synthetic: dict[str, Any] | None) -> str:
    if privacy["epsilon"] == "inf":
        words = ["not private", *(["patients averaged"] if privacy["unit"] == "patient" else [])]
    else:
        words = [
            f"{privacy['unit']} level",
            f"delta {privacy['delta']:g}",
            f"{privacy['accountant']} accounting",
            f"C {norm:g}",
            f"N {privacy['public_count']}",
            *([privacy["adjacency"]] if privacy["adjacency"] != "add_remove" else []),
        ]
    if synthetic is not None:
        role = "".join(f" {synthetic[key]}" for key in ("role", "weight") if key in synthetic)
        words.append(f"synthetic images{role} ({synthetic['from']})")
    return ", ".join(words)


@dataclass(frozen=True)
class Row:
    """One setup at one epsilon: all its seeds."""

    experiment: str
    epsilon: float
    privacy: str
    runs: tuple[Run, ...]
    seeds_together: float | None = None  # epsilon of all its seeds' training mechanisms, released together

    @property
    def headline(self) -> float:
        """End-to-end epsilon of one run; the worst of them."""
        return max(run.headline for run in self.runs)

    @property
    def seeds(self) -> list[int]:
        return sorted(run.seed for run in self.runs)

    def score(self, source: str, metric: str) -> tuple[float, float, int] | None:
        """Mean and population standard deviation (the paper's) over seeds, and the number of seeds."""
        values = [run.test[source][metric] for run in self.runs if source in run.test]
        values = [value for value in values if value is not None]
        return (statistics.fmean(values), statistics.pstdev(values), len(values)) if values else None


@dataclass(frozen=True)
class Study:
    """Rows that differ in setup, privacy and seed alone."""

    title: str
    sources: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def has_paper(self) -> bool:
        """Whether the paper reports any of its test sets."""
        return any(source in ("cbis_ddsm", "bcdr") for source in self.sources)


def studies(
    runs: Iterable[Run], *, together: Callable[[Sequence[Run]], float | None] = lambda runs: None
) -> list[Study]:
    """Group runs; order as in the paper: not private first, then by rising epsilon, then by setup.

    `together` gives the epsilon of several seeds of one row, released together.
    """
    by_study: dict[str, list[Run]] = {}
    for run in runs:
        by_study.setdefault(run.study, []).append(run)
    found = []
    for members in by_study.values():
        rows: dict[tuple[float, str, str, str], list[Run]] = {}
        for run in members:
            rows.setdefault((run.epsilon, run.experiment, run.privacy, run.setting), []).append(run)
        ordered = sorted(
            rows, key=lambda key: (key[0] != paper.INF, key[0], EXPERIMENTS.index(key[1]), *key[2:])
        )
        found.append(
            Study(
                title=members[0].title,
                sources=_in_order({source for run in members for source in run.test}),
                rows=tuple(
                    Row(
                        key[1],
                        key[0],
                        key[2],
                        tuple(sorted(rows[key], key=lambda r: r.seed)),
                        together(rows[key]),
                    )
                    for key in ordered
                ),
            )
        )
    return sorted(found, key=lambda study: study.title)


def _in_order(sources: set[str]) -> tuple[str, ...]:
    """Development before external, as listed in SOURCES; others after them by name."""
    known = list(SOURCES)
    return tuple(sorted(sources, key=lambda s: (known.index(s) if s in SOURCES else len(known), s)))


def frame(study: Study) -> pd.DataFrame:
    """The table as words: one row a setup and epsilon, ours and the paper's columns for each test set."""
    lines = []
    for row in study.rows:
        line: dict[str, str] = {
            "setup": row.experiment,
            "epsilon": f"{row.epsilon:g}",
            "n": str(len(row.runs)),
        }
        for source in study.sources:
            for metric, name in METRICS.items():
                line[f"{SOURCES.get(source, source)} {name}"] = _words(row.score(source, metric))
                if source in ("cbis_ddsm", "bcdr"):
                    line[f"paper {SOURCES[source]} {name}"] = _words(
                        paper.score(row.experiment, row.epsilon, source, metric)
                    )
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
                for metric in METRICS:
                    ours = row.score(source, metric)
                    if ours is None:
                        continue
                    theirs = paper.score(row.experiment, row.epsilon, source, metric)
                    lines.append(
                        {
                            "study": study.title,
                            "experiment": row.experiment,
                            "epsilon": row.epsilon,
                            "privacy": row.privacy,
                            "end_to_end_epsilon": row.headline,
                            "all_seeds_mechanism_epsilon": row.seeds_together,
                            "test_set": source,
                            "metric": metric,
                            "mean": ours[0],
                            "population_std": ours[1],
                            "n": ours[2],
                            "seeds": " ".join(map(str, row.seeds)),
                            "paper_mean": theirs.mean if theirs else None,
                            "paper_population_std": theirs.std if theirs else None,
                        }
                    )
    return pd.DataFrame(lines)


def markdown(all_studies: Iterable[Study], *, privacy: bool = True) -> str:
    """All tables in Markdown; without the privacy column where it must fit a terminal."""
    blocks = []
    for study in all_studies:
        table = frame(study)
        if not privacy:
            table = table.drop(columns="privacy")  # of a terminal
        cells = [list(table.columns), *table.to_numpy().tolist()]
        widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
        lines = [
            "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in cells
        ]
        lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
        blocks.append(f"### {study.title}\n\n" + "\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def _words(score: tuple[float, ...] | None) -> str:
    """(0.6571, 0.0123, ...) -> '.657 ± .012'."""
    if score is None:
        return "–"
    return " ± ".join(f"{value:.3f}".removeprefix("0") for value in score[:2])
