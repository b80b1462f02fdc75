"""What is said of each setting, from the schema: `--help KEY` and docs/settings.md."""

import ast
import re
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from mammo_dp.config import schema
from mammo_dp.config.compose import section_of, settings
from mammo_dp.config.schema import Config, Section
from mammo_dp.files import to_json

INTRODUCTION = """\
# Settings

Every setting, its type, default and meaning. Set one with `KEY=VALUE` on the command line; a preset of `configs/` sets
several (`recipe=dp_gd`). The defaults here are the schema's, before a preset changes them. This page is made from
`src/mammo_dp/config/schema.py`: `python -m mammo_dp --help settings > docs/settings.md`.
"""


@cache
def _read_docstrings() -> None:
    """Make the docstring of every field of the schema its description: parsed here alone, since it takes a while."""
    for node in ast.parse(Path(schema.__file__).read_text()).body:
        if isinstance(node, ast.ClassDef):
            fields = getattr(schema, node.name).model_fields
            for field, docstring in pairwise(node.body):
                if isinstance(field, ast.AnnAssign) and isinstance(docstring, ast.Expr):
                    fields[ast.unparse(field.target)].description = ast.literal_eval(docstring.value)


def page() -> str:
    """docs/settings.md."""
    _read_docstrings()
    return "\n".join([INTRODUCTION, *_sections(Config, "")])


def _sections(section: type[Section], prefix: str) -> list[str]:
    title = prefix.rstrip(".") or "the command"
    lines = [f"## {title}", "", " ".join((section.__doc__ or "").split()), ""]
    lines += ["| setting | type | default | meaning |", "|---|---|---|---|"]
    inner: list[str] = []
    for name, field in section.model_fields.items():
        found = section_of(field)
        if found and not isinstance(field.default, Section):
            own = f"{prefix}{name}.NAME." if get_origin(field.annotation) is dict else f"{prefix}{name}."
            inner += _sections(found, own)
            if field.is_required() and get_origin(field.annotation) is not dict:
                continue
        lines.append(
            f"| `{prefix}{name}` | {_cell(kind(field))} | `{default(field)}` | {_cell(meaning(field))} |"
        )
    return [*lines, "", *inner]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def meaning(field: FieldInfo) -> str:
    return " ".join((field.description or "").split())


def describe(key: str) -> str | None:
    """What `--help KEY` prints of a setting or of a whole section; None if there is none of that name."""
    _read_docstrings()
    known = dict(settings())
    found = [name for name in known if name == key or name.startswith(f"{key}.")]
    return "\n".join(_one(name, known[name]) for name in found) or None


def _one(key: str, field: FieldInfo) -> str:
    return f"{key}  ({kind(field)}; default {default(field)})\n    {meaning(field)}"


def default(field: FieldInfo) -> str:
    if field.is_required():
        return "by preset"
    if isinstance(field.default, Section):  # like another section, but for some settings
        return ", ".join(
            f"{name}={value}" for name, value in field.default.model_dump(exclude_unset=True).items()
        )
    text = re.sub(r"\s+", " ", to_json(field.default)).replace('"', "")
    return re.sub(r"([\[{]) | ([\]}])", r"\1\2", text)


def kind(field: FieldInfo) -> str:
    """Type and range of a setting, as in `float > 0` or `a | b`."""
    return " ".join([_kind(field.annotation), *_ranges(field.metadata)])


def _kind(annotation: Any) -> str:
    arguments = get_args(annotation)
    origin = get_origin(annotation)
    if origin is Annotated:
        return " ".join([_kind(arguments[0]), *_ranges(arguments[1:])])
    if origin in (Union, UnionType):
        return " | ".join("null" if a is type(None) else _kind(a) for a in arguments)
    if origin in (list, dict):
        return f"{origin.__name__} of {_kind(arguments[-1])}"
    if origin is not None:  # Literal
        return " | ".join(str(a) for a in arguments)
    return "any" if annotation is Any else annotation.__name__


def _ranges(metadata: Sequence[Any]) -> list[str]:
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    inner = [part for item in metadata for part in (getattr(item, "metadata", None) or [item])]
    return [f"{sign} {getattr(i, name):g}" for i in inner for name, sign in signs.items() if hasattr(i, name)]
