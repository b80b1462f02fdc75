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
    ((_, row),) = read(tmp_path, content)
    assert (row["a"], row["b_c"], row[FAULT]) == ("1", "2", "")


def test_latin_1(tmp_path):
    assert read(tmp_path, "a,b_c\nMüller,é\n".encode("latin-1"))[0][1]["a"] == "Müller"


def test_faults_of_one_row_leave_the_others(tmp_path):
    rows = read(tmp_path, "a,b_c\n1,2,3\n5,6\n7\n")
    assert [row[FAULT] for _, row in rows] == ["more values than columns", "", ""]
    assert rows[2] == (4, {"a": "7", "b_c": "", FAULT: ""})


@pytest.mark.parametrize(
    "content",
    [
        'a,b_c\n"x\ny",2\n5,6\n',
        'a,comment,b_c\n1,"12 mm,2\n3,ok,4\n5,so called 3" marker,6\n',  # row 4 would stand under row 2
        'a,b_c,comment\n1,2,"spiculated\n3,4,ok\n5,6,clip"\n',
    ],
)
def test_rows_inside_a_value_are_never_lost_in_silence(tmp_path, content):
    with pytest.raises(UserError, match="row 2 of the table holds a line break inside a value"):
        read(tmp_path, content)


def test_numbers_are_those_of_a_spreadsheet(tmp_path):
    assert [number for number, _ in read(tmp_path, 'a,b_c\n1,2\n\n,\n"3\n",4\n5,6\n')] == [2, 5, 6]


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
        ('a,b_c\n1,"2\n3,4\n', "correct the quotation marks"),
    ],
)
def test_what_is_no_table(tmp_path, content, sentence):
    with pytest.raises(UserError, match=sentence):
        read(tmp_path, content)
    with pytest.raises(UserError, match="cannot be read"):
        read_table(tmp_path / "none.csv", title="the table", required=())
