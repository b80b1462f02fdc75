"""Sweeps: which runs they are made of, and what is computed before they start."""

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from mammo_dp.config.compose import choices, config_dir, nearest, one_line
from mammo_dp.engine import workers
from mammo_dp.engine.build import Node, key_of
from mammo_dp.engine.progress import track
from mammo_dp.errors import UserError
from mammo_dp.files import digest

Overrides = list[str]  # of one run, as they would be typed


# --- which runs -------------------------------------------------------------------------------------------------


def expand(words: Overrides) -> list[Overrides]:
    """The runs of a sweep: each combination of the values given with commas, for each block of `sweep=NAME`."""
    names = [word.partition("=")[2] for word in words if word.startswith("sweep=")]
    words = [word for word in words if not word.startswith("sweep=")]
    if not names:
        return _product(words)
    if len(names) > 1 or "," in names[0]:
        raise UserError("one sweep at a time; give sweep=NAME once")
    axes = _read(names[0])
    known = {key for block in axes["blocks"] for key in block} | set(axes.get("every", {}))
    words = [word.lstrip("+") if key_of(word) in known else word for word in words]
    given = {key_of(word): word for word in words}
    replaced = [key for key in axes.get("every", {}) if key in given]
    every = {key: values for key, values in axes.get("every", {}).items() if key not in replaced}
    runs: list[Overrides] = []
    for block in axes["blocks"]:
        kept = {key: _kept(key, values, given) for key, values in block.items()}
        others = [word for word in words if key_of(word) not in block]
        chosen = _combinations(kept | every)
        runs += [[*rest, *combination] for combination in chosen for rest in _product(others)]
    if not runs:
        raise UserError(
            f"no run of sweep={names[0]} has the values that were asked for; leave some of them out"
        )
    return runs


def _read(name: str) -> dict[str, Any]:
    from omegaconf import OmegaConf

    known = choices("sweep")
    if name not in known:
        raise UserError(f"sweep={name} is not known; choose one of {', '.join(known)}.{nearest(name, known)}")
    return OmegaConf.to_container(OmegaConf.load(config_dir() / f"sweep/{name}.yaml"))  # type: ignore[return-value]


def _combinations(axes: Mapping[str, Sequence[Any]]) -> Iterator[Overrides]:
    for values in itertools.product(*axes.values()):
        yield [f"{key}={value}" for key, value in zip(axes, values, strict=True)]


def _kept(key: str, values: Sequence[Any], given: Mapping[str, str]) -> list[Any]:
    """The values of a block that the command line asks for, or all where it says nothing."""
    if key not in given:
        return list(values)
    asked = {_plain(word.partition("=")[2]) for (word,) in _product([given[key]])}
    return [value for value in values if _plain(value) in asked]


def _plain(value: Any) -> Any:
    try:
        return float(value)
    except ValueError:
        return str(value).strip("'\"")


def _product(overrides: Overrides) -> list[Overrides]:
    """Each combination of the values given with commas or as choice() and range()."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    axes: list[list[str]] = []
    try:
        for override in OverridesParser.create().parse_overrides(overrides):
            key = override.get_key_element()
            if not override.is_sweep_override():
                axes.append([f"{key}={override.get_value_element_as_str()}"])
            elif override.is_discrete_sweep():
                axes.append([f"{key}={value}" for value in override.sweep_string_iterator()])
            else:
                raise UserError(f"{override.input_line} has no list of values; give them with commas")
    except HydraException as error:
        raise UserError(one_line(error)) from None
    return [list(run) for run in itertools.product(*axes)]


def precompute(todo: Iterable[Node]) -> None:
    """What is expensive and shared by many runs, such as calibrations, several at a time; the cache keeps it."""
    wanted: dict[str, Node] = {}
    for node in todo:
        key = node.stage.precomputation(node.config)
        if key is not None:
            wanted.setdefault(digest([node.stage.name, key]), node)
    if len(wanted) > 1:
        processes = workers.workers_for(os.cpu_count(), len(wanted))
        for _ in workers.each(
            _precompute, track(wanted.values(), "accounting", total=len(wanted)), workers=processes
        ):
            pass


def _precompute(node: Node) -> None:
    node.stage.precompute(node.config)
