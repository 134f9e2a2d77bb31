"""Whether a model is good enough: its scores against the minima and maxima that params.yaml asks for.

Promises: a score that is not there, or is bounded on its good side, is a mistake, never passed over.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from pipeline.errors import SeqtrackError
from pipeline.metrics import HEADLINES, LOWER_IS_BETTER, is_maximized
from pipeline.suggestions import did_you_mean

# Measures of calibration are no metrics to choose a checkpoint by, so the metrics' own list has none of them.
LOWER: Final = (*LOWER_IS_BETTER, "ece", "mce", "brier")


def lower_is_better(name: str) -> bool:
    """Return whether lower values of a score, such as `test.loss_high`, are better ones; of the user's own: no."""
    metric = re.sub(r"(_scaled)?(_low|_high)?$", "", name.rpartition(".")[2])
    return metric in LOWER or not is_maximized(metric, None)


def check_gate(
    metrics: Mapping[str, float], minimum: Mapping[str, float], maximum: Mapping[str, float], *, section: str
) -> None:
    """Refuse a model whose scores are not as asked.

    Args:
        metrics: numbers by `<split>.<name>`.
        minimum: the lowest value allowed, by the same names.
        maximum: the highest.
        section: of params.yaml, for messages.

    Raises:
        SeqtrackError: a score is too low or too high, or there is none of the name.
    """
    for key, bounds in (("minimum", minimum), ("maximum", maximum)):
        for name in bounds:
            require_score(metrics, name, f"params.yaml: {section}.{key}")
            known = name.rpartition(".")[2].removesuffix("_low").removesuffix("_high")
            is_known = known in LOWER or any(known in names for names in HEADLINES.values())
            if is_known and lower_is_better(name) != (key == "maximum"):
                other = "maximum" if key == "minimum" else "minimum"
                raise SeqtrackError(
                    f"{'lower' if lower_is_better(name) else 'higher'} values of {name} are better",
                    where=f"params.yaml: {section}.{key}",
                    fix=f"put it into {section}.{other}",
                )
    failed = [(name, "at least", bound) for name, bound in minimum.items() if metrics[name] < bound]
    failed += [(name, "at most", bound) for name, bound in maximum.items() if metrics[name] > bound]
    if failed:
        raise SeqtrackError(
            "the model is not good enough",
            where=f"params.yaml: {section}",
            expected=", ".join(f"{name} of {how} {bound:g}" for name, how, bound in failed),
            found=", ".join(f"{name} {metrics[name]:.6g}" for name, _, _ in failed),
            fix="nothing was registered: train a better one, or change the bounds",
        )


def require_score(metrics: Mapping[str, float], name: str, where: str) -> float:
    """Return a score.

    Raises:
        SeqtrackError: there is none of this name.
    """
    if name not in metrics:
        plain = [known for known in metrics if not known.endswith(("_low", "_high"))]
        raise SeqtrackError(
            f"no score {name}{did_you_mean(name, metrics)}",
            where=where,
            expected="one of data/reports/metrics.json: " + ", ".join(plain),
        )
    return metrics[name]
