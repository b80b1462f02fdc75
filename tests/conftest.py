"""What every test may use: small phantom studies, the command line in this process, the shared real data."""

import os
import shutil
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two pytest workers on two cores

import pytest
from filelock import FileLock

from mammo_dp import cli
from mammo_dp.config import Config
from mammo_dp.training.features import Preparation

SMALL_TOY = (
    "dataset=toy", "dataset.toy.train_patients=16", "dataset.toy.test_patients=8", "dataset.toy.external_patients=6",
    "dataset.public_count.official={image:36,patient:16}", "classifier=swin_micro", "privacy.delta=0.01",
)  # fmt: skip

AS_IT_IS = Preparation(normalize=False)
UNIT_LENGTH = Preparation(normalize=True)


def shared() -> Path:
    """The folder of real data, which is not part of the project. Skips the test where it is absent."""
    folder = Path(os.environ.get("MAMMO_DP_SHARED", Path(__file__).resolve().parents[1] / "../shared"))
    if not (folder / "data/release").is_dir():
        pytest.skip(f"real data is not here: {folder}/data/release (set MAMMO_DP_SHARED)")
    return folder.resolve()


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


@pytest.fixture
def place(tmp_path: Path, built: Workplace, capsys: pytest.CaptureFixture[str]) -> Workplace:
    return workplace_with_phantoms(tmp_path, built, capsys)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, built: Workplace) -> Workplace:
    """Small phantom studies with patches and features, a copy for each module."""
    workplace = workplace_with_phantoms(tmp_path_factory.mktemp("small"), built)
    shutil.copytree(built.outputs, workplace.outputs)
    return workplace
