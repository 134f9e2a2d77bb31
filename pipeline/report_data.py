"""The parts of a report that tell of the data: what was read, what the checks found, duplicates and leaks.

Promises: of many classes, files, checks and pairs only so many are shown, and the page says of how many.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import get_args

from pipeline.leakage import UNLABELLED, Kind
from pipeline.outputs import Json
from pipeline.paths import SPLIT_NAMES
from pipeline.report_blocks import Block, Card, Cell, Charts, Facts, Fold, Passage, Section, Span, Table, Text
from pipeline.report_blocks import Chart as ChartBlock
from pipeline.report_charts import Axis, Bar, bar_chart, share_mark
from pipeline.report_inputs import Inputs
from pipeline.report_words import clipped, count, label, listed, named, plain, share, where

MOST_CLASSES = 30
MOST_FILES = 20
MOST_EXAMPLES = 5
PAIR_CHARACTERS = 500
BAD = ("_refuted", "_crossing_splits", "_with_train")  # endings of the verdict's numbers that ought to be 0
STATUS = {"pass": "good", "warn": "warn", "fail": "bad", "off": "quiet"}  # tone of a check


def data_section(inputs: Inputs) -> Section:
    """Tell what was read: rows by split and class, files, lengths."""
    validation, tokens = inputs.validation, inputs.tokenization
    rejected = sum(validation["rejected"].values())
    reasons = "".join(f", {count(rows)} for {reason}" for reason, rows in sorted(validation["rejected"].items()))
    columns = validation["columns"]
    used = [f"{part} from column {columns[part]}" for part in ("text", "text_pair", "label") if columns[part]]
    pairs = [
        ("rows", f"{count(validation['rows'])} accepted, {count(rejected)} rejected{reasons}"),
        ("columns", ", ".join(used)),
        (
            "tokens",
            f"{count(tokens['tokens'])} in all; a row has {tokens['lengths_before_truncation']['p50']} (median), "
            f"{tokens['lengths_before_truncation']['p95']} (95th percentile), "
            f"{tokens['lengths_before_truncation']['max']} (longest)",
        ),
        (
            "cut",
            f"{count(tokens['truncated_rows'])} rows ({share(tokens['truncated_ratio'])}) have more than "
            f"{tokens['max_length']} tokens",
        ),
    ]
    blocks: list[Block] = [Facts(pairs=pairs), _by_label(inputs), _lengths(inputs)]
    blocks.append(
        Fold(
            summary=f"Files read: {len(validation['files']):,}", blocks=[_files(validation["files"]), _inferred(inputs)]
        )
    )
    return Section(anchor="data", title="Data", lead="What was read, and how it was divided.", blocks=blocks)


def _by_label(inputs: Inputs) -> Table:
    rows: dict[str, dict[str, int]] = defaultdict(dict)
    for line in inputs.labels:
        rows[line["label"]][line["split"]] = int(line["count"])
    most = max((sum(by_split.values()) for by_split in rows.values()), default=1)
    shown = sorted(rows, key=lambda name: -sum(rows[name].values()))[:MOST_CLASSES]
    lines = [
        [
            Cell(text="without a label", tone="quiet") if name == UNLABELLED else named(name),
            *plain(*(count(rows[name].get(split, 0)) for split in SPLIT_NAMES)),
            Cell(text=count(sum(rows[name].values())), chart=share_mark(sum(rows[name].values()) / max(most, 1))),
        ]
        for name in rows
        if name in set(shown)
    ]
    totals = [sum(by_split.get(split, 0) for by_split in rows.values()) for split in SPLIT_NAMES]
    kept = inputs.leakage["rows"]["kept"]
    several = sum(totals) > sum(kept.values())
    lines.append(
        plain("rows" if several else "all", *(count(kept[split]) for split in SPLIT_NAMES), count(sum(kept.values())))
    )
    notes = ["A row of several classes counts in each." if several else ""]
    if len(rows) > len(shown):
        notes.append(f"The {len(shown)} largest of {len(rows):,} classes; label_distribution.csv has all.")
    return Table(
        caption="Rows by class and split",
        columns=plain("class", *SPLIT_NAMES, "all"),
        rows=lines,
        note=" ".join(note for note in notes if note),
    )


def _lengths(inputs: Inputs) -> Charts:
    ends = [(float(line["tokens_up_to"]), float(line["rows"])) for line in inputs.lengths]
    lows = [0.0, *(end for end, _ in ends)]
    bars = [Bar(low=low, high=high, value=rows) for low, (high, rows) in zip(lows, ends, strict=False)]
    note = ""
    if len(bars) > 1 and bars[-1].high - bars[-1].low > 2 * (bars[-2].high - bars[-2].low):
        last = bars[-1]
        note = f"The last bar is all rows of more than {last.low:g} tokens, up to {last.high:g}."
        bars[-1] = Bar(low=last.low, high=2 * last.low - bars[-2].low, value=last.value)
    picture = bar_chart(
        "Rows by length in tokens",
        Axis(title="tokens before truncation", low=0.0),
        Axis(title="rows", low=0.0),
        bars,
    )
    return Charts(charts=[ChartBlock(caption="Lengths", picture=picture, note=note)])


def _files(files: Sequence[Json]) -> Table:
    more = len(files) - MOST_FILES
    return Table(
        caption="Files",
        columns=plain("file", "format", "split", "rows", "rejected"),
        left=3,
        rows=[
            [
                named(file["source"], 120),
                *plain(", ".join([file["format"], *file["notes"]]), file["split"] or "none named"),
                *plain(count(file["rows"]), count(file["rejected"])),
            ]
            for file in files[:MOST_FILES]
        ],
        note=f"{more:,} more files are in validation.json." if more > 0 else "",
    )


def _inferred(inputs: Inputs) -> Facts:
    sentences = inputs.validation["inferred"]
    return Facts(
        title="Concluded from the files", pairs=[(str(place), said) for place, said in enumerate(sentences, 1)]
    )


def checks_section(inputs: Inputs) -> Section:
    """Tell what each check found."""
    checks = [*inputs.validation["checks"], *inputs.leakage["checks"], inputs.tokenization["check"]]
    found = [check for check in checks if check["status"] in {"warn", "fail"}]
    passed = [check for check in checks if check["status"] == "pass"]
    off = [check for check in checks if check["status"] == "off"]
    blocks: list[Block] = [
        Text(
            text=f"{len(found)} of {len(checks)} checks found something, {len(passed)} passed, {len(off)} were off or "
            "do not apply.",
            tone="warn" if found else "good",
        )
    ]
    blocks += [_check(check) for check in found]
    blocks.append(Fold(summary=f"All {len(checks)} checks", blocks=[_all_checks(checks)]))
    return Section(
        anchor="checks", title="Checks", lead="What is doubtful about the data, and what to do about it.", blocks=blocks
    )


def _check(check: Json) -> Card:
    examples = check["examples"][:MOST_EXAMPLES]
    return Card(
        badges=[Cell(text=check["status"], tone=STATUS[check["status"]]), Cell(text=check["name"])],
        passages=[
            Passage(name=where(example), spans=[Span(text=clipped(example["snippet"], PAIR_CHARACTERS))])
            for example in examples
        ],
        said=f"{count(check['count'])} {check['message']}.",
        lines=plain(f"What to do: {check['fix']}."),
    )


def _all_checks(checks: Sequence[Json]) -> Table:
    return Table(
        caption="Checks and their results",
        columns=plain("check", "result", "found", "what it says"),
        left=4,
        rows=[
            [
                Cell(text=check["name"]),
                Cell(text=check["status"], tone=STATUS[check["status"]]),
                Cell(text=count(check["count"])),
                Cell(text=check["message"]),
            ]
            for check in checks
        ],
    )


def duplicates_section(inputs: Inputs) -> Section:
    """Tell of duplicates: how many of which kind, what was done, and pairs with both texts."""
    leakage = inputs.leakage
    pairs, verification = leakage["pairs"], leakage["verification"]
    refuted = any(number for name, number in verification.items() if name.endswith(BAD))
    verdict: str = verification["verdict"]
    blocks: list[Block] = [Text(text=f"{verdict[0].upper()}{verdict[1:]}.", tone="bad" if refuted else "good")]
    kinds = [
        kind for kind in get_args(Kind) if pairs["across_given_splits"][kind] or pairs["inside_given_splits"][kind]
    ]
    if kinds:
        blocks.append(
            Table(
                caption="Pairs of duplicates",
                columns=plain("kind", "across your splits", "inside a split"),
                rows=[
                    plain(kind, count(pairs["across_given_splits"][kind]), count(pairs["inside_given_splits"][kind]))
                    for kind in kinds
                ],
                note=_done(leakage),
            )
        )
        shown = [_pair(pair) for pair in inputs.pairs]
        summary = f"{len(shown):,} of {pairs['total']:,} pairs, those with different labels first"
        blocks.append(Fold(summary=summary, blocks=shown))
    else:
        blocks.append(Text(text="No two rows say the same."))
    return Section(
        anchor="duplicates",
        title="Duplicates and leakage",
        lead="Rows that say the same, and whether any of them stands in two splits.",
        blocks=blocks,
    )


def _done(leakage: Json) -> str:
    actions = {action: rows for action, rows in leakage["pairs"]["by_action"].items() if rows}
    done = ", ".join(f"{count(rows)} {action.replace('_', ' ')}" for action, rows in actions.items())
    conflicts = leakage["pairs"]["label_conflicts"]
    search = leakage["search"]
    return (
        f"Of the pairs: {done}; {count(conflicts)} with different labels. Near means a Jaccard similarity of "
        f"{search['near_duplicate_threshold']:g} or more."
    )


def _pair(pair: Json) -> Card:
    badges = [
        Cell(text=pair["kind"]),
        Cell(text=f"similarity {pair['score']:.2f}"),
        Cell(text=pair["action"].replace("_", " ")),
    ]
    if pair["label_conflict"]:
        badges.append(Cell(text="different labels", tone="bad"))
    if pair["crosses_given_splits"]:
        badges.append(Cell(text="across your splits", tone="warn"))
    return Card(
        badges=badges,
        passages=[part for side in ("first", "second") for part in passages(pair[side], pair[side]["label"])],
    )


def passages(row: Json, wanted: Json, most: int = PAIR_CHARACTERS) -> list[Passage]:
    """Return a row's text, and its second one where it has one."""
    badges = [label(wanted)] if wanted is not None else []
    if row.get("split"):
        badges.append(Cell(text=row["split"], tone="quiet"))
    found = [Passage(name=where(row), spans=[Span(text=clipped(row["text"], most))], badges=badges)]
    if row["text_pair"] is not None:
        found.append(Passage(name="second text", spans=[Span(text=clipped(row["text_pair"], most))]))
    return found


def subtitle(inputs: Inputs) -> str:
    """Name the base model and the user's files."""
    model = inputs.model["params"]["model"]
    scratch = model.get("from_scratch")
    base = f"a {scratch['model_type']} from scratch" if scratch else model["name_or_path"]
    files = [file["source"] for file in inputs.validation["files"]]
    return f"{base}, trained on {listed(files, 3)}"
