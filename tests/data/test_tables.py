import pytest

from mammo_dp.data.tables import FAULT, read_table
from mammo_dp.errors import UserError


def read(tmp_path, content: bytes | str, **options):
    path = tmp_path / "t.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_table(path, title="the table", required=("a", "b_c"), **options)


@pytest.mark.parametrize(
    "content",
    [
        "a,b c\n1,2\n",
        "A , B  c\r\n 1 , 2 \r\n",
        "a;b_c\n1;2\n",
        "a\tb_c\n1\t2\n",
        '\n\na,b_c\n"1","2\n"\n\n',
        "a,b_c,d\n1,2\n",
        "\ufeffa,b_c\n1,2\n",
        "a,b_c\n1,2\n".encode("utf-16"),
        'a,b_c\n"1" ,2\n',
    ],
)
def test_forms_of_the_same_table(tmp_path, content):
    ((number, row),) = read(tmp_path, content)
    assert (number, row["a"], row["b_c"], row[FAULT]) == (2, "1", "2", "")


def test_latin_1(tmp_path):
    assert read(tmp_path, "a,b_c\nMüller,é\n".encode("latin-1"))[0][1]["a"] == "Müller"


def test_faults_of_one_row_leave_the_others(tmp_path):
    rows = read(tmp_path, 'a,b_c\n1,2,3\n"x\ny",2\n5,6\n7\n')
    faults = [row[FAULT] for _, row in rows]
    assert "more values" in faults[0]
    assert "line break" in faults[1]
    assert faults[2:] == ["", ""]
    assert rows[3] == (5, {"a": "7", "b_c": "", FAULT: ""})


def test_line_breaks_in_columns_that_nobody_reads(tmp_path):
    assert read(tmp_path, 'a,b_c,comment\n1,2,"x\ny"\n')[0][1][FAULT] == ""


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "no rows"),
        ("a,b_c\n", "no rows"),
        ("a,b_d\n1,2\n", "no column b_c.*Is b_d meant"),
        ("x\n1\n", "no column a and no column b_c"),
        ("a,b_c,a\n1,2,3\n", "two columns named a"),
        (b"PK\3\4\0\0", "not a text file"),
        ('a,b_c\n1,"2\n3,4\n', "mend the quotation marks"),
    ],
)
def test_what_is_no_table(tmp_path, content, sentence):
    with pytest.raises(UserError, match=sentence):
        read(tmp_path, content)
    with pytest.raises(UserError, match="cannot be read"):
        read_table(tmp_path / "none.csv", title="the table", required=())
