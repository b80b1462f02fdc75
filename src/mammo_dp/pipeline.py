"""The stage graph: which stages there are, what each reads, and how a node is built.

A node is a stage with a configuration. Its artifact's path follows from the node alone: the settings that change
its result, the identity of the outside data it reads, and the fingerprints of its inputs.
"""

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mammo_dp import artifacts
from mammo_dp.artifacts import Artifact, Mask, StageResult, Store
from mammo_dp.config import Config
from mammo_dp.data.sources import source_folders, toy_identity
from mammo_dp.errors import UserError


@dataclass(frozen=True)
class Stage:
    """One kind of work.

    `module` holds `run(config, inputs, output) -> StageResult` and, if bad input can be told before any folder is
    made, `check(config)`, which raises UserError. It is imported only when it is needed: torch is slow to load.
    """

    name: str
    summary: str  # one line for a person
    module: str
    version: int  # raised when the code changes results
    groups: tuple[str, ...]  # parts of the command line that it depends on
    label: Callable[[Config], str]
    settings: Callable[[Config], dict[str, Any]]  # the keys that change its result
    upstream: Callable[[Config], dict[str, str]] = lambda config: {}  # role -> stage
    outside: Callable[[Config, Store], dict[str, str]] = lambda config, store: {}  # identity of outside data
    collects: str | None = None  # reads every finished artifact of this stage instead of upstream nodes


# --- what each stage reads --------------------------------------------------------------------------------------


def _dataset_settings(config: Config) -> dict[str, Any]:
    data = config.dataset
    settings: dict[str, Any] = {
        "name": data.name,
        "sources": {name: {"reader": s.reader, "role": s.role} for name, s in data.sources.items()},
        "split": data.split,
    }
    if data.split == "official":
        settings |= {"val_fraction": data.val_fraction, "split_seed": data.split_seed}
    return settings


def _raw_data(config: Config, store: Store) -> dict[str, str]:
    """Identity of each source's folder. Toy data is made from its settings, which identify it."""
    data = config.dataset
    if data.toy is not None:
        return {"toy": toy_identity(data.toy)}
    identities = {}
    for name, folder in source_folders(data).items():
        source = data.sources[name]
        if not folder.is_dir():
            if source.optional:
                continue
            raise UserError(_no_data(config, name, folder, "does not exist"))
        try:
            identities[name] = artifacts.tree_identity(folder)
        except FileNotFoundError:
            if not source.optional:
                raise UserError(_no_data(config, name, folder, "holds no files")) from None
    if not identities:
        raise UserError(
            f"dataset.root={data.root} holds none of the folders of dataset={data.name} "
            f"({', '.join(s.root for s in data.sources.values())}); set dataset.root to the folder that does"
        )
    return identities


def _no_data(config: Config, source: str, folder: Path, fault: str) -> str:
    return (
        f"the folder of {source} for dataset={config.dataset.name}, {folder}, {fault}; set dataset.root=FOLDER or "
        f"dataset.sources.{source}.root=FOLDER (README, 'Data and weights', says where the data comes from)"
    )


def _classifier_settings(config: Config) -> dict[str, Any]:
    settings = config.classifier.model_dump(exclude={"weights", "init_seed", "cache_features"})
    return settings | {"precision": config.runtime.precision}


def _weights(config: Config, store: Store) -> dict[str, str]:
    classifier = config.classifier
    path = classifier.weights_file
    if path is None:
        random = classifier.weights == "none"
        return {"weights": f"random, seed {classifier.init_seed}" if random else "imagenet"}
    if not path.is_file():
        raise UserError(
            f"classifier.weights={classifier.weights} is not a file; give a .safetensors or .pth file of "
            f"{classifier.backbone}, or classifier.weights=imagenet to download it"
        )
    return {"weights": artifacts.file_identity(path, store.cache)}


def _training_settings(config: Config) -> dict[str, Any]:
    recipe = config.recipe.model_dump()
    privacy: dict[str, Any] = {"epsilon": config.privacy.epsilon}
    if config.privacy.is_private:
        privacy |= config.privacy.model_dump(exclude={"public_count"}) | {"public_count": config.public_count}
    else:
        del recipe["max_grad_norm"]
    settings = {
        "experiment": config.experiment.name,
        "recipe": recipe,
        "privacy": privacy,
        "seed": config.seed,
        "dataset": config.dataset.name,
    }
    if not config.classifier.cache_features:
        settings["classifier"] = _classifier_settings(config)
    return settings


def _training_inputs(config: Config) -> dict[str, str]:
    inputs = {"patches": "extract_patches"}
    if config.classifier.cache_features:
        inputs["features"] = "extract_features"
    return inputs


def _epsilon_label(epsilon: float) -> str:
    return f"eps{epsilon:g}"


STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage(
            name="extract_patches",
            summary="raw mammograms or published patches -> 128x128 mass patches and their index",
            module="mammo_dp.stages.extract_patches",
            version=1,
            groups=("dataset", "patches"),
            label=lambda config: f"{config.dataset.name}-{config.dataset.split}",
            settings=lambda config: {
                "dataset": _dataset_settings(config),
                "patches": config.patches.model_dump(),
            },
            outside=_raw_data,
        ),
        Stage(
            name="extract_features",
            summary="patches -> features of the frozen backbone, for all four flips",
            module="mammo_dp.stages.extract_features",
            version=1,
            groups=("dataset", "patches", "classifier", "runtime"),
            label=lambda config: f"{config.dataset.name}-{config.classifier.backbone}",
            settings=lambda config: {"classifier": _classifier_settings(config)},
            upstream=lambda config: {"patches": "extract_patches"},
            outside=_weights,
        ),
        Stage(
            name="train_classifier",
            summary="patches and features -> a benign/malignant classifier, private at any finite epsilon",
            module="mammo_dp.stages.train_classifier",
            version=1,
            groups=(
                "dataset",
                "patches",
                "classifier",
                "runtime",
                "experiment",
                "recipe",
                "privacy",
                "seed",
            ),
            label=lambda config: (
                f"{config.experiment.name}-{_epsilon_label(config.privacy.epsilon)}-seed{config.seed}"
            ),
            settings=_training_settings,
            upstream=_training_inputs,
            outside=lambda config, store: {} if config.classifier.cache_features else _weights(config, store),
        ),
        Stage(
            name="report",
            summary="all finished classifiers -> Table 1 beside the paper's, curves, one HTML page",
            module="mammo_dp.stages.report",
            version=2,
            groups=(),
            label=lambda config: "table1",
            settings=lambda config: {},
            collects="train_classifier",
        ),
    )
}


# --- nodes ------------------------------------------------------------------------------------------------------


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
        return {role: Node.of(self.config, name) for role, name in self.stage.upstream(self.config).items()}

    @cached_property
    def collected(self) -> dict[str, Artifact]:
        if self.stage.collects is None:
            return {}
        found = {artifact.folder.name: artifact for artifact in self.store.finished(self.stage.collects)}
        if not found:
            raise UserError(
                f"no finished {self.stage.collects} run in {self.config.outputs}/; "
                f"run python -m mammo_dp stage={self.stage.collects} first"
            )
        return found

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that the fingerprint hashes."""
        inputs = {role: node.fp8 for role, node in self.inputs.items()}
        inputs |= {name: artifact.manifest["fingerprint"] for name, artifact in self.collected.items()}
        return {
            "stage": self.stage.name,
            "version": self.stage.version,
            "settings": self.stage.settings(self.config),
            "outside": self.stage.outside(self.config, self.store),
            "inputs": inputs,
        }

    @cached_property
    def fp8(self) -> str:
        return artifacts.fingerprint(self.identity)

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
            if now is not None and now.content != found.manifest["inputs"][role]["content"]:
                return None
        return found

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
        kept = [o for o in overrides if _key(o).split(".")[0] in (*self.missing.stage.groups, "outputs")]
        command = " ".join(["python -m mammo_dp", f"stage={self.missing.stage.name}", *kept])
        return f"{self}; make it with: {command}   (or add build_inputs=true)"


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~").partition("@")[0]


def check(nodes: list[Node]) -> None:
    """Ask each stage about to run whether it can. Raises UserError; writes nothing."""
    for node in nodes:
        module = importlib.import_module(node.stage.module)
        if hasattr(module, "check"):
            module.check(node.config)


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
    mask = Mask.of(outside_paths(node.config))
    content = {role: artifact.content for role, artifact in inputs.items()}
    yaml = _to_yaml(node.config, mask)
    output = node.store.begin(node.folder, config_yaml=yaml, inputs=content, fresh=fresh)
    try:
        module = importlib.import_module(node.stage.module)
        result: StageResult = module.run(node.config, inputs, output)
        artifacts.write_atomic(node.folder / "metrics.json", artifacts.to_json(result.metrics))
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
                "seeds": {"classifier": node.config.seed},
                "summary": result.summary,
                **result.manifest,
            }
        )
    except Exception as error:
        artifacts.write_error(node.folder, overrides=overrides, mask=mask)
        error.add_note(f"error.txt is in {node.folder}")  # of the node that failed, perhaps an input
        raise


def _input_record(artifact: Artifact) -> dict[str, Any]:
    manifest = artifact.folder / artifacts.MANIFEST
    return {
        "artifact": artifact.name,
        "fingerprint": artifact.manifest["fingerprint"],
        "content": artifact.content,
        "manifest_sha256": artifacts.sha256(manifest),
        "manifest_size": manifest.stat().st_size,
    }


def outside_paths(config: Config) -> dict[str, str]:
    """The configuration's keys that hold a path of outside data, with that path."""
    paths = {f"dataset.sources.{name}.root": s.root for name, s in config.dataset.sources.items()}
    paths = {key: path for key, path in paths.items() if Path(path).is_absolute()}
    if config.dataset.root is not None:
        paths["dataset.root"] = config.dataset.root
    if config.classifier.weights_file is not None and not config.classifier.weights.startswith("pkg:"):
        paths["classifier.weights"] = config.classifier.weights
    return paths


def _to_yaml(config: Config, mask: Mask) -> str:
    """The configuration without paths of outside data; masked value by value, since YAML folds long lines."""
    from omegaconf import OmegaConf

    def masked(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: masked(item) for key, item in value.items()}
        return mask(value) if isinstance(value, str) else value

    return OmegaConf.to_yaml(OmegaConf.create(masked(config.model_dump())))
