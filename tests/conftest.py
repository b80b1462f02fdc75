"""What every test may use: small phantom studies, the command line in this process, the shared real data."""

import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two pytest workers on two cores

import pytest
from filelock import FileLock

from mammo_dp import cli
from mammo_dp.config import Config
from mammo_dp.files import Cache
from mammo_dp.models.preparation import Preparation

SMALL_TOY = (
    "dataset=toy", "dataset.toy.train_patients=16", "dataset.toy.test_patients=8", "dataset.toy.external_patients=6",
    "dataset.public_count.official={image:36,patient:16}", "classifier=swin_micro", "privacy.delta=0.01",
    "recipe=paper",
)  # fmt: skip

AS_IT_IS = Preparation(normalize=False)
UNIT_LENGTH = Preparation(normalize=True)


LONGEST_FIRST = (  # so that no worker begins one of them when the other has nothing left to do
    "mutations/", "privacy/test_non_interference", "engine/test_sweep", "readers/test_cbis_ddsm", "training/test_build",
    "audit/test_faults", "stages/", "privacy/test_low_bits", "training/test_gan", "training/test_network",
)  # fmt: skip
WHOLE_COMMANDS = {"built", "small", "place", "fresh"}  # fixtures of tests that run commands


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test is one of unit (seconds for all), integration (runs commands) and slow (marked by hand)."""
    for item in items:
        if item.get_closest_marker("slow") is None:
            commands = WHOLE_COMMANDS & set(getattr(item, "fixturenames", ()))
            item.add_marker("integration" if commands else "unit")
    items.sort(key=lambda item: next((n for n, part in enumerate(LONGEST_FIRST) if part in item.nodeid), 99))


def pytest_configure() -> None:
    os.environ.setdefault(
        "MAMMO_DP_TEST_CACHE", tempfile.mkdtemp(prefix="mammo_dp-tests-")
    )  # workers inherit it


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ["MAMMO_DP_TEST_CACHE"], ignore_errors=True)


def calibrations() -> Cache:
    """A cache for all tests of a session, since a calibration takes seconds. Tests of calibration have their own."""
    return Cache(Path(os.environ["MAMMO_DP_TEST_CACHE"]))


def shared() -> Path:
    """The folder of real data, which is not part of the project. Skips the test where it is absent."""
    folder = Path(os.environ.get("MAMMO_DP_SHARED", Path(__file__).resolve().parents[1] / "../shared"))
    if not (folder / "data/release").is_dir():
        pytest.skip(f"real data is not here: {folder}/data/release (set MAMMO_DP_SHARED)")
    return folder.resolve()


@cache
def config_of(*overrides: str) -> Config:
    (config,) = cli.compose([list(overrides)])
    return config


class Workplace:
    """A folder of its own with raw data and outputs, and the command line on it."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str] | None = None) -> None:
        self.root, self.capsys = root, capsys
        self.outputs = root / "outputs"
        self.small = [*SMALL_TOY, f"dataset.root={root}/toy", f"outputs={self.outputs}"]

    def run(self, *words: str) -> int:
        return cli.main([*words])

    def folders(self, stage: str) -> list[Path]:
        parent = self.outputs / stage
        return sorted(parent.iterdir()) if parent.is_dir() else []

    def said(self) -> tuple[str, str]:
        assert self.capsys is not None
        captured = self.capsys.readouterr()
        return captured.out, captured.err


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """Small phantoms with patches and features, built once by whichever pytest worker comes first. Read only."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    workplace = Workplace(base / "built")
    with FileLock(base / "built.lock"):
        if not workplace.folders("extract_features"):
            assert workplace.run(*workplace.small, "build_inputs=true", "stage=extract_features") == cli.DONE
    return workplace


def workplace_with_phantoms(root: Path, built: Workplace, capsys=None) -> Workplace:
    """A folder whose raw phantoms are those of `built`, by links that a test must not write through."""
    workplace = Workplace(root, capsys)
    (root / "toy").mkdir()
    for folder in (built.root / "toy").glob("[!.]*"):
        (root / "toy" / folder.name).symlink_to(folder)
    return workplace


def copy_of(built: Workplace, workplace: Workplace) -> None:
    """Its artifacts, and the calibrations of all tests."""
    shutil.copytree(built.outputs, workplace.outputs, ignore=shutil.ignore_patterns(".cache"))
    (workplace.outputs / ".cache").symlink_to(calibrations().folder)


@pytest.fixture
def place(tmp_path: Path, built: Workplace, capsys: pytest.CaptureFixture[str]) -> Workplace:
    return workplace_with_phantoms(tmp_path, built, capsys)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, built: Workplace) -> Workplace:
    """Small phantom studies with patches and features, a copy for each module."""
    workplace = workplace_with_phantoms(tmp_path_factory.mktemp("small"), built)
    copy_of(built, workplace)
    return workplace


@pytest.fixture
def fresh(tmp_path: Path, built: Workplace) -> Workplace:
    """The same for one test alone, which may count or report all that is there."""
    workplace = workplace_with_phantoms(tmp_path, built)
    copy_of(built, workplace)
    return workplace
