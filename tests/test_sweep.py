"""A sweep: its space, its study, its decisions; trials play back what was written down (real ones: tests/slow)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from pipeline import sweep as sweep_module
from pipeline.errors import SeqtrackError, Stopped
from pipeline.labels import LabelSet
from pipeline.params import Range, Sweep, load_params
from pipeline.presets import dotted, set_keys
from pipeline.sweep import Plan, Search
from pipeline.sweep_report import best_first, importance_of
from pipeline.sweep_space import Axis, axes_of, grid, read_space
from pipeline.sweep_study import Goal, check_metric, digest_of, goal_of, open_study
from pipeline.sweep_trials import Experiments, Process, command
from pipeline.sweeping import Options, dry_run
from tests.toy import REPOSITORY

TEXT = (REPOSITORY / "params.yaml").read_text(encoding="utf-8")
CLASSES = LabelSet(problem_type="single_label_classification", names=("a", "b", "c"))
GOAL = Goal(split="validation", metric="f1_macro", maximized=True)
RATE = Axis(key="train.learning_rate", low=1e-5, high=1e-3, log=True)


# ---- the space


def test_the_space_that_ships_is_sound() -> None:
    axes = axes_of(load_params(REPOSITORY / "params.yaml").sweep.space, TEXT)
    assert [axis.key for axis in axes] == [
        "train.learning_rate",
        "train.per_device_train_batch_size",
        "train.warmup_ratio",
    ]
    assert [str(axis) for axis in axes] == ["1e-05 to 0.0003 (log)", "8, 16, 32", "0 to 0.2"]


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({"train.learning_rat": [1e-5]}, "train.learning_rat: unknown key; did you mean train.learning_rate?"),
        ({"train": [1]}, "sweep.space: train: a section"),
        (
            {"train.learning_rate": [1e-5, -1.0]},
            "train.learning_rate: invalid value; expected a number > 0; found -1.0",
        ),
        ({"train.num_train_epochs": Range(low=0, high=3)}, "found 0"),
        ({"train.per_device_train_batch_size": Range(low=8.5, high=32)}, "expected an integer > 0"),
        ({"train.lr_scheduler_type": ["linear", "cosin"]}, "found 'cosin'"),
        ({"sweep.n_trials": [1, 2]}, "what a sweep cannot change"),
        ({"train.seed": [1, 1]}, "a value twice"),
        ({}, "nothing to search"),
    ],
)
def test_a_mistake_in_the_space_is_told_in_one_line(space: Mapping[str, Any], said: str) -> None:
    with pytest.raises(SeqtrackError) as caught:
        axes_of(space, TEXT)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("{low: 2, high: 1}", "low 2 is not below high 1"),
        ("{low: 0, high: 1, log: true}", "log needs numbers above 0"),
        ("{low: 1, high: 4, log: true, step: 1}", "log and step do not go together"),
    ],
)
def test_a_range_without_sense_is_refused_with_params_yaml(tmp_path: Path, value: str, said: str) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(TEXT.replace("{low: 1e-5, high: 3e-4, log: true}", value), encoding="utf-8")
    with pytest.raises(SeqtrackError, match=said):
        load_params(file)


def test_whole_bounds_draw_whole_numbers_only_where_nothing_else_fits() -> None:
    whole, broken = axes_of({"train.seed": Range(low=1, high=9), "train.weight_decay": Range(low=0, high=1)}, TEXT)
    assert isinstance(whole.distribution(), optuna.distributions.IntDistribution)
    assert isinstance(broken.distribution(), optuna.distributions.FloatDistribution)


@settings(max_examples=60, deadline=None)
@given(st.floats(1e-9, 1e6), st.floats(1.001, 1e6), st.floats(0, 1))
def test_a_drawn_number_is_short_and_within_its_bounds(low: float, factor: float, share: float) -> None:
    axis = Axis(key="train.learning_rate", low=low, high=low * factor)
    value = axis.value(low + (axis.high - low) * share)
    assert axis.low <= value <= axis.high
    assert value in (axis.low, axis.high) or len(f"{value:.10g}".split("e")[0].replace(".", "").strip("0")) <= 4


def test_values_that_hold_others_come_back_as_they_were() -> None:
    (axis,) = axes_of({"train.lora": [None, {"r": 4}, {"r": 8, "lora_alpha": 32}]}, TEXT)
    assert [axis.value(point) for point in axis.points()] == [None, {"r": 4}, {"r": 8, "lora_alpha": 32}]
    assert "train.lora={r:8,lora_alpha:32}" in command("x", {"train.lora": axis.value(axis.points()[2])})


def test_a_grid_has_every_combination_and_no_open_range() -> None:
    axes = [Axis(key="train.seed", low=1, high=3), Axis(key="train.warmup_ratio", low=0.0, high=0.2, step=0.1)]
    points = list(grid(axes))
    assert len(points) == 9
    assert points[1] == {"train.seed": 1, "train.warmup_ratio": 0.1}
    with pytest.raises(SeqtrackError, match="a range without a step has no grid"):
        list(grid([RATE]))


def test_a_space_may_lie_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text("train.learning_rate: {low: 1e-5, high: 1e-4, log: true}\n", encoding="utf-8")
    assert axes_of(read_space(file).space, TEXT)[0].log
    file.write_text("- 1\n", encoding="utf-8")
    with pytest.raises(SeqtrackError, match="no space for a sweep"):
        read_space(file)


# ---- the goal


def test_the_test_split_is_no_goal_unless_insisted_on() -> None:
    with pytest.raises(SeqtrackError, match=r"set it to validation\.accuracy, or insist with --allow-test-metric"):
        check_metric("test.accuracy", allow_test=False)
    check_metric("test.accuracy", allow_test=True)
    with pytest.raises(SeqtrackError, match="no metric of a split"):
        check_metric("accuracy", allow_test=True)


@pytest.mark.parametrize(
    ("metric", "chosen_by", "expected", "maximized"),
    [
        (None, None, "validation.f1_macro", True),
        (None, "loss", "validation.loss", False),
        ("validation.ece", None, "validation.ece", False),
        ("validation.mcc", None, "validation.mcc", True),
    ],
)
def test_the_goal(metric: str | None, chosen_by: str | None, expected: str, maximized: bool) -> None:
    train = load_params(REPOSITORY / "params.yaml").train.model_copy(update={"metric_for_best_model": chosen_by})
    goal = goal_of(Sweep(metric=metric), train, CLASSES)
    assert (str(goal), goal.maximized) == (expected, maximized)


def test_a_misspelt_metric_is_told_before_anything_runs() -> None:
    train = load_params(REPOSITORY / "params.yaml").train
    with pytest.raises(SeqtrackError, match=r"did you mean validation\.f1_macro\?"):
        goal_of(Sweep(metric="validation.f1_marco"), train, CLASSES)


# ---- the search


class Playback(Experiments):
    """Trials whose curve and end are written down; a look at the processes is a second of theirs."""

    def __init__(self, folder: Path, curve_of: Callable[[Mapping[str, Any]], Sequence[float] | None]) -> None:
        super().__init__(folder, folder / "logs")
        self.curve_of = curve_of
        self.started: list[str] = []
        self.stopped: list[str] = []
        self.curves: dict[str, Sequence[float]] = {}
        self.shown: dict[str, int] = {}
        self.through: dict[str, str] = {}

    def start(self, name: str, settings: Mapping[str, Any], copied: Sequence[str] = ()) -> Process:
        self.started.append(name)
        curve = self.curve_of(settings)
        if curve is None:
            self.log(name).parent.mkdir(exist_ok=True)
            self.log(name).write_text("Running stage 'train':\nerror: it does not fit.\nERROR: failed to reproduce\n")
        else:
            self.curves[name] = curve
            self.shown[name] = 0
        return Process(name=name, pid=len(self.started), started=0.0)

    def finished(self) -> dict[str, str]:
        for name, curve in self.curves.items():
            if name not in self.stopped:
                self.shown[name] += 1
                if self.shown[name] > len(curve):
                    self.through[name] = name
        return dict(self.through)

    def alive(self, process: Process) -> bool:
        return process.name in self.curves and process.name not in {*self.stopped, *self.through}

    def stop(self, process: Process, *, at_once: bool = False) -> None:
        self.stopped.append(process.name)

    def run_id(self, name: str) -> str | None:
        return name if name in self.curves else None

    def report(self, commit: str, path: Path) -> Any:
        score = max(self.curves[commit])
        return {"run_key": commit, "validation": {"f1_macro": score}}


class Runs:
    """What the search says to MLflow."""

    def __init__(self, trials: Playback) -> None:
        self.trials = trials
        self.pruned: list[str] = []
        self.parent = self
        self.best: list[float] = []

    def find(self, run_key: str) -> str:
        return run_key

    def adopt(self, run_id: str, name: str, number: int) -> None: ...

    def unmark(self, run_id: str) -> None: ...

    def points(self, run_id: str, curve: str) -> list[float]:
        assert curve == "validation/f1_macro"
        return list(self.trials.curves[run_id][: self.trials.shown[run_id]])

    def mark_pruned(self, run_id: str, why: str) -> None:
        self.pruned.append(run_id)

    def log_points(self, points: Sequence[Any]) -> None:
        self.best += [point.value for point in points]


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sweep_module, "PAUSE", 0.0)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))


def search(
    folder: Path,
    curve_of: Callable[[Mapping[str, Any]], Sequence[float] | None],
    axes: Sequence[Axis] = (RATE,),
    *,
    unchanged: Callable[[], None] = lambda: None,
    **section: Any,
) -> tuple[optuna.Study, Playback, Runs]:
    chosen = Sweep(**{"sampler": "random", "n_trials": 8} | section)
    study = open_study("s", "digest", GOAL, axes, chosen, 4)
    plan = Plan(
        study="s",
        goal=GOAL,
        axes=axes,
        n_trials=None if chosen.sampler == "grid" else chosen.n_trials,
        n_jobs=chosen.n_jobs,
        evaluations=4,
        copied=(),
        unchanged=unchanged,
    )
    trials = Playback(folder, curve_of)
    runs = Runs(trials)
    Search(plan, study, trials, runs).run()  # type: ignore[arg-type]
    return study, trials, runs


def rising(settings: Mapping[str, Any]) -> Sequence[float]:
    rate = settings["train.learning_rate"]
    return [rate * step for step in (1, 2, 3, 4)]


@pytest.mark.parametrize("jobs", [1, 3])
def test_every_trial_is_an_experiment_and_the_best_leads(tmp_path: Path, jobs: int) -> None:
    study, trials, runs = search(tmp_path, rising, pruner="none", n_jobs=jobs)
    assert trials.started == [f"s-{number:03d}" for number in range(8)]
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE}
    ranked = best_first(study)
    assert [trial.value for trial in ranked] == sorted((trial.value for trial in study.trials), reverse=True)
    assert runs.best[-1] == ranked[0].value
    assert ranked[0].user_attrs["settings"] == {"train.learning_rate": ranked[0].value / 4}


def test_what_is_below_the_median_is_stopped_and_the_last_evaluation_stops_nothing(tmp_path: Path) -> None:
    number = iter(range(8))

    def curve(_: Mapping[str, Any]) -> Sequence[float]:
        # The last two are worse than all before: one from the first evaluation, one in the last alone.
        return {6: [0.1, 0.1, 0.1, 0.1], 7: [0.9, 0.9, 0.9, 0.2]}.get(next(number), [0.5, 0.6, 0.7, 0.8])

    study, trials, runs = search(tmp_path, curve)
    states = [trial.state for trial in study.trials]
    assert states == [TrialState.COMPLETE] * 6 + [TrialState.PRUNED, TrialState.COMPLETE]
    assert trials.stopped == runs.pruned == ["s-006"]
    assert study.trials[6].intermediate_values == {1: 0.1}
    assert study.trials[6].user_attrs["reason"] == "validation.f1_macro 0.1000 at evaluation 1"


def test_without_a_pruner_nothing_is_stopped(tmp_path: Path) -> None:
    number = iter(range(8))
    _, trials, _ = search(tmp_path, lambda _: [1.0 - next(number) / 10] * 4, pruner="none")
    assert not trials.stopped


def test_a_failed_trial_is_told_and_keeps_no_other_from_running(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    axis = Axis(key="train.seed", choices=(1, 2, 3))
    study, _, _ = search(tmp_path, lambda s: None if s["train.seed"] == 2 else [0.5], [axis], sampler="grid")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert study.trials[1].user_attrs["reason"] == "error: it does not fit."
    assert "trial 1 failed: error: it does not fit. (log: " in capsys.readouterr().out
    # Another start tries that one again, and no other.
    study, trials, _ = search(tmp_path, lambda _: [0.5], [axis], sampler="grid")
    assert trials.started == ["s-003"]
    assert study.trials[3].user_attrs["settings"] == {"train.seed": 2}


@pytest.mark.parametrize("jobs", [1, 3])
def test_settings_that_were_tried_are_not_trained_again(tmp_path: Path, jobs: int) -> None:
    axis = Axis(key="train.seed", choices=(1, 2))
    study, trials, _ = search(tmp_path, lambda s: [s["train.seed"] / 10], [axis], pruner="none", n_jobs=jobs)
    assert len(trials.started) == 2
    assert len(study.trials) == 8
    assert all(trial.value == trial.user_attrs["settings"]["train.seed"] / 10 for trial in study.trials)


def test_more_trials_go_on_with_other_values(tmp_path: Path) -> None:
    first, _, _ = search(tmp_path, rising, n_trials=3)
    values = {trial.params["train.learning_rate"] for trial in first.trials}
    second, trials, _ = search(tmp_path, rising, n_trials=5)
    assert trials.started == ["s-003", "s-004"]
    assert len({trial.params["train.learning_rate"] for trial in second.trials} | values) == 5
    assert not search(tmp_path, rising, n_trials=5)[1].started


def test_an_interrupted_trial_goes_on_under_its_own_number(tmp_path: Path) -> None:
    study = open_study("s", "digest", GOAL, [RATE], Sweep(sampler="random"), 4)
    trial = study.ask({RATE.key: RATE.distribution()})  # and here the machine went down
    trial.report(0.1, 1)
    study, trials, _ = search(tmp_path, rising, n_trials=2)
    assert trials.started == ["s-000", "s-001"]
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 2
    assert len(study.trials[0].intermediate_values) == 4


def test_changed_params_end_the_search_and_stop_what_runs(tmp_path: Path) -> None:
    calls = iter([None, None, SeqtrackError("params or data have changed")])

    def unchanged() -> None:
        if (error := next(calls)) is not None:
            raise error

    with pytest.raises(SeqtrackError, match="changed"):
        search(tmp_path, lambda _: [0.5] * 50, n_jobs=3, unchanged=unchanged, pruner="none")


def test_a_name_is_one_search(tmp_path: Path) -> None:
    search(tmp_path, rising, n_trials=1)
    with pytest.raises(SeqtrackError, match="belongs to a search with another space"):
        open_study("s", "other", GOAL, [RATE], Sweep(), None)


def test_a_search_is_what_it_searches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("splits", "tokenized"):
        (tmp_path / "data" / folder).mkdir(parents=True)
        (tmp_path / "data" / folder / "manifest.json").write_text("{}")
    digest = digest_of(TEXT, [RATE], GOAL)
    assert digest == digest_of(TEXT.replace("n_trials: 20", "n_trials: 90"), [RATE], GOAL)
    assert digest == digest_of(TEXT.replace("learning_rate: 1e-4 ", "learning_rate: 2e-4 "), [RATE], GOAL)
    assert digest != digest_of(TEXT.replace("num_train_epochs: 3", "num_train_epochs: 4"), [RATE], GOAL)
    assert digest != digest_of(TEXT, [Axis(key=RATE.key, low=1e-5, high=1e-2, log=True)], GOAL)
    (tmp_path / "data/splits/manifest.json").write_text('{"other": 1}')
    assert digest != digest_of(TEXT, [RATE], GOAL)


def test_what_matters_most_has_the_largest_share(tmp_path: Path) -> None:
    axes = [RATE, Axis(key="train.warmup_ratio", low=0.0, high=0.2)]
    study, _, _ = search(tmp_path, rising, axes, n_trials=12, pruner="none")
    shares = importance_of(study)
    assert max(shares, key=lambda key: shares[key]) == RATE.key
    assert sum(shares.values()) == pytest.approx(1)


# ---- around it


def test_the_best_values_go_into_params_yaml_and_comments_stay(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(TEXT, encoding="utf-8")
    set_keys({"train.learning_rate": 3.217e-05, "train.per_device_train_batch_size": 32}, file)
    after = file.read_text(encoding="utf-8")
    assert dotted(after) == dotted(TEXT) | {
        "train.learning_rate": 3.217e-05,
        "train.per_device_train_batch_size": 32,
    }
    assert after.count("#") == TEXT.count("#")


def test_no_stage_reads_the_section() -> None:
    text = (REPOSITORY / "dvc.yaml").read_text(encoding="utf-8")
    assert "- sweep" not in text
    assert "${sweep" not in text


def test_without_optuna_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SeqtrackError, match=r'python -m pip install "\.\[sweep\]"'):
        dry_run(Options())


def test_a_log_says_why(tmp_path: Path) -> None:
    experiments = Experiments(tmp_path, tmp_path)
    assert experiments.reason("x") == "it left no log"
    experiments.log("x").write_text("> python\nValueError: bad\n\nERROR: failed to reproduce 'train'\n")
    assert experiments.reason("x") == "ValueError: bad"
    experiments.log("y").write_text("train: MLflow run abc1 in experiment 'seqtrack', run_key 0123\n")
    assert experiments.run_id("y") == "abc1"


def test_a_signal_stops_the_search_and_the_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os
    import signal

    looks = iter(range(100))

    def curve(_: Mapping[str, Any]) -> Sequence[float]:
        os.kill(os.getpid(), signal.SIGTERM) if next(looks) == 1 else None
        return [0.5] * 4

    with pytest.raises(Stopped, match="start again to go on"):
        search(tmp_path, curve, pruner="none")
    study, _, _ = search(tmp_path, rising, n_trials=3)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 3
