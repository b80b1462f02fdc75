"""The templates of this package, which fail on whatever they are not given."""

from jinja2 import Environment, PackageLoader, StrictUndefined, Template


def template(name: str, *, autoescape: bool = False) -> Template:
    """A file of `templates/`. `autoescape` for HTML; Markdown stays as it is."""
    environment = Environment(
        loader=PackageLoader("mammo_dp.reporting"),
        undefined=StrictUndefined,
        trim_blocks=True,
        autoescape=autoescape,
    )
    return environment.get_template(name)
