"""The command line: parse, validate everything, then dispatch. The only place that prints.

Exit codes: 0 done; 1 at least one run failed; 2 refused before anything ran, with no artifact folder made.
"""

import sys
import traceback
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from mammo_dp import __version__
from mammo_dp.errors import UserError

DONE, FAILED, REFUSED = 0, 1, 2
PRINTING = ("--cfg", "-c", "--info", "-i", "--package", "-p", "--resolve", "--hydra-help")

COMMANDS = {
    "status": "what is built, what failed, what to run next (the default)",
    "clean": "what nothing needs any more; clean.apply=true deletes it",
}

USAGE = """\
usage: python -m mammo_dp [stage=NAME] [KEY=VALUE ...]        one run
       python -m mammo_dp -m stage=NAME KEY=V1,V2,... [...]    a sweep over every combination
       python -m mammo_dp sweep=table1 stage=train_classifier [KEY=VALUE ...]    the 54 runs of the paper's table
       python -m mammo_dp sweep=no_asterisk stage=train_classifier [...]         the recommended recipe at every budget
       python -m mammo_dp --help KEY | SECTION | STAGE         a setting, a section of settings, what a stage uses
       python -m mammo_dp --cfg job [KEY=VALUE ...]            print the configuration
       python -m mammo_dp --help | --version

stages
{stages}

presets (configs/)
{presets}

common settings
  dataset.root=FOLDER   classifier.weights=imagenet|none|FILE   seed=42   outputs=FOLDER (root of all artifacts)
  public=patches|mammograms public.root=FOLDER (images of other people: the recommended way, docs/recipes.md)
  privacy.epsilon=6 (inf: not private)   privacy.unit=image|patient   privacy.randomness=secure
  privacy.require=EPS (refuse a run whose end-to-end epsilon would exceed it)
  gan.privacy.epsilon=10 (a private generator)   predict.model=FOLDER predict.input=FOLDER|TABLE
  build_inputs=true (build what is missing)   dry_run=true (only say what would be built)   force=true (run again)

example
  python -m mammo_dp build_inputs=true stage=train_classifier dataset=toy public=toy
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if any(word in ("-h", "--help") for word in given):
        return _help([word for word in given if not word.startswith("-")])
    if "--version" in given:
        print(f"mammo-dp {__version__}")
        return DONE
    multirun = any(word in ("-m", "--multirun") or word.startswith("sweep=") for word in given)
    overrides = [word for word in given if word not in ("-m", "--multirun")]
    if any(word.startswith("-") for word in overrides):
        return _print_by_hydra(overrides)
    from mammo_dp.files import forget_identities

    forget_identities()
    try:
        return _sweep(overrides) if multirun else _single(overrides)
    except UserError as error:
        _complain(error, overrides)
        return REFUSED
    except KeyboardInterrupt:
        _say("stopped; the same command does what is left")
        return FAILED


def compose(jobs: Sequence[list[str]]) -> list[Any]:
    """The validated Config of each list of overrides. Raises UserError at the first that is refused."""
    from mammo_dp.config.compose import compose
    from mammo_dp.stages import STAGES

    return compose(jobs, stages=[*COMMANDS, *STAGES])


# --- help -------------------------------------------------------------------------------------------------------


def _help(names: list[str]) -> int:
    from mammo_dp.config.compose import choices, config_dir, nearest, settings
    from mammo_dp.stages import STAGES

    summaries = COMMANDS | {stage.name: stage.summary for stage in STAGES.values()}
    if not names:
        groups = sorted(path.name for path in config_dir().iterdir() if path.is_dir())
        presets = "\n".join(f"  {group}={'|'.join(choices(group))}" for group in groups)
        stages = "\n".join(f"  {name:<27} {text}" for name, text in summaries.items())
        print(USAGE.format(stages=stages, presets=presets))
        return DONE
    from mammo_dp.config import reference

    for name in names:
        key = name.removeprefix("stage=")
        if key in summaries:
            print(f"{key}  {summaries[key]}")
            if key in STAGES:
                print(f"    uses the settings {', '.join(STAGES[key].uses)}")
        elif key == "settings":
            print(reference.page())
        elif text := reference.describe(key):
            print(text)
        else:
            hint = nearest(key, [*summaries, *(known for known, _ in settings())])
            print(f"mammo_dp: no setting or stage is called {key}.{hint}", file=sys.stderr)
            return REFUSED
    return DONE


def _print_by_hydra(arguments: list[str]) -> int:
    """Hydra's flags that only print. Those that run something would bypass every check, so they are refused."""
    flags = [word.partition("=")[0] for word in arguments if word.startswith("-")]
    unknown = [flag for flag in flags if flag not in PRINTING]
    if unknown:
        print(f"mammo_dp: unknown flag {unknown[0]}; --help shows what there is", file=sys.stderr)
        return REFUSED
    import hydra

    from mammo_dp.config.compose import config_dir, register_defaults

    register_defaults()
    command = sys.argv
    sys.argv = [command[0], *arguments]
    try:
        hydra.main(config_path=str(config_dir()), config_name="config", version_base="1.3")(lambda _: None)()
    except SystemExit as stop:
        return DONE if stop.code in (None, 0) else REFUSED
    finally:
        sys.argv = command
    return DONE


# --- running ----------------------------------------------------------------------------------------------------


def _single(overrides: list[str]) -> int:
    (config,) = compose([overrides])
    from mammo_dp.stages import STAGES, node_of

    if config.stage == "status":
        from mammo_dp.engine.status import describe

        print(describe(config, STAGES.values()))
        return DONE
    if config.stage == "clean":
        from mammo_dp.engine.clean import clean

        _say(clean(config, STAGES))
        return DONE
    from mammo_dp.engine import build

    _warn([config])
    node = node_of(config)
    build.check_required(node)
    todo = build.plan(node)
    build.check(todo or [node] if node.stage.rechecks else todo)
    if config.dry_run:
        _print_plan([node], todo)
        return DONE
    try:
        artifact = build.build(node, overrides=overrides, announce=_say)
    except UserError as error:
        _complain(error, overrides)
        return FAILED
    except KeyboardInterrupt:
        _say(f"{node.name}: stopped; the same command resumes it")
        return FAILED
    except Exception:
        traceback.print_exc()
        _say(f"{node.name}: failed")
        return FAILED
    _summarise(node, artifact)
    return DONE


def _sweep(overrides: list[str]) -> int:
    """Compose and check every run before the first one starts, then build each once its inputs are there."""
    from mammo_dp.engine import build, launch, sweep
    from mammo_dp.stages import STAGES, node_of

    jobs = sweep.expand(overrides)
    configs = compose(jobs)
    for config in configs:
        if config.stage not in STAGES or STAGES[config.stage].collects:
            raise UserError(
                f"stage={config.stage} is no part of a sweep; run it alone: python -m mammo_dp stage={config.stage}"
            )
    _warn(configs)
    nodes = [node_of(config) for config in configs]
    todo: dict[Path, Any] = {}
    asked: dict[Path, list[str]] = {}  # the overrides that make each of them
    for node, job in zip(nodes, jobs, strict=True):
        try:
            build.check_required(node)
            for step in build.plan(node):
                todo.setdefault(step.folder, step)
                if step is not node and step.folder not in asked and (made := _overrides_of(step, job)):
                    asked[step.folder] = made
        except build.MissingInput as error:
            raise UserError(error.sentence(job)) from None
        asked[node.folder] = job
    sweep.precompute(todo.values())
    build.check(list(todo.values()))
    if any(config.dry_run for config in configs):
        _print_plan(nodes, list(todo.values()))
        return DONE
    if not todo:
        _say(f"all {len(nodes)} runs are finished already, nothing to do")
        return DONE
    # an input that no overrides of its own make is left to the runs that read it
    going = [node for node in todo.values() if node.folder in asked]
    way = launch.launcher(configs[0].launcher, run_job, Path(configs[0].outputs), runs=len(going))
    _say_left(nodes, todo)
    launch.run_all(going, asked, way, _say)
    lost = [node for node in {node.folder: node for node in nodes}.values() if node.artifact() is None]
    if lost:
        _say(f"{len(lost)} of {len(nodes)} runs failed; python -m mammo_dp lists them with their overrides")
        return FAILED
    _say(f"all {len(nodes)} runs are finished")
    return DONE


def _overrides_of(node: Any, job: list[str]) -> list[str] | None:
    """Overrides that build an input by itself, checked: they must lead to its very folder."""
    from mammo_dp.stages import node_of

    overrides = [*node.overrides(job), "build_inputs=true"]
    try:
        (config,) = compose([overrides])
    except UserError:
        return None
    return overrides if node_of(config).folder == node.folder else None


def run_job(overrides: list[str]) -> None:
    """One run of a sweep, in this process or another. Raises if the run fails, after saying so."""
    from mammo_dp.engine import build
    from mammo_dp.stages import node_of

    node: Any = None
    try:
        (config,) = compose([overrides])
        node = node_of(config)
        _summarise(node, build.build(node, overrides=overrides, announce=_say))
    except UserError as error:
        _complain(error, overrides)
        raise
    except Exception as error:
        name = "a run" if node is None else node.name
        _say(f"{name}: failed with {type(error).__name__}: {error} (error.txt in its folder)")
        raise


# --- output for a person ----------------------------------------------------------------------------------------


def _say(text: str) -> None:
    print(text, flush=True)


def _complain(error: UserError, overrides: list[str]) -> None:
    sentence = error.sentence(overrides) if hasattr(error, "sentence") else str(error)  # type: ignore[attr-defined]
    print(f"mammo_dp: {sentence}", file=sys.stderr, flush=True)


def _warn(configs: Sequence[Any]) -> None:
    """Say once what a reviewer would object to."""
    from mammo_dp.config.rules import warnings

    for sentence in dict.fromkeys(warning for config in configs for warning in warnings(config)):
        print(f"mammo_dp: warning: {sentence}", file=sys.stderr, flush=True)


def _print_plan(nodes: Sequence[Any], todo: Sequence[Any]) -> None:
    for step in todo:
        _say(f"would build {step.name}")
    _say_left(nodes, [step.folder for step in todo])


def _say_left(nodes: Sequence[Any], todo: Collection[Path]) -> None:
    wanted = {node.folder for node in nodes}
    runs = sum(folder in todo for folder in wanted)
    _say(f"{len(todo)} to build, {len(wanted) - runs} of {len(wanted)} runs finished")


def _summarise(node: Any, artifact: Any) -> None:
    for line in (artifact.manifest.get("summary"), *node.stage.closing_lines(node.config, artifact)):
        if line:
            _say(line)
