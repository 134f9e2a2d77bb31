"""`make sweep` from end to end: prepare the data, plan, search, report.

Promises: what is wrong with the space or the goal is said before anything runs; params.yaml is changed on request
alone; at the end the trials stand in the terminal, in MLflow and in `.seqtrack/sweeps/<study>`.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.console import facts, say
from pipeline.errors import SeqtrackError
from pipeline.labels import LabelSet
from pipeline.outputs import read_json
from pipeline.params import Params, load_params
from pipeline.paths import LABELS, PARAMS_FILE, SPLITS, TOKENIZED, root, state
from pipeline.presets import set_keys
from pipeline.sweep_space import Axis, axes_of, grid, read_space

DATA_STAGES = ("split", "tokenize")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line adds to the section `sweep`.

    Attributes:
        name: of the study; None names it by what it searches.
        space: a YAML file in place of sweep.space.
        allow_test: let the test split choose.
        write_best: write the best trial's values into params.yaml.
        trials: in place of sweep.n_trials.
    """

    name: str | None = None
    space: Path | None = None
    allow_test: bool = False
    write_best: bool = False
    trials: int | None = None


def dry_run(options: Options) -> None:
    """Say what a sweep would do, and do nothing.

    Raises:
        SeqtrackError: it could not be done.
    """
    from pipeline.sweep_study import digest_of, folder, goal_of

    params, axes = _checked(options)
    study, goal, through = options.name or "named once the data are prepared", params.sweep.metric, 0
    if LABELS.is_file() and (SPLITS / "manifest.json").is_file() and (TOKENIZED / "manifest.json").is_file():
        known = goal_of(params.sweep, params.train, LabelSet.read(LABELS))
        goal = f"{known}, to {known.direction}"
        study = options.name or _default_name(digest_of(PARAMS_FILE.read_text(encoding="utf-8"), axes, known))
        through = _trials_in(folder(study).with_suffix(".db"), study)
    count = _count(params, axes)
    facts(
        "sweep: would run",
        [
            ("trials", f"{count}, {params.sweep.n_jobs} at a time" + (f"; {through} are there" if through else "")),
            ("goal", goal or "train.metric_for_best_model on validation"),
            ("sampler, pruner", f"{params.sweep.sampler}, {params.sweep.pruner}"),
            *[(axis.key, str(axis)) for axis in axes],
            ("a trial takes", _cost(max(0, count - through), params.sweep.n_jobs)),
            ("study", str(study)),
            ("kept in", f"DVC experiments <study>-<number>, MLflow, {state() / 'sweeps'}"),
        ],
    )


def sweep(options: Options) -> bool:
    """Run a sweep, or go on with it.

    Returns:
        Whether any trial is complete.

    Raises:
        SeqtrackError: the space, the goal, the name or the data are wrong, or another process is at this sweep.
        Stopped: a signal asked for it.
    """
    from pipeline.sweep import Plan, Search
    from pipeline.sweep_report import conclude, show
    from pipeline.sweep_runs import sweep_runs
    from pipeline.sweep_study import digest_of, evaluations_of, folder, goal_of, open_study
    from pipeline.sweep_trials import Experiments

    params, axes = _checked(options)
    _prepare()
    goal = goal_of(params.sweep, params.train, LabelSet.read(LABELS))
    digest = digest_of(PARAMS_FILE.read_text(encoding="utf-8"), axes, goal)
    name = options.name or _default_name(digest)
    home = folder(name)
    home.mkdir(parents=True, exist_ok=True)
    experiments = Experiments(root(), home / "logs")

    def unchanged() -> None:
        if digest_of(PARAMS_FILE.read_text(encoding="utf-8"), axes, goal) != digest:
            raise SeqtrackError(
                "params or data have changed while the sweep ran",
                where=str(PARAMS_FILE),
                fix="take the change back and start again, or start again for another sweep",
            )

    try:
        with FileLock(home / "sweep.lock", timeout=0):
            study = open_study(name, digest, goal, axes, params.sweep, evaluations_of(params.train))
            plan = Plan(
                study=name,
                goal=goal,
                axes=axes,
                n_trials=None if params.sweep.sampler == "grid" else params.sweep.n_trials,
                n_jobs=params.sweep.n_jobs,
                evaluations=evaluations_of(params.train),
                copied=experiments.untracked([params.data.path, params.fetch.path]),
                unchanged=unchanged,
            )
            logged = {f"space.{axis.key}": str(axis) for axis in axes} | {
                "metric": str(goal),
                "direction": goal.direction,
                "sampler": params.sweep.sampler,
                "pruner": params.sweep.pruner,
                "n_trials": str(_count(params, axes)),
            }
            say(f"sweep: {name}: {_count(params, axes)} trials, {goal} to {goal.direction}")
            with sweep_runs(name, params.tracking.experiment_name, logged) as runs:
                try:
                    Search(plan, study, experiments, runs).run()
                finally:
                    conclude(study, plan, runs, home)
    except Timeout:
        raise SeqtrackError("another process is at this sweep", where=str(home)) from None
    complete = show(study, plan)
    if complete and options.write_best:
        for change in set_keys(study.best_trial.user_attrs["settings"]):
            say(f"params.yaml: {change}")
    return complete


def _checked(options: Options) -> tuple[Params, list[Axis]]:
    """Check all that needs no data."""
    from pipeline.sweep_study import check_metric, require_optuna

    require_optuna()
    params = load_params()
    if options.trials is not None:
        section = params.sweep.model_copy(update={"n_trials": options.trials})
        params = params.model_copy(update={"sweep": section})
    check_metric(params.sweep.metric, allow_test=options.allow_test)
    text = PARAMS_FILE.read_text(encoding="utf-8")
    if options.space is None:
        axes = axes_of(params.sweep.space, text)
    else:
        axes = axes_of(read_space(options.space).space, text, str(options.space))
    _count(params, axes)
    return params, axes


def _count(params: Params, axes: Sequence[Axis]) -> int:
    return sum(1 for _ in grid(axes)) if params.sweep.sampler == "grid" else params.sweep.n_trials


def _default_name(digest: str) -> str:
    return f"sweep-{digest[:8]}"


def _prepare() -> None:
    """Run the stages before train once, or each trial would; most sweeps change nothing of theirs."""
    say(f"sweep: preparing the data (dvc repro {' '.join(DATA_STAGES)})")
    done = subprocess.run([sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--quiet", *DATA_STAGES])
    if done.returncode:
        raise SeqtrackError("the data cannot be prepared", where=f"dvc repro {' '.join(DATA_STAGES)}", fix="see above")


def _cost(trials: int, jobs: int) -> str:
    """Say how long a trial takes, by the last run that was evaluated here."""
    timed = sorted((state() / "results").glob("*/all_results.json"), key=lambda file: file.stat().st_mtime)
    if not timed:
        return "unknown: nothing has been trained here yet"
    seconds = read_json(timed[-1])["seconds"]
    took = {stage: seconds[stage] for stage in ("train", "evaluate") if stage in seconds}
    whole = sum(took.values())
    parts = ", ".join(f"{stage} {value:.0f} s" for stage, value in took.items())
    left = timedelta(seconds=round(whole * trials / jobs))
    return f"about {whole:.0f} s as the last one did ({parts}); {trials} of them at most {left}"


def _trials_in(file: Path, name: str) -> int:
    if not file.exists():
        return 0
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    ended = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    return len(optuna.load_study(study_name=name, storage=f"sqlite:///{file}").get_trials(states=ended))
