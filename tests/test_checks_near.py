"""The check near_duplicates, on what the split stage finds."""

from __future__ import annotations

import json
from pathlib import Path

from canonical import Row, changed, sentence, settings, table

from pipeline.checks import MOST_EXAMPLES, CheckResult
from pipeline.checks_near import near_duplicates
from pipeline.duplicates import find_duplicates
from pipeline.leakage import list_pairs, verify, write_reports
from pipeline.splitting import divide


def check(rows: list[Row], reports: Path | None = None) -> CheckResult:
    options = settings()
    whole = table(rows)
    duplicates = find_duplicates(whole, options)
    division = divide(whole, duplicates, options)
    pairs = list_pairs(whole, duplicates, division, options)
    if reports is not None:
        write_reports(reports, division, duplicates, pairs, verify(division, duplicates, pairs, options), options)
    return near_duplicates(pairs, options.near_duplicate_threshold)


def test_pairs_of_different_splits_are_shown_first(tmp_path: Path) -> None:
    rows = [Row(sentence(number), label, split="train") for number, label in enumerate("aab")]
    rows += [Row(changed(sentence(0)), split="train"), Row(changed(sentence(1)), "b", split="test")]
    found = check(rows, tmp_path)
    assert (found.name, found.status, found.count) == ("near_duplicates", "warn", 2)
    assert "1 of them in different splits of yours, 1 with different labels" in found.message
    (example,) = found.examples
    assert (example.source, example.line) == ("rows.csv", 2)
    assert example.snippet.startswith("0.93 like rows.csv:5: ")
    (written,) = json.loads((tmp_path / "leakage.json").read_text())["checks"]
    assert (written["name"], written["count"], len(written["examples"])) == ("near_duplicates", 2, 1)


def test_pairs_inside_a_split() -> None:
    texts = [sentence(number) for number in range(9)]
    found = check([Row(text) for text in (*texts, *map(changed, texts))])
    assert (found.status, found.count, len(found.examples)) == ("warn", 9, MOST_EXAMPLES)
    assert "0 of them in different splits" in found.message


def test_equal_texts_are_no_near_duplicates() -> None:
    found = check([Row(sentence(0)), Row(sentence(0)), Row(sentence(1), "b")])
    assert (found.status, found.count, found.fix) == ("pass", 0, "")
