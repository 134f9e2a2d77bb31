"""Progress: plain lines when due, a bar on a terminal, silence beside the main process."""

from __future__ import annotations

import io
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from pipeline import progress as module
from pipeline.progress import LINE_SECONDS, Lines, progress, rate_in_words


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def lines(total: int, *, done: int = 0) -> tuple[Lines, Clock, list[str]]:
    clock, told = Clock(), list[str]()
    return Lines("train", total, "steps", done=done, clock=clock, tell=told.append), clock, told


def test_a_line_tells_what_is_done_the_rate_the_time_left_and_the_loss() -> None:
    bar, clock, told = lines(1000)
    clock.now = 40.0
    bar.advance(200, "loss 0.5210")
    assert told == ["train: 200 of 1,000 steps, 5 steps/s, 0:02:40 left, loss 0.5210"]


def test_steps_of_before_a_resume_are_not_in_the_rate() -> None:
    bar, clock, told = lines(1000, done=500)
    clock.now = 50.0
    bar.advance(100)
    assert told == ["train: 600 of 1,000 steps, 2 steps/s, 0:03:20 left"]


def test_a_note_stands_until_the_next_one() -> None:
    bar, clock, told = lines(10)
    bar.advance(1, "loss 1")
    clock.now = 31.0
    bar.advance(1)
    assert told[0].endswith("loss 1")


def test_short_work_and_the_end_have_no_line() -> None:
    bar, clock, told = lines(2)
    clock.now = LINE_SECONDS - 1
    bar.advance(1)
    clock.now = 1000.0
    bar.advance(1)
    assert told == []


@given(st.lists(st.floats(0.01, 100.0), min_size=1, max_size=50))
def test_lines_are_some_time_apart(waits: list[float]) -> None:
    bar, clock, _ = lines(10_000)
    times: list[float] = []
    bar.tell = lambda line: times.append(clock.now)
    for wait in waits:
        clock.now += wait
        bar.advance(1)
    assert all(later - earlier >= LINE_SECONDS for earlier, later in pairwise([0.0, *times]))
    assert len(times) >= int(clock.now // (LINE_SECONDS + 100.0))


@pytest.mark.parametrize(
    ("rate", "words"), [(0.0, "0"), (0.0421, "0.042"), (4.23, "4.2"), (42.4, "42"), (4200.3, "4,200")]
)
def test_rates_have_two_figures(rate: float, words: str) -> None:
    assert rate_in_words(rate) == words


def test_a_terminal_gets_a_bar_with_rate_and_note(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(module, "console", lambda: Console(file=out, force_terminal=True, width=150, no_color=True))
    with progress("train", 4, "steps", done=1) as bar:
        for _ in range(3):
            bar.advance(1, "loss 0.7")
    drawn = out.getvalue()
    assert "4/4" in drawn
    assert "steps/s" in drawn
    assert "loss 0.7" in drawn


def test_piped_output_has_no_control_codes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LINE_SECONDS", 0.0)
    with progress("evaluate", 3, "rows") as bar:
        bar.advance(1)
        bar.advance(2)
    told = capsys.readouterr().out
    assert told.startswith("evaluate: 1 of 3 rows, ")
    assert "\x1b" not in told
    assert told.count("\n") == 1


def test_quiet_is_silent(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LINE_SECONDS", 0.0)
    with progress("train", 3, "steps", quiet=True) as bar:
        bar.advance(1)
    assert capsys.readouterr().out == ""
