import os
import stat

import pytest

from mammo_dp.data.pseudonyms import check_writable, pseudonyms
from mammo_dp.errors import UserError

ONE = "p_0123456789ab"


def test_drawn_once_and_kept(tmp_path):
    path = tmp_path / "pseudonyms.csv"
    with pseudonyms(path) as pseudonym:
        first, other = pseudonym("Müller, Anna"), pseudonym("12345")
        assert pseudonym("Müller, Anna") == first != other
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pseudonyms(path) as pseudonym:
        assert (pseudonym("12345"), pseudonym("Müller, Anna")) == (other, first)
        third = pseudonym("third")
    with pseudonyms(path) as pseudonym:
        assert pseudonym("third") == third
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.endswith(".lock")) == ["pseudonyms.csv"]


def test_they_follow_from_nothing(tmp_path):
    drawn = set()
    for name in ("a", "b"):
        with pseudonyms(tmp_path / name) as pseudonym:
            drawn.add(pseudonym("the same patient"))
    assert len(drawn) == 2
    assert all(len(p) == 14 for p in drawn)


def test_a_file_that_others_may_read_is_closed(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("patient_id,pseudonym\nx,p_0123456789ab\n")
    path.chmod(0o644)
    with pseudonyms(path) as pseudonym:
        assert pseudonym("x") == "p_0123456789ab"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "content",
    ["patient_id\nx\n", "patient_id,pseudonym\nx,\n", "patient_id,pseudonym\nx,p_1\ny,p_1\n", "nonsense"],
)
def test_a_damaged_file_is_never_written_over(tmp_path, content):
    path = tmp_path / "p.csv"
    path.write_text(content)
    path.chmod(0o644)
    with (
        pytest.raises(UserError, match=r"dataset\.pseudonyms\) is damaged") as caught,
        pseudonyms(path) as pseudonym,
    ):
        pseudonym("x")
    assert path.read_text() == content
    assert stat.S_IMODE(path.stat().st_mode) == 0o644  # perhaps it is somebody's other file
    assert "17" not in str(caught.value)


def test_a_failure_inside_keeps_nothing(tmp_path):
    path = tmp_path / "p.csv"

    def draw() -> None:
        with pseudonyms(path) as pseudonym:
            pseudonym("x")
            raise KeyError

    with pytest.raises(KeyError):
        draw()
    assert not path.exists()


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"cannot be written.*set dataset\.pseudonyms=FILE"):
        check_writable(tmp_path / "none/p.csv")
    check_writable(tmp_path / "p.csv")
    monkeypatch.setattr(
        os, "access", lambda path, mode: False
    )  # tests may run as root, who may write anywhere
    with pytest.raises(UserError, match="cannot be written"):
        check_writable(tmp_path / "p.csv")
    monkeypatch.undo()

    def refused(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(UserError, match="cannot be written"), pseudonyms(tmp_path / "p.csv") as pseudonym:
        pseudonym("x")


def test_a_link_leads_to_one_file(tmp_path):
    """Two tables that share a file through a link share its pseudonyms; the link stays one."""
    (tmp_path / "other").mkdir()
    link = tmp_path / "other/p.csv"
    os.symlink(tmp_path / "p.csv", link)
    with pseudonyms(link) as pseudonym:
        first = pseudonym("x")
    with pseudonyms(tmp_path / "p.csv") as pseudonym:
        assert pseudonym("x") == first
    assert link.is_symlink()
    assert (tmp_path / "p.csv").is_file()


def test_a_folder_is_no_file_and_stays_as_it_is(tmp_path):
    mode = tmp_path.stat().st_mode
    with pytest.raises(UserError, match="is not a file"):
        check_writable(tmp_path)
    assert tmp_path.stat().st_mode == mode
