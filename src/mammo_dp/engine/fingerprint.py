"""The fingerprint of an artifact: a hash of the settings that its stage uses, of outside data and of its inputs."""

from collections.abc import Mapping
from fnmatch import fnmatch
from typing import Any

from mammo_dp.config import Config
from mammo_dp.engine.stage import Stage


def settings(stage: Stage, config: Config) -> dict[str, Any]:
    """The settings that count, nested as in the configuration: all under `uses` but those that `ignores` names."""
    ignored = stage.ignores(config)
    dumped = config.model_dump()
    flat: dict[str, Any] = {}
    for key in stage.uses:
        value: Any = dumped
        for part in key.split("."):
            value = value[part]
        flat |= flatten(value, key)
    unknown = [pattern for pattern in ignored if not any(_covers(pattern, key) for key in flat)]
    if unknown:
        raise LookupError(f"{stage.name} ignores {unknown[0]}, which is not under what it uses")
    kept = {key: v for key, v in flat.items() if not any(_covers(pattern, key) for pattern in ignored)}
    return nest(kept) | dict(stage.derived(config))


def _covers(pattern: str, key: str) -> bool:
    if "*" in pattern:
        return fnmatch(key, pattern) or fnmatch(key, f"{pattern}.*")
    return key == pattern or key.startswith(f"{pattern}.")


def flatten(value: Any, key: str) -> dict[str, Any]:
    """{"a": {"b": 1}} under the key x -> {"x.a.b": 1}. An empty mapping is a value."""
    if not isinstance(value, Mapping) or not value:
        return {key: value}
    return {k: v for name, inner in value.items() for k, v in flatten(inner, f"{key}.{name}").items()}


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *parents, last = key.split(".")
        inner = tree
        for part in parents:
            inner = inner.setdefault(part, {})
        inner[last] = value
    return tree
