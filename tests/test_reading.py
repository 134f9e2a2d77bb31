from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline import reading, reading_base
from pipeline.errors import SeqtrackError
from pipeline.params import Data
from pipeline.reading import Defect, Row, Shape, find_files, format_of, source_name

WriteFile = Callable[[str, bytes | str], Path]

TEXT = st.text(st.characters(codec="utf-8"))


SHARED = Path(os.environ.get("SEQTRACK_DATA", Path(__file__).parents[2] / "shared" / "data"))


def settings_of(**given: Any) -> Data:
    """The data section with some keys set."""
    return Data(**{"path": ".", "text": None, "text_pair": None, "label": None, "label_names": None, **given})


def read(path: Path, **given: Any) -> tuple[Shape, list[Any]]:
    """Shape and rows of a file."""
    kind = format_of(path, settings_of(**given))
    return kind.shape(path), list(kind.rows(path))


@pytest.fixture
def file(tmp_path: Path) -> WriteFile:
    """A function that writes a file and returns its path."""

    def write(name: str, content: bytes | str) -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def values(rows: list[Row]) -> list[dict[str, Any]]:
    return [row.values for row in rows]


def test_csv_with_quotes_commas_and_line_ends(file: WriteFile) -> None:
    shape, rows = read(file("a.csv", 'text,label\r\n"a, ""b""\r\nc",1\r\n\r\n  d ,2'))
    assert shape.columns == ("text", "label")
    assert rows == [
        Row(2, 2, {"text": 'a, "b"\r\nc', "label": "1"}),
        Row(5, 1, {"text": "  d ", "label": "2"}),
    ]


def test_lines_of_rows_count_line_ends_inside_quotes(file: WriteFile) -> None:
    _, rows = read(file("a.csv", 'text,label\n"1\n2\n3",a\nb,b\n"4\n5",c\nd,d\n'))
    assert [(row.line, row.lines) for row in rows] == [(2, 3), (5, 1), (6, 2), (8, 1)]


def test_a_quoted_header_may_span_lines(file: WriteFile) -> None:
    shape, rows = read(file("a.csv", '"the\ntext",label\na,1\n'))
    assert shape.columns == ("the\ntext", "label")
    assert rows[0].line == 3


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_csv_files_of_spreadsheets(file: WriteFile, mark: str) -> None:
    shape, rows = read(file("a.csv", f"text{mark}label\na, b{mark}1\n"))
    assert shape.columns == ("text", "label")
    assert values(rows) == [{"text": "a, b", "label": "1"}]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_quotes_in_tsv_are_text(file: WriteFile, end: str) -> None:
    content = end.join(["sentence\tlabel", '"half a quote\t0', 'an "inner" one\t1', "", '"\t0', ""])
    _, rows = read(file("a.tsv", content))
    assert values(rows) == [
        {"sentence": '"half a quote', "label": "0"},
        {"sentence": 'an "inner" one', "label": "1"},
        {"sentence": '"', "label": "0"},
    ]
    assert [row.line for row in rows] == [2, 3, 5]


@pytest.mark.parametrize(
    ("name", "content"), [("a.csv", "text,n\nä,1\n"), ("a.tsv", "text\tn\nä\t1\n"), ("a.jsonl", '{"text":"ä","n":"1"}')]
)
def test_a_byte_order_mark_is_no_part_of_the_first_name(file: WriteFile, name: str, content: bytes) -> None:
    shape, rows = read(file(name, b"\xef\xbb\xbf" + content.encode()))
    assert values(rows) == [{"text": "ä", "n": "1"}]
    assert "UTF-8 with a byte order mark" in shape.notes


def test_json_lines_keep_types_and_find_late_keys(file: WriteFile) -> None:
    shape, rows = read(
        file("a.jsonl", '{"text": "a\\nb", "label": 1}\n\n{"text": "\u2028", "label": null, "x": [true]}')
    )
    assert shape.columns == ("text", "label", "x")
    assert rows == [
        Row(1, 1, {"text": "a\nb", "label": 1}),
        Row(3, 1, {"text": "\u2028", "label": None, "x": [True]}),
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "invalid_json"),
        ('{"text": NaN}', "invalid_json"),
        ('{"text": "\\ud800"}', "invalid_json"),
        ("[" * 100_000, "invalid_json"),
        ("[1]", "not_an_object"),
        ('"text"', "not_an_object"),
        ("null", "not_an_object"),
        (b'{"text": "\xff\xc3\xa4"}', "undecodable"),
    ],
)
def test_defects_of_json_lines(file: WriteFile, line: bytes, reason: str) -> None:
    line = line if isinstance(line, bytes) else line.encode()
    _, rows = read(file("a.jsonl", b'{"text": "a"}\n' + line + b'\n{"text": "b"}\n'))
    assert (rows[1].line, rows[1].reason) == (2, reason)
    assert values([rows[0], rows[2]]) == [{"text": "a"}, {"text": "b"}]


@pytest.mark.parametrize(
    ("line", "reason", "detail"),
    [
        (b"only text", "ragged", "1 fields, the header has 2"),
        (b"a,1,more", "ragged", "3 fields"),
        (b"caf\xe9 \xc3\xa4,1", "undecodable", "0xe9 at 3 of line 2"),
        (b'"x\xc3\xa4\n\xff",1', "undecodable", "line 3"),
        (b'"a" b,1', "malformed_csv", "line 2"),
        (b'"a\nb" c,1', "malformed_csv", "lines 2 to 3"),
        (b"a\rb,1", "malformed_csv", "line 2"),
    ],
)
def test_a_defect_of_csv_costs_its_own_row_only(file: WriteFile, line: bytes, reason: str, detail: str) -> None:
    _, rows = read(file("a.csv", b"text,label\n" + line + b"\nfine,1\n"))
    assert [type(row) for row in rows] == [Defect, Row]
    assert (rows[0].line, rows[0].reason) == (2, reason)
    assert detail in rows[0].detail
    assert rows[1].values == {"text": "fine", "label": "1"}


def test_defects_of_tsv(file: WriteFile) -> None:
    _, rows = read(file("a.tsv", b"text\tlabel\na\tb\tc\n\xe9\xc3\xa4\t1\nfine\t1\n"))
    assert [getattr(row, "reason", None) for row in rows] == ["ragged", "undecodable", None]


def test_a_quote_never_closed_is_an_error_with_its_line(file: WriteFile, monkeypatch: pytest.MonkeyPatch) -> None:
    path = file("a.csv", 'text,label\na,1\n"b,1\n' + "c,1\n" * 1000)
    with pytest.raises(SeqtrackError, match=r"a\.csv:3: a quote .* never closed"):
        read(path)
    monkeypatch.setattr(reading_base, "MAX_FIELD", 100)
    with pytest.raises(SeqtrackError, match=r"a\.csv:3: a quote .* never closed"):
        read(path)


def test_long_texts_are_no_error(file: WriteFile) -> None:
    text = "word " * 200_000
    _, rows = read(file("a.csv", f"text,label\n{text},1\n"))
    assert rows[0].values["text"] == text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "empty"),
        ("a.tsv", b"\n\n", "empty"),
        ("a.jsonl", b"", "empty"),
        ("a.csv", b"text,text\na,b\n", "'text' stands twice"),
        ("a.csv", b"\0text,label\na,b\n", "NUL"),
        ("a.csv", b"te\xe9xt,label\n\xc3\xa4\xc3\xa4,1\n", "header cannot be decoded"),
        ("a.tsv", b"text\tlabel\ra\tb\r", "carriage returns"),
        ("a.csv", b"text,label\ra,b\r", r"a\.csv:1"),
        ("a.csv", b'"text" x,label\n', "header cannot be read"),
        ("a.jsonl", b'{"text": "a"}\n]\n{', None),
        ("a.jsonl", b"[1]\n{", r"a\.jsonl:1.*not_an_object.*one JSON object a line"),
    ],
)
def test_files_that_cannot_be_read_as_a_whole(file: WriteFile, name: str, content: bytes, message: str | None) -> None:
    if message is None:  # one good line is enough to go on
        assert read(file(name, content))[0].columns == ("text",)
        return
    with pytest.raises(SeqtrackError, match=message):
        read(file(name, content))


def test_folders_give_their_data_files_in_order(tmp_path: Path) -> None:
    names = ("b.csv", "a.TSV", "manifest.json", ".hidden.csv", "notes.md", "README.txt", "c.jsonl", "d.csv.gz", "e.pq")
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / "sub.csv").mkdir()
    assert [path.name for path in find_files(tmp_path)] == ["a.TSV", "b.csv", "c.jsonl", "d.csv.gz", "e.pq"]
    (tmp_path / "test.txt").touch()
    assert find_files(tmp_path)[-1].name == "test.txt"  # its name says what it is


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["a.txt", "b.txt"], ["a.txt", "b.txt"]),
        (["data.json", "README.txt"], ["data.json"]),
        (["train.json", "dev.json", "labels.json"], ["dev.json", "train.json"]),
        (["train.tsv", "labels.txt"], ["train.tsv"]),
        (["train/a.csv", "test/b.csv", "README.txt"], ["test/b.csv", "train/a.csv"]),
        (["train/pos/1.txt", "train/neg/2.txt", "test/pos/1", "test/neg/1", "urls.txt"], ["test", "train"]),
        (["pos/1.txt", "neg/2.txt", "README"], ["."]),
        (["alt.atheism/49960", "sci.med/1"], ["."]),
    ],
)
def test_layouts_of_folders(tmp_path: Path, names: list[str], found: list[str]) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    assert [path.relative_to(tmp_path).as_posix() for path in find_files(tmp_path)] == found


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("**/*1.csv", ["a/train-1.csv", "b/c/train-1.csv"]),
        ("a/*.csv", ["a/train-1.csv", "a/train-2.csv"]),
        ("*/train-[23].csv", ["a/train-2.csv"]),
        ("b/**/*", ["b/c/train-1.csv", "b/notes.md"]),
        ("b/notes.md", ["b/notes.md"]),
    ],
)
def test_a_pattern_chooses_files_in_a_folder(tmp_path: Path, pattern: str, found: list[str]) -> None:
    for name in ("a/train-1.csv", "a/train-2.csv", "b/c/train-1.csv", "b/notes.md", ".old/train-1.csv", "b/.x/a.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text,label\n")
    files = find_files(tmp_path, settings_of(pattern=pattern))
    assert [source_name(path, tmp_path) for path in files] == found


def test_patterns_that_choose_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.csv").write_text("text,label\n")
    with pytest.raises(SeqtrackError, match=r"no file matches data\.pattern '\*\.jsonl'"):
        find_files(tmp_path, settings_of(pattern="*.jsonl"))
    with pytest.raises(SeqtrackError, match=r"no file matches data\.pattern '\*'.*only folders, such as a"):
        find_files(tmp_path, settings_of(pattern="*"))
    with pytest.raises(SeqtrackError, match=r"data\.path is a file; set data\.pattern to null"):
        find_files(tmp_path / "a" / "x.csv", settings_of(pattern="*"))


def test_paths_without_data_are_errors(tmp_path: Path) -> None:
    with pytest.raises(SeqtrackError, match="no such file or folder"):
        find_files(tmp_path / "none")
    (tmp_path / "notes.md").touch()
    with pytest.raises(SeqtrackError, match=r"no data file.*\.csv.*found notes\.md"):
        find_files(tmp_path)
    with pytest.raises(SeqtrackError, match=r"unknown file format.*found \.md"):
        format_of(tmp_path / "notes.md")


def test_files_in_folders_of_any_name_are_chosen_by_a_pattern(tmp_path: Path) -> None:
    (tmp_path / "2024").mkdir()
    (tmp_path / "2024" / "a.csv.gz").touch()
    with pytest.raises(
        SeqtrackError, match=r'by data\.pattern, for example "\*\*/\*\.csv\.gz", or point data\.path at one'
    ):
        find_files(tmp_path)


@settings(deadline=None)
@given(rows=st.lists(st.tuples(TEXT, TEXT), min_size=1))
def test_what_the_csv_module_writes_is_read_back(tmp_path_factory: pytest.TempPathFactory, rows: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "round.csv"
    buffer = io.StringIO(newline="")
    csv.writer(buffer, quoting=csv.QUOTE_ALL).writerows([("text", "label"), *rows])
    path.write_bytes(buffer.getvalue().encode())
    assert values(read(path)[1]) == [{"text": text, "label": label} for text, label in rows]


@settings(deadline=None)
@given(rows=st.lists(st.dictionaries(TEXT, TEXT | st.integers(-(2**63), 2**63) | st.none(), min_size=1), min_size=1))
def test_what_the_json_module_writes_is_read_back(tmp_path_factory: pytest.TempPathFactory, rows: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "round.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert values(read(path)[1]) == rows


FIELD = st.text(st.characters(codec="utf-8", exclude_characters="\t\r\n"), min_size=1)


@settings(deadline=None)
@given(rows=st.lists(st.tuples(FIELD, FIELD), min_size=1), end=st.sampled_from(["\n", "\r\n"]))
def test_fields_between_tabs_are_read_back(tmp_path_factory: pytest.TempPathFactory, rows: Any, end: str) -> None:
    path = tmp_path_factory.getbasetemp() / "round.tsv"
    path.write_bytes("".join(f"{text}\t{label}{end}" for text, label in [("text", "label"), *rows]).encode())
    assert values(read(path)[1]) == [{"text": text, "label": label} for text, label in rows]


@settings(deadline=None)
@given(content=st.binary(max_size=200), suffix=st.sampled_from([*reading.EXTENSIONS, ".csv.gz", ".jsonl.zst", ""]))
@example(content=b"\r\x01", suffix=".csv")
def test_no_bytes_break_a_reader(tmp_path_factory: pytest.TempPathFactory, content: bytes, suffix: str) -> None:
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    path.write_bytes(content)
    try:
        _, rows = read(path)
    except SeqtrackError:
        return
    lines = [row.line for row in rows]
    assert lines == sorted(lines)


# --- every real file, with the row count that its source states ------------------------------------------------------

COLA = ("source", "label", "mark", "sentence")
STSB = ("genre", "file", "year", "number", "score", "sentence1", "sentence2")


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real data at {SHARED}; SEQTRACK_DATA names another folder")
@pytest.mark.parametrize(
    ("path", "rows", "columns"),
    [
        ("glue/CoLA/train.tsv", 8551, COLA),
        ("glue/CoLA/in_domain_dev.tsv", 527, COLA),
        ("glue/CoLA/out_of_domain_dev.tsv", 516, COLA),
        ("glue/MRPC/train.tsv", 4076, None),
        ("glue/MRPC/test.tsv", 1725, None),
        ("glue/QNLI/dev.tsv", 5463, None),
        ("glue/QNLI/test.tsv", 5463, None),
        ("glue/RTE/train.tsv", 2490, None),
        ("glue/RTE/dev.tsv", 277, None),
        ("glue/RTE/test.tsv", 3000, None),
        ("glue/SST-2/train.tsv", 6920, None),
        ("glue/SST-2/dev.tsv", 872, None),
        ("glue/SST-2/test.tsv", 1821, None),
        ("glue/STS-B/sts-train.csv", 5749, STSB),
        ("glue/STS-B/sts-dev.csv", 1500, STSB),
        ("glue/STS-B/sts-test.csv", 1379, STSB),
        ("glue/WNLI/train.tsv", 518, None),
        ("glue/WNLI/val.tsv", 117, None),
        ("glue/WNLI/dev.tsv", 71, None),
        ("glue/WNLI/test.tsv", 146, None),
        *((f"glue/submission_format/{task}.tsv", 5, None) for task in ("AX", "CoLA", "MRPC", "QNLI", "RTE", "SST-2")),
        *((f"glue/submission_format/{task}.tsv", 5, None) for task in ("STS-B", "WNLI")),
        ("glue_official/CoLA/train.tsv", 8551, COLA),
        ("glue_official/CoLA/dev.tsv", 1043, COLA),
        ("glue_official/CoLA/test.tsv", 1063, COLA),  # it has a header line, which wins
        ("glue_official/MNLI/dev_matched.jsonl", 9815, None),
        ("glue_official/MRPC/train.tsv", 3668, None),
        ("glue_official/MRPC/dev.tsv", 408, None),
        ("glue_official/MRPC/test.tsv", 1725, None),
        ("glue_official/QQP/part.tsv", 23_497, None),
        ("glue_official/SST-2/train.tsv", 67_349, None),
        ("glue_official/SST-2/dev.tsv", 872, None),
        ("glue_official/SST-2/test.tsv", 1821, None),
        ("zh/afqmc/train.txt", 34_334, None),
        ("zh/afqmc/dev.txt", 4316, None),
        ("zh/afqmc/test.txt", 3861, None),
        ("zh/tnews/train.tsv", 53_360, None),
        ("zh/tnews/dev.tsv", 10_000, None),
        ("zh/tnews/labels.txt", 15, None),
        ("zh/waimai/waimai_10k.csv", 11_987, None),
    ],
)
def test_every_real_file_loads_with_its_row_count(path: str, rows: int, columns: tuple[str, ...] | None) -> None:
    _, found = read(SHARED / path, columns=columns)
    defects = [row for row in found if isinstance(row, Defect)]
    assert len(found) == rows
    if path.endswith("QQP/part.tsv"):  # its first row is malformed, and rejected by line
        assert [(defect.line, defect.reason) for defect in defects] == [(1, "ragged")]
    else:
        assert defects == []


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real data at {SHARED}; SEQTRACK_DATA names another folder")
@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("glue/CoLA/train.tsv", "[column_1, label, column_3, text]"),
        ("glue/STS-B/sts-train.csv", "[column_1, column_2, column_3, column_4, label, text, text_pair]"),
    ],
)
def test_where_columns_cannot_be_told_the_error_holds_the_setting(path: str, names: str) -> None:
    with pytest.raises(SeqtrackError) as caught:
        read(SHARED / path)
    assert f"data.columns: {names}" in str(caught.value)
    shape, rows = read(SHARED / path, columns=tuple(names.strip("[]").split(", ")))
    assert {"text", "label"} <= set(shape.columns)
    assert all(isinstance(row, Row) for row in rows)


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real data at {SHARED}; SEQTRACK_DATA names another folder")
def test_rows_with_more_fields_are_counted_in_a_note() -> None:
    shape, rows = read(SHARED / "glue/STS-B/sts-dev.csv", columns=STSB)
    assert "22 rows have 9 fields, read as their first 7" in shape.notes[-1]
    assert all(tuple(row.values) == STSB for row in rows)
