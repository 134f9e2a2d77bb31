"""Killed at random moments, a training ends in the bits, and the history, of one that never was."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from pipeline.sources_sample import write_sample
from tests.starts import Start
from tests.toy import WORDS, make_toy

KILLS = 14  # for each layout and precision: 56 in all
TRAIN, VALIDATION = 120, 30
LAYOUTS = [(1, "no"), (1, "bf16"), (2, "no"), (2, "bf16")]
# 15 steps an epoch; checkpoints, evaluations and points of the curve fall on different ones.
CHANGES = {
    "num_train_epochs": 2,
    "per_device_train_batch_size": 2,
    "total_train_batch_size": 8,
    "eval_strategy": "steps",
    "eval_steps": 7,
    "logging_steps": 4,
    "learning_rate": 1e-3,
    "checkpoint": {"every": "3 steps", "keep": 1},
}


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The sample's articles of three classes in turn."""
    folder = tmp_path_factory.mktemp("sample")
    write_sample(folder)
    by_class: dict[str, list[str]] = {}
    for line in (folder / "bbc-news.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        by_class.setdefault(row["label"], []).append(row["text"][:400])
    chosen = sorted(by_class)[: len(WORDS)]
    return [by_class[chosen[row % len(WORDS)]][row // len(WORDS)] for row in range(TRAIN + VALIDATION)]


@pytest.fixture(scope="module")
def toy(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("task") / "toy"
    make_toy(folder, train=TRAIN, validation=VALIDATION, texts=texts)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("world_size", "precision"), LAYOUTS)
def test_random_kills_change_no_bit(
    texts: list[str], toy: Path, tmp_path: Path, world_size: int, precision: str
) -> None:
    whole = Start(
        toy=toy,
        folder=tmp_path / "whole",
        changes=CHANGES,
        world_size=world_size,
        precision=precision,
        texts=texts,
        train=TRAIN,
        validation=VALIDATION,
    )
    assert whole.run() == [0] * world_size
    expected = whole.result()
    began = time.monotonic()
    again = replace(whole, folder=tmp_path / "again")
    assert again.run() == [0] * world_size  # the server of processes is warm now
    seconds = time.monotonic() - began
    assert again.result() == expected
    assert expected["history"]["step"] == 30
    random = Random(f"{world_size} {precision}")
    trainings = kills = 0
    resumed_at = []
    while kills < KILLS:
        trainings += 1
        start = replace(whole, folder=tmp_path / f"training-{trainings}")
        for _ in range(random.choice((1, 1, 2))):  # some are killed again after they went on
            rank = random.randrange(world_size)
            if random.random() < 0.5:
                # At a step, or at one of the things that make up the writing of a checkpoint.
                killed = replace(start, kill=(rank, random.randint(1, whole.result(rank)["events"])))
                statuses = killed.run()
            else:
                statuses = start.run(seconds_to_kill=random.uniform(0.0, seconds), killed_rank=rank)
            if statuses[rank] == -9:
                kills += 1
                for other, status in enumerate(statuses):
                    # Whoever had the whole training behind it does not notice that another was killed at its end.
                    done = status == 0 and start.result(other)["history"] == whole.result(other)["history"]
                    assert done or status in (-9, 1), statuses
            else:  # it came to its end before
                assert statuses == [0] * world_size
        assert start.run() == [0] * world_size
        found = start.result()
        resumed_at.append(found["started_at"])
        assert found["model"] == expected["model"]
        assert found["history"] == expected["history"]
        assert [path.name for path in (start.folder / "checkpoints").glob(".step-*")] == []
    print(f"\n{world_size} processes, {precision}: {kills} kills in {trainings} trainings, resumed after {resumed_at}")
    assert len(set(resumed_at)) > 3
