"""One self-contained page: nothing is loaded from anywhere."""

from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from mammo_dp.reporting import figures
from mammo_dp.reporting.table1 import Study, frame
from mammo_dp.rounding import rounded_up


def page(all_studies: Sequence[Study], *, provenance: dict[str, Any]) -> str:
    """The report as HTML text."""
    environment = Environment(
        loader=PackageLoader("mammo_dp.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    blocks = [
        {"study": study, "table": frame(study), "figure": figures.privacy_utility(study)}
        for study in all_studies
    ]
    return environment.get_template("report.html.j2").render(
        blocks=blocks, provenance=provenance, infinity=float("inf"), rounded_up=rounded_up
    )
