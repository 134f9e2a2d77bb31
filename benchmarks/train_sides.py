"""What people train with otherwise, each as a program: transformers' Trainer, and a plain loop with accelerate.

Promises: every side starts from the same weights, learns from the same rows as often, in batches of as many, at the
same learning rate, with the same seed; besides those, a side has the settings it is named for and no others. Its rate
leaves evaluation out; what Trainer saves unasked is part of it.

    python -m benchmarks.train_sides trainer-best task.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
    get_linear_schedule_with_warmup,
)


@dataclass(frozen=True, kw_only=True)
class Task:
    """What to learn, from what, and how; see params.yaml for the names.

    Attributes:
        model: folder of the base model.
        train: JSON Lines with `text`, perhaps `text_pair`, and `label`, a class number.
        validation: the same.
        classes: how many.
    """

    model: str
    train: str
    validation: str
    classes: int
    seed: int
    max_length: int
    num_train_epochs: float
    per_device_train_batch_size: int
    per_device_eval_batch_size: int
    learning_rate: float
    warmup_ratio: float
    weight_decay: float


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a side did; `seconds` are those of the training loop."""

    seconds: float
    samples: int
    steps: int
    accuracy: float
    device_mib: float | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("task", type=Path, help="JSON of a Task")
    options = parser.parse_args()
    outcome = SIDES[options.side](Task(**json.loads(options.task.read_text())))
    print(json.dumps(vars(outcome)))


def train_with_trainer(
    task: Task, flags: Mapping[str, Any], attention: str | None = None, config: Mapping[str, Any] | None = None
) -> Outcome:
    set_seed(task.seed)  # the new head is drawn before Trainer sets its seed
    tokenizer, model = load(task, attention, config or {})
    train, validation = (encode(Path(file), tokenizer, task) for file in (task.train, task.validation))
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            seed=task.seed,
            num_train_epochs=task.num_train_epochs,
            per_device_train_batch_size=task.per_device_train_batch_size,
            per_device_eval_batch_size=task.per_device_eval_batch_size,
            learning_rate=task.learning_rate,
            warmup_steps=task.warmup_ratio,  # below 1 it is a share
            weight_decay=task.weight_decay,
            use_cpu=not torch.cuda.is_available(),
            **flags,
        )
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=train,
            eval_dataset=validation,
            processing_class=tokenizer,
            data_collator=DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8 if arguments.bf16 else None),
            compute_metrics=accuracy,
        )
        done = trainer.train()
        scores = trainer.evaluate()
    return Outcome(
        seconds=done.metrics["train_runtime"],
        samples=round(len(train) * task.num_train_epochs),
        steps=done.global_step,
        accuracy=scores["eval_accuracy"],
        device_mib=device_mib(),
    )


def train_with_accelerate(task: Task) -> Outcome:
    """The loop that accelerate's introductions teach: everything prepared, batches padded to their longest row."""
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision="bf16")
    set_seed(task.seed)
    tokenizer, model = load(task, None, {})
    collate = DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8)
    train = DataLoader(
        encode(Path(task.train), tokenizer, task),
        shuffle=True,
        collate_fn=collate,
        batch_size=task.per_device_train_batch_size,
    )
    validation = DataLoader(
        encode(Path(task.validation), tokenizer, task), collate_fn=collate, batch_size=task.per_device_eval_batch_size
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=task.learning_rate, weight_decay=task.weight_decay)
    rows, steps = len(train.dataset), round(len(train) * task.num_train_epochs)
    schedule = get_linear_schedule_with_warmup(optimizer, round(steps * task.warmup_ratio), steps)
    model, optimizer, train, validation, schedule = accelerator.prepare(model, optimizer, train, validation, schedule)
    done, seconds, right = 0, 0.0, 0.0
    while done < steps:
        model.train()
        started = time.perf_counter()
        for batch in train:
            accelerator.backward(model(**batch).loss)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            done += 1
            if done == steps:
                break
        accelerator.wait_for_everyone()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds += time.perf_counter() - started
        right = score(model, validation, accelerator)
    return Outcome(
        seconds=seconds,
        samples=round(rows * task.num_train_epochs),
        steps=done,
        accuracy=right,
        device_mib=device_mib(),
    )


def score(model: torch.nn.Module, validation: DataLoader[Any], accelerator: Accelerator) -> float:
    model.eval()
    right = []
    for batch in validation:
        with torch.no_grad():
            predicted = model(**batch).logits.argmax(dim=-1)
        right.append(accelerator.gather_for_metrics(predicted == batch["labels"]))
    return torch.cat(right).float().mean().item()


def load(
    task: Task, attention: str | None, config: Mapping[str, Any]
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    tokenizer = AutoTokenizer.from_pretrained(task.model)
    model = AutoModelForSequenceClassification.from_pretrained(
        task.model, num_labels=task.classes, dtype=torch.float32, attn_implementation=attention, **config
    )
    return tokenizer, model


def encode(file: Path, tokenizer: PreTrainedTokenizerBase, task: Task) -> Dataset:
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    texts = [[row[name] for row in rows] for name in ("text", "text_pair") if name in rows[0]]
    encoded = tokenizer(*texts, truncation=True, max_length=task.max_length)
    return Dataset.from_dict({**encoded, "labels": [row["label"] for row in rows]})


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    return {"accuracy": float((np.argmax(prediction.predictions, axis=-1) == prediction.label_ids).mean())}


def device_mib() -> float | None:
    return torch.cuda.max_memory_reserved() / 2**20 if torch.cuda.is_available() else None


# The optimiser is the fused one by default.
BEST = {"bf16": True, "train_sampling_strategy": "group_by_length", "save_strategy": "no"}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}  # of BERT and its kin
WORKERS = {"dataloader_num_workers": 2, "dataloader_persistent_workers": True}
SIDES: dict[str, Callable[[Task], Outcome]] = {
    "trainer": partial(train_with_trainer, flags={}),
    "trainer-best": partial(train_with_trainer, flags=BEST),
    "trainer-no-dropout": partial(train_with_trainer, flags=BEST, config=NO_DROPOUT),
    "trainer-workers": partial(train_with_trainer, flags={**BEST, **WORKERS}),
    "trainer-compiled": partial(train_with_trainer, flags={**BEST, "torch_compile": True}),
    "trainer-eager": partial(train_with_trainer, flags=BEST, attention="eager"),
    "accelerate": train_with_accelerate,
}


if __name__ == "__main__":
    main()
