"""Small malformed files, one fault each: every one ends in an error that names its place, or costs exactly its row.

All go through the stage as dvc.yaml starts it: where the whole fails, its exit status is not 0, the one line that it
ends with names the file (and the line), and nothing is written under data/.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import sys
from pathlib import Path
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ruamel.yaml import YAML

from pipeline import paths
from pipeline.checks import REJECTING
from pipeline.rows import read_rows
from stages.runner import run_stage
from stages.validate import validate
from tests.process import run_stage_process

Files = dict[str, bytes]

ROOT: Final = Path(__file__).parents[1]
PARAMS: Final[dict[str, Any]] = YAML(typ="safe").load(ROOT / "params.yaml")

CSV = b"text,label\nfine one,1\nfine two,0\n"
TSV = CSV.replace(b",", b"\t")
JSONL = b'{"text": "fine one", "label": 1}\n{"text": "fine two", "label": 0}\n'
ARRAY = b'[{"text": "fine one", "label": 1},\n{"text": "fine two", "label": 0},\n'
GOOD_UTF8 = "ää,öö\n".encode()


def parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def arrow(table: pa.Table, *, stream: bool = False) -> bytes:
    sink = io.BytesIO()
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


TABLE = pa.table({"text": ["fine one", "fine two"] * 50, "label": [1, 0] * 50})
PARQUET, ARROW, STREAM = parquet(TABLE), arrow(TABLE), arrow(TABLE, stream=True)
ZSTD = pa.compress(CSV * 100, codec="zstd", asbytes=True)
# A string that claims to end far behind its data.
OFFSETS = b"".join(number.to_bytes(4, "little") for number in (0, 1, 2))
ASTRAY = arrow(pa.table({"text": ["a", "b"], "label": [1, 0]}), stream=True).replace(OFFSETS, OFFSETS[:-1] + b"\x70")
STATE = json.dumps({"_data_files": [{"filename": "data-0.arrow"}]}).encode()


class Fatal(NamedTuple):
    """Files that must stop the stage, with a part of the message; it names the first of them, and a line if given."""

    name: str
    files: Files
    message: str
    line: int | None = None
    given: dict[str, Any] = {}  # noqa: RUF012 (never changed)


class Costly(NamedTuple):
    """A file with one bad row: its line and the reason it is rejected for."""

    name: str
    files: Files
    line: int
    reason: str
    given: dict[str, Any] = {}  # noqa: RUF012 (never changed)


FATAL = [
    # empty, or not what they seem
    Fatal("empty csv", {"a.csv": b""}, "the file is empty"),
    Fatal("empty tsv", {"a.tsv": b"\n\r\n"}, "the file is empty"),
    Fatal("empty json lines", {"a.jsonl": b""}, "the file is empty"),
    Fatal("empty json", {"a.json": b""}, "the file is empty"),
    Fatal("white json", {"a.json": b" \n"}, "not JSON", 1),
    Fatal("empty text", {"a.txt": b""}, "the file is empty"),
    Fatal("empty parquet", {"a.parquet": b""}, "damaged or cut off"),
    Fatal("empty arrow", {"a.arrow": b""}, "damaged or cut off"),
    Fatal("only a mark", {"a.csv": b"\xef\xbb\xbf"}, "the file is empty"),
    Fatal("only a header", {"a.csv": b"text,label\n"}, "no rows found"),
    Fatal("binary as csv", {"a.csv": b"\x7fELF\2\1\1\0\0\0"}, "NUL bytes", 1),
    Fatal("text as json", {"a.json": b"text,label\na,1\n"}, "not JSON", 1),
    Fatal("text as parquet", {"a.parquet": CSV}, "damaged or cut off"),
    Fatal("text as arrow", {"a.arrow": CSV}, "damaged or cut off"),
    Fatal("bare carriage returns", {"a.csv": CSV.replace(b"\n", b"\r")}, "bare carriage returns", 1),
    # header lines
    Fatal("a name twice", {"a.csv": b"text,text,label\na,b,1\n"}, "'text' stands twice", 1),
    Fatal("unknown names", {"a.csv": b"foo,bar\na,1\nb,0\n"}, "no column for the text"),
    Fatal("no label", {"train.csv": b"text,other\na,1\nb,0\n"}, "no column for the label"),
    Fatal("two labels", {"a.csv": b"text,class,category\na,1,2\n"}, "several columns could be the label"),
    Fatal("two texts", {"a.csv": b"review,comment,label\na,b,1\n"}, "several columns could be the text"),
    Fatal("a half-quoted header", {"a.csv": b'"text" x,label\na,1\n'}, "header cannot be read", 1),
    Fatal("an undecodable header", {"a.csv": b"te\xe9xt,label\n" + GOOD_UTF8}, "header cannot be decoded", 1),
    Fatal(
        "columns that cannot be told",
        {"a.tsv": b"".join(b"x\ty\tsome text of row %d\n" % i for i in range(30))},
        "data.columns: [",
        1,
    ),
    Fatal("a column of params that is missing", {"a.csv": CSV}, "data.text names a column", None, {"text": "txt"}),
    Fatal("a name twice in params", {"a.csv": b"a,1\n"}, "data.columns has 'x' twice", None, {"columns": ("x", "x")}),
    # quotes
    Fatal("a quote never closed", {"a.csv": CSV + b'"open,1\nx,0\n'}, "never closed", 4),
    Fatal("a quote never closed at the end", {"a.csv": CSV + b'x,"'}, "never closed", 4),
    Fatal("quoting forced", {"a.tsv": TSV + b'"open\t1\nx\t0\n'}, "never closed", 4, {"quoting": "minimal"}),
    # JSON
    Fatal("an array cut off", {"a.json": ARRAY[:-2]}, "not closed: the file is cut off", 2),
    Fatal("an array cut in a string", {"a.json": ARRAY + b'{"text": "abc'}, "cut off", 3),
    Fatal("an array with a bad element", {"a.json": ARRAY + b'{"text": abc}]'}, "invalid JSON", 3),
    Fatal("an array without a comma", {"a.json": ARRAY[:-2] + b'\n{"text": "c"}]'}, "expected , or ]", 3),
    Fatal("an array with a comma too many", {"a.json": ARRAY + b"]"}, "invalid JSON", 3),
    Fatal("more after an array", {"a.json": ARRAY[:-2] + b"]\n]"}, "after the end of the array", 3),
    Fatal("an array nested too deep", {"a.json": b"[{}," + b"[" * 100_000}, "nested too deeply", 1),
    Fatal("an empty array", {"a.json": b"[]"}, "the file is empty"),
    Fatal("columns of unequal length", {"a.json": b'{"text": ["a", "b"], "label": [1]}'}, "text 2, label 1"),
    Fatal("neither columns nor records", {"a.json": b'{\n"text": 1,\n"label": 2}'}, "neither columns nor records"),
    Fatal("an object cut off", {"a.json": b'{\n"text": ["a"],\n"label": ['}, "invalid JSON", 3),
    Fatal("an array that is not UTF-8", {"a.json": ARRAY + '{"text": "ää'.encode() + b'\xff"}]'}, "is not UTF-8"),
    Fatal("no line that is an object", {"a.jsonl": b"1\n2\n"}, "not_an_object", 1),
    # compression
    Fatal("gzip cut off", {"a.csv.gz": gzip.compress(CSV * 100)[:-12]}, "damaged or cut off"),
    Fatal("gzip with a wrong checksum", {"a.csv.gz": gzip.compress(CSV)[:-8] + b"\0" * 8}, "damaged or cut off"),
    Fatal("gzip by name only", {"a.csv.gz": CSV}, "the name says gzip, the content is not"),
    Fatal("gzip header alone", {"a.csv.gz": gzip.compress(CSV)[:6]}, "damaged or cut off"),
    Fatal("bzip2 cut off", {"a.csv.bz2": bz2.compress(CSV * 100)[:-9]}, "damaged or cut off"),
    Fatal("bzip2 damaged", {"a.csv.bz2": b"BZh9" + b"\1" * 40}, "damaged or cut off"),
    Fatal("xz cut off", {"a.csv.xz": lzma.compress(CSV * 100)[:-9]}, "damaged or cut off"),
    Fatal("xz damaged", {"a.csv.xz": lzma.compress(CSV)[:12] + b"\1" * 40}, "damaged or cut off"),
    Fatal("zstd cut off", {"a.csv.zst": ZSTD[:-9]}, "damaged or cut off"),
    Fatal("zstd damaged", {"a.csv.zst": ZSTD[:9] + b"\xff" * 40}, "damaged or cut off"),
    Fatal("an empty file named gz", {"a.csv.gz": b""}, "the file is empty"),
    Fatal("compressed parquet", {"a.parquet.gz": gzip.compress(PARQUET)}, "compressed Parquet"),
    # Parquet, Arrow, data sets saved to disk
    Fatal("parquet cut off", {"a.parquet": PARQUET[:-20]}, "damaged or cut off"),
    Fatal("parquet with a damaged footer", {"a.parquet": PARQUET[:-30] + b"\xff" * 22 + PARQUET[-8:]}, "damaged"),
    Fatal("parquet, only its start", {"a.parquet": b"PAR1"}, "damaged or cut off"),
    Fatal("arrow cut off", {"a.arrow": ARROW[:-40]}, "damaged or cut off"),
    Fatal("arrow stream cut off", {"a.arrow": STREAM[: len(STREAM) // 2]}, "damaged or cut off"),
    Fatal("arrow with damaged offsets", {"a.arrow": ASTRAY}, "damaged or cut off"),
    Fatal("a state without files", {"state.json": b"{}", "dataset_info.json": b"{}"}, "no list of data files"),
    Fatal("a damaged state", {"state.json": b"{", "dataset_info.json": b"{}"}, "invalid JSON"),
    Fatal("a missing shard", {"state.json": STATE, "dataset_info.json": b"{}"}, "names is missing"),
    Fatal("a damaged shard", {"state.json": STATE, "data-0.arrow": STREAM[:50]}, "damaged or cut off"),
    Fatal("a missing split", {"dataset_dict.json": b'{"splits": ["train"]}'}, "names is missing"),
    Fatal("no list of splits", {"dataset_dict.json": b'{"splits": 3}'}, "no list of splits"),
    # encodings
    Fatal("no such encoding", {"a.csv": CSV}, "no such encoding: 'utf-9'", None, {"encoding": "utf-9"}),
    Fatal("utf-16 of odd length", {"a.csv": CSV.decode().encode("utf-16") + b"x"}, "damaged or cut off"),
    Fatal("utf-32 out of range", {"a.csv": CSV.decode().encode("utf-32") + b"\xff" * 4}, "damaged or cut off"),
    # parallel files and folders
    Fatal(
        "fewer labels",
        {"x.txt": b"a\nb\nc\n", "y.labels": b"1\n0\n"},
        "x.txt 3, y.labels 2",
        3,
        {"labels_path": "y.labels"},
    ),
    Fatal(
        "fewer texts",
        {"x.txt": b"a\nb\n", "y.labels": b"1\n0\n1\n1\n"},
        "x.txt 2, y.labels 4",
        3,
        {"labels_path": "y.labels"},
    ),
    Fatal("no labels", {"x.txt": b"a\nb\n"}, "there is no given/y.labels", None, {"labels_path": "y.labels"}),
    Fatal("nothing known", {"notes.md": b"x", "a.docx": b"x"}, "no data file in this folder"),
    Fatal("a name of two splits", {"train_test.csv": CSV}, "train and test at once"),
    Fatal("some with a split", {"train.csv": CSV, "more.csv": CSV}, "train.csv does, more.csv not"),
    Fatal("files that disagree", {"train.csv": CSV, "dev.csv": CSV.replace(b"text", b"review")}, "differently"),
    Fatal("one class", {"a.csv": b"text,label\na,1\nb,1\n"}, "at least 2 classes"),
    Fatal("one class in two spellings", {"a.csv": CSV + b"c,1.0\n"}, "mean the same", 4),
]

COSTLY = [
    Costly("too few fields", {"a.csv": CSV + b"alone\n"}, 4, "ragged"),
    Costly("too many fields", {"a.csv": CSV + b"a,b,1\n"}, 4, "ragged"),
    Costly("too few tabs", {"a.tsv": TSV + b"alone\n"}, 4, "ragged"),
    Costly("too many tabs", {"a.tsv": TSV + b"a\tb\t1\n"}, 4, "ragged"),
    Costly("half a quoted field", {"a.csv": CSV + b'"a" b,1\n'}, 4, "malformed_csv"),
    Costly("half a quoted field over lines", {"a.csv": CSV + b'"a\nb" c,1\n'}, 4, "malformed_csv"),
    Costly("a carriage return in a field", {"a.csv": CSV + b"a\rb,1\n"}, 4, "malformed_csv"),
    Costly("a byte that is not UTF-8", {"a.csv": CSV + "ää".encode() + b"\xe9,1\n"}, 4, "undecodable"),
    Costly("a byte that is not UTF-8 in a tab file", {"a.tsv": TSV + "ää".encode() + b"\xe9\t1\n"}, 4, "undecodable"),
    Costly(
        "half a character in UTF-16", {"a.csv": CSV.decode().encode("utf-16") + b"\0\xd8,\x001\0\n\0"}, 4, "undecodable"
    ),
    Costly(
        "a byte that is not GBK",
        {"a.csv": CSV + "好".encode("gbk") + b"\xff,1\n"},
        4,
        "undecodable",
        {"encoding": "gbk"},
    ),
    Costly("a line cut off", {"a.jsonl": JSONL + b'{"text": "a", "lab'}, 3, "invalid_json"),
    Costly("no JSON", {"a.jsonl": JSONL + b"text\n"}, 3, "invalid_json"),
    Costly("not a number", {"a.jsonl": JSONL + b'{"text": "a", "label": NaN}\n'}, 3, "invalid_json"),
    Costly("half a character in JSON", {"a.jsonl": JSONL + b'{"text": "\\ud800", "label": 1}\n'}, 3, "invalid_json"),
    Costly("two objects on a line", {"a.jsonl": JSONL + JSONL.replace(b"\n", b"")}, 3, "invalid_json"),
    Costly("a list", {"a.jsonl": JSONL + b'["a", 1]\n'}, 3, "not_an_object"),
    Costly(
        "a byte that is not UTF-8 in JSON", {"a.jsonl": JSONL + '{"text": "ää'.encode() + b'\xe9"}\n'}, 3, "undecodable"
    ),
    Costly("a number in an array", {"a.json": ARRAY + b"3]"}, 3, "not_an_object"),
    Costly("half a character in an array", {"a.json": ARRAY + b'{"text": "\\udc00", "label": 1}]'}, 3, "invalid_json"),
    Costly(
        "a record that is none",
        {"a.json": b'{\n"0": {"text": "a", "label": 1},\n"1": {"text": "b", "label": 0},\n"2": 3}'},
        3,
        "not_an_object",
    ),
    Costly("a text that is a number", {"a.jsonl": JSONL + b'{"text": 3, "label": 1}\n'}, 3, "wrong_type"),
    Costly("a label that is an object", {"a.jsonl": JSONL + b'{"text": "a", "label": {"x": 1}}\n'}, 3, "wrong_type"),
    Costly("no text", {"a.csv": CSV + b",1\n"}, 4, "empty_text"),
    Costly("a blank text", {"a.tsv": TSV + b"  \t1\n"}, 4, "empty_text"),
    Costly("no label in train", {"train.csv": CSV + b"a,\n"}, 4, "missing_label"),
    Costly(
        "no text in Parquet",
        {"a.parquet": parquet(pa.table({"text": ["a", "b", None], "label": [1, 0, 1]}))},
        3,
        "empty_text",
    ),
    Costly("an unknown label", {"a.csv": CSV + b"a,7\n"}, 4, "unknown_label", {"label_names": ("0", "1")}),
    Costly("an unknown split", {"a.csv": b"text,label,split\na,1,train\nb,0,train\nc,1,fold\n"}, 4, "unknown_split"),
    Costly(
        "a blank line among texts",
        {"x.txt": b"a\n\nc\n", "y.labels": b"1\n0\n0\n"},
        2,
        "empty_text",
        {"labels_path": "y.labels"},
    ),
    Costly("an image among texts", {"pos/1.txt": b"a", "neg/1.txt": b"b", "neg/2": b"\x89\0\0"}, 1, "undecodable"),
]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the working folder, and a command line without arguments."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setattr(sys, "argv", ["validate"])
    return tmp_path


def prepare(files: Files, given: dict[str, Any]) -> None:
    """Write the files into the folder `given`, and the params.yaml of this project, changed where a case needs it."""
    for name, content in files.items():
        path = Path("given") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    params = PARAMS.copy()
    lists = {key: list(value) if isinstance(value, tuple) else value for key, value in given.items()}
    params["data"] = {**params["data"], "path": "given", **lists}
    params["validate"] = {**params["validate"], "max_rejected_ratio": 0.5}  # one bad row in three is welcome
    Path("params.yaml").write_text(json.dumps(params))  # JSON is YAML


def check_refusal(case: Fatal, code: object, line: str) -> None:
    """Check what the stage ends with: one line that names the place and the problem."""
    assert code not in (None, 0)
    assert line.startswith("error: ")
    assert "\n" not in line.strip()
    assert case.message in line
    assert "given" in line or "params.yaml" in line or any(name in line for name in case.files)
    if case.line is not None:
        assert f"given/{next(iter(case.files))}:{case.line}: " in line
    assert not [path for path in Path("data").rglob("*") if not path.is_dir()]
    assert sorted(path.name for path in Path().iterdir() if path.name not in {"data", ".seqtrack"}) == [
        "given",
        "params.yaml",
    ]


def test_the_corpus_is_large_enough() -> None:
    assert len({case.name for case in (*FATAL, *COSTLY)}) == len(FATAL) + len(COSTLY) >= 80


@pytest.mark.parametrize("case", FATAL, ids=lambda case: case.name)
def test_a_spoilt_file_is_an_error_that_names_it(place: Path, case: Fatal) -> None:
    prepare(case.files, case.given)
    with pytest.raises(SystemExit) as caught:
        run_stage(validate, None, output=paths.VALIDATED)
    # Python prints a string and exits with 1.
    check_refusal(case, caught.value.code, str(caught.value.code))


@pytest.mark.parametrize("case", COSTLY, ids=lambda case: case.name)
def test_a_bad_row_costs_itself_alone(place: Path, case: Costly) -> None:
    prepare(case.files, case.given)
    run_stage(validate, None, output=paths.VALIDATED)
    (rejected,) = [json.loads(line) for line in paths.REJECTED.read_text().splitlines()]
    assert (rejected["line"], rejected["reason"]) == (case.line, case.reason)
    assert Path(rejected["source"]).name in {Path(name).name for name in case.files}
    assert rejected["detail"]
    assert len(read_rows(paths.ROWS)) >= 2
    checks = json.loads((paths.REPORTS / "validation.json").read_text())["checks"]
    (found,) = [check for check in checks if check["name"] in REJECTING and check["count"]]
    assert (found["status"], found["count"], found["policy"]) == ("warn", 1, "drop")
    assert found["examples"] == [{"source": rejected["source"], "line": case.line, "snippet": rejected["detail"]}]


@pytest.mark.parametrize("case", COSTLY, ids=lambda case: case.name)
def test_a_bad_row_stops_the_stage_where_policy_says_error(place: Path, case: Costly) -> None:
    strict = {**PARAMS["validate"]["policy"], **dict.fromkeys(REJECTING, "error")}
    prepare(case.files, case.given)
    params = json.loads(Path("params.yaml").read_text())
    params["validate"]["policy"] = strict
    Path("params.yaml").write_text(json.dumps(params))
    with pytest.raises(SystemExit, match=rf"error: given: 1 check fails: [a-z_]+ \(1\).*:{case.line}; "):
        run_stage(validate, None, output=paths.VALIDATED)
    assert not [path for path in Path("data").rglob("*") if not path.is_dir()]
    report = json.loads(Path(".seqtrack/last_validation.json").read_text())
    (failed,) = [check for check in report["checks"] if check["status"] == "fail"]
    assert failed["examples"][0]["line"] == case.line


@pytest.mark.parametrize(
    "name",
    ["a quote never closed", "gzip cut off", "fewer labels", "one class in two spellings", "a state without files"],
)
def test_a_process_refuses_as_well(place: Path, name: str) -> None:
    (case,) = [case for case in FATAL if case.name == name]
    prepare(case.files, case.given)
    process = run_stage_process("validate", Path.cwd())
    check_refusal(case, process.returncode, process.stderr)


def test_a_file_that_may_not_be_read(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare({"a.csv": CSV}, {})
    as_it_was = Path.open

    def refuse(path: Path, *arguments: Any, **named: Any) -> Any:
        if path.name == "a.csv":
            raise PermissionError(13, "Permission denied")
        return as_it_was(path, *arguments, **named)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(SystemExit, match=r"given/a\.csv: no permission to read it"):
        run_stage(validate, None, output=paths.VALIDATED)
