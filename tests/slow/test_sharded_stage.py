"""The train stage with divided weights: mistakes in one line, a whole model in the end."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from pipeline import fine_tuning
from pipeline.errors import SeqtrackError
from pipeline.inference import Classifier
from pipeline.paths import MODEL
from tests.starts import CONTEXT, divide_weights, environment, free_port
from tests.test_fine_tuning import TRACKING, base, prepare
from tests.test_sharding import LORA, RECIPE
from tests.tiny import save_tiny_encoder
from tests.toy import FILLER, WORDS, recipe

CUSTOM = recipe().custom.model_dump()


def _stage(rank: int, port: int, encoder: Path, changes: dict[str, Any]) -> None:
    """Be one of two processes of the train stage, in the working folder; what it says goes into said-<rank>."""
    torch.set_num_threads(1)
    os.environ |= environment(rank, 2, port) | {"DVC_ROOT": str(Path.cwd()), "ACCELERATE_MIXED_PRECISION": "no"}

    def divided(**settings: Any) -> Accelerator:
        processes = Accelerator(**settings)
        divide_weights(processes)
        return processes

    fine_tuning.Accelerator = divided  # type: ignore[assignment, misc]
    with Path(f"said-{rank}").open("w") as said, contextlib.redirect_stdout(said):
        try:
            fine_tuning.fine_tune(recipe(**RECIPE, **changes), base(encoder), TRACKING, {})
        except SeqtrackError as error:
            said.write(f"error: {error}")


def stage(encoder: Path, **changes: Any) -> list[str]:
    """Run the train stage in two processes; return what they said."""
    port = free_port()
    processes = [CONTEXT.Process(target=_stage, args=(rank, port, encoder, changes)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    return [Path(f"said-{rank}").read_text() for rank in (0, 1)]


@pytest.mark.slow
def test_the_stage_exports_a_whole_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    encoder = tmp_path / "encoder"
    save_tiny_encoder(encoder, [word for group in (*WORDS, FILLER) for word in group])
    prepare(encoder)
    for said in stage(encoder, custom=CUSTOM | {"optimizer": "torch.optim:Adafactor"}):
        assert "train.custom.optimizer: torch.optim:Adafactor cannot do a step with what FSDP2 divides" in said
    assert not MODEL.exists()
    main, other = stage(encoder, lora=LORA, custom=CUSTOM | {"optimizer": "torch.optim:NAdam"})
    assert "best checkpoint by f1_macro is step" in main
    assert other == ""
    classifier = Classifier.load(MODEL)
    assert type(classifier.model).__name__ == "BertForSequenceClassification"
    assert all(torch.isfinite(parameter).all() for parameter in classifier.model.parameters())
    (checkpoint,) = {file.parent.parent for file in tmp_path.glob(".seqtrack/checkpoints/*/*/training.json")}
    training = json.loads(next(checkpoint.glob("*/training.json")).read_text())
    assert training["identity"]["layout"]["distributed_type"] == "FSDP"
