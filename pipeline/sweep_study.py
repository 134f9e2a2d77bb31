"""A sweep's study: what it is after, which search it is, and Optuna's memory of its trials.

Promises: equal space, params, data and goal are the same study, which goes on where it stopped; a name that another
search has is refused; a search never chooses by the test split unless told so.
"""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from pipeline.errors import SeqtrackError
from pipeline.labels import LabelSet
from pipeline.outputs import folder_digest, sha256_json
from pipeline.params import Sweep, Train
from pipeline.paths import SPLITS, TOKENIZED, state
from pipeline.presets import dotted
from pipeline.suggestions import did_you_mean
from pipeline.sweep_space import OWN, Axis, grid

if TYPE_CHECKING:
    from optuna import Study
    from optuna.pruners import BasePruner
    from optuna.trial import FrozenTrial

LOWER_IS_BETTER: Final = ("ece", "mce", "brier")  # of those that evaluate adds to train's
AREAS: Final = tuple(f"{name}{of}" for name in ("roc_auc", "average_precision") for of in ("", "_macro", "_micro"))
FIRST_TRIALS: Final = 5  # that no pruner stops: there is too little to compare them with


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What a sweep improves.

    Attributes:
        split: validation, or test where the user insists.
        metric: its name in metrics.json.
        maximized: whether higher is better.
    """

    split: str
    metric: str
    maximized: bool

    def __str__(self) -> str:
        return f"{self.split}.{self.metric}"

    @property
    def direction(self) -> Literal["maximize", "minimize"]:
        """Optuna's word for which way is better."""
        return "maximize" if self.maximized else "minimize"

    @property
    def curve(self) -> str | None:
        """Name of the curve that train logs of it, if it does."""
        return f"validation/{self.metric}" if self.split == "validation" else None


def require_optuna() -> None:
    """Check that optuna is installed.

    Raises:
        SeqtrackError: it is not.
    """
    if importlib.util.find_spec("optuna") is None:
        raise SeqtrackError(
            "optuna is not installed", where="sweep", fix='install the extra: python -m pip install ".[sweep]"'
        )


def check_metric(metric: str | None, *, allow_test: bool) -> None:
    """Check what sweep.metric names as far as that needs no data.

    Raises:
        SeqtrackError: it is of the test split, or of none.
    """
    split, _, name = (metric or "validation.loss").partition(".")
    where = "params.yaml: sweep.metric"
    if split in ("test", "test_as_given") and not allow_test:
        raise SeqtrackError(
            "a search that chooses by the test split leaves nothing to measure the choice by",
            where=where,
            found=metric,
            fix=f"set it to validation.{name}, or insist with --allow-test-metric",
        )
    if split not in ("validation", "test", "test_as_given") or not name:
        raise SeqtrackError("no metric of a split", where=where, expected="validation.<metric>", found=metric)


def goal_of(sweep: Sweep, train: Train, labels: LabelSet) -> Goal:
    """Return what a sweep improves, for a task.

    Raises:
        SeqtrackError: there is no such metric, or nobody knows which way it is better.
    """
    from pipeline import metrics  # late: it takes seconds

    default = train.metric_for_best_model or metrics.default_metric(labels.problem_type)
    split, _, name = (sweep.metric or f"validation.{default}").partition(".")
    own = [path.partition(":")[2] for path in train.custom.metrics]
    known = [*metrics.metric_names(labels), *own, *LOWER_IS_BETTER, *AREAS]
    if name not in known:
        raise SeqtrackError(
            "unknown metric" + did_you_mean(name, known, shown=lambda near: f"{split}.{near}"),
            where="params.yaml: sweep.metric",
            expected="one of " + ", ".join(known),
            found=name,
        )
    said = train.greater_is_better if name == train.metric_for_best_model else None
    if name in own and said is None and sweep.direction is None:
        raise SeqtrackError(
            f"is {name} better when higher?",
            where="params.yaml: sweep.direction",
            expected="maximize or minimize with a metric of your own",
            found="null",
        )
    higher = metrics.is_maximized(name, said) and name not in LOWER_IS_BETTER
    return Goal(split=split, metric=name, maximized=sweep.direction == "maximize" if sweep.direction else higher)


def digest_of(text: str, axes: Sequence[Axis], goal: Goal) -> str:
    """Return what makes a search this one: space, goal, all other params, and the data as splits and tokens have them.

    Args:
        text: params.yaml's.
        axes: the space; what params.yaml has for its keys does not count.
        goal: what is improved.

    Raises:
        SeqtrackError: the data are not prepared.
    """
    searched = {axis.key for axis in axes}
    base = {
        key: str(value)
        for key, value in dotted(text).items()
        if key not in searched and key.partition(".")[0] not in OWN
    }
    data = {"splits": folder_digest(SPLITS), "tokenized": folder_digest(TOKENIZED)}
    space = {axis.key: str(axis) for axis in axes}
    return sha256_json({"base": base, "data": data, "space": space, "goal": f"{goal.direction} {goal}"})


def folder(name: str) -> Path:
    """Return where the logs and reports of a study lie."""
    return state() / "sweeps" / name


def open_study(
    name: str, digest: str, goal: Goal, axes: Sequence[Axis], sweep: Sweep, evaluations: int | None
) -> Study:
    """Open a study, or make it; a grid's points are waiting in it.

    Args:
        name: of the study.
        digest: see `digest_of`.
        goal: what is improved.
        axes: the space.
        sweep: the section, for sampler and pruner.
        evaluations: of a whole training, where that is known.

    Raises:
        SeqtrackError: the name is another search's, or the grid has no end.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    file = folder(name).with_suffix(".db")
    file.parent.mkdir(parents=True, exist_ok=True)
    wanted = list(grid(axes)) if sweep.sampler == "grid" else []
    storage = f"sqlite:///{file}"
    known = optuna.get_all_study_names(storage) if file.exists() else []
    seen = len(optuna.load_study(study_name=name, storage=storage, sampler=None).trials) if name in known else 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that an option is experimental
        # Another seed after each start, or the values of the start before would be drawn again.
        seed = sweep.seed + seen
        study = optuna.create_study(
            storage=storage,
            study_name=name,
            direction=goal.direction,
            load_if_exists=True,
            sampler=optuna.samplers.TPESampler(seed=seed, constant_liar=sweep.n_jobs > 1)
            if sweep.sampler == "tpe"
            else optuna.samplers.RandomSampler(seed=seed),
            pruner=_pruner(sweep, evaluations),
        )
    if study.user_attrs.setdefault("digest", digest) != digest:
        raise SeqtrackError(
            "this name belongs to a search with another space, goal, params or data",
            where=str(file),
            found=f"--name {name}",
            fix="give another name, or none",
        )
    study.set_user_attr("digest", digest)
    there = [given(trial) for trial in study.trials]
    for point in wanted:
        if point not in there:
            study.enqueue_trial(point)
    return study


def given(trial: FrozenTrial) -> dict[str, Any]:
    """Return what a trial was drawn as, or is to be."""
    return dict(trial.params or trial.system_attrs.get("fixed_params", {}))


def evaluations_of(train: Train) -> int | None:
    """Return how often a whole training is evaluated, None where that hangs on the number of rows."""
    return math.ceil(train.num_train_epochs) if train.eval_strategy == "epoch" else None


def _pruner(sweep: Sweep, evaluations: int | None) -> BasePruner:
    from optuna.pruners import HyperbandPruner, MedianPruner, NopPruner

    if sweep.pruner == "none":
        return NopPruner()
    if sweep.pruner == "median":
        return MedianPruner(n_startup_trials=FIRST_TRIALS)
    return HyperbandPruner(min_resource=1, max_resource=evaluations or "auto", reduction_factor=3)


def same(settings: Mapping[str, Any], others: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """Return the one of some trials that has these settings, if any."""
    return next((trial for trial in others if trial.user_attrs.get("settings") == dict(settings)), None)
