import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from mammo_dp.engine.workers import each, workers_for


def double(item: int) -> int:
    return 2 * item


def dies_over_three(item: int) -> int:
    if item == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * item


def raises_over_three(item: int) -> int:
    if item == 3:
        raise KeyError("a bug")
    return item


@pytest.mark.parametrize("workers", [1, 2])
def test_every_item_once(workers):
    assert sorted(each(double, range(30), workers=workers)) == [(i, 2 * i) for i in range(30)]
    assert list(each(double, [], workers=workers)) == []


def test_a_crash_costs_one_item():
    found = dict(each(dies_over_three, range(12), workers=2))
    assert found.pop(3) is None
    assert found == {i: 2 * i for i in range(12) if i != 3}


@pytest.mark.parametrize("workers", [1, 2])
def test_bugs_are_passed_on(workers):
    with pytest.raises(KeyError, match="a bug"):
        list(each(raises_over_three, range(9), workers=workers))


def test_number_of_workers(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(4)))
    assert workers_for(None, 1000) == 4
    assert workers_for(None, 40) == 2
    assert workers_for(None, 3) == 1
    assert workers_for(3, 1000) == 3
    assert workers_for(3, 2) == 2
    assert workers_for(3, 0) == 1


def test_workers_end_with_a_killed_parent():
    """kill -9 of the main process must leave nobody behind who could still write or hold memory."""
    code = (
        "import os, time; from mammo_dp.engine.workers import each; from tests.engine.test_workers import tell\n"
        "if __name__ == '__main__':\n    [print(pid, flush=True) for _, pid in each(tell, range(50), workers=2)]"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        os.kill(worker, 0)  # is alive
        parent.kill()
    for _ in range(100):
        if not psutil.pid_exists(worker) or psutil.Process(worker).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.1)
    pytest.fail("a worker outlived its parent")


def tell(item: int) -> int:
    time.sleep(0.1)
    return os.getpid()


def loaded(item: int) -> set[str]:
    return {"torch", "pandas", "hydra", "pydantic"} & set(sys.modules)


def test_a_worker_of_the_command_line_loads_no_torch(tmp_path):
    """What a worker holds while python -m mammo_dp is its parent: one image, and not the parent's libraries."""
    code = (
        "import runpy, sys; sys.argv = ['mammo_dp', '--version']\n"
        "try: runpy.run_module('mammo_dp', run_name='__main__', alter_sys=True)\n"
        "except SystemExit: pass\n"
        "import torch, pandas; from mammo_dp.engine.workers import each; from tests.engine.test_workers import loaded\n"
        "print([found for _, found in each(loaded, range(3), workers=2)])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert ran.stdout.splitlines()[-1] == "[set(), set(), set()]", ran.stderr


def test_workers_that_cannot_start_are_an_error(tmp_path):
    script = tmp_path / "without_guard.py"
    script.write_text(
        "from mammo_dp.engine.workers import each\nprint(list(each(abs, [1, 2, 3], workers=2)))\n"
    )
    ran = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert ran.returncode != 0
    assert "no worker process can start" in ran.stderr
