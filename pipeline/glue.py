"""The tasks of the GLUE benchmark: their names, columns, classes and submission files.

Promises: facts alone, light to import. Sources: the benchmark's paper (Wang et al., 2018, arXiv:1804.07461) and the
files themselves.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from pipeline.errors import SeqtrackError
from pipeline.suggestions import did_you_mean

HUB_ID: Final = "nyu-mll/glue"
DIAGNOSTIC: Final = "AX"  # premises and hypotheses without a training set: MNLI's models answer them


@dataclass(frozen=True, kw_only=True)
class GlueTask:
    """A task of GLUE.

    Attributes:
        name: as GLUE spells it.
        texts: folded column names, in its files and on the hub, of the text or of both texts of a pair; one list each,
            best first.
        labels: folded names of the label column, best first.
        classes: class names in GLUE's order; none in regression.
        headerless: column names, in order, of its files that have no header line; none where all have one.
        submits_names: whether a submission holds class names; else it holds their numbers.
        tests: test file, as the fetch stage calls it, to submission file; both without their endings.
    """

    name: str
    texts: tuple[tuple[str, ...], ...]
    labels: tuple[str, ...] = ("label",)
    classes: tuple[str, ...]
    headerless: tuple[str, ...] = ()
    submits_names: bool = False
    tests: tuple[tuple[str, str], ...] = ()

    @property
    def config(self) -> str:
        """The task's configuration on the hub."""
        return folded(self.name)

    def label(self, value: object) -> str | float | None:
        """Return what a value in a file, or a hub's data set, says: a class name, a score, or nothing.

        Args:
            value: a class name, a class number, a score, or a mark that there is no label: "", "-", -1, null.

        Raises:
            ValueError: it is none of these.
        """
        text = "" if value is None else str(value).strip()
        if text in {"", "-", "-1", "-1.0"}:
            return None
        if not self.classes:
            return round(float(text), 3)  # scores have three decimals at most; the hub keeps them as float32
        if text in self.classes:
            return text
        if text.isdecimal() and int(text) < len(self.classes):
            return self.classes[int(text)]
        raise ValueError(f"{text!r} is none of the classes {', '.join(self.classes)}")


_ENTAILMENT: Final = ("entailment", "not_entailment")
_SENTENCES: Final = (("sentence1",), ("sentence2",))
_NUMBERED: Final = ("index", "sentence1", "sentence2", "label")
# The order is that of GLUE's own tables.
TASKS: Final = (
    GlueTask(
        name="CoLA",
        texts=(("sentence",),),
        classes=("unacceptable", "acceptable"),
        headerless=("source", "label", "mark", "sentence"),
    ),
    GlueTask(name="SST-2", texts=(("sentence",),), classes=("negative", "positive"), headerless=("sentence", "label")),
    GlueTask(
        name="MRPC",
        texts=(("#1_string", "sentence1"), ("#2_string", "sentence2")),
        labels=("quality", "label"),
        classes=("not_equivalent", "equivalent"),
    ),
    GlueTask(
        name="STS-B",
        texts=_SENTENCES,
        labels=("score", "label"),
        classes=(),
        headerless=("genre", "filename", "year", "old_index", "score", "sentence1", "sentence2"),
    ),
    GlueTask(
        name="QQP",
        texts=(("question1",), ("question2",)),
        labels=("is_duplicate", "label"),
        classes=("not_duplicate", "duplicate"),
        headerless=("id", "qid1", "qid2", "question1", "question2", "is_duplicate"),
    ),
    GlueTask(
        name="MNLI",
        texts=(("sentence1", "premise"), ("sentence2", "hypothesis")),
        labels=("gold_label", "label"),
        classes=("entailment", "neutral", "contradiction"),
        submits_names=True,
        tests=(("test_matched", "MNLI-m"), ("test_mismatched", "MNLI-mm"), ("test_ax", DIAGNOSTIC)),
    ),
    GlueTask(
        name="QNLI",
        texts=(("question",), ("sentence",)),
        classes=_ENTAILMENT,
        headerless=("index", "question", "sentence", "label"),
        submits_names=True,
    ),
    GlueTask(name="RTE", texts=_SENTENCES, classes=_ENTAILMENT, headerless=_NUMBERED, submits_names=True),
    GlueTask(name="WNLI", texts=_SENTENCES, classes=("not_entailment", "entailment"), headerless=_NUMBERED),
)

# Rows of each test set; a submission has all eleven files, with a prediction for each row.
TEST_ROWS: Final = {
    "CoLA": 1_063,
    "SST-2": 1_821,
    "MRPC": 1_725,
    "STS-B": 1_379,
    "QQP": 390_965,
    "MNLI-m": 9_796,
    "MNLI-mm": 9_847,
    "QNLI": 5_463,
    "RTE": 3_000,
    "WNLI": 146,
    DIAGNOSTIC: 1_104,
}


def folded(name: str) -> str:
    """Return a task's name as it is compared: SST-2, sst2 and SST_2 are one."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def find_task(name: str) -> GlueTask:
    """Return the task of this name, however it is spelled.

    Raises:
        SeqtrackError: there is none.
    """
    by_name = {folded(task.name): task for task in TASKS}
    where = "params.yaml: fetch.name"
    if folded(name) == folded(DIAGNOSTIC):
        raise SeqtrackError(
            "AX has no training rows: models of MNLI answer it",
            where=where,
            fix="set fetch.name to mnli, which brings AX along, or use the preset ax",
        )
    if folded(name) in by_name:
        return by_name[folded(name)]
    meant = did_you_mean(folded(name), by_name, cutoff=0.4, shown=lambda near: by_name[near].name)
    raise SeqtrackError(
        f"no GLUE task {name!r}{meant}",
        where=where,
        expected="one of " + ", ".join(task.name for task in TASKS),
    )


def submission_of(task: GlueTask, file: str) -> str | None:
    """Return the submission file, without its ending, for a test file of a task that fetch wrote; None for others."""
    tests = dict(task.tests or (("test", task.name),))
    return tests.get(file)
