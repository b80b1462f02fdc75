"""Planning and building: a node is a stage with a configuration, and its artifact's path follows from the node alone.

The path hashes the settings that change the result, the identity of outside data, and the fingerprints of the inputs.
"""

import errno
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mammo_dp import files
from mammo_dp.config import Config
from mammo_dp.engine import artifacts, fingerprint
from mammo_dp.engine.artifacts import Artifact, Mask, StageResult, Store
from mammo_dp.engine.stage import Input, Stage
from mammo_dp.errors import UserError
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
    stages: Mapping[str, Stage] = field(
        repr=False, compare=False
    )  # the registry that its inputs are found in
    # nodes of the same configuration, by stage: each is worked out once, however many read it
    siblings: dict[str, "Node"] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def store(self) -> Store:
        return Store.of(self.config)

    @cached_property
    def inputs(self) -> dict[str, "Node"]:
        return {role: self._input(wanted) for role, wanted in self.stage.inputs(self.config).items()}

    def _input(self, wanted: Input) -> "Node":
        stage = self.stages[wanted.stage]
        if wanted.changes:
            return Node(stage, self.config.model_copy(update=dict(wanted.changes)), self.stages)
        return self.siblings.setdefault(stage.name, Node(stage, self.config, self.stages, self.siblings))

    @cached_property
    def collected(self) -> dict[str, Artifact]:
        """Finished artifacts of the present version, by name."""
        found: dict[str, Artifact] = {}
        for name in self.stage.collects:
            current = [
                a
                for a in self.store.finished(name)
                if a.manifest["stage_version"] == self.stages[name].version
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
        return fingerprint.identity(
            self.stage,
            self.config,
            outside=self.stage.external(self.config, self.store),
            inputs={role: node.fp8 for role, node in self.inputs.items()},
            collected=self.collected,
        )

    @cached_property
    def fp8(self) -> str:
        return fingerprint.of(self.identity)

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
            if now is None:  # deleted since: what was made of it stays valid
                continue
            if now.content != found.manifest["inputs"][role]["content"] or node.artifact() is None:
                return None
        return found

    def has_failed(self) -> bool:
        """Whether its last attempt ended in an error (error.txt)."""
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

    def overrides(self, given: list[str], *, short: bool = False) -> list[str]:
        """The overrides that make this node, from those that make one which reads it; `short` for a person.

        The recipe stays in either: what else was given may be valid with it alone.
        """
        kept = [o for o in given if key_of(o) not in ("stage", *RUN_AGAIN)]
        if short:
            read = {use.partition(".")[0] for step in self.walk() for use in step.stage.uses}
            read |= {"dataset", "outputs", "recipe", "runtime"}
            kept = [o for o in kept if key_of(o).partition(".")[0] in read]
        return [f"stage={self.stage.name}", *self.stage.overrides(self.config, kept)]

    def walk(self) -> Iterator["Node"]:
        """Inputs before what reads them, each once for each way it is reached."""
        for node in self.inputs.values():
            yield from node.walk()
        yield self


# --- planning and building --------------------------------------------------------------------------------------


def plan(node: Node) -> list[Node]:
    """The nodes that must be built to finish `node`, in order.

    Raises UserError for anything that is known to fail beforehand: outside data that is missing, an input that
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
        command = " ".join(["python -m mammo_dp", *self.missing.overrides(overrides, short=True)])
        return f"{self}; make it with: {command}   (or add build_inputs=true)"


def key_of(override: str) -> str:
    return override.partition("=")[0].lstrip("+~").partition("@")[0]


def check(nodes: list[Node]) -> None:
    """Ask each stage about to run whether it can. Raises UserError; writes nothing but the cache."""
    for node in nodes:
        node.stage.check(node.config)
        node.stage.check_ledger(node.config, node.ledger())


def check_required(node: Node) -> None:
    """Refuse a node, finished or not, whose headline exceeds privacy.require, naming the event that breaks it."""
    required = node.config.privacy.require
    if required is None:
        return
    ledger = node.ledger()
    if ledger.headline_epsilon > required:
        event = ledger.dominant_event
        assert event is not None  # a headline above 0 has events
        if event.mechanism is None:
            reached, remedy = "infinite", f"{event.why}; change that, or raise privacy.require"
        else:
            reached = rounded_up(ledger.headline_epsilon, digits=4)
            shaping = [e for e in ledger.events if e.effect == "shapes_model"]
            named = list(dict.fromkeys(node.stages[e.stage].budget for e in shaping))
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
    unforced = Node(node.stage, node.config.model_copy(update={"force": False}), node.stages)
    return build(unforced, overrides=overrides, announce=announce)


def _run(node: Node, inputs: Mapping[str, Artifact], *, overrides: list[str], fresh: bool) -> Artifact:
    confidential = node.stage.is_confidential(node.config)
    mask = Mask.of(node.config.external_paths, confidential=confidential)
    content = {role: artifact.content for role, artifact in inputs.items()}
    yaml = _to_yaml(node.config, mask)
    output = node.store.begin(node.folder, config_yaml=yaml, inputs=content, fresh=fresh)
    output.identity = files.digest(node.identity)
    try:
        result = node.stage.run(node.config, inputs, output)
        files.write_atomic(node.folder / "metrics.json", files.to_json(result.metrics))
        ledger = _ledger_record(node, result)
        node.stage.describe(node.config, result, ledger, output)
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
                f"the disk of outputs is full; make room and give the same command again: {node.name} resumes "
                "from its last checkpoint"
            ) from None
        masked = [_without_path(override, node.config) for override in overrides]
        artifacts.write_error(node.folder, error, overrides=masked, mask=mask, confidential=confidential)
        error.add_note(f"error.txt is in {node.folder}")  # of the node that failed, perhaps an input
        raise


def _seeds(config: Config) -> dict[str, int]:
    flat = fingerprint.flatten(config.model_dump(), "")
    return {key[1:]: value for key, value in flat.items() if key.endswith(".seed")}


def _without_path(override: str, config: Config) -> str:
    """An override as it may be kept: a path of outside data is not recognised by its value, which can be written in
    several ways, but by its key."""
    key = key_of(override)
    private = key.startswith("dataset.sources") and config.dataset.is_confidential
    return f"{key}=<{key}>" if private or key in config.external_paths else override


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


def _to_yaml(config: Config, mask: Mask) -> str:
    """The configuration without paths of outside data; masked value by value, since YAML folds long lines."""
    from omegaconf import OmegaConf

    def masked(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: masked(item) for key, item in value.items()}
        return mask(value) if isinstance(value, str) else value

    return OmegaConf.to_yaml(OmegaConf.create(masked(config.model_dump())))
