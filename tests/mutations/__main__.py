"""Apply each fault to the source in memory, run the test that should catch it, print a table of which did.

    python -m tests.mutations        # about a minute; exit code 1 if a fault survives or the sound code fails

Libraries are imported once; each fault runs in a fork that imports the project anew with one line changed.
"""

import importlib.util
import json
import os
import sys
import tempfile
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType

os.environ["OMP_NUM_THREADS"] = "1"  # a fork does not take threads along

import dp_accounting.pld.privacy_loss_distribution
import hydra
import hypothesis
import opacus.optimizers
import pandas
import pytest
import scipy.stats
import sklearn.metrics
import timm

from tests.mutations.faults import FAULTS, Fault

PROJECT = Path(__file__).parents[2] / "src" / "mammo_dp"
MOST = 1  # failing tests after which a fault counts as caught
hypothesis.settings.register_profile(
    "mutations",
    database=None,
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],  # no shrinking
)
hypothesis.settings.load_profile("mutations")
PRELOADED = (dp_accounting, hydra, hypothesis, opacus, pandas, scipy, sklearn, timm)


class Changed(SourceFileLoader):
    """Loads a module with the fault in it."""

    fault: Fault

    def get_code(self, fullname: str) -> CodeType:
        source = Path(self.path).read_text()
        return compile(source.replace(self.fault.old, self.fault.new), self.path, "exec")


class Finder(MetaPathFinder):
    def __init__(self, fault: Fault) -> None:
        self.fault = fault

    def find_spec(self, fullname, path=None, target=None) -> ModuleSpec | None:
        if fullname != f"mammo_dp.{self.fault.module}":
            return None
        found = PathFinder.find_spec(fullname, path)
        assert found is not None
        loader = Changed(fullname, found.origin or "")
        loader.fault = self.fault
        return importlib.util.spec_from_file_location(fullname, found.origin, loader=loader)


class Recorder:
    """A pytest plugin: names of the tests that failed, and how many passed."""

    def __init__(self) -> None:
        self.failed: list[str] = []
        self.passed = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid.split("::")[-1])
        elif report.when == "call" and report.passed:
            self.passed += 1

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.failed.append(f"collection of {report.nodeid}: {report.longrepr}")


def check_text(fault: Fault) -> None:
    """Exit unless the text that the fault changes stands in its module once: elsewhere it would survive unnoticed."""
    source = PROJECT / f"{fault.module.replace('.', '/')}.py"
    stands = source.read_text().count(fault.old)
    if stands != 1:
        raise SystemExit(f"{fault.name}: {fault.old!r} stands {stands} times in {fault.module}")


def tried(fault: Fault | None, tests: list[str]) -> dict[str, list[str] | int]:
    """Run `tests` with the fault (None: the sound code) in a fork."""
    with tempfile.NamedTemporaryFile("r") as answer:
        child = os.fork()
        if child == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            # what the sound code has calibrated would hide a fault of calibration
            os.environ["MAMMO_DP_TEST_CACHE"] = tempfile.mkdtemp(prefix="mammo_dp-mutation-")
            if fault is not None:
                sys.meta_path.insert(0, Finder(fault))
            recorder = Recorder()
            options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-W", "ignore", f"--maxfail={MOST}"]
            pytest.main([*options, *(f"tests/{test}" for test in tests)], plugins=[recorder])
            Path(answer.name).write_text(json.dumps({"failed": recorder.failed, "passed": recorder.passed}))
            os._exit(0)
        os.waitpid(child, 0)
        return json.loads(answer.read() or '{"failed": ["the run did not end"], "passed": 0}')


def main() -> int:
    for fault in FAULTS:
        check_text(fault)
    sound = tried(None, sorted({fault.test for fault in FAULTS}))
    print(f"sound code: {sound['passed']} passed, failed: {sound['failed'] or 'none'}", flush=True)
    survivors = []
    for fault in FAULTS:
        found = tried(fault, [fault.test])
        failed = found["failed"]
        assert isinstance(failed, list)
        broken = [name for name in failed if name.startswith("collection")]
        caught = list(dict.fromkeys(failed)) if not broken else []
        if not caught:
            survivors.append(fault.name)
        verdict = ", ".join(caught) or f"SURVIVES {broken}"
        print(f"| {fault.name:<42} | {verdict} |", flush=True)
    print(f"{len(FAULTS) - len(survivors)} of {len(FAULTS)} faults are caught")
    return 1 if survivors or sound["failed"] or not sound["passed"] else 0


if __name__ == "__main__":
    assert PRELOADED
    sys.exit(main())
