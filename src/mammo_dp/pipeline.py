"""Planning and building: a node is a stage with a configuration, and its artifact's path follows from the node alone.

The path hashes the settings that change the result, the identity of the outside data, and the fingerprints of the
inputs (`graph.py` says which they are).
"""

import errno
import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mammo_dp import artifacts, files
from mammo_dp.artifacts import Artifact, Mask, StageResult, Store
from mammo_dp.config import Config
from mammo_dp.errors import UserError
from mammo_dp.graph import STAGES, Stage
from mammo_dp.rounding import rounded_up

if TYPE_CHECKING:
    from mammo_dp.privacy.events import Event
    from mammo_dp.privacy.ledger import Ledger


RUN_AGAIN = ("force", "dry_run", "build_inputs")  # of the run that was asked for, not of its inputs
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Node:
    """A stage with the configuration it would run under."""

    stage: Stage
    config: Config

    @classmethod
    def of(cls, config: Config, stage: str | None = None) -> "Node":
        return cls(STAGES[stage or config.stage], config)

    @cached_property
    def store(self) -> Store:
        return Store(Path(self.config.outputs))

    @cached_property
    def inputs(self) -> dict[str, "Node"]:
        return {
            role: Node.of(self.config.model_copy(update=dict(wanted.changes)), wanted.stage)
            for role, wanted in self.stage.upstream(self.config).items()
        }

    @cached_property
    def collected(self) -> dict[str, Artifact]:
        """Finished artifacts of the present version, by name."""
        found: dict[str, Artifact] = {}
        for name in self.stage.collects:
            current = [
                a for a in self.store.finished(name) if a.manifest["stage_version"] == STAGES[name].version
            ]
            found |= {artifact.name: artifact for artifact in current}
            if not found:
                raise UserError(
                    f"no finished {name} run in {self.config.outputs}/; run python -m mammo_dp stage={name} first"
                )
        return found

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that the fingerprint hashes."""
        inputs = {role: node.fp8 for role, node in self.inputs.items()}
        # by content too: a run that was repeated with other draws is another one to whoever collects it
        inputs |= {n: f"{a.manifest['fingerprint']} {a.content}" for n, a in self.collected.items()}
        return {
            "stage": self.stage.name,
            "version": self.stage.version,
            "settings": self.stage.settings(self.config),
            "outside": self.stage.outside(self.config, self.store),
            "inputs": inputs,
        }

    @cached_property
    def fp8(self) -> str:
        return files.fingerprint(self.identity)

    @cached_property
    def folder(self) -> Path:
        return self.store.folder(self.stage.name, self.stage.label(self.config), self.fp8)

    @property
    def name(self) -> str:
        return f"{self.folder.parent.name}/{self.folder.name}"

    def artifact(self) -> Artifact | None:
        """The finished artifact; None also if an input has been built again since and holds other content."""
        found = self.store.load(self.folder)
        if found is None:
            return None
        for role, node in self.inputs.items():
            now = node.store.load(node.folder)
            if now is None:  # deleted since: what was made of it stands
                continue
            if now.content != found.manifest["inputs"][role]["content"] or node.artifact() is None:
                return None
        return found

    def has_failed(self) -> bool:
        """Whether its last attempt ended in an error, told in error.txt."""
        return (self.folder / artifacts.ERROR).is_file()

    def ledger(self, *, most_images: int | None = None, release: str = "") -> "Ledger":
        """Every touch of private data by this node and by what it reads.

        From the manifests of what is finished, and from configurations for what is still to run, this node included.
        `release` tells its present run apart from others under the same settings: fresh noise is a new event.
        `most_images` of a patient in training, where it is known: it is private, and needed to read an image-level
        guarantee per patient.
        """
        from mammo_dp.privacy.ledger import Ledger, events_of  # slow to import

        steps = list(self.walk())
        events = [event for step in steps if step is not self for event in step._events()]
        events += [
            replace(event, artifact=f"{self.folder.name} {release}".strip())
            for event in self.stage.events(self.config, self.store.cache)
        ]
        events += events_of(a.manifest["privacy"]["ledger"] for a in self.collected.values())
        claimed, delta = self.stage.claim(self.config).unit, self.stage.claim(self.config).delta
        if not any(event.mechanism for event in events):  # nothing is claimed, so nothing to read at them
            claimed, delta = "image", 0.0
        assumptions = [line for step in steps for line in step._assumptions(own=step is self)]
        return Ledger(
            tuple(dict.fromkeys(events)),
            claimed=claimed,
            delta=delta,
            cache=self.store.cache,
            most_images=most_images,
            assumptions=tuple(dict.fromkeys(assumptions)),
        )

    def _events(self) -> Iterator["Event"]:
        """The events of an input: as recorded if it is finished, else as its configuration promises."""
        from mammo_dp.privacy.ledger import events_of

        found = self.artifact()
        if found is not None:
            yield from events_of([found.manifest["privacy"]["ledger"]])
            return
        for event in self.stage.events(self.config, self.store.cache):
            yield replace(event, artifact=self.folder.name)

    def _assumptions(self, *, own: bool) -> list[str]:
        """As recorded if it is a finished input, else as its configuration says."""
        found = None if own else self.artifact()
        if found is not None:
            return found.manifest["privacy"]["ledger"]["assumptions"]
        return list(self.stage.assumptions(self.config))

    def words(self, overrides: list[str], *, short: bool = False) -> list[str]:
        """The overrides that make this node, from those that make one which reads it; `short` for a person.

        The recipe stays in either: what else was typed may be valid with it alone.
        """
        config, stage = self.config, self.stage
        kept = [o for o in overrides if _key(o) not in ("stage", "features_of", *RUN_AGAIN)]
        if short:
            groups = {*stage.groups, "outputs", "recipe"}
            if stage.name == "extract_features" and not config.experiment.continues_synpre:
                groups -= {"experiment", "pretraining", "seed"}
            kept = [o for o in kept if _key(o).split(".")[0] in groups]
        if stage.name == "extract_features" and config.features_of != "patches":
            kept.append(f"features_of={config.features_of}")
        if (stage.name, config.experiment.name) == (
            "train_classifier",
            "synpre",
        ):  # for whoever goes on from it
            kept = [o for o in kept if _key(o).split(".")[0] != "experiment" and _key(o) != "privacy.epsilon"]
            kept += [f"experiment={config.experiment.name}", "privacy.epsilon=inf"]
        return [f"stage={stage.name}", *kept]

    def walk(self) -> Iterator["Node"]:
        """Inputs before what reads them, each once for each way it is reached."""
        for node in self.inputs.values():
            yield from node.walk()
        yield self


# --- planning and building --------------------------------------------------------------------------------------


def plan(node: Node) -> list[Node]:
    """The nodes that must be built to finish `node`, in order.

    Raises UserError for anything that can be told to fail beforehand: outside data that is missing, an input that
    is not there while build_inputs=false, weights that do not fit. Nothing is written but identities in the cache.
    """
    target = node.artifact()
    if target is not None and not node.config.force:
        return []
    missing: dict[Path, Node] = {}
    for step in node.walk():
        if step.folder not in missing and (step.artifact() is None or step is node):
            missing[step.folder] = step
    todo = list(missing.values())
    if len(todo) > 1 and not node.config.build_inputs:
        raise MissingInput(todo[0], node)
    return todo


class MissingInput(UserError):
    """An input that is not there. `sentence` adds the command that makes it, from the words that were typed."""

    def __init__(self, missing: Node, wanted: Node) -> None:
        self.missing = missing
        super().__init__(f"{wanted.stage.name} reads {missing.name}, which is not there")

    def sentence(self, overrides: list[str]) -> str:
        command = " ".join(["python -m mammo_dp", *self.missing.words(overrides, short=True)])
        return f"{self}; make it with: {command}   (or add build_inputs=true)"


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~").partition("@")[0]


def check(nodes: list[Node]) -> None:
    """Ask each stage about to run whether it can. Raises UserError; writes nothing but the cache."""
    for node in nodes:
        module = importlib.import_module(node.stage.module)
        if hasattr(module, "check"):
            module.check(node.config)
        if hasattr(module, "check_ledger"):
            module.check_ledger(node.config, node.ledger())


def standing(node: Node, artifact: Artifact) -> str:
    """What a stage says of the whole folder of artifacts whenever a finished artifact is named; it is never stored."""
    if not node.stage.has_standing:
        return ""
    return importlib.import_module(node.stage.module).standing(node.config, artifact)


def check_required(node: Node) -> None:
    """Refuse a node, finished or not, whose headline exceeds privacy.require, naming the event that breaks it."""
    required = node.config.privacy.require
    if required is None:
        return
    ledger = node.ledger()
    if ledger.headline_epsilon > required:
        event = ledger.breaking
        assert event is not None  # a headline above 0 has events
        if event.mechanism is None:
            reached, remedy = "infinite", f"{event.why}; change that, or raise privacy.require"
        else:
            reached = rounded_up(ledger.headline_epsilon, digits=4)
            shaping = [e for e in ledger.events if e.effect == "shapes_model"]
            keys = {"train_gan": "gan.privacy.epsilon", "train_classifier": "privacy.epsilon"}
            named = list(dict.fromkeys(keys[e.stage] for e in shaping))
            remedy = f"set {named[0]}={required:g} or less, or raise privacy.require"
            if len(named) > 1:
                remedy = f"the budgets add up: lower {' and '.join(named)}, or raise privacy.require"
        raise UserError(
            f"privacy.require={required:g} refuses {node.name}: its headline epsilon per {ledger.claimed} is {reached} "
            f"by the {event.what} ({event.cohort} patients of {event.study}): {remedy}"
        )


def build(node: Node, *, overrides: list[str], announce: Callable[[str], None]) -> Artifact:
    """Build what `node` needs and then the node itself; a finished one is only loaded.

    Several processes may ask for the same node at once: one builds, the others wait and then read.
    """
    force = node.config.force
    inputs = {role: _built(step, overrides, announce) for role, step in node.inputs.items()} | node.collected
    with node.store.lock(node.folder) as waited:
        finished = node.artifact()
        if finished is not None and (not force or waited):
            announce(f"{node.name}: finished already, nothing to do")
            return finished
        announce(f"{node.name}: running")
        artifact = _run(node, inputs, overrides=overrides, fresh=force)
        announce(f"{node.name}: done in {artifact.manifest['timings']['seconds']:.1f} s")
        return artifact


def _built(node: Node, overrides: list[str], announce: Callable[[str], None]) -> Artifact:
    finished = node.artifact()
    if finished is not None:
        return finished
    unforced = Node(node.stage, node.config.model_copy(update={"force": False}))
    return build(unforced, overrides=overrides, announce=announce)


def _run(node: Node, inputs: Mapping[str, Artifact], *, overrides: list[str], fresh: bool) -> Artifact:
    confidential = node.config.dataset.is_confidential or node.stage.name == "predict"
    mask = Mask.of(outside_paths(node.config), confidential=confidential)
    content = {role: artifact.content for role, artifact in inputs.items()}
    yaml = _to_yaml(node.config, mask)
    output = node.store.begin(node.folder, config_yaml=yaml, inputs=content, fresh=fresh)
    output.identity = files.digest(node.identity)
    try:
        module = importlib.import_module(node.stage.module)
        result: StageResult = module.run(node.config, inputs, output)
        files.write_atomic(node.folder / "metrics.json", files.to_json(result.metrics))
        ledger = _ledger_record(node, result)
        if hasattr(module, "describe"):
            module.describe(node.config, result, ledger, output)
        recorded = {role: _input_record(artifact) for role, artifact in inputs.items()}
        return output.finish(
            {
                "stage": node.stage.name,
                "label": node.stage.label(node.config),
                "fingerprint": node.fp8,
                "stage_version": node.stage.version,
                "settings": node.identity["settings"],
                "outside": node.identity["outside"],
                "inputs": recorded,
                "seeds": _seeds(node.config),
                "summary": result.summary,
                **result.manifest,
                "privacy": {**result.manifest.get("privacy", {}), "ledger": ledger},
            }
        )
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:  # not even error.txt could be written
            raise UserError(
                f"the disk of outputs is full; make room and give the same command again: {node.name} goes on from "
                "its last checkpoint"
            ) from None
        words = [_without_path(word, node.config) for word in overrides]
        artifacts.write_error(node.folder, error, overrides=words, mask=mask, confidential=confidential)
        error.add_note(f"error.txt is in {node.folder}")  # of the node that failed, perhaps an input
        raise


def _seeds(config: Config) -> dict[str, int]:
    return {"classifier": config.seed, "gan": config.gan.seed, "synthetic": config.synthetic.seed}


def _without_path(override: str, config: Config) -> str:
    """An override as it may be kept: a path of outside data is not recognised by its value, which can be written in
    several ways, but by its key."""
    key = _key(override)
    private = key.startswith("dataset.sources") and config.dataset.is_confidential
    return f"{key}=<{key}>" if private or key in outside_paths(config) else override


def _ledger_record(node: Node, result: StageResult) -> dict[str, Any]:
    from mammo_dp.privacy.statement import statement

    ledger = node.ledger(most_images=result.most_images, release=result.release)
    ledger = replace(ledger, assumptions=tuple(dict.fromkeys([*ledger.assumptions, *result.assumptions])))
    return {**ledger.to_dict(), "statement": statement(ledger)}


def _input_record(artifact: Artifact) -> dict[str, Any]:
    manifest = artifact.folder / artifacts.MANIFEST
    return {
        "artifact": artifact.name,
        "fingerprint": artifact.manifest["fingerprint"],
        "content": artifact.content,
        "manifest_sha256": files.sha256(manifest),
        "manifest_size": manifest.stat().st_size,
    }


def outside_paths(config: Config) -> dict[str, str]:
    """The configuration's keys that hold a path of outside data, with that path.

    Names that only lie below another path say nothing, but for those of confidential data.
    """
    data = config.dataset
    paths = {f"dataset.sources.{name}.root": source.root for name, source in data.sources.items()}
    paths |= {"dataset.table": data.table or "", "dataset.pseudonyms": data.pseudonyms or ""}
    paths = {
        key: path
        for key, path in paths.items()
        if Path(path).is_absolute() or (data.is_confidential and path.strip("./"))
    }
    if data.root is not None:
        paths["dataset.root"] = data.root
    if data.is_confidential:
        paths["outputs"] = config.outputs  # may lie beside the data
    if config.classifier.weights_file is not None and not config.classifier.weights.startswith("pkg:"):
        paths["classifier.weights"] = config.classifier.weights
    if config.synthetic.root is not None and Path(config.synthetic.root).is_absolute():
        paths["synthetic.root"] = config.synthetic.root
    paths |= {
        key: path
        for key, path in (("predict.model", config.predict.model), ("predict.input", config.predict.input))
        if path
    }
    if config.evaluation.inception_weights != "download":
        paths["evaluation.inception_weights"] = config.evaluation.inception_weights
    if config.evaluation.radimagenet_weights is not None:
        paths["evaluation.radimagenet_weights"] = config.evaluation.radimagenet_weights
    return paths


def _to_yaml(config: Config, mask: Mask) -> str:
    """The configuration without paths of outside data; masked value by value, since YAML folds long lines."""
    from omegaconf import OmegaConf

    def masked(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: masked(item) for key, item in value.items()}
        return mask(value) if isinstance(value, str) else value

    return OmegaConf.to_yaml(OmegaConf.create(masked(config.model_dump())))
