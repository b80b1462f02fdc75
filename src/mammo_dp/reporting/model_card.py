"""The model card of an exported bundle, from what the bundle holds anyway."""

from typing import Any

from mammo_dp.reporting.template import template


def model_card(settings: dict[str, Any], privacy: dict[str, Any]) -> str:
    """Markdown. `settings` and `privacy` are the bundle's config.yaml and privacy.json."""
    return template("model_card.md.j2").render(settings=settings, privacy=privacy)
