"""What a sweep found: a table and pictures, in the terminal, on disk and with the parent run in MLflow.

Promises: trials stand best first; what was stopped early or failed is listed with the reason; equal trials give equal
files.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.console import facts, say, table
from pipeline.outputs import write_json, write_text
from pipeline.presets import flag

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

    from pipeline.sweep import Plan
    from pipeline.sweep_runs import SweepRuns


def best_first(study: Study) -> list[FrozenTrial]:
    """Return the trials that came to an end, the best first; then those stopped early, then those that failed."""
    from optuna.study import StudyDirection
    from optuna.trial import TrialState

    sign = -1 if study.direction == StudyDirection.MAXIMIZE else 1
    order = {TrialState.COMPLETE: 0, TrialState.PRUNED: 1, TrialState.FAIL: 2}
    trials = [trial for trial in study.trials if trial.state in order]

    def rank(trial: FrozenTrial) -> tuple[int, float, int]:
        value = trial.value if trial.value is not None and trial.state == TrialState.COMPLETE else 0.0
        return order[trial.state], sign * value, trial.number

    return sorted(trials, key=rank)


def importance_of(study: Study) -> dict[str, float]:
    """Return how much of the scores' variance each key accounts for (Hutter et al., 2014); nothing of a few trials."""
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances
    from optuna.trial import TrialState

    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    varied = (
        any(len({str(trial.params[key]) for trial in complete}) > 1 for key in complete[0].params) if complete else 0
    )
    if len(complete) < 4 or not varied or len({trial.value for trial in complete}) < 2:
        return {}
    shares = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
    return {key: float(share) for key, share in shares.items()}


def conclude(study: Study, plan: Plan, runs: SweepRuns, home: Path) -> None:
    """Write what is known of the trials, and log it with the parent run."""
    from optuna.trial import TrialState

    from pipeline.sweep_figures import history_figure, importance_figure, parallel_figure

    trials = best_first(study)
    if not trials:
        return
    write_text(home / "trials.csv", _csv(trials, plan))
    by_number = sorted(trials, key=lambda trial: trial.number)
    complete = [trial for trial in by_number if trial.state == TrialState.COMPLETE]
    stopped = [trial for trial in by_number if trial.state == TrialState.PRUNED and trial.intermediate_values]
    figures = [home / "history.png"]
    history_figure(
        [(trial.number, trial.value) for trial in complete if trial.value is not None],
        [(trial.number, trial.intermediate_values[max(trial.intermediate_values)]) for trial in stopped],
        maximized=plan.goal.maximized,
        goal=str(plan.goal),
        out=home / "history.png",
    )
    files = [home / "trials.csv"]
    if complete:
        drawn = [(trial.params, trial.value) for trial in complete if trial.value is not None]
        parallel_figure(plan.axes, drawn, str(plan.goal), home / "parallel_coordinates.png")
        best = study.best_trial
        write_json(home / "best_params.json", best.user_attrs["settings"])
        runs.parent.set_tags({f"best.{key}": flag(value) for key, value in best.user_attrs["settings"].items()})
        runs.parent.set_tags({"best.experiment": f"{plan.study}-{best.number:03d}"})
        runs.parent.log_metrics({f"best_{plan.goal.split}/{plan.goal.metric}": study.best_value})
        figures.append(home / "parallel_coordinates.png")
        files.append(home / "best_params.json")
    if importance := importance_of(study):
        importance_figure(importance, home / "importance.png")
        write_json(home / "importance.json", importance)
        runs.parent.log_metrics({f"importance/{key}": share for key, share in importance.items()})
        figures.append(home / "importance.png")
        files.append(home / "importance.json")
    runs.parent.log_metrics({"trials/complete": len(complete), "trials/stopped_early": len(stopped)})
    runs.parent.log_files(files, "sweep")
    runs.parent.log_files(figures, "figures")


def _csv(trials: Sequence[FrozenTrial], plan: Plan) -> str:
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    keys = [axis.key for axis in plan.axes]
    lines.writerow(["trial", "state", str(plan.goal), *keys, "experiment", "run_id", "same_as", "note"])
    for trial in trials:
        facts_of = trial.user_attrs
        settings = facts_of.get("settings", {})
        values = [settings.get(key) for key in keys]
        lines.writerow(
            [
                trial.number,
                trial.state.name.lower(),
                "" if trial.value is None else trial.value,
                *[json.dumps(value) if isinstance(value, list | dict) else value for value in values],
                f"{plan.study}-{trial.number:03d}" if "commit" in facts_of and "same_as" not in facts_of else "",
                facts_of.get("run_id", ""),
                facts_of.get("same_as", ""),
                facts_of.get("reason", ""),
            ]
        )
    return text.getvalue()


def show(study: Study, plan: Plan) -> bool:
    """Print the trials, best first, and what to do with the best; return whether there is one."""
    from optuna.trial import TrialState

    trials = best_first(study)
    keys = [axis.key for axis in plan.axes]
    states = {TrialState.COMPLETE: "", TrialState.PRUNED: "stopped early", TrialState.FAIL: "failed"}
    rows = []
    for trial in trials:
        settings = trial.user_attrs.get("settings", {})
        note = states[trial.state]
        if "same_as" in trial.user_attrs:
            note = f"{note} as trial {trial.user_attrs['same_as']}".strip()
        value = "" if trial.value is None else f"{trial.value:.4f}"
        rows.append([str(trial.number), value, *[flag(settings[key]) if key in settings else "" for key in keys], note])
    names = [key.rpartition(".")[2] for key in keys]
    unique = names if len(set(names)) == len(names) else keys
    table(f"sweep {plan.study}: best first", ["trial", str(plan.goal), *unique, ""], rows)
    failed = [trial for trial in trials if trial.state == TrialState.FAIL]
    for trial in failed:
        say(f"trial {trial.number} failed: {trial.user_attrs.get('reason', 'no reason is known')}")
    if not any(trial.state == TrialState.COMPLETE for trial in trials):
        return False
    best = study.best_trial
    settings = best.user_attrs["settings"]
    first = f"{plan.study}-{best.user_attrs.get('same_as', best.number):03d}"
    facts(
        "",
        [
            (f"dvc exp apply {first}", "take over the best trial: its params, model and reports; then: dvc repro"),
            ("make sweep ARGS=--write-best", "only write its params into params.yaml"),
            ("make ui", "all trials under one run"),
        ],
    )
    say("best: " + " ".join(f"-S {key}={flag(value)}" for key, value in settings.items()))
    return True
