"""Near duplicates as a check, in the shape that all checks have; the split stage finds, verifies and parts them.

Promises: counts verified pairs only. It never stops the stage: what becomes of a pair, split.on_leak says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.checks import MOST_EXAMPLES, CheckResult, Example, Finding, judge_one, snippet

if TYPE_CHECKING:
    from pipeline.leakage import Pair


def near_duplicates(pairs: Sequence[Pair], threshold: float) -> CheckResult:
    """Count the near pairs; the examples are pairs of different given splits where there are any.

    Args:
        pairs: all duplicates, of every kind.
        threshold: split.near_duplicate_threshold.
    """
    near = [pair for pair in pairs if pair.kind == "near"]
    across = [pair for pair in near if pair.crosses_given_splits]
    if not near:
        message = f"no two texts have a Jaccard similarity of {threshold:g} or more"
        return judge_one("near_duplicates", Finding(count=0, message=message), "warn")
    finding = Finding(
        count=len(near),
        message=f"pairs of rows have a Jaccard similarity of {threshold:g} or more, {len(across):,} of them in "
        f"different splits of yours, {sum(pair.label_conflict for pair in near):,} with different labels; no pair is "
        "left on two sides",
        fix="read the pairs in data/reports/duplicates.jsonl, those with different labels first; split.on_leak and "
        "split.near_duplicate_threshold say what becomes of them",
        examples=tuple(
            Example(
                source=pair.second.source,
                line=pair.second.line,
                snippet=f"{pair.score:.2f} like {pair.first.source}:{pair.first.line}: {snippet(pair.second.text)}",
            )
            for pair in (across or near)[:MOST_EXAMPLES]
        ),
    )
    return judge_one("near_duplicates", finding, "warn")
