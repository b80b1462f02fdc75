"""One self-contained page: nothing is loaded from anywhere."""

from collections.abc import Sequence
from typing import Any

from mammo_dp.reporting import figures
from mammo_dp.reporting.table1 import Study, frame
from mammo_dp.reporting.template import template
from mammo_dp.rounding import rounded_up


def page(all_studies: Sequence[Study], *, provenance: dict[str, Any]) -> str:
    """The report as HTML text."""
    blocks = [
        {"study": study, "table": frame(study), "figure": figures.privacy_utility(study)}
        for study in all_studies
    ]
    return template("report.html.j2", autoescape=True).render(
        blocks=blocks, provenance=provenance, infinity=float("inf"), rounded_up=rounded_up
    )
