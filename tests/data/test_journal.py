import cv2
import numpy as np
import pytest

from mammo_dp.data import journal
from mammo_dp.data.cutting import Geometry, Place, Task
from mammo_dp.data.records import Outline

GEOMETRY = Geometry(box="contour", margin=10, min_side=20, size=16)
LESION = Outline(np.array([[20, 20], [40, 20], [40, 40]]))


@pytest.fixture
def tasks(tmp_path):
    made = []
    for number in range(4):
        path = tmp_path / f"{number}.png"
        cv2.imwrite(str(path), np.random.default_rng(number).integers(0, 256, (90, 80), dtype=np.uint8))
        made.append(Task(path, ((2 * number, LESION), (2 * number + 1, LESION)), GEOMETRY))
    return made


class Run:
    def __init__(self, tmp_path, monkeypatch):
        self.folder, self.read = tmp_path / "out", []
        self.folder.mkdir()
        cut = journal.cut_image
        monkeypatch.setattr(
            journal, "cut_image", lambda task: self.read.append(task.image_path.stem) or cut(task)
        )

    def __call__(self, tasks):
        self.read.clear()
        images = journal.cut_all(
            tasks, journal=self.folder / "done.jsonl", path_of=lambda n: self.folder / f"p/{n}.png", workers=1
        )
        return {number: outcome for image in images for number, outcome in image.outcomes.items()}


@pytest.fixture
def run(tmp_path, monkeypatch):
    return Run(tmp_path, monkeypatch)


def test_finished_images_are_not_read_again(run, tasks):
    first = run(tasks)
    assert run.read == ["0", "1", "2", "3"]
    assert all(isinstance(outcome, Place) for outcome in first.values())
    assert run(tasks) == first
    assert run.read == []


def test_a_torn_line_a_lost_and_a_changed_patch(run, tasks):
    first = run(tasks)
    path = run.folder / "done.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]) + lines[-1][:40])
    (run.folder / "p/0.png").unlink()
    (run.folder / "p/3.png").write_bytes(b"other")
    assert run(tasks) == first
    assert run.read == ["0", "1", "3"]
    assert run(tasks) == first
    assert run.read == []


def test_failures_are_tried_again(run, tasks):
    good = tasks[2].image_path.read_bytes()
    tasks[2].image_path.write_bytes(b"damaged")
    assert "not a readable image" in run(tasks)[4]
    tasks[2].image_path.write_bytes(good)
    assert isinstance(run(tasks)[4], Place)
    assert run.read == ["2"]


def test_a_crash_of_the_worker_is_a_reason(run, tasks, monkeypatch):
    monkeypatch.setattr(journal, "each", lambda function, items, workers: ((item, None) for item in items))
    assert set(run(tasks).values()) == {journal.CRASHED}
