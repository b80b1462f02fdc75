"""One self-contained page: nothing is loaded from anywhere."""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from mammo_dp.metrics.classification import IN_TABLE, METRICS
from mammo_dp.reporting import figures, paper
from mammo_dp.reporting.details import DETAILS, details
from mammo_dp.reporting.table1 import (
    END_TO_END,
    PAPER_SOURCES,
    SOURCES,
    Row,
    Study,
    against_paper,
    interval_words,
    short,
)
from mammo_dp.reporting.template import template
from mammo_dp.rounding import rounded_up


@dataclass(frozen=True)
class Figure2:
    """Masses and distances of one evaluation of synthetic images."""

    title: str
    png: bytes
    table: pd.DataFrame  # its distances


@dataclass(frozen=True)
class Together:
    """What the private runs of a table at one unit reveal together: `epsilon` of `runs` training mechanisms."""

    unit: str
    runs: int
    epsilon: float


def page(
    all_studies: Sequence[Study],
    *,
    provenance: dict[str, Any],
    pairs: Sequence[pd.DataFrame] = (),
    audited: Sequence[pd.DataFrame] = (),
    figure2: Sequence[Figure2] = (),
    together: Sequence[Sequence[Together]] = (),
) -> str:
    """The report as HTML text. `pairs`, `audited`, `together`: for each study."""
    blocks = [
        {
            "study": study,
            "sources": [SOURCES.get(source, source) for source in study.sources],
            "table": _table(study),
            "figure": _unique(figures.privacy_utility(study), f"s{number}"),
            "curves": [
                (_epsilon(e), _unique(figures.curves(study, e), f"s{number}e{place}"))
                for place, e in enumerate(figures.epsilons(study))
            ],
            "details": _details(details(study)),
            "pairs": _pairs(pairs[number]) if number < len(pairs) else [],
            "audits": _audits(audited[number], study) if number < len(audited) else [],
            "together": together[number] if number < len(together) else [],
            "meanings": [_meaning(row) for row in study.rows],
            "end_to_end": END_TO_END if any(row.dagger for row in study.rows) else "",
            "has_open_rows": any(row.epsilon == math.inf for row in study.rows),
        }
        for number, study in enumerate(all_studies)
    ]
    return template("report.html.j2", autoescape=True).render(
        blocks=blocks,
        provenance=provenance,
        figure2=[
            {"title": f.title, "png": base64.b64encode(f.png).decode(), "table": f.table} for f in figure2
        ],
        errata=paper.ERRATA,
        epsilon=_epsilon,
        rounded_up=rounded_up,
    )


def _meaning(row: Row) -> dict[str, str]:
    """What a row's headline allows an attacker, in words."""
    account = row.runs[0].account
    words = {"row": f"{row.setup}, ε {_epsilon(row.epsilon)}", "unit": account.unit if account else ""}
    if account is None or account.epsilon is None or account.unlimited:
        return words | dict.fromkeys(("mu", "attack", "advantage", "guess"), "no bound")
    shares = {
        key: rounded_up(100 * getattr(account, key), digits=2) for key in ("attack", "advantage", "guess")
    }
    mu = "not exact" if account.mu is None else rounded_up(account.mu, digits=3)
    return words | {key: f"{value} %" for key, value in shares.items()} | {"mu": mu}


def _unique(svg: str, prefix: str) -> str:
    """The figure with ids of its own: two figures on a page would otherwise share markers and clips."""
    for mark in ('id="', 'href="#', "url(#"):
        svg = svg.replace(mark, f"{mark}{prefix}-")
    return svg


def _epsilon(value: float) -> str:
    return f"{value:g}".replace("inf", "∞")


def _table(study: Study) -> dict[str, Any]:
    """Heads and cells of Table 1; a cell is (what it shows, small print, class)."""
    heads, lines = [], []
    columns = [(source, metric) for source in study.sources for metric in IN_TABLE]
    for source, metric in columns:
        title = f"{SOURCES.get(source, source)} {IN_TABLE[metric]}"
        heads.append((title, ""))
        if study.has_paper and source in PAPER_SOURCES:
            heads += [("paper", "paper"), ("ours − paper", "paper")]
    for row in study.rows:
        cells: list[tuple[str, str, str]] = []
        for source, metric in columns:
            ours = row.score(source, metric)
            cells.append(("–", "", "") if ours is None else (ours.words, interval_words(ours.interval), ""))
            if study.has_paper and source in PAPER_SOURCES:
                theirs = study.paper(row, source, metric)
                note = paper.ERRATA_AT.get((row.experiment, row.epsilon, source, metric), "")
                shown = "–" if theirs is None else " ± ".join(short(v) for v in theirs) + note
                cells += [(shown, "", "paper"), (against_paper(ours, theirs), "", "paper")]
        lines.append(
            {
                "row": row,
                "seeds": f"{study.seeds_of(row)} seeds",
                "note": paper.ERRATA_AT.get((row.experiment, row.epsilon), "") if study.has_paper else "",
                "cells": cells,
                "headline": rounded_up(row.headline, digits=4).replace("inf", "∞"),
            }
        )
    return {"heads": heads, "lines": lines}


def _details(table: pd.DataFrame) -> list[dict[str, Any]]:
    """One block a test set: rows of words."""
    blocks = []
    for source, part in table.groupby("test_set", sort=False) if len(table) else ():
        lines = []
        for record in part.to_dict("records"):
            group = record["of"] if record["of"] != "level" else "per"
            cells = []
            for metric in DETAILS:
                value = record[metric]
                ends: list[Any] = [record.get(f"{metric}_{end}") for end in ("low", "high")]
                known = value is not None and not pd.isna(value)
                shown = short(float(value)) if value is not None and known else "–"
                small = interval_words(ends) if known and not any(pd.isna(e) for e in ends) else ""
                cells.append((shown, small))
            lines.append(
                {
                    "row": f"{record['experiment']}, epsilon {_epsilon(record['epsilon'])}",
                    "group": f"{group} {record['value']}",
                    "n": f"{record['n']} ({record['n_malignant']})",
                    "cells": cells,
                }
            )
        blocks.append(
            {
                "title": SOURCES.get(str(source), source),
                "heads": [METRICS[m].label for m in DETAILS],
                "lines": lines,
            }
        )
    return blocks


def _pairs(table: pd.DataFrame) -> list[dict[str, str]]:
    """Setups against `real` at the same epsilon, and the same setup against no privacy; pairs.csv has all."""
    lines = []
    for r in table.to_dict("records"):
        setups = {name.partition(" ")[0] for name in (r["first"], r["second"])}
        same = r["first_epsilon"] == r["second_epsilon"] and "real" in setups and len(setups) == 2
        cost = r["first"] == r["second"] and "inf" in (f"{r['first_epsilon']}", f"{r['second_epsilon']}")
        if not (same or cost) or r["p"] is None or pd.isna(r["p"]):
            continue
        names = [f"{r[k]}, epsilon {_epsilon(r[f'{k}_epsilon'])}" for k in ("first", "second")]
        sign = "+" if r["difference"] >= 0 else "−"
        lines.append(
            {
                "pair": f"{names[0]} less {names[1]}",
                "where": f"{SOURCES.get(r['test_set'], r['test_set'])} {IN_TABLE[r['metric']]}",
                "difference": f"{sign}{short(abs(r['difference']))}",
                "interval": interval_words((r["low"], r["high"])),
                "p": f"{r['p']:.3f}",
            }
        )
    return lines


def _audits(table: pd.DataFrame, study: Study) -> list[dict[str, Any]]:
    """Claim, audit, utility: one line of words a row and unit."""
    lines = []
    for r in table.to_dict("records"):
        utility = [r.get(f"auroc_{source}") for source in study.sources]
        line = {
            "row": f"{r['setup']}, ε {_epsilon(r['epsilon'])}",
            "small": f"{r['audited_runs']}/{r['runs']} runs audited",
            "claim": _epsilon(r["epsilon"]),
            "bound": "not audited",
            "utility": ["–" if v is None or pd.isna(v) else short(v) for v in utility],
        }
        lines.append(NOT_AUDITED | line | (_audited(r) if r["audited_runs"] else {}))
    return lines


NOT_AUDITED = dict.fromkeys(("unit", "by", "contradicted", "ceiling", "interval", "spread"), "") | {
    "rates": ["", ""]
}


def _audited(r: dict[Any, Any]) -> dict[str, Any]:
    """What an audited line says more."""

    def shown(key: str, words: str, factor: float = 1.0) -> str:
        value = r.get(key, math.nan)
        return "" if pd.isna(value) else words.format(factor * value)

    control = f" control: {100 * r['noise_fraction']:g} % of the noise" if r["noise_fraction"] != 1 else ""
    return {
        "small": f"{r['audited_runs']}/{r['runs']} runs audited{control}, alpha {r['alpha']:.2g}",
        "unit": r["unit"],
        "claim": "the owner knows"
        if pd.isna(r["claim"])
        else rounded_up(r["claim"], digits=4).replace("inf", "∞"),
        "bound": f"{r['lower_bound']:.3g}",
        "by": r["by"],
        "contradicted": bool(r["contradicted"]),
        "ceiling": f"{r['ceiling']:.3g}",
        "rates": [shown(f"tpr_at_{level}_percent_fpr", "{:.2g} %", 100) for level in ("1", "0.1")],
        "interval": _rates_words(r),
        "spread": shown("median_separation", "{:.2f}"),
    }


def _rates_words(r: dict[Any, Any]) -> str:
    """Whose true positives at 1 % false ones they are, their interval, and the most that the claim allows."""
    most = r["largest_tpr_at_1_percent_fpr"]
    allowed = f"; the claim allows {rounded_up(100 * most, digits=2)}" if most < 1 else ""
    low, high = (r.get(f"tpr_at_1_percent_fpr_{end}", math.nan) for end in ("low", "high"))
    return "" if pd.isna(low) else f"{r['rates_of']} [{100 * low:.2g}, {100 * high:.2g}]{allowed}"
