"""What a stage loads before it has read params.yaml: nothing that takes seconds, so mistakes are told at once."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

# From a fraction of a second to several seconds each; whoever needs one loads it when params and inputs are sound.
HEAVY = {
    "accelerate",
    "datasets",
    "evaluate",
    "ftfy",
    "huggingface_hub",
    "matplotlib",
    "mlflow",
    "pandas",
    "scipy",
    "sklearn",
    "tokenizers",
    "torch",
    "transformers",
}


@pytest.mark.parametrize(
    "module",
    [
        "stages.fetch",
        "stages.validate",
        "stages.split",
        "stages.tokenize",
        "stages.train",
        "stages.evaluate",
        "stages.predict",
        "stages.report",
        "stages.classify",
        "stages.compare",
        "stages.lineage",
        "stages.register",
        "stages.card",
        "stages.export",
        "stages.preset",
        "stages.glue_zip",
        "pipeline.params",  # both of these are a part of `make repro`
        "pipeline.next_steps",
    ],
)
def test_nothing_heavy_is_loaded_at_the_start(module: str) -> None:
    program = (
        f"import json, sys, {module}\n"
        "from pipeline.params import load_params\n"
        "load_params()\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert loaded & HEAVY == set()
    if module in ("pipeline.params", "pipeline.next_steps", "stages.train"):
        assert loaded & {"numpy", "pyarrow"} == set()
