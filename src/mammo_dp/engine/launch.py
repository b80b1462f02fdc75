"""How the runs of a sweep are started: in this process, in several on this machine, or as jobs of a cluster.

A run starts as soon as its own inputs are there.
"""

import contextlib
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Protocol

from mammo_dp.config.schema import Launcher
from mammo_dp.engine.artifacts import Store
from mammo_dp.engine.build import Node
from mammo_dp.engine.workers import end_with_parent, usable_cores
from mammo_dp.errors import UserError

FOLDER = ".sweeps"  # in the root of artifacts: what submitit writes while its jobs run
Job = Callable[[list[str]], None]  # builds what a list of overrides asks for; raises if that fails


class Pending(Protocol):
    """A run that was started."""

    def done(self) -> bool: ...
    def result(self) -> Any: ...


class Launch(Protocol):
    """One way to start runs."""

    most: int | None
    """Runs at a time."""
    wait: float
    """Seconds between two looks at what is running."""

    def start(self, overrides: list[str]) -> Pending: ...
    def close(self, *, lost: bool) -> None: ...


def run_all(
    nodes: Sequence[Node],
    overrides: Mapping[Path, list[str]],
    launch: Launch,
    say: Callable[[str], None],
) -> set[Path]:
    """Build the nodes, each once its inputs among them are built, and return the folders of those that failed.

    overrides: by folder, what builds a node. What was under way when a process was killed is tried again, one run at
    a time; a run that is lost alone is given up, and takes no other along.
    """
    waiting = {node.folder: node for node in nodes}
    running: dict[Path, tuple[Node, Pending]] = {}
    suspects: set[Path] = set()  # lost once
    failed: set[Path] = set()
    lost = False
    try:
        while waiting or running:
            for folder, node in list(waiting.items()):
                steps = [step for step in node.walk() if step is not node]
                if broken := next((step for step in steps if step.folder in failed), None):
                    say(f"{node.name}: left out, since {broken.name} failed")
                    failed.add(waiting.pop(folder).folder)
                elif _has_room(folder, running, suspects, launch.most) and not any(
                    step.folder in waiting or step.folder in running for step in steps
                ):
                    running[folder] = waiting.pop(folder), launch.start(overrides[folder])
            ended = [folder for folder, (_, pending) in running.items() if pending.done()]
            if not ended and running:
                time.sleep(launch.wait)
            for folder in ended:
                node, pending = running.pop(folder)
                crashed = False
                try:
                    pending.result()
                except BrokenProcessPool:
                    crashed = True
                except Exception:  # a run that fails has said so itself; a job of a cluster may be lost
                    lost = lost or not node.has_failed()
                if node.artifact() is not None:
                    continue
                if crashed and not node.has_failed() and folder not in suspects:
                    say(f"{node.name}: a sweep worker crashed; this run is tried again, alone")
                    waiting[folder] = node
                    suspects.add(folder)
                else:
                    failed.add(folder)
    finally:
        launch.close(lost=lost or bool(running))
    return failed


def _has_room(folder: Path, running: Collection[Path], suspects: set[Path], most: int | None) -> bool:
    """Whether a run may start now. One that was lost with its process runs alone."""
    if folder in suspects:
        return not running
    return not suspects & set(running) and (most is None or len(running) < most)


def launcher(settings: Launcher, job: Job, outputs: Path, *, runs: int) -> Launch:
    """The way to start `runs` runs. Raises UserError where it is not available."""
    if settings.kind in ("slurm", "local"):
        return _Submitit(settings, job, outputs)
    processes = min(settings.jobs or usable_cores(), runs)
    if settings.kind == "serial" or processes == 1:
        return _Serial(job)
    return _Processes(processes, job)


class _Serial:
    """One run after the other in this process."""

    most: int | None = 1
    wait = 0.0

    def __init__(self, job: Job) -> None:
        self.job = job

    def start(self, overrides: list[str]) -> Pending:
        future: Future[None] = Future()
        try:
            future.set_result(self.job(overrides))
        except Exception as error:
            future.set_exception(error)
        return future

    def close(self, *, lost: bool) -> None: ...


class _Processes:
    """Several runs at a time on this machine, each with its share of the cores as threads."""

    wait = 0.05

    def __init__(self, processes: int, job: Job) -> None:
        self.most: int | None = processes
        self.job = job
        self.pool = self._new_pool(processes)

    def start(self, overrides: list[str]) -> Pending:
        try:
            return self.pool.submit(self.job, overrides)
        except BrokenProcessPool:  # one of its processes has crashed since
            assert self.most is not None
            self.pool = self._new_pool(self.most)
            return self.pool.submit(self.job, overrides)

    @staticmethod
    def _new_pool(processes: int) -> ProcessPoolExecutor:
        threads = max(1, usable_cores() // processes)
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(
            processes, mp_context=context, initializer=_begin_worker, initargs=(threads,)
        )

    def close(self, *, lost: bool) -> None:
        processes = list((getattr(self.pool, "_processes", None) or {}).values())
        self.pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:  # none is at work but after Ctrl-C; a run resumes from its last checkpoint
            process.terminate()


def _begin_worker(threads: int) -> None:
    import signal

    from mammo_dp.engine import progress

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # torch is not loaded yet
    progress.silence()  # bars of several processes would overwrite each other
    end_with_parent()


class _Submitit:
    """Each run is a job of a SLURM cluster, or a process of submitit's on this machine to try that out."""

    wait = 1.0

    def __init__(self, settings: Launcher, job: Job, outputs: Path) -> None:
        try:
            import submitit
        except ImportError:
            raise UserError(
                f'launcher={settings.kind} needs the extra slurm: pip install "mammo-dp[slurm]"'
            ) from None
        self.most, self.job = settings.jobs, _Requeued(job)
        self.folder = outputs / FOLDER / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
        self.lock = contextlib.ExitStack()
        self.lock.enter_context(Store(outputs).lock(self.folder))  # stage=clean leaves it alone
        options: dict[str, Any] = {"timeout_min": settings.timeout_min}
        if settings.kind == "slurm":
            options |= settings.model_dump(include={"gpus_per_node", "cpus_per_task", "mem_gb"})
            options |= {
                "slurm_signal_delay_s": settings.signal_delay_s,
                "slurm_partition": settings.partition,
                "slurm_account": settings.account,
                "slurm_additional_parameters": settings.slurm,
            }
        try:
            self.executor = submitit.AutoExecutor(
                self.folder, cluster=settings.kind, slurm_max_num_timeout=settings.max_requeues
            )
            self.executor.update_parameters(**{k: v for k, v in options.items() if v not in (None, {})})
        except Exception as error:
            self.close(lost=False)
            raise UserError(f"launcher={settings.kind} cannot start jobs here ({error})") from None

    def start(self, overrides: list[str]) -> Pending:
        return self.executor.submit(self.job, overrides)

    def close(self, *, lost: bool) -> None:
        """The job files hold paths of outside data; jobs that still run, and a reader of a lost one, need them."""
        if not lost:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.lock.close()


class _Requeued:
    """A job that submitit puts back into the queue when it is preempted; it resumes from its last checkpoint."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def __call__(self, overrides: list[str]) -> None:
        from mammo_dp.engine import progress

        progress.silence()
        self.job(overrides)

    def checkpoint(self, overrides: list[str]) -> Any:
        import submitit

        return submitit.helpers.DelayedSubmission(self, overrides)
