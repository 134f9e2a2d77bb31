"""The order of training, for any size and any division among processes."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.batches import BatchPlan, accumulation_for, smaller_batch, step_seed
from pipeline.errors import SeqtrackError

SIZES = st.integers(1, 12)


@st.composite
def plans(draw: st.DrawFn) -> BatchPlan:
    """Any plan: random or grouped by length, with a limit of tokens or none."""
    rows = draw(st.integers(1, 200))
    return BatchPlan(
        rows=rows,
        per_device_batch_size=draw(SIZES),
        world_size=draw(st.integers(1, 5)),
        accumulation=draw(st.integers(1, 5)),
        epochs=draw(st.sampled_from([0.01, 0.5, 1.0, 1.1, 2.0, 2.5])),
        seed=draw(st.integers(0, 2**32 - 1)),
        lengths=np.random.default_rng(draw(st.integers(0, 99))).integers(1, 60, rows),
        group_by_length=draw(st.booleans()),
        max_tokens=draw(st.none() | st.integers(1, 300)),
    )


PLANS = plans()


@given(PLANS, st.integers(0, 3))
def test_an_epoch_has_every_row_once(plan: BatchPlan, epoch: int) -> None:
    steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
    batches = [plan.global_batch(step) for step in steps]
    assert sorted(np.concatenate(batches)) == list(range(plan.rows))
    assert all(len(batch) == plan.total_batch_size for batch in batches[:-1])


@given(st.integers(1, 200), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.integers(0, 99))
def test_global_batches_do_not_depend_on_who_computes_them(
    rows: int, per_device: int, world: int, accumulation: int, seed: int
) -> None:
    def plan(per_device: int, world: int, accumulation: int) -> BatchPlan:
        return BatchPlan(
            rows=rows,
            per_device_batch_size=per_device,
            world_size=world,
            accumulation=accumulation,
            epochs=2.0,
            seed=seed,
            lengths=np.random.default_rng(seed).integers(1, 60, rows),
            group_by_length=bool(seed % 2),
            max_tokens=50 * (world - 1) or None,
        )

    divided, whole = plan(per_device, world, accumulation), plan(per_device * world * accumulation, 1, 1)
    assert divided.total_steps == whole.total_steps
    for step in range(whole.total_steps):
        assert np.array_equal(divided.global_batch(step), whole.global_batch(step))


@given(PLANS, st.integers(0, 50))
def test_micro_batches_partition_the_global_batch(plan: BatchPlan, step: int) -> None:
    ranks = [plan.micro_batches(step, rank) for rank in range(plan.world_size)]
    assert len({len(micro) for micro in ranks}) == 1  # or a process would wait for one that is done
    assert all(len(micro) >= plan.accumulation for micro in ranks)
    counted = [micro.indices for rank in ranks for micro in rank if micro.counts]
    assert sorted(np.concatenate(counted)) == sorted(plan.global_batch(step))
    for micro in (micro for rank in ranks for micro in rank):
        assert 1 <= len(micro.indices) <= plan.per_device_batch_size
        assert micro.counts or len(micro.indices) == 1
    if plan.max_tokens is None:
        sizes = [len(indices) for indices in counted]
        assert all(len(micro) == plan.accumulation for micro in ranks)
        assert max(sizes) - min(sizes) <= 1


@given(PLANS, st.integers(0, 50))
def test_no_micro_batch_of_several_rows_has_more_tokens_than_the_limit(plan: BatchPlan, step: int) -> None:
    assert plan.lengths is not None
    limit = plan.max_tokens or 10**9
    for rank in range(plan.world_size):
        for micro in plan.micro_batches(step, rank):
            assert len(micro.indices) == 1 or len(micro.indices) * plan.lengths[micro.indices].max() <= limit


def grouped(rows: int, *, seed: int = 0, group_by_length: bool = True) -> BatchPlan:
    return BatchPlan(
        rows=rows,
        per_device_batch_size=8,
        world_size=1,
        accumulation=2,
        epochs=3.0,
        seed=seed,
        lengths=np.random.default_rng(5).geometric(0.03, rows),
        group_by_length=group_by_length,
    )


def test_grouping_by_length_saves_padding() -> None:
    assert grouped(4000).padding() < 0.06
    assert grouped(4000, group_by_length=False).padding() > 0.4


def test_padding_is_what_the_batches_show() -> None:
    plan = grouped(403)
    assert plan.lengths is not None
    batches = [micro.indices for step in range(plan.steps_per_epoch) for micro in plan.micro_batches(step, 0)]
    padded = sum(len(rows) * plan.lengths[rows].max() for rows in batches)
    assert plan.padding() == pytest.approx(1 - plan.lengths.sum() / padded)


def test_the_longest_text_comes_first_of_all() -> None:
    plan = grouped(4000)
    assert plan.lengths is not None
    assert plan.lengths[plan.global_batch(0)].max() == plan.lengths.max()
    epochs = [plan.global_batch(epoch * plan.steps_per_epoch) for epoch in (1, 2)]
    assert any(plan.lengths[batch].max() < plan.lengths.max() for batch in epochs)


def test_grouped_batches_come_in_random_order_with_other_neighbours_each_epoch() -> None:
    plan = grouped(4000)
    assert plan.lengths is not None

    def batches(epoch: int) -> list[frozenset[int]]:
        first = epoch * plan.steps_per_epoch
        return [frozenset(plan.global_batch(step).tolist()) for step in range(first, first + plan.steps_per_epoch)]

    assert not set(batches(1)) & set(batches(2))
    means = [plan.lengths[list(batch)].mean() for batch in batches(1)]
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.2


def test_few_rows_too_find_other_neighbours_each_epoch() -> None:
    plan = grouped(90)
    batches = [{frozenset(plan.global_batch(6 * epoch + step).tolist()) for step in range(5)} for epoch in range(3)]
    assert not batches[0] & batches[1]
    assert not batches[1] & batches[2]


def test_plans_of_other_lengths_are_not_mixed_up() -> None:
    one, other = grouped(100), dataclasses.replace(grouped(100), lengths=np.arange(100))
    assert not np.array_equal(one.global_batch(0), other.global_batch(0))


@given(PLANS)
def test_any_step_is_found_without_those_before_it(plan: BatchPlan) -> None:
    last = plan.total_steps - 1
    found = plan.global_batch(last)
    for step in range(plan.total_steps):
        plan.global_batch(step)
    assert np.array_equal(plan.global_batch(last), found)


@given(PLANS)
def test_epochs_are_whole_steps_and_at_least_one(plan: BatchPlan) -> None:
    assert plan.total_steps >= 1
    assert plan.epochs - 1e-9 <= plan.epoch_at(plan.total_steps) < plan.epochs + 1 / plan.steps_per_epoch + 1e-9
    ends = [step for step in range(1, plan.total_steps + 1) if plan.ends_epoch(step)]
    assert len(ends) == math.floor(plan.epoch_at(plan.total_steps))


@pytest.mark.parametrize(("epochs", "steps"), [(1.1, 55), (2.2, 110), (0.7, 35), (2.0, 100), (0.001, 1), (1.01, 51)])
def test_fractions_of_an_epoch_do_not_gain_a_step_from_rounding(epochs: float, steps: int) -> None:
    plan = BatchPlan(rows=500, per_device_batch_size=10, world_size=1, accumulation=1, epochs=epochs, seed=0)
    assert plan.total_steps == steps


def test_epochs_and_seeds_give_other_orders() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        plan = BatchPlan(rows=50, per_device_batch_size=50, world_size=1, accumulation=1, epochs=9.0, seed=seed)
        return plan.global_batch(epoch).tolist()

    assert order(1, 0) != order(1, 1)
    assert order(1, 0) != order(2, 0)
    assert order(1, 1) != order(2, 0)


def test_seeds_of_steps_and_processes_differ() -> None:
    seeds = {step_seed(seed, step, rank) for seed in range(4) for step in range(50) for rank in range(4)}
    assert len(seeds) == 4 * 50 * 4
    assert all(0 <= seed < 2**64 for seed in seeds)
    assert step_seed(13, 5, 0) == step_seed(13, 5, 0)


@given(st.integers(1, 500), st.integers(1, 40), st.integers(1, 8))
def test_accumulation_makes_up_the_total_or_the_nearest_totals_are_named(total: int, device: int, world: int) -> None:
    if total % (device * world) == 0:
        assert accumulation_for(total, device, world) * device * world == total
        return
    with pytest.raises(SeqtrackError, match=r"train\.total_train_batch_size: not divisible by per_device") as caught:
        accumulation_for(total, device, world)
    assert caught.value.expected is not None
    named = [int(word) for word in caught.value.expected.partition("such as ")[2].split(" or ")]
    assert all(size % (device * world) == 0 and 0 < abs(size - total) < device * world for size in named)
    assert len(named) == (2 if total > device * world else 1)


@given(st.integers(2, 5000))
def test_a_smaller_batch_is_at_most_half_and_divides(size: int) -> None:
    smaller = smaller_batch(size)
    assert smaller <= size / 2
    assert size % smaller == 0


def test_powers_of_two_are_halved() -> None:
    assert [smaller_batch(size) for size in (64, 32, 16, 2, 24, 7)] == [32, 16, 8, 1, 12, 1]


@given(PLANS.filter(lambda plan: plan.per_device_batch_size > 1), st.integers(0, 20))
def test_smaller_batches_and_more_of_them_leave_the_steps_as_they_are(plan: BatchPlan, step: int) -> None:
    size = smaller_batch(plan.per_device_batch_size)
    factor = plan.per_device_batch_size // size
    other = dataclasses.replace(plan, per_device_batch_size=size, accumulation=plan.accumulation * factor)
    assert other.total_steps == plan.total_steps
    assert np.array_equal(other.global_batch(step), plan.global_batch(step))
