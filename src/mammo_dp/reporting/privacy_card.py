"""The privacy card of a synthetic set: what is promised, and what could be found of its training images."""

from collections.abc import Mapping
from typing import Any

from mammo_dp.reporting.template import template


def privacy_card(
    memorization: Mapping[str, Mapping[str, Any]],
    left_out: Mapping[str, str],
    *,
    statement: str,
    synthetic: str,
    dataset: str,
    images: Mapping[str, int],
) -> str:
    """Markdown. memorization: measures by feature space, of evaluate_synthetic; images: sizes of the sets."""
    return template("privacy_card.md.j2").render(
        spaces=memorization, left_out=left_out, statement=statement, synthetic=synthetic, dataset=dataset,
        images=images,
    )  # fmt: skip
