"""Formats, encodings, compressions and dialects beyond plain CSV, TSV and JSON Lines."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import reading_json
from pipeline.columns import find_columns
from pipeline.errors import SeqtrackError
from pipeline.reading import Defect, Row, find_files, format_of
from tests.test_reading import read, settings_of, values

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda content: content,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda content: pa.compress(content, codec="zstd", asbytes=True) if content else content,
}
ROWS = [{"text": "naïve “text”", "label": "1"}, {"text": "好, 非常好", "label": "0"}]


def write(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def csv_of(rows: list[dict[str, str]], delimiter: str = ",", quoting: Any = csv.QUOTE_ALL) -> str:
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, list(rows[0]), delimiter=delimiter, quoting=quoting)
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def arrow_bytes(table: pa.Table, *, stream: bool) -> bytes:
    sink = io.BytesIO()
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return sink.getvalue()


def parquet_bytes(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


# One writer for each format: from rows of strings under the names text and label to bytes.
WRITE: dict[str, Callable[[list[dict[str, str]]], bytes]] = {
    ".csv": lambda rows: csv_of(rows).encode(),
    ".tsv": lambda rows: csv_of(rows, "\t").encode(),
    ".jsonl": lambda rows: "".join(json.dumps(row) + "\n" for row in rows).encode(),
    ".json": lambda rows: json.dumps(rows, indent=1, ensure_ascii=False).encode(),
    "-columns.json": lambda rows: json.dumps({name: [row[name] for row in rows] for name in rows[0]}).encode(),
    "-records.json": lambda rows: json.dumps({str(i): row for i, row in enumerate(rows)}, indent=2).encode(),
    "-pandas.json": lambda rows: json.dumps(
        {name: {str(i): row[name] for i, row in enumerate(rows)} for name in rows[0]}
    ).encode(),
    ".parquet": lambda rows: parquet_bytes(pa.Table.from_pylist(rows)),
    ".arrow": lambda rows: arrow_bytes(pa.Table.from_pylist(rows), stream=False),
    "-stream.arrow": lambda rows: arrow_bytes(pa.Table.from_pylist(rows), stream=True),
}
TEXT_FORMATS = (".csv", ".tsv", ".jsonl", ".json", "-columns.json", "-records.json")

TEXT = st.text(st.characters(codec="utf-8"))
SOME_ROWS = st.lists(st.fixed_dictionaries({"text": TEXT, "label": TEXT}), min_size=1, max_size=6)


@settings(deadline=None, max_examples=60)
@given(rows=SOME_ROWS)
@pytest.mark.parametrize("kind", WRITE)
def test_any_rows_survive_every_format(tmp_path_factory: pytest.TempPathFactory, rows: Any, kind: str) -> None:
    path = write(tmp_path_factory.getbasetemp(), f"rows{kind}", WRITE[kind](rows))
    assert values(read(path)[1]) == rows


@settings(deadline=None, max_examples=30)
@given(rows=SOME_ROWS)
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "utf-16-le", "utf-16-be", "gb18030"])
def test_any_rows_survive_every_encoding(tmp_path_factory: pytest.TempPathFactory, rows: Any, encoding: str) -> None:
    for kind in (".csv", ".jsonl", ".json", "-columns.json"):
        content = WRITE[kind](rows).decode().encode(encoding)
        path = write(tmp_path_factory.getbasetemp(), f"encoded{kind}", content)
        marked = encoding in {"utf-8-sig", "utf-16", "utf-32"}
        assert values(read(path, encoding=None if marked else encoding)[1]) == rows


@settings(deadline=None, max_examples=30)
@given(rows=SOME_ROWS)
def test_any_rows_survive_every_compression(tmp_path_factory: pytest.TempPathFactory, rows: Any) -> None:
    for suffix, compress in COMPRESS.items():
        path = write(tmp_path_factory.getbasetemp(), f"packed.csv{suffix}", compress(WRITE[".csv"](rows)))
        assert values(read(path)[1]) == rows


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("kind", TEXT_FORMATS)
def test_compressed_files_are_known_by_content(tmp_path: Path, kind: str, suffix: str) -> None:
    content = COMPRESS[suffix](WRITE[kind](ROWS))
    assert values(read(write(tmp_path, f"a{kind}{suffix}", content))[1]) == ROWS
    assert values(read(write(tmp_path, f"b{kind}", content))[1]) == ROWS  # the name says nothing of it


def test_zstd_in_several_frames_and_gzip_in_several_members(tmp_path: Path) -> None:
    head, tail = b"text,label\na,1\n", b"b,0\n"
    for suffix in (".gz", ".zst", ".bz2", ".xz"):
        path = write(tmp_path, f"a.csv{suffix}", COMPRESS[suffix](head) + COMPRESS[suffix](tail))
        assert [row.values["text"] for row in read(path)[1]] == ["a", "b"], suffix


# --- encodings -------------------------------------------------------------------------------------------------------

CHINESE = "label,review\n1,很快，好吃，味道足，量大\n0,送餐太慢了，而且菜是凉的\n"
FRENCH = "text,label\nCe film était très agréable,1\nDéjà vu, à mon avis,0\n".replace("vu, à", "vu à")


@pytest.mark.parametrize(
    ("content", "note"),
    [
        (CHINESE.encode(), "UTF-8"),
        (CHINESE.encode("utf-16"), "UTF-16 with a byte order mark"),
        (CHINESE.encode("utf-16-le"), "UTF-16, by its zero bytes"),
        (CHINESE.encode("utf-16-be"), "UTF-16, by its zero bytes"),
        (CHINESE.encode("utf-32"), "UTF-32 with a byte order mark"),
        (CHINESE.encode("gb18030"), "GB18030"),
        (CHINESE.encode("gbk"), "GB18030"),
        (FRENCH.encode("latin-1"), "Windows-1252"),
        (FRENCH.encode("utf-16-le"), "UTF-16, by its zero bytes"),
        ("text,label\nЭто очень хороший фильм,1\nплохо,0\n".encode("cp1251"), "Windows-1251"),
        ("text,label\nこの映画はとても面白かったです,1\nつまらない,0\n".encode("shift_jis"), "Shift JIS"),
        ("text,label\n이 영화는 정말 재미있었습니다,1\n별로예요,0\n".encode("euc_kr"), "EUC-KR"),
        ("text,label\n這家店的外賣很好吃,1\n非常難吃再也不來了,0\n".encode("big5"), "Big5"),
    ],
)
def test_encodings_are_found_and_said(tmp_path: Path, content: bytes, note: str) -> None:
    shape, rows = read(write(tmp_path, "a.csv", content))
    assert shape.notes[0].startswith(note)
    assert all(isinstance(row, Row) for row in rows)
    if content == CHINESE.encode("gbk"):
        assert rows[0].values == {"label": "1", "review": "很快，好吃，味道足，量大"}
    if content == FRENCH.encode("latin-1"):
        assert rows[0].values["text"] == "Ce film était très agréable"


def test_an_encoding_that_shows_late_is_found(tmp_path: Path) -> None:
    rows = [f"plain text number {i},1\n" for i in range(60_000)]
    content = ("text,label\n" + "".join(rows)).encode() + "味道很好,0\n送得太慢了,0\n".encode("gb18030")
    _, found = read(write(tmp_path, "a.csv", content))
    assert found[-2].values["text"] == "味道很好"


def test_params_override_the_encoding(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "text,label\nté,1\n".encode("latin-1"))
    shape, rows = read(path, encoding="cp1250")
    assert shape.notes[0] == "cp1250: data.encoding says so"
    assert rows[0].values["text"] == "té"
    assert read(path, encoding="utf-8")[1][0].reason == "undecodable"
    with pytest.raises(SeqtrackError, match=r"data\.encoding: no such encoding: 'klingon'"):
        read(path, encoding="klingon")
    with pytest.raises(SeqtrackError, match="no such encoding: 'base64'"):
        read(path, encoding="base64")


def test_a_bad_unit_of_utf16_costs_one_row(tmp_path: Path) -> None:
    content = "text,label\na,1\nX,1\nc,0\n".encode("utf-16").replace("X".encode("utf-16-le"), b"\x00\xd8")
    _, rows = read(write(tmp_path, "a.csv", content))
    assert [(row.line, type(row)) for row in rows] == [(2, Row), (3, Defect), (4, Row)]


# --- dialects --------------------------------------------------------------------------------------------------------


def test_a_tab_file_whose_quotes_delimit_fields(tmp_path: Path) -> None:
    rows = [{"text": 'he said "no"', "label": "a"}, {"text": "two\nlines", "label": "b"}, {"text": "x", "label": "a"}]
    path = write(tmp_path, "a.tsv", csv_of(rows, "\t", csv.QUOTE_MINIMAL))
    assert values(read(path)[1]) == rows
    assert len(read(path, quoting="none")[1]) == 4  # one more: a line end inside a field parts it


def test_quotes_that_come_late_in_a_tab_file(tmp_path: Path) -> None:
    plain = [{"text": f"text {i}", "label": "a"} for i in range(3_000)]
    rows = [*plain, {"text": 'a "quoted" one', "label": "b"}]
    _, found = read(write(tmp_path, "a.tsv", csv_of(rows, "\t", csv.QUOTE_MINIMAL)))
    assert values(found) == rows


def test_one_bare_quote_makes_all_quotes_text(tmp_path: Path) -> None:
    content = 'text\tlabel\n"all ""quoted"""\ta\nhalf "quoted\tb\n'
    _, rows = read(write(tmp_path, "a.tsv", content))
    assert [row.values["text"] for row in rows] == ['"all ""quoted"""', 'half "quoted']


def test_quoting_none_for_commas(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", 'text,label\n"Hello" he said,1\n"open,0\n')
    _, rows = read(path, quoting="none")
    assert [row.values["text"] for row in rows] == ['"Hello" he said', '"open']


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.csv", "a good film, really\t1\na bad film\t0\na film\t1\n", {"text": "a bad film", "label": "0"}),
        ("a.csv", "text\tlabel\na, b\t1\nc\t0\n", {"text": "c", "label": "0"}),
        ("a.tsv", "text,label\na,1\nc,0\n", {"text": "c", "label": "0"}),
        ("a.txt", "text,label\na,1\nc,0\n", {"text": "c", "label": "0"}),
        ("a.csv", '{"text": "a", "label": 1}\n{"text": "c", "label": 0}\n', {"text": "c", "label": 0}),
        ("a.json", '{"text": "a", "label": 1}\n{"text": "c", "label": 0}\n', {"text": "c", "label": 0}),
        ("a", '{"text": "a", "label": 1}\n{"text": "c", "label": 0}\n', {"text": "c", "label": 0}),
        ("a.jsonl", '[{"text": "a"},\n{"text": "c", "label": 0}]', {"text": "c", "label": 0}),
        ("a.csv", WRITE[".parquet"]([{"text": "b"}, {"text": "c"}]), {"text": "c"}),
        ("a.txt", "one, two\nthree, four\n", {"text": "three, four"}),
    ],
)
def test_content_decides_over_the_name(tmp_path: Path, name: str, content: Any, expected: dict[str, Any]) -> None:
    shape, rows = read(write(tmp_path, name, content))
    columns = find_columns(shape.columns, settings_of(), where=name, label_needed=False)
    found = {part: rows[1].values[getattr(columns, part)] for part in expected}
    assert found == expected


PAIRS = [(f"why is question {i} asked", f"how is answer {i} given", str(i % 2)) for i in range(30)]


@pytest.mark.parametrize(
    ("lines", "columns"),
    [
        ([f"{a}\t{c}" for a, b, c in PAIRS], ("column 1 (text)", "column 2 (label)")),
        ([f"{c},{a}" for a, b, c in PAIRS], ("column 1 (label)", "column 2 (text)")),
        ([f"{a}\t{b}" for a, b, c in PAIRS], ("column 1 (text)", "column 2 (text_pair)")),
        (
            [f"{i}\t{a}\t{b}\t{int(c) + 0.25}" for i, (a, b, c) in enumerate(PAIRS)],
            ("column 1", "column 2 (text)", "column 3 (text_pair)", "column 4 (label)"),
        ),
        ([f"{a}\tnews" if c == "1" else f"{a}\tsport" for a, b, c in PAIRS], ("column 1 (text)", "column 2 (label)")),
        ([f"{a}\tquestion" if c == "1" else f"{a}\tx" for a, b, c in PAIRS], ("column 1 (text)", "column 2 (label)")),
    ],
)
def test_columns_without_names_are_told_by_their_values(tmp_path: Path, lines: list[str], columns: Any) -> None:
    suffix = "csv" if "\t" not in lines[0] else "tsv"
    shape, rows = read(write(tmp_path, f"a.{suffix}", "\n".join(lines)))
    assert shape.columns == columns
    assert len(rows) == 30


def test_a_header_of_unknown_names_is_a_header(tmp_path: Path) -> None:
    lines = ["words\tgrade", *(f"{a}\t{c}" for a, _, c in PAIRS)]
    path = write(tmp_path, "a.tsv", "\n".join(lines))
    assert read(path)[0].columns == ("words", "grade")
    assert len(read(path, header=False)[1]) == 31


def test_a_header_may_be_repeated_inside_a_file(tmp_path: Path) -> None:
    _, rows = read(write(tmp_path, "a.csv", "text,label\na,1\ntext,label\nb,0\n"))
    assert [row.values["text"] for row in rows] == ["a", "text", "b"]


def test_data_columns_name_columns_without_names(tmp_path: Path) -> None:
    names = ("source", "label", "mark", "text")
    path = write(tmp_path, "train.tsv", "gj\t1\t\tOne\ngj\t0\t*\tTwo\n")
    shape, rows = read(path, columns=names)
    assert shape.columns == names
    assert rows[1].values == {"source": "gj", "label": "0", "mark": "*", "text": "Two"}
    with_header = write(tmp_path, "test.tsv", "index\tsentence\n0\tThree\n")
    assert read(with_header, columns=names)[0].columns == ("index", "sentence")
    assert len(read(with_header, columns=names, header=False)[1]) == 2
    shorter = write(tmp_path, "short.tsv", "one\ttwo\n")
    assert "of which the first 2 are there" in read(shorter, columns=("a", "b", "label"))[0].notes[-1]


def test_params_may_number_the_columns(tmp_path: Path) -> None:
    path = write(tmp_path, "a.tsv", "gj\t1\t\tOne\ngj\t0\t*\tTwo\n")
    settings_ = {"header": False, "text": "column 4", "label": "column 2"}
    shape, rows = read(path, **settings_)
    columns = find_columns(shape.columns, settings_of(**settings_), where="a.tsv", label_needed=True)
    assert [rows[0].values[name] for name in (columns.text, columns.label)] == ["One", "1"]


# --- JSON ------------------------------------------------------------------------------------------------------------


def test_elements_of_an_array_have_lines(tmp_path: Path) -> None:
    content = '\n[ {"text": "a"},\n\n {"text":\n "b"}, [1],\n{"text": "\\ud800"}, {"text": "c"}\n]\n'
    _, rows = read(write(tmp_path, "a.json", content))
    assert [(row.line, getattr(row, "reason", "row")) for row in rows] == [
        (2, "row"),
        (4, "row"),
        (5, "not_an_object"),
        (6, "invalid_json"),
        (6, "row"),
    ]
    assert rows[1].lines == 2


def test_an_array_is_read_in_pieces_of_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"text": 'x"\\ ' * i, "label": 10**i, "more": [True, None, {"a": 1.5}]} for i in range(12)]
    path = write(tmp_path, "a.json", json.dumps(rows))
    for size in (1, 2, 3, 7, 100):
        monkeypatch.setattr(reading_json, "_PIECE", size)
        assert values(read(path)[1]) == rows


def test_memory_does_not_grow_with_an_array(tmp_path: Path) -> None:
    path = write(tmp_path, "a.json", json.dumps([{"text": "word " * 40, "label": 1}] * 40_000))
    kind = format_of(path)
    tracemalloc.start()
    assert sum(1 for _ in kind.rows(path)) == 40_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 2**20 < path.stat().st_size


# --- Parquet and Arrow -----------------------------------------------------------------------------------------------


def test_types_of_parquet(tmp_path: Path) -> None:
    table = pa.table(
        {
            "text": pa.array(["a", "b", None]).dictionary_encode(),
            "raw": pa.array([b"a", "ä".encode(), None]),
            "number": pa.array([1.0, float("nan"), None]),
            "labels": pa.array([["x", "y"], [], None]),
            "day": pa.array([0, 1, None], pa.date32()),
            "flag": [True, False, None],
        }
    )
    _, rows = read(write(tmp_path, "a.parquet", parquet_bytes(table)))
    assert rows[0] == Row(
        1, 1, {"text": "a", "raw": "a", "number": 1.0, "labels": ["x", "y"], "day": "1970-01-01", "flag": True}
    )
    assert rows[1].values == {
        **{"text": "b", "raw": "ä", "number": None},
        **{"labels": [], "day": "1970-01-02", "flag": False},
    }
    assert set(rows[2].values.values()) == {None}


def test_bytes_that_are_no_text_cost_one_row(tmp_path: Path) -> None:
    for kind in (pa.binary(), pa.string()):
        column = pa.Array.from_buffers(kind, 3, pa.array([b"a", b"\xff", b"c"]).buffers())
        _, rows = read(write(tmp_path, "a.arrow", arrow_bytes(pa.table({"text": column}), stream=False)))
        assert [(row.line, getattr(row, "reason", "row")) for row in rows] == [
            (1, "row"),
            (2, "undecodable"),
            (3, "row"),
        ]


FEATURES = {
    "text": {"dtype": "string", "_type": "Value"},
    "label": {"names": ["neg", "pos"], "_type": "ClassLabel"},
    "tags": {"feature": {"names": ["x", "y"], "_type": "ClassLabel"}, "_type": "List"},
}


def test_class_names_come_from_the_features(tmp_path: Path) -> None:
    table = pa.table({"text": ["a", "b", "c"], "label": [1, -1, 7], "tags": [[0, 1], [], [1]]})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": FEATURES}})})
    shape, rows = read(write(tmp_path, "a.parquet", parquet_bytes(table)))
    assert "class names of label, tags from the file's own features" in shape.notes
    assert rows[0].values == {"text": "a", "label": "pos", "tags": ["x", "y"]}
    assert rows[1].values["label"] is None
    assert isinstance(rows[2], Defect)
    assert "class 7 has no name" in rows[2].detail


def test_data_sets_that_datasets_saved(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})
    whole = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, 1]}, features=features)
    whole.save_to_disk(tmp_path / "one", num_shards=2)
    datasets.DatasetDict({"train": whole, "test": whole.select([2, 0])}).save_to_disk(tmp_path / "splits")
    assert find_files(tmp_path / "one") == [tmp_path / "one"]
    _, rows = read(tmp_path / "one")
    assert values(rows) == [{"text": "a", "label": "pos"}, {"text": "b", "label": "neg"}, {"text": "c", "label": "pos"}]
    assert rows[2].file is not None
    assert rows[2].file.startswith("data-00001")
    assert [path.name for path in find_files(tmp_path / "splits")] == ["test", "train"]
    assert [row.values["text"] for row in read(tmp_path / "splits" / "test")[1]] == ["c", "a"]
    digest = format_of(tmp_path / "one").digest(tmp_path / "one")
    whole.save_to_disk(tmp_path / "again", num_shards=2)
    assert format_of(tmp_path / "again").digest(tmp_path / "again") == digest


# --- labels that lie elsewhere: see test_reading_parallel.py, too -----------------------------------------------------


def test_a_folder_per_label(tmp_path: Path) -> None:
    write(tmp_path, "pos/b.txt", "Very good.\n")
    write(tmp_path, "pos/a.txt", "味道很好，下次再来".encode("gb18030"))
    write(tmp_path, "neg/1", "Bad".encode("utf-16"))
    write(tmp_path, "neg/2.txt", b"\0\1\2")
    write(tmp_path, "neg/.hidden", "x")
    _, rows = read(tmp_path)
    assert [(row.file, getattr(row, "reason", "row")) for row in rows] == [
        ("neg/1", "row"),
        ("neg/2.txt", "undecodable"),
        ("pos/a.txt", "row"),
        ("pos/b.txt", "row"),
    ]
    assert rows[0].values == {"text": "Bad", "label": "neg", "file": "neg/1"}
    assert [row.values["text"] for row in rows[2:]] == ["味道很好，下次再来", "Very good.\n"]
    before = format_of(tmp_path).digest(tmp_path)
    write(tmp_path, "pos/b.txt", "Very good!\n")
    assert format_of(tmp_path).digest(tmp_path) != before
