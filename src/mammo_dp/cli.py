"""The command line: compose with Hydra, validate everything, then dispatch. The only place that prints.

Exit codes: 0 done; 1 at least one run failed; 2 refused before anything ran, with no artifact folder made.
"""

import os
import re
import sys
import traceback
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from mammo_dp import __version__
from mammo_dp.errors import UserError

DONE, FAILED, REFUSED = 0, 1, 2
PRINTING = ("--cfg", "-c", "--info", "-i", "--package", "-p", "--resolve", "--hydra-help")

STAGE_NAMES = {
    "status": "what is built, what failed, what to run next (the default)",
    "clean": "what nothing needs any more; clean.apply=true deletes it",
}

USAGE = """\
usage: python -m mammo_dp [stage=NAME] [KEY=VALUE ...]        one run
       python -m mammo_dp -m stage=NAME KEY=V1,V2,... [...]    a sweep over every combination
       python -m mammo_dp sweep=table1 stage=train_classifier [KEY=VALUE ...]    the 54 runs of the paper's table
       python -m mammo_dp --cfg job [KEY=VALUE ...]            print the configuration
       python -m mammo_dp --help | --version

stages
{stages}

common settings
  dataset=toy|release|cbis_ddsm|cbis_bcdr|custom   dataset.root=FOLDER   classifier=swin_t|mobilenetv2|swin_micro
  classifier.weights=imagenet|none|FILE     recipe=paper|dp_gd    privacy.epsilon=6 (inf: not private)   seed=42
  experiment=real|syn|synpre|real_syn|synpre_realft   synthetic=mcgan|release   gan=mcgan|small
  privacy.unit=image|patient
  gan.privacy.epsilon=10 (a private generator)   hydra/launcher=laptop|slurm (of a sweep)
  predict.model=FOLDER predict.input=FOLDER|TABLE   clean.apply=true
  privacy.require=EPS (refuse a run whose end-to-end epsilon would exceed it)   privacy.randomness=secure
  build_inputs=true (build what is missing)   dry_run=true (only say what would be built)   force=true (run again)
  outputs=FOLDER (root of all artifacts)

example
  python -m mammo_dp build_inputs=true stage=train_classifier dataset=toy classifier=swin_micro recipe=dp_gd
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if any(word in ("-h", "--help") for word in words):
        from mammo_dp.pipeline import STAGES

        summaries = STAGE_NAMES | {stage.name: stage.summary for stage in STAGES.values()}
        print(USAGE.format(stages="\n".join(f"  {name:<17} {text}" for name, text in summaries.items())))
        return DONE
    if "--version" in words:
        print(f"mammo-dp {__version__}")
        return DONE
    multirun = any(word in ("-m", "--multirun") or word.startswith("sweep=") for word in words)
    words = [word for word in words if word not in ("-m", "--multirun")]
    if any(word.startswith("-") for word in words):
        return _print_by_hydra(words)
    from mammo_dp.files import forget_identities

    forget_identities()
    try:
        if multirun:
            return _sweep(words)
        return _single(words)
    except UserError as error:
        _complain(error, words)
        return REFUSED
    except KeyboardInterrupt:
        _say("stopped; the same command goes on with what is left")
        return FAILED


def _print_by_hydra(words: list[str]) -> int:
    """Hydra's flags that only print. Those that run something would go past every check, so they are refused."""
    flags = [word.partition("=")[0] for word in words if word.startswith("-")]
    unknown = [flag for flag in flags if flag not in PRINTING]
    if unknown:
        print(f"mammo_dp: unknown flag {unknown[0]}; --help shows what there is", file=sys.stderr)
        return REFUSED
    return _hand_to_hydra(words)


# --- composing --------------------------------------------------------------------------------------------------


def compose(jobs: Sequence[list[str]]) -> list[Any]:
    """The validated Config of each list of overrides. Raises UserError at the first that is refused."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from mammo_dp.config import config_dir, parse

    foreign = [word for run in jobs for word in run if word.lstrip("+~").startswith(("hydra.", "hydra/"))]
    if foreign:
        raise UserError(
            f"{foreign[0]} is Hydra's own setting and would move results elsewhere; leave it out (for a sweep: "
            "hydra/launcher=laptop or slurm, hydra.launcher.KEY=VALUE)"
        )
    configs = []
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        for overrides in jobs:
            try:
                composed = OmegaConf.to_container(hydra_compose("config", overrides), resolve=True)
            except (HydraException, OmegaConfBaseException) as error:
                raise UserError(_in_one_sentence(error)) from None
            configs.append(parse(composed))  # type: ignore[arg-type]
            _check_outputs(Path(configs[-1].outputs))
    return configs


def _check_outputs(root: Path) -> None:
    """Refuse a root of artifacts that cannot be made or written."""
    existing = next(folder for folder in (root, *root.absolute().parents) if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise UserError(f"outputs={root} cannot be written; set outputs=FOLDER to a folder of yours")


def _in_one_sentence(error: Exception) -> str:
    """What Hydra objects to, with the nearest spelling of a key that it does not know."""
    from mammo_dp.config import known_keys, nearest

    text = str(error)
    unknown = re.search(r"Could not override '([^']+)'", text)
    if unknown:
        if unknown[1] in known_keys():
            return f"{unknown[1]} has no place in the groups that were chosen; drop it or choose others"
        return f"unknown setting {unknown[1]}.{nearest(unknown[1], known_keys())}"
    unknown = re.search(r"In '[^']+': Could not find '([^']+)/([^']+)'", text)
    if unknown:
        group, choice = unknown.groups()
        from mammo_dp.config import config_dir

        known = sorted(path.stem for path in (config_dir() / group).glob("*.yaml"))
        return f"{group}={choice} is not known; choose one of {', '.join(known)}.{nearest(choice, known)}"
    return " ".join(line.strip() for line in text.splitlines() if line.strip())


# --- running ----------------------------------------------------------------------------------------------------


def _single(words: list[str]) -> int:
    (config,) = compose([words])
    if config.stage == "status":
        from mammo_dp.status import describe

        print(describe(config))
        return DONE
    if config.stage == "clean":
        from mammo_dp.cleaning import clean

        _say(clean(config))
        return DONE
    from mammo_dp import pipeline

    _warn([config])
    node = pipeline.Node.of(config)
    pipeline.check_required(node)
    todo = pipeline.plan(node)
    pipeline.check(todo or [node] if node.stage.has_standing else todo)  # a finished bundle counts again
    if config.dry_run:
        _print_plan([node], todo)
        return DONE
    try:
        artifact = pipeline.build(node, overrides=words, announce=_say)
    except UserError as error:
        _complain(error, words)
        return FAILED
    except KeyboardInterrupt:
        _say(f"{node.name}: stopped; the same command resumes it")
        return FAILED
    except Exception:
        traceback.print_exc()
        _say(f"{node.name}: failed")
        return FAILED
    _summarise(artifact, pipeline.standing(node, artifact))
    return DONE


def _sweep(words: list[str]) -> int:
    """Compose and check every run before the first one starts, then build wave by wave with Hydra's launcher."""
    from mammo_dp import pipeline, sweeps

    for_hydra = [word for word in words if word.startswith(("hydra.launcher.", "hydra/launcher="))]
    jobs = sweeps.expand([word for word in words if word not in for_hydra])
    configs = compose(jobs)
    for stage in ("status", "clean", "report"):
        if any(config.stage == stage for config in configs):
            raise UserError(
                f"stage={stage} is no part of a sweep; run it alone: python -m mammo_dp stage={stage}"
            )
    _warn(configs)
    nodes = [pipeline.Node.of(config) for config in configs]
    todo: dict[Path, pipeline.Node] = {}
    asked: dict[Path, list[str]] = {}  # the words that make each of them
    for node, job in zip(nodes, jobs, strict=True):
        try:
            pipeline.check_required(node)
            for step in pipeline.plan(node):
                todo.setdefault(step.folder, step)
                if step is not node and step.folder not in asked and (made := _words_of(step, job)):
                    asked[step.folder] = made
        except pipeline.MissingInput as error:
            raise UserError(error.sentence(job)) from None
        asked[node.folder] = job
    sweeps.account_for(list(todo.values()))
    pipeline.check(list(todo.values()))
    launcher = sweeps.Launcher(for_hydra, job_of_sweep, Path(configs[0].outputs))
    if any(config.dry_run for config in configs):
        _print_plan(nodes, list(todo.values()))
        return DONE
    if not todo:
        _say(f"all {len(nodes)} runs are finished already, nothing to do")
        return DONE
    _say_left(nodes, todo)
    failed: set[Path] = set()
    # an input that no words of its own make is left to the runs that read it
    for wave in sweeps.waves(step for step in todo.values() if step.folder in asked):
        blocked = {node.folder: sweeps.rests_on(node, failed) for node in wave}
        for node in wave:
            if (broken := blocked[node.folder]) is not None:
                _say(f"{node.name}: left out, since {broken.name} failed")
        going = [node for node in wave if blocked[node.folder] is None]
        _launch(launcher, going, asked)
        failed |= {node.folder for node in wave if node.artifact() is None}
    lost = [node for node in {node.folder: node for node in nodes}.values() if node.artifact() is None]
    if lost:
        _say(f"{len(lost)} of {len(nodes)} runs failed; python -m mammo_dp lists them with their overrides")
        return FAILED
    _say(f"all {len(nodes)} runs are finished")
    return DONE


def _words_of(node: Any, job: list[str]) -> list[str] | None:
    """Overrides that build an input by itself, checked: they must lead to its very folder."""
    from mammo_dp.pipeline import Node

    words = [*node.words(job), "build_inputs=true"]
    try:
        (config,) = compose([words])
    except UserError:
        return None
    return words if Node.of(config).folder == node.folder else None


def _launch(launcher: Any, nodes: Sequence[Any], words: dict[Path, list[str]]) -> None:
    """Run the jobs that build `nodes`. What was lost with a killed worker is tried again, in the end one at a time."""
    left, together = list(nodes), True
    while left:
        now = left if together else left[:1]
        try:
            launcher.launch([words[node.folder] for node in now], in_process=together)
            left = left[len(now) :]
        except (
            Exception
        ) as error:  # a job that fails comes back as a value; this is a worker or a job that was killed
            _say(f"a process of the sweep was lost ({type(error).__name__})")
            if launcher.is_cluster:
                _say(
                    f"other jobs may still run; the launcher's logs, which hold paths, are in {launcher.root}"
                )
                return
            before = len(left)
            left = [node for node in left if node.artifact() is None and not node.has_failed()]
            if not together and left and left[0] is now[0]:  # whatever ends its process alone is given up
                left = left[1:]
            together = together and len(left) < before


def _hand_to_hydra(arguments: list[str]) -> int:
    import hydra

    from mammo_dp.config import config_dir

    command = sys.argv
    sys.argv = [command[0], *arguments]
    try:
        hydra.main(config_path=str(config_dir()), config_name="config", version_base="1.3")(lambda _: None)()
    except SystemExit as stop:
        return DONE if stop.code in (None, 0) else REFUSED
    finally:
        sys.argv = command
    return DONE


def job_of_sweep(composed: Any) -> None:
    """One run of a sweep, called by Hydra's launcher in this process or another. Raises if the run fails."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from mammo_dp import pipeline, progress
    from mammo_dp.config import parse

    overrides = list(HydraConfig.get().overrides.task)
    if not str(HydraConfig.get().launcher._target_).endswith("BasicLauncher"):
        progress.silence()  # bars of several processes would overwrite each other
    node: Any = None
    try:
        config = parse(OmegaConf.to_container(composed, resolve=True))  # type: ignore[arg-type]
        node = pipeline.Node.of(config)
        artifact = pipeline.build(node, overrides=overrides, announce=_say)
        _summarise(artifact, pipeline.standing(node, artifact))
    except UserError as error:
        _complain(error, overrides)
        raise
    except Exception as error:
        name = "a run" if node is None else node.name
        _say(f"{name}: failed with {type(error).__name__}: {error} (error.txt in its folder)")
        raise


# --- words for a person -----------------------------------------------------------------------------------------


def _say(text: str) -> None:
    print(text, flush=True)


def _complain(error: UserError, overrides: list[str]) -> None:
    sentence = error.sentence(overrides) if hasattr(error, "sentence") else str(error)  # type: ignore[attr-defined]
    print(f"mammo_dp: {sentence}", file=sys.stderr, flush=True)


def _warn(configs: Sequence[Any]) -> None:
    """Say once what a reviewer would object to."""
    for sentence in dict.fromkeys(warning for config in configs for warning in config.warnings):
        print(f"mammo_dp: warning: {sentence}", file=sys.stderr, flush=True)


def _print_plan(nodes: Sequence[Any], todo: Sequence[Any]) -> None:
    for step in todo:
        _say(f"would build {step.name}")
    _say_left(nodes, [step.folder for step in todo])


def _say_left(nodes: Sequence[Any], todo: Collection[Path]) -> None:
    wanted = {node.folder for node in nodes}
    runs = sum(folder in todo for folder in wanted)
    _say(f"{len(todo)} to build, {len(wanted) - runs} of {len(wanted)} runs finished")


def _summarise(artifact: Any, standing: str = "") -> None:
    if artifact.manifest.get("summary"):
        _say(artifact.manifest["summary"])
    if artifact.manifest["stage"] in ("train_classifier", "export"):
        from mammo_dp.status import headline

        if words := headline(artifact):
            _say(words)
    if standing:
        _say(standing)
    if artifact.manifest["stage"] == "extract_patches":
        _say(f"look at: {artifact.folder / 'contact_sheet.png'} and data_card.md beside it")
    if artifact.manifest["stage"] == "report":
        _say(f"report: {artifact.folder / 'report.html'}")
