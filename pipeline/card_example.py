"""The example of use in a model card: a few lines of transformers for what the model reads and says.

Promises: the lines run as they stand where the model is found under the name that they give.
"""

from __future__ import annotations

import json

from pipeline.decisions import THRESHOLDS
from pipeline.trained import Trained


def example(trained: Trained, name: str) -> str:
    """Return an example in Markdown.

    Args:
        trained: the model.
        name: a hub id or a folder.
    """
    task = trained.labels.problem_type
    text = '{"text": "A text.", "text_pair": "Another text."}' if trained.pairs else '"A text."'
    every = ", top_k=None" if task == "multi_label_classification" else ""
    lines = [
        "from transformers import pipeline",
        "",
        f'classify = pipeline("text-classification", model={json.dumps(name, ensure_ascii=False)}{every})',
    ]
    if task == "multi_label_classification":
        # transformers gives a list per text of a list, and a pair is one text already.
        lines += [f"scores = classify([{text}], truncation=True)[0]"]
        if (trained.folder / THRESHOLDS).is_file():
            limits = json.loads((trained.folder / THRESHOLDS).read_text(encoding="utf-8"))
            lines += [
                f"thresholds = {json.dumps(limits, ensure_ascii=False)}",
                'print([each["label"] for each in scores if each["score"] >= thresholds[each["label"]]])',
            ]
        else:
            lines += ['print([each["label"] for each in scores if each["score"] >= 0.5])']
    elif task == "regression":
        lines += [f'print(classify([{text}], truncation=True)[0]["score"])  # on the scale of the training labels']
    else:
        lines += [f"print(classify([{text}], truncation=True)[0])"]
    body = "\n".join(lines)
    trusted = (
        ""
        if trained.manifest.get("own_code") is None
        else (
            "\n\nThe model is of a class of its own, whose source lies beside it: read it, then add "
            "`trust_remote_code=True`."
        )
    )
    return f"```python\n{body}\n```{trusted}"
