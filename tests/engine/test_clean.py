import json
import os
import time

from mammo_dp.engine.artifacts import Store
from mammo_dp.engine.clean import SWEEPS_OLD, removable
from mammo_dp.stages import STAGES


def made(
    root, stage: str, name: str, *, version: int, inputs=(), label: str = "x", finished: str = "2026-01-01"
):
    folder = root / stage / name
    folder.mkdir(parents=True)
    manifest = {
        "schema_version": 2, "stage": stage, "label": label, "stage_version": version,
        "timings": {"finished": finished},
        "inputs": {str(n): {"artifact": i} for n, i in enumerate(inputs)},
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "data").write_bytes(b"0" * 1000)
    return f"{stage}/{name}"


def versions() -> dict[str, int]:
    return {name: stage.version for name, stage in STAGES.items()}


def tree(root):
    now = versions()
    old = made(root, "extract_patches", "p-old", version=now["extract_patches"] - 1)
    patches = made(root, "extract_patches", "p", version=now["extract_patches"])
    spare = made(root, "extract_patches", "p-spare", version=now["extract_patches"])
    gan = made(
        root, "train_gan", "g", version=now["train_gan"], inputs=[patches]
    )  # its samples are still to come
    used = made(root, "train_gan", "g-used", version=now["train_gan"], inputs=[patches])
    run = made(root, "train_classifier", "r", version=now["train_classifier"], inputs=[patches, used])
    reports = [made(root, "report", f"t{d}", version=now["report"], finished=f"2026-01-0{d}") for d in (1, 2)]
    for name, age in (("old", 2 * SWEEPS_OLD), ("new", 0)):
        folder = root / ".sweeps" / name
        folder.mkdir(parents=True)
        os.utime(folder, times=(time.time() - age, time.time() - age))
    return {
        "go": {old, spare, reports[0], ".sweeps/old"},
        "stay": {patches, gan, run, reports[1], ".sweeps/new"},
    }


def test_only_what_nothing_needs_is_listed(tmp_path):
    expected = tree(tmp_path)
    found = {item.folder.relative_to(tmp_path).as_posix() for item in removable(Store(tmp_path), STAGES)}
    assert found == expected["go"]


def test_what_is_being_made_stays(tmp_path):
    tree(tmp_path)
    store = Store(tmp_path)
    with store.lock(tmp_path / "extract_patches" / "p-spare"):
        from filelock import FileLock  # another process would hold it: the same lock, another object

        assert FileLock(tmp_path / ".locks" / "extract_patches-p-spare.lock").lock_file
        names = {item.folder.name for item in removable(Store(tmp_path), STAGES)}
    assert "p-spare" not in names


def test_inputs_stay_while_something_has_begun(tmp_path):
    """A run that was killed resumes, and may read any of them."""
    expected = tree(tmp_path)
    (tmp_path / "train_classifier" / "begun").mkdir()
    found = {item.folder.relative_to(tmp_path).as_posix() for item in removable(Store(tmp_path), STAGES)}
    assert found == expected["go"] - {"extract_patches/p-spare"}


def test_it_deletes_only_when_told_to(tmp_path, place, capsys):
    expected = tree(tmp_path / "out")
    assert place.run("stage=clean", f"outputs={tmp_path}/out") == 0
    said = capsys.readouterr().out
    assert "nothing was deleted" in said
    assert all((tmp_path / "out" / name).exists() for name in expected["go"])
    assert place.run("stage=clean", f"outputs={tmp_path}/out", "clean.apply=true") == 0
    assert not any((tmp_path / "out" / name).exists() for name in expected["go"])
    assert all((tmp_path / "out" / name).exists() for name in expected["stay"])
    assert place.run("stage=clean", f"outputs={tmp_path}/out") == 0
    assert "nothing to clean" in capsys.readouterr().out
