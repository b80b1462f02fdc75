"""The model card of an exported bundle, from what the bundle holds anyway."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def model_card(settings: dict[str, Any], privacy: dict[str, Any]) -> str:
    """Markdown. `settings` and `privacy` are the bundle's config.yaml and privacy.json."""
    environment = Environment(
        loader=PackageLoader("mammo_dp.reporting"),
        undefined=StrictUndefined,
        trim_blocks=True,
        autoescape=False,
    )
    return environment.get_template("model_card.md.j2").render(settings=settings, privacy=privacy)
