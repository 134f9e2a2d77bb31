"""Finding which columns hold text, second text, label and split, and which split a file name means.

Promises: params.yaml decides where it speaks; else the names people use do, whatever their case; two equally good
candidates, or none, are an error that shows what was looked for, what is there and which key of params.yaml settles it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from pipeline.errors import SeqtrackError
from pipeline.outputs import read_json, write_json
from pipeline.params import Data
from pipeline.reading_base import shorten
from pipeline.suggestions import nearest

# Names are compared in lower case, with spaces and hyphens as underscores: "Text Pair" is text_pair.
PAIR_NAMES: Final = (
    ("text", "text_pair"),
    ("text1", "text2"),
    ("text_a", "text_b"),
    ("sentence1", "sentence2"),
    ("sentence_a", "sentence_b"),
    ("sequence1", "sequence2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("#1_string", "#2_string"),  # MRPC
    ("question", "sentence"),  # QNLI
    ("question", "passage"),  # BoolQ
    ("query", "passage"),
    ("query", "document"),
    ("文本1", "文本2"),
    ("句子1", "句子2"),
)
# Best first; names in one group are equally good, so that two of them in one file are ambiguous.
TEXT_NAMES: Final = (
    ("text",),
    (
        *("sentence", "sequence", "review", "content", "comment", "body", "message", "tweet", "document", "article"),
        *("text1", "text_a", "sentence1", "sentence_a", "sequence1", "question1", "premise", "#1_string"),
    ),
    ("title", "headline", "question", "query", "description", "summary"),
    ("文本", "内容", "句子", "评论", "正文"),
    ("标题",),
)
LABEL_NAMES: Final = (
    ("label",),
    ("labels", "class", "category", "target", "sentiment", "gold_label", "is_duplicate", "quality", "intent", "topic"),
    ("score", "similarity", "rating", "stars"),
    ("标签", "类别", "分类"),
)
SPLIT_NAME: Final = "split"

_SPLIT_WORDS: Final = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "devel", "development", "eval"),
    "test": ("test", "testing"),
}

KNOWN_NAMES: Final = frozenset(
    {name for group in (*PAIR_NAMES, *TEXT_NAMES, *LABEL_NAMES) for name in group}
    | {SPLIT_NAME, "id", "idx", "index", "guid", "uid"}
)
"""Folded names by which a header line is known."""

# What reading calls the columns of a file without a header line: a part where their values show one.
_MADE_UP: Final = re.compile(r"column [0-9]+(?: \((text|text_pair|label)\))?")


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which column of a file plays which part, by its name as written there; None where there is no such column."""

    text: str
    text_pair: str | None
    label: str | None
    split: str | None


def write_columns(path: Path, columns: Columns) -> None:
    """Write which column played which part, for predict to find them again in other files."""
    write_json(path, asdict(columns))


def read_columns(path: Path) -> Columns | None:
    """Read what `write_columns` wrote; None where there is no such file, as beside models of other hands.

    Raises:
        SeqtrackError: the file is damaged.
    """
    if not path.is_file():
        return None
    match read_json(path):
        case {
            "text": str(text),
            "text_pair": str() | None as pair,
            "label": str() | None as label,
            "split": str() | None as split,
        }:
            return Columns(text=text, text_pair=pair, label=label, split=split)
        case found:
            raise SeqtrackError("not columns", where=str(path), found=str(found)[:80], fix="run `dvc repro`")


def made_up_name(number: int, part: str | None = None) -> str:
    """Return the name of a column that has none: `column 2`, or `column 2 (label)` where its part is known."""
    return f"column {number} ({part})" if part else f"column {number}"


def is_made_up(name: str) -> bool:
    """Return whether a column's name is one that `made_up_name` gives."""
    return _MADE_UP.fullmatch(name) is not None


def fold(name: str) -> str:
    """Return a column name as it is compared: in lower case, spaces and hyphens as underscores."""
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def find_columns(found: Sequence[str], data: Data, *, where: str, label_needed: bool) -> Columns:
    """Tell which columns hold what.

    Args:
        found: the column names of a file.
        data: the section of params.yaml that may name columns.
        where: the file, for messages.
        label_needed: whether a file without a label column is an error; never so in one with a split column, whose
            rows may all be test rows.

    Raises:
        SeqtrackError: a column named in params.yaml is not there, one column would play two parts, a needed one is
            not found, or several could be meant.
    """
    mapped = {data.text, data.text_pair, data.label}
    split = next((name for name in found if fold(name) == SPLIT_NAME and name not in mapped), None)
    label_needed = label_needed and split is None
    text = _mapped(found, data.text, "data.text", where)
    pair = _mapped(found, data.text_pair, "data.text_pair", where)
    has_label = label_needed or any(fold(name) == fold(data.label or "") for name in found)
    label = _mapped(found, data.label, "data.label", where) if has_label else None
    _check_distinct({"data.text": text, "data.text_pair": pair, "data.label": label}, where)
    free = [name for name in found if name not in {text, pair, label, split}]
    shown = _shown_parts(found)
    if shown and text is None and pair is None:
        text, pair = shown.get("text"), shown.get("text_pair")
        if data.label is None:
            label = shown.get("label")
            if label is None and label_needed:
                raise _nothing(found, "label", "label in data.columns", "data.columns", where)
        return Columns(text=str(text), text_pair=pair, label=label, split=None)
    if text is None and pair is None:
        text, pair = _find_text(free, where)
    elif text is None:
        text = _find_text_for(free, str(pair), where)
    elif pair is None:
        pair = _find_pair_for(free, text)
    if data.label is None:
        free = [name for name in free if name not in {text, pair}]
        label = _best(free, LABEL_NAMES, "data.label", "label", where)
        if label is None and label_needed:
            raise _nothing(found, "label", _listed(LABEL_NAMES), "data.label", where)
    return Columns(text=text, text_pair=pair, label=label, split=split)


def check_same_columns(columns: Mapping[str, Columns]) -> None:
    """Check that the files of one data set call the same thing by the same name, whatever its case.

    Args:
        columns: file name to what was found in it. A file may lack the label, but not call it something else.

    Raises:
        SeqtrackError: two files differ.
    """
    for part, key in (("text", "data.text"), ("text_pair", "data.text_pair"), ("label", "data.label")):
        seen: dict[str | None, str] = {}  # folded name to the first file and its spelling
        nameless: dict[str | None, str] = {}
        for file, its in columns.items():
            name: str | None = getattr(its, part)
            if name is None and part == "label":
                continue
            # A column without a name agrees with any name, but not with there being no such column.
            group = nameless if name and is_made_up(name) else seen
            group.setdefault(name and fold(name), f"{file}: {name or 'none'}")
        if len(seen) > 1 or (None in seen and nameless):
            raise SeqtrackError(
                f"files name the column for {part} differently",
                found=", ".join([*seen.values(), *nameless.values()]),
                fix="rename the columns (for files without a header line: those in data.columns) so that they agree, "
                f"or set {key} to one that all files have",
            )


def split_of_name(path: Path) -> str | None:
    """Return the split that a file name means, by one of its words: `dev_matched.tsv` is validation; None if none does.

    Raises:
        SeqtrackError: it has words of two splits, such as `train_test.csv`.
    """
    words = set(re.split(r"[^a-z0-9]+", path.stem.lower()))
    splits = [split for split, names in _SPLIT_WORDS.items() if words.intersection(names)]
    if len(splits) > 1:
        raise SeqtrackError(
            f"the file name means {' and '.join(splits)} at once",
            where=str(path),
            fix="rename the file, one split a file, or give its rows a column named split",
        )
    return splits[0] if splits else None


def split_of_source(name: str) -> str | None:
    """Return the split that a path below data.path means, its last part that names one: `train/part-0.csv` is train.

    Raises:
        SeqtrackError: a part has words of two splits.
    """
    return next((split for part in reversed(Path(name).parts) if (split := split_of_name(Path(part)))), None)


def split_of_value(value: str) -> str | None:
    """Return the split that a value of the split column means, None if it means none."""
    word = value.strip().lower()
    return next((split for split, names in _SPLIT_WORDS.items() if word in names), None)


def _shown_parts(found: Sequence[str]) -> dict[str, str]:
    """Return part to column for columns without names whose values show what they are."""
    matches = [match for name in found if (match := _MADE_UP.fullmatch(name))]
    return {match[1]: match[0] for match in matches if match[1]} if len(matches) == len(found) else {}


def _mapped(found: Sequence[str], name: str | None, key: str, where: str) -> str | None:
    """Return the column that params.yaml names: as written, or the only one that differs in case and spaces."""
    if name is None or name in found:
        return name
    alike = [column for column in found if fold(column) == fold(name)]
    if len(alike) == 1:
        return alike[0]
    near = nearest(name, found, cutoff=0.0)
    raise SeqtrackError(
        f"{key} names a column that is not there: {name!r}",
        where=where,
        found=_columns_in_words(found),
        fix=f"did you mean {shorten(near)!r}?" if near else f"change {key} in params.yaml",
    )


def _check_distinct(mapped: Mapping[str, str | None], where: str) -> None:
    """Check that params.yaml gives no column two parts."""
    keys: dict[str, str] = {}
    for key, name in mapped.items():
        if name is not None and keys.setdefault(name, key) != key:
            raise SeqtrackError(f"{keys[name]} and {key} name the same column {name!r}", where=where)


def _find_text(names: Sequence[str], where: str) -> tuple[str, str | None]:
    """Find one text or a pair; a full pair wins over a single name that is not `text` itself."""
    candidates: list[tuple[str, str | None]] = [
        (first, second)
        for first_name, second_name in PAIR_NAMES
        for first in _called(names, first_name)
        for second in _called(names, second_name)
    ]
    in_pairs = {name for pair in candidates for name in pair}
    if candidates:
        candidates += [(name, None) for name in _called(names, "text") if name not in in_pairs]
        if len(candidates) > 1:
            options = [f"{a} + {b}" if b else a for a, b in candidates]
            raise _ambiguous(options, "text", "data.text (and data.text_pair)", where)
        return candidates[0]
    text = _best(names, TEXT_NAMES, "data.text", "text", where)
    if text is None:
        expected = f"{_listed(TEXT_NAMES)}, or a pair such as sentence1 + sentence2"
        raise _nothing(names, "text", expected, "data.text", where)
    return text, None


def _find_text_for(names: Sequence[str], pair: str, where: str) -> str:
    """Find the first text of a pair whose second one params.yaml names."""
    partners = [first for first, second in PAIR_NAMES if second == fold(pair)]
    text = _best(names, (tuple(partners), *TEXT_NAMES), "data.text", "text", where)
    if text is None:
        raise _nothing(names, "text", _listed(TEXT_NAMES), "data.text", where)
    return text


def _find_pair_for(names: Sequence[str], text: str) -> str | None:
    """Find the second text that goes with a first one that params.yaml names; there need not be one."""
    partners = {second for first, second in PAIR_NAMES if first == fold(text)} | {"text_pair"}
    found = [name for name in names if fold(name) in partners]
    return found[0] if len(found) == 1 else None


def _best(names: Sequence[str], groups: Iterable[tuple[str, ...]], key: str, part: str, where: str) -> str | None:
    """Return the one column of the best group that has any."""
    for group in groups:
        found = [name for name in names if fold(name) in group]
        if len(found) > 1:
            raise _ambiguous(found, part, key, where)
        if found:
            return found[0]
    return None


def _called(names: Sequence[str], wanted: str) -> list[str]:
    return [name for name in names if fold(name) == wanted]


def _ambiguous(options: Sequence[str], part: str, key: str, where: str) -> SeqtrackError:
    return SeqtrackError(
        f"several columns could be the {part}",
        where=where,
        expected="one",
        found=_columns_in_words(options),
        fix=f"set {key} in params.yaml to the right one",
    )


def _nothing(found: Sequence[str], part: str, expected: str, key: str, where: str) -> SeqtrackError:
    return SeqtrackError(
        f"no column for the {part}",
        where=where,
        expected=f"one named {expected}",
        found=_columns_in_words(found),
        fix=f"set {key} in params.yaml to the right one; a file without a header line needs one",
    )


def _listed(groups: Iterable[tuple[str, ...]]) -> str:
    return ", ".join(name for group in groups for name in group)


def _columns_in_words(names: Sequence[str], most: int = 12) -> str:
    shown = ", ".join(shorten(name, 30) for name in names[:most])
    return "columns " + shown + (f" and {len(names) - most} more" if len(names) > most else "")
