"""Sweeps: which runs they are made of, in which order they are built, and how Hydra's launchers run them."""

import contextlib
import itertools
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mammo_dp import workers
from mammo_dp.artifacts import Store
from mammo_dp.config import Config, config_dir
from mammo_dp.errors import UserError
from mammo_dp.files import digest
from mammo_dp.pipeline import Node
from mammo_dp.progress import track

Words = list[str]  # overrides of one run, as they would be typed
FOLDER = ".sweeps"  # in the root of artifacts: what launchers write while they run


# --- which runs -------------------------------------------------------------------------------------------------


def expand(words: Words) -> list[Words]:
    """The runs of a sweep: each combination of the values given with commas, for each block of `sweep=NAME`."""
    names = [word.partition("=")[2] for word in words if word.startswith("sweep=")]
    words = [word for word in words if not word.startswith("sweep=")]
    if not names:
        return _product(words)
    if len(names) > 1 or "," in names[0]:
        raise UserError("one sweep at a time; give sweep=NAME once")
    axes = _read(names[0])
    known = {key for block in axes["blocks"] for key in block} | set(axes.get("every", {}))
    words = [word.lstrip("+") if _key(word) in known else word for word in words]
    given = {_key(word): word for word in words}
    replaced = [key for key in axes.get("every", {}) if key in given]
    every = {key: values for key, values in axes.get("every", {}).items() if key not in replaced}
    runs: list[Words] = []
    for block in axes["blocks"]:
        kept = {key: _kept(key, values, given) for key, values in block.items()}
        others = [word for word in words if _key(word) not in block]
        chosen = _combinations(kept | every)
        runs += [[*rest, *combination] for combination in chosen for rest in _product(others)]
    if not runs:
        raise UserError(
            f"no run of sweep={names[0]} has the values that were asked for; leave some of them out"
        )
    return runs


def _read(name: str) -> dict[str, Any]:
    from omegaconf import OmegaConf

    folder = config_dir() / "sweep"
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in known:
        raise UserError(f"sweep={name} is not known; choose one of {', '.join(known)}")
    return OmegaConf.to_container(OmegaConf.load(folder / f"{name}.yaml"))  # type: ignore[return-value]


def _combinations(axes: Mapping[str, Sequence[Any]]) -> Iterator[Words]:
    for values in itertools.product(*axes.values()):
        yield [f"{key}={value}" for key, value in zip(axes, values, strict=True)]


def _kept(key: str, values: Sequence[Any], given: Mapping[str, str]) -> list[Any]:
    """The values of a block that the command line asks for, or all where it says nothing."""
    if key not in given:
        return list(values)
    asked = {_plain(word.partition("=")[2]) for (word,) in _product([given[key]])}
    return [value for value in values if _plain(value) in asked]


def _key(word: str) -> str:
    return word.partition("=")[0].lstrip("+")


def _plain(value: Any) -> Any:
    try:
        return float(value)
    except ValueError:
        return str(value).strip("'\"")


def _product(words: Words) -> list[Words]:
    """Each combination of the values given with commas or as choice() and range()."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        overrides = OverridesParser.create().parse_overrides(words)
        return [run for batch in BasicSweeper.split_arguments(overrides, None) for run in batch]
    except HydraException as error:
        raise UserError(" ".join(line.strip() for line in str(error).splitlines() if line.strip())) from None


# --- in which order ---------------------------------------------------------------------------------------------


def waves(todo: Iterable[Node]) -> list[list[Node]]:
    """What is to be built, inputs before what reads them: no run waits for another of its wave."""
    pending = {node.folder: node for node in todo}
    depth: dict[Path, int] = {}

    def of(node: Node) -> int:
        if node.folder not in depth:
            below = [of(pending[i.folder]) for i in node.inputs.values() if i.folder in pending]
            depth[node.folder] = max(below, default=-1) + 1
        return depth[node.folder]

    found: dict[int, list[Node]] = {}
    for node in pending.values():
        found.setdefault(of(node), []).append(node)
    return [found[number] for number in sorted(found)]


def rests_on(node: Node, failed: set[Path]) -> Node | None:
    """The failed input that a node cannot be built without, if there is one."""
    return next((step for step in node.walk() if step is not node and step.folder in failed), None)


# --- what is worked out before ---------------------------------------------------------------------------------------


def account_for(todo: Iterable[Node]) -> None:
    """Calibrate the noise of every private run that is to be built, several at a time; the cache keeps it.

    A calibration under Poisson sampling takes up to a minute, and a sweep has one for each budget and setup.
    """
    wanted: dict[str, Config] = {}
    for node in todo:
        config = node.config
        if node.stage.name == "train_classifier" and config.privacy.is_private and not config.is_full_batch:
            recipe = config.recipe.model_dump(include={"epochs", "batch_size", "select"})
            wanted.setdefault(digest([config.privacy.model_dump(), config.public_count, recipe]), config)
    if len(wanted) > 1:
        processes = workers.workers_for(os.cpu_count(), len(wanted))
        configs = track(wanted.values(), "accounting", total=len(wanted))
        for _ in workers.each(_account, configs, workers=processes):
            pass


def _account(config: Config) -> None:
    from mammo_dp.privacy.loss_distribution import cross_check
    from mammo_dp.privacy.planning import make_plan

    cache = Store(Path(config.outputs)).cache
    with contextlib.suppress(UserError):  # told when the run itself is checked
        plan = make_plan(config, units=0, cache=cache)
        if plan.mechanism is not None:
            cross_check(plan.mechanism, delta=config.privacy.delta, cache=cache)


# --- how they run -----------------------------------------------------------------------------------------------


class Launcher:
    """Runs jobs through the launcher of Hydra that the command line names."""

    def __init__(self, words: Words, task: Callable[[Any], None], outputs: Path) -> None:
        """words: those of the command line that are for Hydra; `task` gets each job's composed configuration."""
        from hydra.errors import HydraException

        self.words, self.task, self.root = words, task, outputs / FOLDER
        try:
            with self._hydra(self.root) as (_, config):
                self.kind = str(config.hydra.launcher._target_).rpartition(".")[2]
        except HydraException as error:
            raise UserError(_cannot_launch(words, error)) from None

    @property
    def is_cluster(self) -> bool:
        """Whether its jobs outlive this process."""
        return self.kind == "SlurmLauncher"

    def launch(self, jobs: Sequence[Words], *, in_process: bool = True) -> None:
        """Run each job. A job that fails has told so itself; raises only if the launcher lost one.

        `in_process`: a single job may run in this process, with all the machine's threads.
        """
        folder = self.root / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
        alone = in_process and len(jobs) == 1 and self.kind == "JoblibLauncher"
        held = Store(self.root.parent).lock(folder)
        with held, self._hydra(folder, plain=alone) as (hydra, config):
            from hydra._internal.callbacks import Callbacks
            from hydra.core.plugins import Plugins
            from hydra.types import HydraContext

            context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(config))
            launcher = Plugins.instance().instantiate_launcher(context, self.task, config)
            finished = False
            try:
                launcher.launch(jobs, initial_job_idx=0)
                finished = True
            finally:  # they hold paths of outside data; jobs of a cluster that still run need them
                if finished or not self.is_cluster:
                    shutil.rmtree(folder, ignore_errors=True)

    def _hydra(self, folder: Path, *, plain: bool = False) -> Any:
        return _composed([*([] if plain else self.words), f"hydra.sweep.dir={_quoted(folder.absolute())}"])


def _quoted(path: Path) -> str:
    """As a value of an override."""
    text = str(path).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'"


@contextlib.contextmanager
def _composed(words: Words) -> Iterator[tuple[Any, Any]]:
    """Hydra, and its own configuration for several runs."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode

    with initialize_config_dir(str(config_dir()), version_base="1.3", job_name="mammo_dp"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        mode = {"run_mode": RunMode.MULTIRUN, "with_log_configuration": False}
        yield hydra, hydra.compose_config("config", words, **mode)


def _cannot_launch(words: Words, error: Exception) -> str:
    from mammo_dp.config import nearest

    folder = config_dir() / "hydra" / "launcher"
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    text = " ".join(line.strip() for line in str(error).splitlines() if line.strip())
    if not any(word.startswith("hydra/launcher=") for word in words):
        return f"{words[0].partition('=')[0]} is of a launcher; add hydra/launcher=NAME, one of {', '.join(known)}"
    name = next((word.partition("=")[2] for word in words if word.startswith("hydra/launcher=")), "")
    if name in known and "slurm" in name:
        return f'hydra/launcher={name} needs the extra slurm: pip install "mammo-dp[slurm]" ({text})'
    if name and name not in known:
        return f"hydra/launcher={name} is not known; choose one of {', '.join(known)}.{nearest(name, known)}"
    return text
