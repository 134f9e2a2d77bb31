"""Reading texts, one per line, whose labels lie in a second file, one per line.

Promises: both files are read in step, and one that ends before the other is an error that names both lengths; labels
lie inside data.path, so that DVC watches all that is read.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path

from pipeline.columns import split_of_source
from pipeline.errors import SeqtrackError
from pipeline.outputs import sha256_file
from pipeline.params import Data
from pipeline.reading_base import Defect, Format, Row, Shape, shorten
from pipeline.reading_bytes import Lines, encoding_of, stem_and_suffix


def labels_of(texts: Path, labels_path: str) -> Path:
    """Return where the labels of a text file are, whether there are any or not.

    Args:
        texts: a file with one text per line, for example `given/train.txt`.
        labels_path: as seen from it; `*` is its name without extension: `*.labels` gives `given/train.labels`.
    """
    return Path(os.path.normpath(texts.parent / labels_path.replace("*", stem_and_suffix(texts)[0])))


def texts_with_labels(root: Path, found: Sequence[Path], labels_path: str) -> list[Path]:
    """Return those of the files found that hold texts, once their labels are where they should be.

    Args:
        root: data.path.
        found: the data files in it, labels perhaps among them.
        labels_path: data.labels_path.

    Raises:
        SeqtrackError: data.path is a file, labels are missing (test texts may go without) or lie outside data.path, or
            two text files would share them.
    """
    if root.is_file():
        folder = root.parent.as_posix()
        raise SeqtrackError(
            "data.labels_path needs data.path to be a folder: DVC would not watch a file beside it",
            where=f"params.yaml: data.path: {root}",
            fix="put texts and labels into a folder and set data.path to it"
            if folder == "."
            else f"set data.path: {folder} and data.pattern: {root.name}",
        )
    labels = {file: labels_of(file, labels_path) for file in found if file.is_file()}
    texts = {file: its for file, its in labels.items() if file not in labels.values()}
    if not texts:
        raise SeqtrackError(
            "no text files to go with data.labels_path",
            where=str(root),
            found=", ".join(file.name for file in found),
            fix="choose the files with one text per line by data.pattern, for example texts/*.txt",
        )
    for file, its in texts.items():
        if not its.is_relative_to(os.path.normpath(root)):
            raise SeqtrackError(
                f"labels lie outside data.path ({root}), where DVC does not watch them",
                where=f"params.yaml: data.labels_path: {labels_path}",
                found=f"{its} for {file}",
                fix="move them into data.path",
            )
        if not its.is_file() and split_of_source(file.relative_to(root).as_posix()) != "test":
            raise SeqtrackError(
                f"no labels for these texts: there is no {its}",
                where=str(file),
                fix="correct data.labels_path, which is seen from the text file (* is its name without extension); "
                "only texts whose file or folder is named test may go without",
            )
    shared = next((file for file, its in texts.items() if list(texts.values()).count(its) > 1), None)
    if shared is not None:
        both = [file.name for file, its in texts.items() if its == texts[shared]]
        raise SeqtrackError(
            "several text files have the same labels file",
            where=str(texts[shared]),
            found=", ".join(both),
            fix="give each its own, with data.labels_path: '*.labels' for example, or choose one by data.pattern",
        )
    return list(texts)


def parallel(data: Data) -> Format:
    """Return the format of files with one text per line and their labels elsewhere, in data.labels_path.

    Texts without a labels file are read without labels.
    """
    labels_path = str(data.labels_path)
    return Format(
        name="texts and labels line by line",
        shape=partial(_shape, data=data, labels_path=labels_path),
        rows=partial(_rows, data=data, labels_path=labels_path),
        digest=partial(_digest, labels_path=labels_path),
    )


def _shape(path: Path, data: Data, labels_path: str) -> Shape:
    labels = labels_of(path, labels_path)
    texts = encoding_of(path, data)
    if next(Lines(path, texts), None) is None:
        raise SeqtrackError("the file is empty", where=str(path), fix="delete it or fill it")
    if not labels.is_file():
        return Shape(columns=("text",), notes=(texts.note, f"one text a line, no labels: there is no {labels.name}"))
    return Shape(columns=("text", "label"), notes=(texts.note, f"one text a line, labels from {labels.name}"))


def _rows(path: Path, data: Data, labels_path: str) -> Iterator[Row | Defect]:
    """Yield a row per line; a blank line keeps its place, as a row without a text.

    Raises:
        SeqtrackError: one file has more lines than the other, so that no label can be trusted.
    """
    texts = Lines(path, encoding_of(path, data))
    labels_file = labels_of(path, labels_path)
    if not labels_file.is_file():
        for text in texts:
            if texts.undecodable:
                yield Defect(texts.count, "undecodable", texts.undecodable)
                texts.undecodable = None
            else:
                yield Row(texts.count, 1, {"text": text.rstrip("\r\n")})
        return
    labels = Lines(labels_file, encoding_of(labels_file, data))
    for text, label in zip_longest(texts, labels):
        if text is None or label is None:
            longer, rest = (texts, texts) if label is None else (labels, labels)
            count = longer.count + sum(1 for _ in rest)
            found = {path.name: texts.count, labels_file.name: labels.count}
            found[path.name if label is None else labels_file.name] = count
            raise SeqtrackError(
                "texts and labels are not equally many lines, so that no label can be trusted",
                where=f"{path}:{min(found.values()) + 1}",
                found=", ".join(f"{shorten(name, 30)} {lines:,}" for name, lines in found.items()),
                fix="mend the shorter file, or see whether a text holds a line end",
            )
        if bad := texts.undecodable or labels.undecodable:
            yield Defect(texts.count, "undecodable", bad)
            texts.undecodable = labels.undecodable = None
            continue
        yield Row(texts.count, 1, {"text": text.rstrip("\r\n"), "label": label.rstrip("\r\n")})


def _digest(path: Path, labels_path: str) -> str:
    labels = labels_of(path, labels_path)
    both = f"{sha256_file(path)}\n{sha256_file(labels) if labels.is_file() else 'no labels'}\n"
    return hashlib.sha256(both.encode()).hexdigest()
