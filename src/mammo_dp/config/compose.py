"""From overrides to a validated Config: Hydra composes `configs/` on the schema's defaults, `parse` validates."""

import difflib
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from mammo_dp.config import rules
from mammo_dp.config.schema import Config, Section
from mammo_dp.errors import UserError

HYDRA_OWN = (
    "{} is Hydra's own setting and would move results elsewhere; leave it out (a sweep takes launcher=laptop or "
    "slurm, and launcher.KEY=VALUE)"
)


def compose(jobs: Sequence[list[str]], *, stages: Collection[str]) -> list[Config]:
    """The validated Config of each list of overrides. Raises UserError at the first that is refused.

    stages: what the setting `stage` may name.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    register_defaults()
    configs = []
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        for overrides in jobs:
            for word in overrides:
                if word.lstrip("+~").startswith(("hydra.", "hydra/")):
                    raise UserError(HYDRA_OWN.format(word))
            try:
                composed = OmegaConf.to_container(hydra_compose("config", overrides), resolve=True)
            except (HydraException, OmegaConfBaseException) as error:
                raise UserError(_of_hydra(error)) from None
            assert isinstance(composed, dict)
            configs.append(parse(composed, stages=stages))  # type: ignore[arg-type]
            _check_outputs(Path(configs[-1].outputs))
    return configs


def parse(composed: Mapping[str, Any], *, stages: Collection[str]) -> Config:
    """Validate a composed configuration.

    Raises UserError that names each fault: key, value, what is allowed, nearest spelling.
    """
    try:
        config = Config.model_validate(_apply_experiment_overrides(composed))
    except ValidationError as error:
        raise UserError("; ".join(_describe(fault) for fault in error.errors())) from None
    if config.stage not in stages:
        known = ", ".join(stages)
        raise UserError(
            f"stage={config.stage} is not known; choose one of {known}.{nearest(config.stage, stages)}"
        )
    if found := list(rules.faults(config)):
        raise UserError("; ".join(found))
    return config


def _apply_experiment_overrides(composed: Mapping[str, Any]) -> dict[str, Any]:
    """Two setups of the paper fix parts of how they train, whatever recipe is asked for (paper, Sec. 3).

    synpre trains every parameter by the recipe `pretraining`; synpre_realft trains its one linear layer.
    """
    name = composed.get("experiment", {}).get("name")
    changed: dict[str, Any] = {}
    if name == "synpre":
        changed["recipe"] = composed.get("pretraining")
        changed["classifier"] = {
            **composed.get("classifier", {}),
            "trainable": "all",
            "backbone_mode": "eval",
        }
    elif name == "synpre_realft":
        changed["recipe"] = {**composed.get("recipe", {}), "head": "linear"}
    return {**composed, **changed}


def _check_outputs(root: Path) -> None:
    """Refuse a root of artifacts that cannot be made or written."""
    existing = next(folder for folder in (root, *root.absolute().parents) if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise UserError(f"outputs={root} cannot be written; set outputs=FOLDER to a folder of yours")


# --- the schema, as Hydra and a reader see it ------------------------------------------------------------------------


def config_dir() -> Path:
    """The folder of presets: inside the package in a wheel, at the repository's root in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "configs", package.parents[1] / "configs"):
        if (folder / "config.yaml").is_file():
            return folder
    raise UserError("the configs/ folder is missing from this installation; install mammo-dp again")


def choices(group: str) -> list[str]:
    """The presets of a group of `configs/`."""
    return sorted(path.stem for path in (config_dir() / group).glob("*.yaml"))


def register_defaults() -> None:
    """Give Hydra the schema's defaults, as the config `schema` that configs/config.yaml starts from."""
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(name="schema", node=defaults(Config))


def defaults(section: type[BaseModel]) -> dict[str, Any]:
    """Every setting with its default; '???' where a preset must give one."""
    found: dict[str, Any] = {}
    for name, field in section.model_fields.items():
        if isinstance(field.default, BaseModel):
            found[name] = field.default.model_dump()
        elif not field.is_required():
            found[name] = field.default
        else:
            inner = section_of(field)
            found[name] = {} if get_origin(field.annotation) is dict else defaults(inner) if inner else "???"
    return found


def section_of(field: FieldInfo) -> type[Section] | None:
    """The section that a setting holds, if it holds one."""
    for kind in (field.annotation, *get_args(field.annotation)):
        if isinstance(kind, type) and issubclass(kind, Section):
            return kind
    return None


def settings(section: type[Section] = Config, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every setting of the schema with its dotted key."""
    for name, field in section.model_fields.items():
        inner = section_of(field)
        if inner and get_origin(field.annotation) is not dict:
            yield from settings(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def nearest(key: str, known: Collection[str]) -> str:
    """' Did you mean X?' or nothing."""
    match = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    return f" Did you mean {match[0]}?" if match else ""


# --- messages ---------------------------------------------------------------------------------------------------


def _of_hydra(error: Exception) -> str:
    """What Hydra objects to, with the nearest spelling of a key that it does not know."""
    text = one_line(error)
    known = [key for key, _ in settings()]
    if unknown := re.search(r"Could not override '([^']+)'", text):
        if unknown[1] in known:
            return f"{unknown[1]} is not part of the selected config groups; drop it or choose others"
        return f"unknown setting {unknown[1]}.{nearest(unknown[1], known)}"
    if unknown := re.search(r"In '[^']+': Could not find '([^']+)/([^']+)'", text):
        group, choice = unknown.groups()
        options = choices(group)
        return f"{group}={choice} is not known; choose one of {', '.join(options)}.{nearest(choice, options)}"
    return text


def one_line(error: Exception) -> str:
    return " ".join(line.strip() for line in str(error).splitlines() if line.strip())


def _describe(fault: Any) -> str:
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return f"unknown setting {key}.{nearest(key, [key for key, _ in settings()])}"
    if fault["type"] == "missing":
        return f"{key} is missing"
    if fault["type"] == "value_error":
        return f"{key}: {fault['ctx']['error']}" if key else str(fault["ctx"]["error"])
    message = fault["msg"][0].lower() + fault["msg"][1:]
    hint = ""
    if fault["type"] == "literal_error" and isinstance(fault["input"], str):
        hint = nearest(fault["input"], [part.strip("' ") for part in message.split("'")[1::2]])
    return f"{key}={fault['input']}: {message}.{hint}".replace("..", ".")
