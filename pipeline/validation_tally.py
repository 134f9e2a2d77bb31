"""What is counted while rows pass by: rejections by reason, files, first places of labels and splits.

Promises: memory grows with files, labels and reasons, not with rows.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Final, NamedTuple

from pipeline.checks import MOST_EXAMPLES, Example, Finding
from pipeline.errors import SeqtrackError
from pipeline.input_files import InputFile
from pipeline.params import Validate
from pipeline.reading import Defect
from pipeline.row_store import Batch

# The check that answers for rows rejected for a reason; any other reason is `schema`.
_CHECK_OF: Final = {
    "undecodable": "encoding",
    "empty_text": "empty_text",
    "empty_text_pair": "empty_text",
    "missing_label": "missing_label",
    "unknown_label": "unknown_label",
    "mojibake": "mojibake",
    "characters": "characters",
}
_WHAT: Final = {
    "schema": ("rows are not as their file says", "mend these rows; data/validated/rejected.jsonl lists all of them"),
    "encoding": (
        "rows are not text in the encoding of their file",
        "save the file in one encoding, or name it in data.encoding",
    ),
    "empty_text": ("rows have no text", "fill in the text or delete the rows"),
    "missing_label": ("rows have no label", "label these rows, or move them to the test split"),
    "unknown_label": ("rows have a label that is not in data.label_names", "correct the labels, or add them there"),
    "mojibake": (
        "rows look decoded with the wrong encoding",
        "write the files anew from their source in UTF-8; where there is none, ftfy.fix_text mends most",
    ),
    "characters": (
        "rows have characters that no reader sees: control, invisible or private ones",
        "remove these characters: the tokenizer sees them, or drops them, where readers see nothing",
    ),
}  # fmt: skip
_ABSENT: Final = {
    "schema": "all rows are as their file says",
    "encoding": "all rows are text in the encoding of their file",
    "empty_text": "all rows have a text",
    "missing_label": "all rows that need a label have one",
    "unknown_label": "all labels are known",
    "mojibake": "no text looks decoded with the wrong encoding",
    "characters": "no text has characters that no reader sees",
}


class FileCounts(NamedTuple):
    """Rows of one file: accepted, rejected, and those that take several lines."""

    rows: int
    rejected: int
    tall: int


class Tally:
    """Counts rows.

    Attributes:
        accepted: rows so far that are fit for use.
        reasons: rows rejected, by reason.
        label_places: where each label first stands, by label.
    """

    def __init__(self) -> None:
        self.accepted = 0
        self.reasons: Counter[str] = Counter()
        self.label_places: dict[str, str] = {}
        self._first_place: dict[str, tuple[str, str]] = {}  # reason to place and detail
        self._split_places: dict[str | None, str] = {}
        self._rows: Counter[str] = Counter()
        self._rejected: Counter[str] = Counter()
        self._tall: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()  # by check
        self._examples: dict[str, list[Example]] = defaultdict(list)  # by check

    @property
    def rejected(self) -> int:
        """Rows rejected so far."""
        return sum(self.reasons.values())

    def reject(self, file: InputFile, source: str, defect: Defect) -> None:
        """Count a row that is left out."""
        self.reasons[defect.reason] += 1
        self._rejected[file.name] += 1
        self._first_place.setdefault(defect.reason, (file.place(source, defect.line), defect.detail))
        self.notice(_CHECK_OF.get(defect.reason, "schema"), source, defect.line, lambda: defect.detail)

    def notice(self, check: str, source: str, line: int, snippet: Callable[[], str]) -> None:
        """Count a row that a check found, whether it is left out or not; `snippet` is asked for few of them."""
        self._counts[check] += 1
        if len(self._examples[check]) < MOST_EXAMPLES:
            self._examples[check].append(Example(source=source, line=line, snippet=snippet()))

    def accept(self, file: InputFile, batch: Batch, tall: int) -> None:
        """Count rows that are fit for use.

        Args:
            file: the file that all of them are from.
            batch: the rows.
            tall: how many of them take several lines.
        """
        self.accepted += len(batch.texts)
        self._rows[file.name] += len(batch.texts)
        self._tall[file.name] += tall

        def place(row: int) -> str:
            return file.place(batch.sources[row], batch.lines[row])

        for split in set(batch.splits) - self._split_places.keys():
            self._split_places[split] = place(batch.splits.index(split))
        new = set(batch.labels) - self.label_places.keys() - {None}
        for row, label in enumerate(batch.labels) if new else ():
            if label is not None and label not in self.label_places:
                self.label_places[label] = place(row)

    def too_many_rejected(self, limits: Validate) -> SeqtrackError | None:
        """Return what to say when too few rows are left, None when enough are."""
        total = self.accepted + self.rejected
        if self.rejected <= limits.max_rejected_ratio * total and self.accepted:
            return None
        reason, count = min(self.reasons.items(), key=lambda item: (-item[1], item[0]))
        place, detail = self._first_place[reason]
        return SeqtrackError(
            f"{self.rejected:,} of {total:,} rows ({self.rejected / total:.1%}) are rejected, most of them "
            f"({count:,}) as {reason}; the first of those: {detail}",
            where=place,
            expected=f"at most {limits.max_rejected_ratio:.1%} (validate.max_rejected_ratio)",
            found=", ".join(f"{name} {n:,}" for name, n in sorted(self.reasons.items())),
            fix="mend the files, or raise the limit to go on without these rows",
        )

    def check_splits(self) -> None:
        """Raise when only some rows name a split."""
        if None in self._split_places and len(self._split_places) > 1:
            raise SeqtrackError(
                "some rows name a split and some do not",
                where=self._split_places[None],
                found="no split here, one at " + next(at for split, at in self._split_places.items() if split),
                fix="fill the split column for all rows or for none",
            )

    def findings(self) -> dict[str, Finding]:
        """Return what the checks of single rows found."""
        return {
            name: Finding(
                count=self._counts[name],
                message=what if self._counts[name] else _ABSENT[name],
                fix=fix,
                examples=tuple(self._examples[name]),
            )
            for name, (what, fix) in _WHAT.items()
        }

    def file_counts(self, file: InputFile) -> FileCounts:
        """Return what came of a file."""
        return FileCounts(self._rows[file.name], self._rejected[file.name], self._tall[file.name])
