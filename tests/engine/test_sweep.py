"""Sweeps: their runs, their order, the launchers, and what a failed or killed run does to the others."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from mammo_dp import cli
from mammo_dp.engine import launch, sweep
from mammo_dp.errors import UserError
from mammo_dp.stages import node_of
from tests.conftest import config_of

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


def values(run: list[str]) -> dict[str, str]:
    return dict(word.split("=", 1) for word in run)


# --- which runs -------------------------------------------------------------------------------------------------------


def test_table1_is_18_rows_of_3_seeds():
    runs = [values(run) for run in sweep.expand(["sweep=table1", "dataset=toy"])]
    rows = Counter((run["experiment"], run["privacy.epsilon"]) for run in runs)
    assert len(runs) == 54
    assert set(rows.values()) == {3}
    assert len(rows) == 18
    assert {epsilon for (experiment, epsilon) in rows if experiment in ("syn", "synpre")} == {"inf"}
    assert ("real_syn", "inf") not in rows
    assert {run["seed"] for run in runs} == {"42", "43", "44"}
    assert {run["dataset"] for run in runs} == {"toy"}


def test_every_run_of_table1_composes():
    for run in sweep.expand(["sweep=table1", "dataset=toy", "stage=train_classifier", "seed=42"]):
        config_of(*run)


def test_the_command_line_replaces_seeds_and_keeps_what_it_names():
    assert len(sweep.expand(["sweep=table1", "seed=0"])) == 18
    assert len(sweep.expand(["sweep=table1", "seed=0,1"])) == 36
    six = [values(run) for run in sweep.expand(["sweep=table1", "privacy.epsilon=6.0,1"])]
    assert len(six) == 18
    assert {run["privacy.epsilon"] for run in six} == {"1", "6"}
    assert len(sweep.expand(["sweep=table1", "experiment=synpre", "recipe=paper,dp_gd"])) == 6
    assert len(sweep.expand(["a=1,2", "b=3"])) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sweep=table2"], "choose one of no_asterisk, table1"),
        (["sweep=table1", "sweep=table1"], "one sweep at a time"),
        (["sweep=table1", "privacy.epsilon=3"], "no run of sweep=table1"),
    ],
)
def test_bad_sweeps_are_one_sentence(words, said):
    with pytest.raises(UserError, match=said):
        sweep.expand(words)


def test_the_words_of_an_input_make_that_input():
    """What a wave builds by words of its own is the very folder that the runs read."""
    words = ["dataset=toy", "stage=train_classifier", "experiment=synpre_realft", "privacy.epsilon=2", "seed=7",
             "privacy.delta=0.01", "recipe=dp_gd", "pretraining.epochs=3", "synthetic.per_class=20"]  # fmt: skip
    for target in (words, [*words[:2], "experiment=real_syn", *words[3:]]):
        node = node_of(config_of(*target))
        for step in node.walk():
            made = target if step is node else step.overrides(target)
            assert node_of(config_of(*made)).folder == step.folder, step.name


HARD = (  # overrides that are valid with another recipe, or for the run alone
    ["recipe=dp_gd", "privacy.accountant=gdp", "privacy.epsilon=6"],
    ["recipe=dp_gd", "privacy.adjacency=replace", "privacy.epsilon=6"],
    ["recipe=dp_gd", "dataset.val_fraction=0", "pretraining.select=last", "privacy.epsilon=inf"],
    ["recipe=paper", "classifier.trainable=norm_head", "privacy.epsilon=6", "pretraining.select=last"],
)


@pytest.mark.parametrize("words", HARD)
@pytest.mark.parametrize(
    "experiment", ["experiment=real", "experiment=synpre_realft", "experiment.name=synpre_realft"]
)
def test_words_that_need_the_recipe_still_make_every_input(words, experiment):
    target = ["dataset=toy", "stage=train_classifier", experiment, "privacy.delta=0.001", *words]
    for step in node_of(config_of(*target)).walk():
        if step.stage.name != "train_classifier" or step.config.experiment.name == "synpre":
            for short in (False, True):
                assert node_of(config_of(*step.overrides(target, short=short))).folder == step.folder, (
                    step.name,
                    short,
                )


class Node:
    """A node that is built when its name is among those that were made."""

    def __init__(self, name: str, made: list[str], *inputs: "Node") -> None:
        self.folder, self.name, self.made, self.inputs = Path(name), name, made, inputs

    def walk(self):
        for node in self.inputs:
            yield from node.walk()
        yield self

    def artifact(self):
        return self.name if self.name in self.made else None

    def has_failed(self) -> bool:
        return False


class Later:
    """A run that ends after some looks at it, unless its process is killed first."""

    def __init__(self, launch: "Pool", name: str) -> None:
        self.launch, self.name, self.looks = launch, name, len(name)

    def done(self) -> bool:
        self.looks -= 1
        return self.launch.crashed or self.looks <= 0 or self.name in self.launch.deadly

    def result(self) -> None:
        if self.name in self.launch.deadly:
            self.launch.crashed = True
        self.launch.running.discard(self.name)
        if self.launch.crashed:
            raise BrokenProcessPool
        if self.name in self.launch.failing:
            raise RuntimeError
        self.launch.made.append(self.name)


class Pool:
    """Several runs at a time, of which some crash their process and all that is beside them."""

    wait = 0.0

    def __init__(self, made: list[str], *, most: int | None = 3, deadly=(), failing=()) -> None:
        self.made, self.most, self.deadly, self.failing = made, most, deadly, failing
        self.crashed, self.lost, self.running = False, None, set()
        self.together: list[set[str]] = []

    def start(self, overrides: list[str]) -> Later:
        self.crashed = False  # a pool that crashed is replaced
        self.running.add(overrides[0])
        self.together.append(set(self.running))
        return Later(self, overrides[0])

    def close(self, *, lost: bool) -> None:
        self.lost = lost


def sweep_of_nodes(pool: Pool, *nodes: Node) -> set[str]:
    failed = launch.run_all(nodes, {node.folder: [node.name] for node in nodes}, pool, print)  # type: ignore[arg-type]
    return {path.name for path in failed}


def test_a_run_that_crashes_its_process_takes_no_other_along(capsys):
    made: list[str] = []
    pool = Pool(made, deadly=("deadly",))
    assert sweep_of_nodes(pool, *(Node(name, made) for name in ("a", "deadly", "bb", "ccc", "dddd"))) == {
        "deadly"
    }
    assert set(made) == {"a", "bb", "ccc", "dddd"}
    assert pool.together.count({"deadly"}) == 1  # tried again alone, once
    assert "crashed" in capsys.readouterr().out


def test_a_run_starts_as_soon_as_its_own_inputs_are_there():
    """The long input of one run does not hold up another whose inputs are there."""
    made: list[str] = []
    slow, quick = Node("a very slow input", made), Node("i", made)
    pool = Pool(made, most=None)
    assert (
        sweep_of_nodes(pool, Node("run on slow", made, slow), Node("run", made, quick), slow, quick) == set()
    )
    assert made.index("run") < made.index("a very slow input") < made.index("run on slow")
    assert all("run on slow" not in beside or slow.name not in beside for beside in pool.together)


def test_no_more_runs_at_a_time_than_asked_for():
    made: list[str] = []
    pool = Pool(made, most=2)
    assert sweep_of_nodes(pool, *(Node(name * 3, made) for name in "abcdef")) == set()
    assert max(map(len, pool.together)) == 2


def test_what_needs_a_failed_run_is_left_out(capsys):
    made: list[str] = []
    bad = Node("bad", made)
    pool = Pool(made, failing=("bad",))
    assert sweep_of_nodes(pool, bad, Node("after", made, Node("between", made, bad)), Node("other", made)) == {
        "bad", "after",
    }  # fmt: skip
    assert "left out, since bad failed" in capsys.readouterr().out
    assert pool.lost is True  # the run said nothing: whoever looks for the reason needs the launcher's files


# --- how they run -----------------------------------------------------------------------------------------------------


def sweep_of(place, *words: str) -> list[str]:
    return [
        "-m",
        *place.small,
        "build_inputs=true",
        "stage=train_classifier",
        "recipe=dp_gd",
        "recipe.epochs=3",
        *words,
    ]


def command(words: list[str]) -> list[str]:
    return [sys.executable, "-m", "mammo_dp", *words]


def scores(outputs: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in outputs.glob("train_classifier/*/metrics.json")}


def test_two_processes_give_what_one_gives(small, tmp_path):
    """The laptop launcher: the same files, every input built once, nothing left of the launcher."""
    axes = ("privacy.epsilon=2,inf", "seed=1,2", "runtime.threads=1")
    one, two = f"outputs={tmp_path}/one", f"outputs={tmp_path}/two"
    assert small.run(*sweep_of(small, *axes, one)) == 0
    done = subprocess.run(
        command(sweep_of(small, *axes, two, "launcher=laptop", "launcher.jobs=2")),
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert scores(tmp_path / "two") == scores(tmp_path / "one")
    assert len(scores(tmp_path / "two")) == 4
    assert done.stdout.count("extract_features/toy-swin_micro") == 2  # running, done
    assert not list((tmp_path / "two" / ".sweeps").glob("*"))
    assert "6 to build, 0 of 4 runs finished" in done.stdout


def test_a_failed_run_does_not_stop_the_others(small, capsys):
    """best_val without validation patches of both classes fails when it runs; status lists it with its overrides."""
    words = sweep_of(small, "recipe.select=last,best_val", "experiment=syn", "synthetic.val_fraction=1e-9",
                     "seed=31", "privacy.epsilon=inf", "gan.epochs=1", "gan.checkpoint_every=1",
                     "synthetic.per_class=4")  # fmt: skip
    assert small.run(*words) == cli.FAILED
    said = capsys.readouterr().out
    assert "1 of 2 runs failed" in said
    assert small.run(f"outputs={small.outputs}") == 0
    listed = capsys.readouterr().out
    assert "FAILED" in listed
    assert "recipe.select=best_val" in listed


def test_what_rests_on_a_failed_input_is_left_out(small, capsys):
    """A GAN that diverges takes real_syn with it, and nothing else."""
    words = sweep_of(small, "experiment=real,real_syn", "privacy.epsilon=inf", "seed=77", "gan.lr=1e30", "gan.epochs=2",
                     "gan.checkpoint_every=1", "synthetic.per_class=4")  # fmt: skip
    assert small.run(*words) == cli.FAILED
    said = capsys.readouterr().out
    assert "left out, since train_gan/" in said
    assert "1 of 2 runs failed" in said


def test_unknown_launchers_are_one_sentence(small, capsys):
    assert small.run(*sweep_of(small, "seed=1,2", "launcher=laptp")) == cli.REFUSED
    assert "choose one of laptop, serial, slurm" in capsys.readouterr().err
    assert small.run(*sweep_of(small, "seed=1,2", "hydra.sweep.dir=/tmp")) == cli.REFUSED


def test_submitits_local_processes(small, tmp_path):
    """The path of launcher=slurm without a cluster."""
    pytest.importorskip("submitit")
    words = sweep_of(
        small, "seed=1,2", "privacy.epsilon=inf", f"outputs={tmp_path}/local", "launcher=slurm_local"
    )
    done = subprocess.run(command(words), capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert len(scores(tmp_path / "local")) == 2
    assert not list((tmp_path / "local" / ".sweeps").glob("*"))


def test_killed_at_random_it_ends_in_the_same_report(small, tmp_path):
    """Any process of the sweep is killed, again and again; the same command then ends in the same bytes."""
    axes = ("privacy.epsilon=2,6", "seed=1,2", "runtime.threads=1", "runtime.checkpoint_seconds=0",
            "recipe.epochs=15", "recipe.batch_size=8", "privacy.accountant=rdp", "recipe.flips=random")  # fmt: skip
    whole, broken = f"outputs={tmp_path}/whole", f"outputs={tmp_path}/broken"
    assert small.run(*sweep_of(small, *axes, whole)) == 0
    words = sweep_of(small, *axes, broken, "launcher=laptop", "launcher.jobs=2")
    killed = 0
    for attempt in range(3):
        begun = _checkpoints(tmp_path / "broken")
        process = subprocess.Popen(command(words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                   cwd=tmp_path, start_new_session=True)  # fmt: skip
        while process.poll() is None and _checkpoints(tmp_path / "broken") <= begun:
            time.sleep(0.05)
        time.sleep(random.random())
        killed += _kill(process, worker=attempt != 0)
        process.wait(timeout=240)
        _kill_group(process)
    assert killed
    assert subprocess.run(command(words), capture_output=True, cwd=tmp_path, check=False).returncode == 0
    assert scores(tmp_path / "broken") == scores(tmp_path / "whole")
    reports = []
    for name in ("whole", "broken"):
        assert small.run("stage=report", f"outputs={tmp_path}/{name}") == 0
        (folder,) = (tmp_path / name / "report").iterdir()
        reports.append(
            {
                p.name: p.read_bytes()
                for p in folder.iterdir()
                if p.name not in ("manifest.json", "config.yaml")
            }
        )
    assert reports[0] == reports[1]
    assert {"report.html", "table1.csv", "pairs.csv", "table1.tex"} <= reports[0].keys()


def _checkpoints(outputs: Path) -> set[tuple[str, float]]:
    """What runs have written, so that a later look tells whether one has gone on."""
    found = set()
    for path in outputs.glob("train_classifier/*/*.*"):
        if path.suffix in (".pt", ".json"):
            with contextlib.suppress(FileNotFoundError):  # replaced by the next
                found.add((str(path), path.stat().st_mtime))
    return found


def _kill(process: subprocess.Popen, *, worker: bool) -> int:
    """kill -9 of the sweep itself, or of one of its workers."""
    import psutil

    if process.poll() is not None:
        return 0
    victims = [psutil.Process(process.pid)]
    if worker:
        victims = [p for p in victims[0].children(recursive=True) if p.memory_info().rss > 1e8] or victims
    victims[0].kill()
    return 1


def _kill_group(process: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
