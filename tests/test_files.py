import json
import os

import pytest

from mammo_dp.files import fingerprint, forget_identities, to_json, tree_identity, walk_files, write_atomic


def test_infinity_is_a_string_and_nan_is_refused():
    assert json.loads(to_json({"epsilon": float("inf")})) == {"epsilon": "inf"}
    with pytest.raises(ValueError, match="Out of range"):
        to_json(float("nan"))


def test_fingerprint_ignores_order_and_sees_values():
    assert fingerprint({"a": 1, "b": 2.0}) == fingerprint({"b": 2.0, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})


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


def test_outside_data_is_looked_at_once_a_command(tmp_path):
    (tmp_path / "a.png").write_bytes(b"1")
    before = tree_identity(tmp_path)
    (tmp_path / "b.png").write_bytes(b"1")
    assert tree_identity(tmp_path) == before
    forget_identities()
    assert tree_identity(tmp_path) != before
