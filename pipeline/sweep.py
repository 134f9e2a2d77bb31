"""The search: trials are drawn, started, watched, stopped early or brought in, until there are enough.

Promises: each trial ends in the study as complete, pruned or failed, and a failed one keeps no other from running; a
sweep that is stopped leaves its trials open, and the next start goes on with them from their checkpoints; settings
that were tried are not trained again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pipeline.console import say
from pipeline.errors import SeqtrackError, Stopped
from pipeline.paths import REPORTS
from pipeline.signals import StopSignals
from pipeline.sweep_space import Axis
from pipeline.sweep_study import Goal, given, same
from pipeline.sweep_trials import Experiments, Process

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, Trial

    from pipeline.sweep_runs import SweepRuns

PAUSE: Final = 1.0  # seconds between looks at the trials
PATIENCE: Final = 120.0  # seconds for a training to save its checkpoint and stop, before it is killed


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A search, checked.

    Attributes:
        study: its name.
        goal: what is improved.
        axes: the space.
        n_trials: in all; None for as many as a grid has.
        n_jobs: at a time.
        evaluations: of a whole training, None where that is not known beforehand.
        copied: paths that DVC has to copy for a trial.
        unchanged: raises when params or data are no longer what the search was planned for.
    """

    study: str
    goal: Goal
    axes: Sequence[Axis]
    n_trials: int | None
    n_jobs: int
    evaluations: int | None
    copied: Sequence[str]
    unchanged: Callable[[], None]


@dataclass(kw_only=True)
class _Running:
    """A trial on its way."""

    trial: Trial
    process: Process
    reported: int
    stopped: tuple[int, float] | None = None
    since: float = 0.0


class Search:
    """Runs a plan.

    Args:
        plan: what to do.
        study: of Optuna.
        experiments: where trials run.
        runs: where they are tracked.
    """

    def __init__(self, plan: Plan, study: Study, experiments: Experiments, runs: SweepRuns) -> None:
        self._plan = plan
        self._study = study
        self._experiments = experiments
        self._runs = runs
        self._running: dict[int, _Running] = {}
        self._echoes: dict[int, int] = {}  # trials that wait for another one with the same settings
        self._processes: list[Process] = []
        self._failed: set[int] = set()  # by this start

    def run(self) -> None:
        """Search until there are enough trials.

        Raises:
            Stopped: a signal asked for it; trainings have saved their checkpoints.
            SeqtrackError: params.yaml or the data changed meanwhile.
        """
        with StopSignals() as stop, self._nothing_left_behind():
            self._go_on()
            while True:
                if stop.number:
                    say("sweep: stopping; trainings save their checkpoints")
                    raise Stopped("sweep: stopped; start again to go on", stop.number)
                while len(self._running) < self._plan.n_jobs and self._wanted() and not stop.number:
                    self._next()
                if not self._running and not stop.number:
                    return
                self._look()
                time.sleep(PAUSE)

    def _go_on(self) -> None:
        """Take up what an earlier start left: trials that run, or did; and those that failed once more."""
        from optuna.trial import Trial, TrialState

        again = {trial.user_attrs.get("again") for trial in self._study.trials}
        for frozen in self._study.trials:
            if frozen.state == TrialState.FAIL and frozen.number not in again:
                self._study.enqueue_trial(given(frozen), user_attrs={"again": frozen.number})
            if frozen.state == TrialState.RUNNING:
                trial = Trial(self._study, frozen._trial_id)
                pid, started = frozen.user_attrs.get("process", (0, 0.0))
                process = Process(name=self._name(frozen.number), pid=pid, started=started)
                if pid and process.alive():
                    say(f"sweep: trial {frozen.number} still runs")
                    self._keep(trial, process)
                else:
                    say(f"sweep: trial {frozen.number} was interrupted, and goes on")
                    self._start(trial)

    def _wanted(self) -> bool:
        from optuna.trial import TrialState

        trials = self._study.get_trials(deepcopy=False)
        if self._plan.n_trials is None:
            return any(trial.state == TrialState.WAITING for trial in trials)
        spent = [
            trial
            for trial in trials
            if trial.state != TrialState.WAITING and (trial.state != TrialState.FAIL or trial.number in self._failed)
        ]
        return len(spent) < self._plan.n_trials

    def _next(self) -> None:
        self._plan.unchanged()
        self._start(self._study.ask({axis.key: axis.distribution() for axis in self._plan.axes}))

    def _start(self, trial: Trial) -> None:
        from optuna.trial import TrialState

        settings = {axis.key: axis.value(trial.params[axis.key]) for axis in self._plan.axes}
        others = [other for other in self._study.get_trials(deepcopy=False) if other.number != trial.number]
        tried = (TrialState.COMPLETE, TrialState.PRUNED)
        alike = same(settings, [other for other in others if other.state in tried or other.number in self._running])
        trial.set_user_attr("settings", settings)
        name = self._name(trial.number)
        if alike is not None:
            self._echoes[trial.number] = alike.number
            self._echo()
            return
        said = ", ".join(f"{key} {value}" for key, value in settings.items())
        say(f"sweep: trial {trial.number} starts: {said}")
        if name in self._experiments.finished():  # it ended after an earlier start of the sweep did
            process = Process(name=name, pid=0, started=0.0)
        else:
            process = self._experiments.start(name, settings, self._plan.copied)
            trial.set_user_attr("process", [process.pid, process.started])
            self._processes.append(process)
        self._keep(trial, process)

    def _keep(self, trial: Trial, process: Process) -> None:
        reported = len(self._frozen(trial.number).intermediate_values)
        self._running[trial.number] = _Running(trial=trial, process=process, reported=reported)

    def _look(self) -> None:
        """Look at all trials on their way once."""
        finished = self._experiments.finished()
        for number, running in list(self._running.items()):
            name = running.process.name
            if name not in finished and not self._experiments.alive(running.process):
                others = [process for process in self._processes if process != running.process]
                if (other := self._experiments.borrowed(running.process, others)) is not None:
                    running.process = Process(name=name, pid=other.pid, started=other.started)
                    continue
                finished = self._experiments.finished()  # it may have ended between the two looks
                if (unchanged := self._experiments.unchanged(running.process)) is not None:
                    finished = finished | {name: unchanged}
                if name not in finished:
                    self._lost(number, running)
                    continue
            if name in finished:
                self._watch(running, number, prune=False)
                self._bring_in(number, running, finished[name])
            else:
                self._watch(running, number, prune=True)
        self._echo()

    def _watch(self, running: _Running, number: int, *, prune: bool) -> None:
        """Report new points of the training's curve, and stop it where it falls behind."""
        run_id = self._experiments.run_id(running.process.name)
        if run_id is None:
            return
        self._runs.adopt(run_id, running.process.name, number)
        if self._plan.goal.curve is None:
            return
        points = self._runs.points(run_id, self._plan.goal.curve)
        fresh = points[running.reported :]
        for value in fresh:
            running.reported += 1
            running.trial.report(value, running.reported)
        if running.stopped is None:
            # After the last evaluation there is no training left to save.
            last = self._plan.evaluations is not None and running.reported >= self._plan.evaluations
            if prune and fresh and not last and running.trial.should_prune():
                running.stopped, running.since = (running.reported, fresh[-1]), time.monotonic()
                self._experiments.stop(running.process)
        elif prune and time.monotonic() - running.since > PATIENCE:
            self._experiments.stop(running.process, at_once=True)

    def _bring_in(self, number: int, running: _Running, commit: str) -> None:
        """Take in what a finished experiment gave."""
        goal = self._plan.goal
        try:
            scores = self._experiments.report(commit, REPORTS / "metrics.json").get(goal.split, {})
            key = self._experiments.report(commit, REPORTS / "all_results.json")["run_key"]
        except SeqtrackError as error:
            self._fail(number, str(error))
            return
        value = scores.get(goal.metric)
        if value is None or not math.isfinite(value):
            self._fail(number, f"no {goal} in metrics.json, which has {', '.join(scores) or 'nothing of this split'}")
            return
        run_id = self._runs.find(key)
        if run_id is not None:
            self._runs.adopt(run_id, running.process.name, number)
            self._runs.unmark(run_id)
            running.trial.set_user_attr("run_id", run_id)
        running.trial.set_user_attr("commit", commit)
        self._study.tell(number, value)
        del self._running[number]
        say(f"sweep: trial {number}: {goal} {value:.4f}")
        self._told()

    def _lost(self, number: int, running: _Running) -> None:
        """A trial ended without an experiment."""
        from optuna.trial import TrialState

        if running.stopped is None:
            self._fail(number, self._experiments.reason(running.process.name))
            return
        evaluation, value = running.stopped
        why = f"{self._plan.goal} {value:.4f} at evaluation {evaluation}"
        if (run_id := self._experiments.run_id(running.process.name)) is not None:
            self._runs.mark_pruned(run_id, why)
            running.trial.set_user_attr("run_id", run_id)
        running.trial.set_user_attr("reason", why)
        self._study.tell(number, state=TrialState.PRUNED)
        del self._running[number]
        say(f"sweep: trial {number} stopped early: {why}")
        self._told()

    def _fail(self, number: int, reason: str) -> None:
        from optuna.trial import TrialState

        running = self._running.pop(number)
        running.trial.set_user_attr("reason", reason)
        self._failed.add(number)
        self._study.tell(number, state=TrialState.FAIL)
        say(f"sweep: trial {number} failed: {reason} (log: {self._experiments.log(running.process.name)})")

    def _echo(self) -> None:
        """Bring in trials whose settings another one had, once that one is through."""
        from optuna.trial import Trial, TrialState

        for number, first in list(self._echoes.items()):
            if first in self._running:
                continue
            del self._echoes[number]
            original = self._frozen(first)
            trial = Trial(self._study, self._frozen(number)._trial_id)
            for step, value in original.intermediate_values.items():
                trial.report(value, step)
            for attribute in ("run_id", "commit", "reason"):
                if attribute in original.user_attrs:
                    trial.set_user_attr(attribute, original.user_attrs[attribute])
            trial.set_user_attr("same_as", first)
            if original.state == TrialState.COMPLETE:
                self._study.tell(number, original.value)
            else:
                self._study.tell(number, state=original.state)
                self._failed |= {number} if original.state == TrialState.FAIL else set()
            say(f"sweep: trial {number} has the values of trial {first}")

    def _told(self) -> None:
        """Log the best so far, over trials brought in."""
        from optuna.trial import TrialState

        from pipeline.tracking import Point

        through = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if through:
            self._runs.parent.log_points([Point(name="best_so_far", value=self._study.best_value, step=len(through))])

    @contextmanager
    def _nothing_left_behind(self) -> Iterator[None]:
        """However the block ends, no training goes on that nobody watches."""
        try:
            yield
        finally:
            going = [running.process for running in self._running.values()]
            for process in going:
                self._experiments.stop(process)
            until = time.monotonic() + PATIENCE
            while any(map(self._experiments.alive, going)) and time.monotonic() < until:
                time.sleep(0.2)
            for process in filter(self._experiments.alive, going):
                self._experiments.stop(process, at_once=True)

    def _name(self, number: int) -> str:
        return f"{self._plan.study}-{number:03d}"

    def _frozen(self, number: int) -> FrozenTrial:
        return self._study.get_trials(deepcopy=False)[number]
