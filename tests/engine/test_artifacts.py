import os

import pytest

from mammo_dp.engine.artifacts import Mask, Store
from mammo_dp.errors import UserError


def finished(store: Store, *, content: str = "x"):
    output = store.begin(store.folder("stage", "label", "00000000"), config_yaml="{}", inputs={}, fresh=False)
    (output.folder / "file.txt").write_text(content)
    return output.finish({"stage": "stage", "fingerprint": "00000000"})


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


def test_mask_replaces_paths_by_keys():
    mask = Mask.of({"dataset.root": "/secret/hospital", "dataset.sources.x.root": "/secret/hospital/x"})
    assert mask("at /secret/hospital/x/1.dcm") == "at <dataset.sources.x.root>/1.dcm"
    assert mask("dataset.root=/secret/hospital") == "dataset.root=<dataset.root>"
    assert mask("/secret/hospitality") == "/secret/hospitality"
    assert Mask.of({"dataset.root": "."})("a. b.") == "a. b."


def test_mask_of_confidential_data_takes_what_follows_the_path():
    mask = Mask.of({"dataset.root": "/secret/clinic"}, confidential=True)
    assert (
        mask("cannot open '/secret/clinic/Pat O'Brien: 1951/1.dcm'\nnext")
        == "cannot open '<dataset.root>\nnext"
    )
    assert mask("dataset.root=/secret/clinic seed=1") == "dataset.root=<dataset.root> seed=1"
    assert Mask.of({"dataset.root": "/secret/clinic"})("/secret/clinic/1.dcm") == "<dataset.root>/1.dcm"
