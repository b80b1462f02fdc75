"""The fingerprint of an artifact: a hash of the settings that its stage uses, of outside data and of its inputs."""

from collections.abc import Mapping
from fnmatch import fnmatch
from typing import Any

from mammo_dp import files
from mammo_dp.config import Config
from mammo_dp.engine.artifacts import Artifact
from mammo_dp.engine.stage import Stage


def of(identity: Mapping[str, Any]) -> str:
    """The fingerprint: 8 hex digits of the SHA-256 of the identity's canonical JSON."""
    return files.fingerprint(identity)


def identity(
    stage: Stage,
    config: Config,
    *,
    outside: Mapping[str, str],
    inputs: Mapping[str, str],
    collected: Mapping[str, Artifact],
) -> dict[str, Any]:
    """Everything that the fingerprint of an artifact hashes.

    outside: identities of outside data; inputs: role -> fingerprint; collected: artifacts that a report reads, which
    count by content too, since a run repeated with other random draws is another one.
    """
    read = {name: f"{a.manifest['fingerprint']} {a.content}" for name, a in collected.items()}
    return {
        "stage": stage.name,
        "version": stage.version,
        "settings": settings(stage, config),
        "outside": dict(outside),
        "inputs": dict(inputs) | read,
    }


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
