import json
import os

import pytest

from mammo_dp.artifacts import Mask, Store, fingerprint, to_json, tree_identity, walk_files, write_atomic
from mammo_dp.errors import UserError


def finished(store: Store, *, content: str = "x"):
    output = store.begin(store.folder("stage", "label", "00000000"), config_yaml="{}", inputs={}, fresh=False)
    (output.folder / "file.txt").write_text(content)
    return output.finish({"stage": "stage", "fingerprint": "00000000"})


def test_infinity_is_a_string_and_nan_is_refused():
    assert json.loads(to_json({"epsilon": float("inf")})) == {"epsilon": "inf"}
    with pytest.raises(ValueError, match="Out of range"):
        to_json(float("nan"))


def test_fingerprint_ignores_order_and_sees_values():
    assert fingerprint({"a": 1, "b": 2.0}) == fingerprint({"b": 2.0, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})


def test_no_manifest_is_not_finished(tmp_path):
    store = Store(tmp_path)
    artifact = finished(store)
    assert store.load(artifact.folder) is not None
    (artifact.folder / "manifest.json").unlink()
    assert store.load(artifact.folder) is None


def test_changed_bytes_stop_the_reader(tmp_path):
    artifact = finished(Store(tmp_path))
    assert artifact.path("file.txt").read_text() == "x"
    (artifact.folder / "file.txt").write_text("y")
    with pytest.raises(UserError, match="not what its manifest recorded"):
        artifact.path("file.txt")


def test_lock_keeps_others_out(tmp_path):
    store = Store(tmp_path)
    folder = store.folder("stage", "label", "1")
    with store.lock(folder) as waited:
        assert not waited
        child = os.fork()
        if child == 0:
            os._exit(0 if Store(tmp_path).is_locked(folder) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not store.is_locked(folder)


def test_tree_identity_sees_bytes_of_tables_and_survives_moves(tmp_path):
    tree = tmp_path / "a"
    tree.mkdir()
    (tree / "list.csv").write_text("one")
    (tree / "image.png").write_bytes(b"1")
    before = tree_identity(tree)
    moved = tmp_path / "b"
    tree.rename(moved)
    assert tree_identity(moved) == before  # paths are not hashed
    stat = (moved / "list.csv").stat()
    (moved / "list.csv").write_text("two")
    os.utime(moved / "list.csv", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    moved.rename(tmp_path / "c")
    assert tree_identity(tmp_path / "c") != before  # same size and time, other bytes


def test_link_loops_end(tmp_path):
    (tmp_path / "x.png").write_bytes(b"1")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert tree_identity(tmp_path)


def test_mask_replaces_paths_by_keys():
    mask = Mask.of({"dataset.root": "/secret/hospital", "dataset.sources.x.root": "/secret/hospital/x"})
    assert mask("at /secret/hospital/x/1.dcm") == "at <dataset.sources.x.root>/1.dcm"
    assert mask("dataset.root=/secret/hospital") == "dataset.root=<dataset.root>"
    assert mask("/secret/hospitality") == "/secret/hospitality"
    assert Mask.of({"dataset.root": "."})("a. b.") == "a. b."


def test_write_atomic_leaves_no_temporary(tmp_path):
    write_atomic(tmp_path / "f", "a")
    write_atomic(tmp_path / "f", "b")
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_walk_survives_circles_and_locked_folders(tmp_path, monkeypatch):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "locked").mkdir()
    (tmp_path / "a/b/file").write_text("x")
    os.symlink(tmp_path / "a", tmp_path / "a/b/up")
    os.symlink("self", tmp_path / "self")

    def scandir(folder, scan=os.scandir):
        if str(folder).endswith("locked"):  # tests may run as root, who may enter anything
            raise PermissionError(13, "Permission denied")
        return scan(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    refused = []
    assert [path.relative_to(tmp_path).as_posix() for path in walk_files(tmp_path, refused)] == ["a/b/file"]
    assert refused == [tmp_path / "locked"]
    with pytest.raises(PermissionError):  # where nothing may be missing
        list(walk_files(tmp_path))


def test_mask_of_confidential_data_takes_what_follows_the_path():
    mask = Mask.of({"dataset.root": "/secret/clinic"}, confidential=True)
    assert (
        mask("cannot open '/secret/clinic/Pat O'Brien: 1951/1.dcm'\nnext")
        == "cannot open '<dataset.root>\nnext"
    )
    assert mask("dataset.root=/secret/clinic seed=1") == "dataset.root=<dataset.root> seed=1"
    assert Mask.of({"dataset.root": "/secret/clinic"})("/secret/clinic/1.dcm") == "<dataset.root>/1.dcm"
