"""Each preset's data in small, in the layout of its source: cuts of real files, or sentences made here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value

SHARED = Path(os.environ.get("SEQTRACK_DATA", Path(__file__).parents[2] / "shared" / "data"))
TRAIN, DEV, TEST = 40, 20, 12  # rows

# Lists of coprime lengths: the sentences of 2,520 numbers in a row differ, and neighbours share no word but "the".
WHO = ("teacher", "senator", "nurse", "young pilot", "baker", "old captain", "reporter")
DID = ("praised", "sold", "repaired", "forgot", "painted")
WHAT = (
    "red bridge",
    "last novel",
    "wooden boat",
    "new law",
    "city garden",
    "broken clock",
    "final report",
    "small farm",
)
WHEN = (
    *("on Monday", "before noon", "in silence", "last winter", "after the storm", "for nothing", "at midnight"),
    *("in Rome", "by mistake"),
)
FILM = (("dull", "clumsy", "tired", "hollow"), ("moving", "witty", "radiant", "graceful"))
ZH_WHO = ("老师", "记者", "医生", "船长", "厨师", "市长", "球员")
ZH_DID = ("称赞了", "卖掉了", "修好了", "忘记了", "画出了")
ZH_WHAT = ("红色的桥", "最后的小说", "木头船", "新的法律", "城市花园", "旧时钟", "期末报告", "小农场")
ZH_WHEN = ("星期一", "中午之前", "去年冬天", "暴雨之后", "半夜里", "在罗马", "昨天", "今天早上", "上个月")

CLUE_TOPICS = ("100", "101", "102", "103", "104", "106", "107", "108", "109", "110", "112", "113", "114", "115", "116")
# The order of the data set's class ids on the hub; 28 of them, the last one means none of the others.
EMOTIONS = (
    *("admiration", "amusement", "anger", "annoyance", "approval", "caring", "confusion", "curiosity", "desire"),
    *("disappointment", "disapproval", "disgust", "embarrassment", "excitement", "fear", "gratitude", "grief", "joy"),
    *("love", "nervousness", "optimism", "pride", "realization", "relief", "remorse", "sadness", "surprise", "neutral"),
)


def sentence(number: int) -> str:
    return f"The {WHO[number % 7]} {DID[number % 5]} the {WHAT[number % 8]} {WHEN[number % 9]}."


def chinese(number: int) -> str:
    return f"{ZH_WHO[number % 7]}{ZH_WHEN[number % 9]}{ZH_DID[number % 5]}{ZH_WHAT[number % 8]}"


def _real_lines(name: str) -> list[str] | None:
    file = SHARED / name
    return [line.decode() for line in file.read_bytes().splitlines(keepends=True)] if file.is_file() else None


def second(number: int, kind: int) -> str:
    """The other sentence of a pair: one that follows, one that may be so, one that is against it."""
    who, did, what = WHO[number % 7], DID[number % 5], WHAT[number % 8]
    return (f"It was the {who} who {did} the {what}.", f"A {who} liked the {what}.", f"Nobody {did} it.")[kind]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A GLUE task's own files.

    Attributes:
        folder: the task's.
        texts: the columns of the text, or of both.
        label: the column of the label.
        written: labels as written, in GLUE's order of the classes; none for scores.
        labelled: columns of train and dev, with commas.
        unlabelled: columns of test.
        header: whether train and dev begin with their columns.
        real: file of the layout to one in SHARED that has its rows, and how many of those to pass over.
    """

    folder: str
    texts: tuple[str, ...]
    label: str = "label"
    written: tuple[str, ...] = ()
    labelled: str
    unlabelled: str = "index,sentence1,sentence2"
    header: bool = True
    real: Mapping[str, tuple[str, int]]

    def write(self, glue: Path) -> None:
        """Write the task's folder into a folder of GLUE's."""
        folder = glue / self.folder
        folder.mkdir(parents=True)
        start = 0
        for name, count in self._files():
            given, passed = self.real.get(name, ("", 0))
            target = folder / name
            if (lines := _real_lines(given)) is not None:
                # The first line may be a header.
                cut = [lines[0], *lines[1 + passed : passed + count]]
                target.with_suffix(Path(given).suffix).write_text("".join(cut), encoding="utf-8", newline="")
            else:
                target.write_text(self._made(name, start, count), encoding="utf-8", newline="\n")
            start += count

    def _files(self) -> list[tuple[str, int]]:
        if self.folder != "MNLI":
            return [("train.tsv", TRAIN), ("dev.tsv", DEV), ("test.tsv", TEST)]
        parts = [
            (f"{split}_{part}.tsv", n)
            for split, n in (("dev", DEV), ("test", TEST))
            for part in ("matched", "mismatched")
        ]
        return [("train.tsv", TRAIN), *parts, ("diagnostic.tsv", TEST)]

    def _made(self, name: str, start: int, count: int) -> str:
        labelled = name.startswith(("train", "dev"))
        columns = (self.labelled if labelled else self.unlabelled).split(",")
        lines = [columns] if self.header or not labelled else []
        for place, number in enumerate(range(start, start + count)):
            kind = number % (len(self.written) or 3)
            values = {
                "index": str(place),
                "id": str(place),
                **dict(zip(self.texts, self._texts(number, kind), strict=True)),
            }
            if labelled:
                values[self.label] = self.written[kind] if self.written else f"{number * 7 % 51 / 10:.3f}"
            lines.append([values.get(column, "x") for column in columns])
        return "".join("\t".join(line) + "\n" for line in lines)

    def _texts(self, number: int, kind: int) -> list[str]:
        if self.folder == "SST-2":
            return [f"{sentence(number)[:-1].lower()} , a {FILM[kind][number % 4]} film "]
        if self.folder == "CoLA":
            words = sentence(number).split()
            return [" ".join(words if kind else words[::-1])]
        if self.folder == "QQP":
            return [
                f"Why did {text[0].lower()}{text[1:-1]}?" for text in (sentence(number), sentence(number + 1 - kind))
            ]
        first = f"When was it that {sentence(number)[:-1].lower()}?" if self.folder == "QNLI" else sentence(number)
        return [first, second(number, kind)]


_PAIR = "index,sentence1,sentence2,label"
_NLI = ("entailment", "not_entailment")
_MNLI = (
    "index,promptID,pairID,genre,sentence1_binary_parse,sentence2_binary_parse,sentence1_parse,sentence2_parse,"
    "sentence1,sentence2"
)


def _real(folder: str, **passed: int) -> dict[str, tuple[str, int]]:
    return {f"{name}.tsv": (f"{folder}/{name}.tsv", passed.get(name, 0)) for name in ("train", "dev", "test")}


GLUE = {
    "cola": Layout(
        folder="CoLA",
        texts=("sentence",),
        written=("0", "1"),
        labelled="source,label,mark,sentence",
        unlabelled="index,sentence",
        header=False,
        real=_real("glue_official/CoLA"),
    ),
    "sst2": Layout(
        folder="SST-2",
        texts=("sentence",),
        written=("0", "1"),
        labelled="sentence,label",
        unlabelled="index,sentence",
        real=_real("glue_official/SST-2"),
    ),
    "mrpc": Layout(
        folder="MRPC",
        texts=("#1 String", "#2 String"),
        label="Quality",
        written=("0", "1"),
        labelled="Quality,#1 ID,#2 ID,#1 String,#2 String",
        unlabelled="index,#1 ID,#2 ID,#1 String,#2 String",
        real=_real("glue_official/MRPC"),
    ),
    "stsb": Layout(
        folder="STS-B",
        texts=("sentence1", "sentence2"),
        label="score",
        labelled="index,genre,filename,year,old_index,source1,source2,sentence1,sentence2,score",
        unlabelled="index,genre,filename,year,old_index,source1,source2,sentence1,sentence2",
        real={f"{name}.tsv": (f"glue/STS-B/sts-{name}.csv", 0) for name in ("train", "dev", "test")},
    ),
    "qqp": Layout(
        folder="QQP",
        texts=("question1", "question2"),
        label="is_duplicate",
        written=("0", "1"),
        labelled="id,qid1,qid2,question1,question2,is_duplicate",
        unlabelled="id,question1,question2",
        real={"train.tsv": ("glue_official/QQP/part.tsv", 0)},
    ),
    "mnli": Layout(
        folder="MNLI",
        texts=("sentence1", "sentence2"),
        label="gold_label",
        written=("entailment", "neutral", "contradiction"),
        labelled=f"{_MNLI},label1,gold_label",
        unlabelled=_MNLI,
        real={"dev_matched.tsv": ("glue_official/MNLI/dev_matched.jsonl", 0)},
    ),
    "qnli": Layout(
        folder="QNLI",
        texts=("question", "sentence"),
        written=_NLI,
        labelled="index,question,sentence,label",
        unlabelled="index,question,sentence",
        # There is no train file: other rows of dev stand for it.
        real=_real("glue/QNLI") | {"train.tsv": ("glue/QNLI/dev.tsv", DEV)},
    ),
    "rte": Layout(folder="RTE", texts=("sentence1", "sentence2"), written=_NLI, labelled=_PAIR, real=_real("glue/RTE")),
    "wnli": Layout(
        folder="WNLI", texts=("sentence1", "sentence2"), written=("0", "1"), labelled=_PAIR, real=_real("glue/WNLI")
    ),
}


def _pairs(given: str, start: int, count: int) -> list[list[str]]:
    """Rows of AFQMC: both questions, and the label where the file has one."""
    if (lines := _real_lines(given)) is not None:
        return [line.rstrip("\r\n").split("\t") for line in lines[:count]]
    numbers = range(start, start + count)
    return [[f"{chinese(n)}了吗", f"{chinese(n if n % 2 else n + 1)}是真的吗", str(n % 2)] for n in numbers]


def _titles(given: str, start: int, count: int) -> list[list[str]]:
    """Rows of TNEWS: title and class."""
    if (lines := _real_lines(given)) is not None:
        return [line.rstrip("\r\n").split("\t") for line in lines[:count]]
    return [[chinese(number), CLUE_TOPICS[number % 15]] for number in range(start, start + count)]


def hub_data(name: str, config: str | None) -> DatasetDict:
    """Return what the hub has under this name, in small: class ids with their names, -1 in test splits of CLUE."""
    sizes = {"train": (0, TRAIN), "validation": (TRAIN, DEV), "test": (TRAIN + DEV, TEST)}
    text = Value("string")
    if name == "google-research-datasets/go_emotions":
        kinds = {"text": text, "labels": List(ClassLabel(names=EMOTIONS)), "id": text}
        return DatasetDict(
            {
                split: Dataset.from_dict(
                    {
                        "text": [sentence(number) for number in range(start, start + count)],
                        # Some of three emotions: there are few rows.
                        "labels": [[[3], [17], [3, 17], [27]][number % 4] for number in range(start, start + count)],
                        "id": [f"e{number:06x}" for number in range(start, start + count)],
                    },
                    features=Features(kinds),
                )
                for split, (start, count) in sizes.items()
            }
        )
    assert name == "clue/clue"
    found = {}
    for split, (start, count) in sizes.items():
        file = {"train": "train", "validation": "dev", "test": "test"}[split]
        if config == "afqmc":
            rows, names = _pairs(f"zh/afqmc/{file}.txt", start, count), ["0", "1"]
            columns: dict[str, list[Any]] = {
                "sentence1": [row[0] for row in rows],
                "sentence2": [row[1] for row in rows],
            }
        else:
            rows, topics = _titles(f"zh/tnews/{file}.tsv", start, count), _real_lines("zh/tnews/labels.txt")
            names = list(CLUE_TOPICS) if topics is None else [topic.strip() for topic in topics]
            if split == "test" and topics is not None:
                rows = [[title] for title, _ in _titles("zh/tnews/dev.tsv", 0, DEV + count)[DEV:]]
            columns = {"sentence": [row[0] for row in rows]}
        columns["label"] = [-1 if split == "test" else names.index(row[-1]) for row in rows]
        columns["idx"] = list(range(len(rows)))
        kinds = dict.fromkeys(columns, text) | {"label": ClassLabel(names=names), "idx": Value("int32")}
        found[split] = Dataset.from_dict(columns, features=Features(kinds))
    return DatasetDict(found)


def write_waimai(file: Path) -> None:
    """Write waimai_10k.csv: label and review; the real one has all good reviews first."""
    if (lines := _real_lines("zh/waimai/waimai_10k.csv")) is not None:
        kept = [lines[0], *lines[1::100]]
    else:
        kept = ["label,review\n", *(f"{n % 2},{chinese(n)}，{'难吃' if n % 2 else '很好吃'}\n" for n in range(120))]
    file.write_text("".join(kept), encoding="utf-8", newline="")
