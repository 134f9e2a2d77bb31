"""Divided weights: what whole ones would give, the same checkpoints, and a way from one to the other."""

from __future__ import annotations

import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from safetensors.torch import load_file

from pipeline.sharding import divided_like, set_up_sharding, whole
from tests.starts import Start
from tests.toy import make_toy

# A step has 4 rows on one process and on two; 21 rows, so the last of an epoch has 1, and one process none.
RECIPE: dict[str, Any] = {"total_train_batch_size": 8, "per_device_train_batch_size": 2, "max_grad_norm": 0.5}
STEPS = 6
LORA = {"r": 2, "lora_alpha": 4, "lora_dropout": 0.0, "target_modules": None}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    make_toy(folder)
    return folder


@pytest.fixture(scope="module")
def wide_toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One with more words than its texts have, whose table of word vectors is cut."""
    folder = tmp_path_factory.mktemp("wide")
    make_toy(folder, spare_words=30)
    return folder


def start(toy: Path, folder: Path, *, divided: bool = True, **more: Any) -> Start:
    more.setdefault("world_size", 2)
    return Start(toy=toy, folder=folder, fsdp2=divided, changes=RECIPE | more.pop("changes", {}), **more)


def finish(one: Start) -> dict[str, Any]:
    status = one.run()
    said = "".join(file.read_text() for file in one.folder.glob("rank-*.out"))
    assert status == [0] * one.world_size, said
    result = one.result()
    assert set(result["divided"]) == {one.fsdp2}
    return result


def weights(one: Start, rank: int = 0) -> dict[str, torch.Tensor]:
    return load_file(one.folder / f"rank-{rank}.safetensors")


def assert_close(one: Start, other: Start, *, tolerance: float = 1e-4) -> None:
    found, expected = finish(one)["history"], finish(other)["history"]
    assert found["best_step"] == expected["best_step"]
    for point, given in zip(found["curve"], expected["curve"], strict=True):
        assert point == pytest.approx(given, rel=tolerance, abs=tolerance)
    for evaluation, given in zip(found["evaluations"], expected["evaluations"], strict=True):
        assert evaluation["metrics"] == pytest.approx(given["metrics"], rel=tolerance, abs=tolerance)
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.allclose(tensor, theirs[name], rtol=tolerance, atol=tolerance), name


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="plain"),
        pytest.param({"freeze": ["bert.embeddings.*", "*.layer.0.*"]}, id="frozen"),
        pytest.param({"lora": LORA, "gradient_checkpointing": True}, id="adapters"),
        pytest.param({"layerwise_lr_decay": 0.8}, id="groups"),
        pytest.param({"weight_averaging": 3.0}, id="averaged"),
    ],
)
def test_divided_weights_train_as_whole_ones(toy: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    two = start(toy, tmp_path / "two", changes=changes, dropout=False)
    assert_close(two, start(toy, tmp_path / "one", divided=False, world_size=1, changes=changes, dropout=False))
    assert [file.name for file in sorted((tmp_path / "two").glob("checkpoints/step-*"))] == [
        file.name for file in sorted((tmp_path / "one").glob("checkpoints/step-*"))
    ]
    for name in ("model", "optimizer"):
        files = [next((tmp_path / who).glob(f"checkpoints/*{STEPS}/{name}.safetensors")) for who in ("one", "two")]
        one, other = (load_file(file) for file in files)
        assert {key: (t.shape, t.dtype) for key, t in one.items()} == {
            key: (t.shape, t.dtype) for key, t in other.items()
        }


@pytest.mark.parametrize(("divided", "size"), [(True, 2), (False, 2)])
def test_a_cut_table_of_word_vectors_is_put_together_again(
    wide_toy: Path, tmp_path: Path, divided: bool, size: int
) -> None:
    changes = {"weight_averaging": 3.0, "weight_decay": 0.5}
    many = start(wide_toy, tmp_path / "many", divided=divided, world_size=size, changes=changes, dropout=False)
    assert_close(many, start(wide_toy, tmp_path / "one", divided=False, world_size=1, changes=changes, dropout=False))
    name = "bert.embeddings.word_embeddings.weight"
    (saved, *_) = sorted((tmp_path / "many").glob("checkpoints/step-*/model.safetensors"))
    assert len(weights(many)[name]) == 49
    assert len(load_file(saved)[name]) == 18
    assert torch.equal(weights(many)[name], weights(many, 1)[name])


def test_all_processes_have_the_best_weights_whole(toy: Path, tmp_path: Path) -> None:
    two = start(toy, tmp_path)
    assert finish(two)["model"] == two.result(1)["model"]


def test_in_bfloat16_gradients_and_losses_are_float32(toy: Path, tmp_path: Path) -> None:
    two = start(toy, tmp_path / "two", precision="bf16", dropout=False)
    one = start(toy, tmp_path / "one", divided=False, world_size=1, precision="bf16", dropout=False)
    assert_close(two, one, tolerance=0.05)


@pytest.mark.parametrize("rank", [0, 1])
def test_killed_and_resumed_gives_the_same_bits(toy: Path, tmp_path: Path, rank: int) -> None:
    every = {"checkpoint": {"every": "1 steps"}}
    whole = finish(start(toy, tmp_path / "whole", changes=every))
    broken = start(toy, tmp_path / "broken", changes=every, kill=(rank, 4 if rank else whole["events"] // 2))
    assert broken.run()[rank] == -signal.SIGKILL
    resumed = start(toy, tmp_path / "broken", changes=every)
    found = finish(resumed)
    assert 0 < found["started_at"] < STEPS
    assert found["model"] == whole["model"]
    assert found["history"] == whole["history"]


@pytest.mark.parametrize(
    ("first", "second"), [((True, 2), (False, 1)), ((False, 2), (True, 2)), ((True, 2), (True, 3))]
)
def test_one_goes_on_from_the_other(
    toy: Path, tmp_path: Path, first: tuple[bool, int], second: tuple[bool, int]
) -> None:
    def of(layout: tuple[bool, int], folder: str, **more: Any) -> Start:
        total = {"total_train_batch_size": 6, "per_device_train_batch_size": 1}
        divided, size = layout
        return start(toy, tmp_path / folder, divided=divided, world_size=size, changes=total, dropout=False, **more)

    assert set(of(first, "joint", signal=(0, signal.SIGTERM, 3)).run()) == {128 + signal.SIGTERM}
    joint = of(second, "joint")
    assert_close(joint, of((False, 1), "alone"))
    assert joint.result()["started_at"] == 3


@pytest.mark.parametrize(("named", "units"), [(None, ["BertLayer"]), (["BertAttention"], ["BertAttention"])])
def test_layers_are_the_units_unless_the_file_names_others(
    tmp_path: Path, named: list[str] | None, units: list[str]
) -> None:
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="TRANSFORMER_BASED_WRAP", transformer_cls_names_to_wrap=named
    )
    processes: Any = SimpleNamespace(state=SimpleNamespace(fsdp_plugin=plugin), mixed_precision="bf16")
    set_up_sharding(processes, make_toy(tmp_path).model())
    assert plugin.transformer_cls_names_to_wrap == units
    assert plugin.mixed_precision_policy.reduce_dtype is torch.float32


def test_what_is_not_divided_stays_itself() -> None:
    tensor = torch.arange(6.0)
    assert whole(tensor) is tensor
    assert divided_like(tensor, torch.zeros(6)) is tensor
