from __future__ import annotations

import codecs
from pathlib import Path

import pytest

from ppfl.errors import DataError
from ppfl.learning.tables import read_table


def told(folder: Path, text: str | bytes) -> list[tuple[str, str, str, str]]:
    """What the rows of a table say, paths from the folder on."""
    table = folder / "list.csv"
    table.write_bytes(text.encode() if isinstance(text, str) else text)
    rows = read_table(table)
    return [(str(r.path.relative_to(folder)), r.label, r.group, r.site) for r in rows]


@pytest.mark.parametrize(
    "header",
    [
        "path,label,patient",
        "path,class,group",
        "Filename, Finding ,Patient ID",
        "FILE,diagnosis,patient-id",
        "image,Class,PatientID",
    ],
)
def test_every_name_of_a_column_means_the_same(tmp_path: Path, header: str) -> None:
    assert told(tmp_path, f"{header}\na/1.png,COVID,p1\n") == [("a/1.png", "COVID", "p1", "")]


def test_the_first_of_several_names_counts_and_other_columns_do_not(tmp_path: Path) -> None:
    text = "age,hospital,finding,filename,label,patient,path,group,site\n"
    text += "40,h,f,x.png,l,p,1.png,g,s\n"
    assert told(tmp_path, text) == [("1.png", "l", "g", "s")]


@pytest.mark.parametrize("mark", [";", "\t", ","])
def test_what_excel_writes(tmp_path: Path, mark: str) -> None:
    lines = ["path|label|patient|age", '"a, b; c/1.png"|"Lung ""Opacity"""|Müller|"1,5"', "|||"]
    lines += ["2.png|Normal||", ""]
    quoted = "\r\n".join(lines).replace("|", mark)
    rows = told(tmp_path, codecs.BOM_UTF8 + quoted.encode())
    assert rows == [
        ("a, b; c/1.png", 'Lung "Opacity"', "Müller", ""),
        ("2.png", "Normal", "", ""),
    ]


def test_a_comma_in_the_only_quoted_heading_is_no_delimiter(tmp_path: Path) -> None:
    text = '"note, or none";path;label\nx;1.png;a\n'
    assert told(tmp_path, text) == [("1.png", "a", "", "")]


def test_backslashes_as_windows_writes_them(tmp_path: Path) -> None:
    (tmp_path / "odd\\name.png").touch()
    rows = told(tmp_path, "path,label\na\\b\\1.png,x\nodd\\name.png,x\n")
    assert [row[0] for row in rows] == ["a/b/1.png", "odd\\name.png"]
    with pytest.raises(DataError, match="leads out of the table's folder"):
        told(tmp_path, "path,label\na\\..\\..\\1.png,x\n")


def test_a_table_in_another_encoding_says_how_to_save_it(tmp_path: Path) -> None:
    for text in ("path,label\nMüller.png,a\n".encode("cp1252"), "path,label\n".encode("utf-16")):
        with pytest.raises(DataError, match="not a readable CSV table") as caught:
            told(tmp_path, text)
        assert "CSV UTF-8" in caught.value.hint


def test_the_line_of_what_is_wrong_is_named(tmp_path: Path) -> None:
    text = 'path,finding,note\n1.png,a,"two\nlines"\n\n2.png\n'
    with pytest.raises(DataError, match="line 5: the column finding is empty"):
        told(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('1.png,a,p1\n2.png,"b,p2\n3.png,a,p3\n', 3),  # 3.png was never seen
        ('1.png,a,p1\n"2.png,b,p2\n"3.png",a,p3\n', 3),
        ('1.png,a,p1\n2.png,b,p2,"note\n3.png,a,"p3"\n', 3),
        ('1.png,a,"p"1\n', 2),
    ],
)
def test_a_stray_quotation_mark_hides_no_line(tmp_path: Path, text: str, line: int) -> None:
    with pytest.raises(DataError, match=f"line {line}: not a readable CSV table") as caught:
        told(tmp_path, f"path,label,patient\n{text}")
    assert "quotation mark" in caught.value.hint


def test_a_stray_quotation_mark_among_the_headings(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line 1: not a readable CSV table"):
        told(tmp_path, 'path,label,"patient\n1.png,a,p1\n')


@pytest.mark.parametrize(
    ("cells", "column"),
    [
        ('"a\nb.png",x,p,s', "file"),
        ('1.png,"x\r\n2.png",p,s', "class"),
        ('1.png,x,"p1\n2.png,x,p2",s', "patient"),  # two quotation marks that hide 2.png
        ('1.png,x,p,"s\r"', ""),
        ('1.png,x,p,"s\rt"', "hospital"),
    ],
)
def test_a_cell_that_is_used_goes_over_one_line(tmp_path: Path, cells: str, column: str) -> None:
    text = f"file,class,patient,hospital\n0.png,x,p,s\n{cells}\n"
    if column:
        with pytest.raises(DataError, match=f"line 3: a line break in the column {column}"):
            told(tmp_path, text)
    else:  # at a cell's end it hides nothing
        assert len(told(tmp_path, text)) == 2
