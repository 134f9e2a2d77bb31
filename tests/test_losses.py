"""The loss: torch's own over the whole batch, however the batch is divided; the user's own, checked beforehand."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import kl_divergence

from pipeline.errors import SeqtrackError
from pipeline.labels import LabelSet
from pipeline.losses import Criterion, build_criterion
from tests.toy import recipe

NAMES = LabelSet(problem_type="single_label_classification", names=("ham", "spam", "other"))
LABELS = np.array([0, 0, 0, 0, 1, 2, 2])
OWN = """
import torch

class Focal(torch.nn.Module):
    def forward(self, logits, labels):
        chosen = logits.log_softmax(-1).gather(1, labels[:, None])[:, 0]
        return -((1 - chosen.exp()) ** 2) * chosen

def plain(logits, labels):
    return torch.nn.functional.cross_entropy(logits, labels, reduction="none")

def mean(logits, labels):
    return torch.nn.functional.cross_entropy(logits, labels)

def outside(logits, labels):
    return torch.from_numpy(plain(logits, labels).detach().numpy())

def three(logits, labels, weights):
    return plain(logits, labels)

def nothing(logits, labels):
    return None

class Wants:
    def __init__(self, gamma):
        pass

number = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of the user's."""
    (tmp_path / "own_losses.py").write_text(OWN)
    (tmp_path / "broken_losses.py").write_text("import not_there")
    (tmp_path / "garbled_losses.py").write_text("def :")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("own_losses", "broken_losses", "garbled_losses"):
        sys.modules.pop(name, None)
    return "own_losses"


def build(**changes: Any) -> Criterion:
    loss = changes.pop("loss", None)
    custom = recipe().custom.model_copy(update={"loss": loss})
    return build_criterion(recipe(**changes, custom=custom.model_dump()), NAMES, LABELS)


@given(
    rows=st.integers(1, 12),
    cuts=st.lists(st.integers(0, 12), max_size=4),
    smoothing=st.sampled_from([0.0, 0.1, 0.7]),
    weights=st.sampled_from([None, "balanced", {"spam": 5.0, "ham": 0.2}]),
    seed=st.integers(0, 99),
)
def test_pieces_add_up_to_torch_over_the_whole_batch(
    rows: int, cuts: list[int], smoothing: float, weights: Any, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(3, (rows,), generator=generator)
    criterion = build(label_smoothing_factor=smoothing, class_weights=weights)
    by_class = None if criterion.class_weights is None else criterion.class_weights.double()
    expected = torch.nn.functional.cross_entropy(logits, labels, weight=by_class, label_smoothing=smoothing)
    (wanted,) = torch.autograd.grad(expected, logits)
    total = criterion.total_weight(labels.numpy())
    edges = [0, *sorted(min(cut, rows) for cut in cuts), rows]
    for start, end in itertools.pairwise(edges):
        if start < end:
            (criterion.summed(logits[start:end], labels[start:end]) / total).backward()
    whole = criterion.summed(logits, labels) / total
    assert whole.item() == pytest.approx(expected.item(), rel=1e-12)
    assert logits.grad is not None
    assert torch.allclose(logits.grad, wanted, rtol=0, atol=1e-12)


def test_balanced_weights_are_scikit_learns() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    criterion = build(class_weights="balanced")
    expected = compute_class_weight("balanced", classes=np.arange(3), y=LABELS)
    assert criterion.class_weights is not None
    assert criterion.class_weights.numpy() == pytest.approx(expected, rel=1e-6)
    assert criterion.total_weight(LABELS) == pytest.approx(len(LABELS))


def test_a_class_that_train_lacks_has_weight_one() -> None:
    criterion = build_criterion(recipe(class_weights="balanced"), NAMES, np.array([0, 0, 2]))
    assert criterion.class_weights is not None
    assert criterion.class_weights.tolist() == [0.75, 1.0, 1.5]


def test_weights_by_name() -> None:
    criterion = build(class_weights={"spam": 5.0})
    assert criterion.class_weights is not None
    assert criterion.class_weights.tolist() == [1.0, 5.0, 1.0]
    assert criterion.total_weight(LABELS) == 6 * 1 + 5.0
    with pytest.raises(SeqtrackError) as caught:
        build(class_weights={"spam": 5.0, "sapm": 1.0})
    assert str(caught.value) == (
        "params.yaml: train.class_weights: no class is called sapm; expected weights of ham, spam, other."
    )


def test_without_weights_rows_are_counted() -> None:
    assert build().total_weight(LABELS) == 7.0


def test_the_users_own(own: str) -> None:
    logits, labels = torch.randn(7, 3, generator=torch.Generator().manual_seed(1)), torch.from_numpy(LABELS)
    chosen = logits.softmax(-1)[range(7), LABELS]
    expected = -((1 - chosen) ** 2 * chosen.log()).sum()
    focal = build(loss=f"{own}:Focal").to(torch.device("cpu"))
    assert focal.summed(logits, labels).item() == pytest.approx(expected.item(), rel=1e-5)
    weighted, plain = build(loss=f"{own}:plain", class_weights={"spam": 5.0}), build(class_weights={"spam": 5.0})
    assert weighted.summed(logits, labels).item() == pytest.approx(plain.summed(logits, labels).item(), rel=1e-6)


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("own_losses:Fokal", "own_losses has no Fokal (did you mean Focal?); found own_losses:Fokal"),
        ("own_losses:number", "own_losses:number is not callable; expected a function or a class; found int"),
        ("own_losses:mean", "own_losses:mean gives no loss per row; expected a float tensor of shape (rows,)"),
        ("own_losses:nothing", "found NoneType"),
        ("own_losses:outside", "own_losses:outside gives losses without a gradient"),
        (
            "own_losses:three",
            "the wrong parameters (missing a required argument: 'weights'); expected a call with (logits",
        ),
        (
            "own_losses:Wants",
            "the wrong parameters (missing a required argument: 'gamma'); expected a call with (); found",
        ),
        (
            "nowhere.losses:Focal",
            "cannot import nowhere.losses (ModuleNotFoundError: No module named 'nowhere'); found",
        ),
        ("broken_losses:Focal", "cannot import broken_losses (ModuleNotFoundError: No module named 'not_there')"),
        ("garbled_losses:Focal", "cannot import garbled_losses (SyntaxError: invalid syntax"),
    ],
)
def test_a_loss_that_is_none_is_one_line(own: str, path: str, problem: str) -> None:
    with pytest.raises(SeqtrackError) as caught:
        build(loss=path)
    assert str(caught.value).startswith("params.yaml: train.custom.loss: ")
    assert "\n" not in str(caught.value)
    assert problem in str(caught.value)


SETS = LabelSet(problem_type="multi_label_classification", names=("ham", "spam", "other"))
NUMBERS = LabelSet(problem_type="regression", names=())


@given(
    rows=st.integers(1, 12),
    cuts=st.lists(st.integers(0, 12), max_size=4),
    smoothing=st.sampled_from([0.0, 0.2]),
    weights=st.sampled_from([None, "balanced", {"spam": 5.0}]),
    seed=st.integers(0, 99),
)
def test_sets_add_up_to_torch_over_the_whole_batch(
    rows: int, cuts: list[int], smoothing: float, weights: Any, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(2, (rows, 3), generator=generator).float()
    criterion = build_criterion(recipe(label_smoothing_factor=smoothing, class_weights=weights), SETS, targets.numpy())
    by_class = None if criterion.class_weights is None else criterion.class_weights.double()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, targets.double() * (1 - smoothing) + smoothing / 2, pos_weight=by_class
    )
    (wanted,) = torch.autograd.grad(expected, logits)
    total = criterion.total_weight(targets.numpy())
    for start, end in itertools.pairwise([0, *sorted(min(cut, rows) for cut in cuts), rows]):
        if start < end:
            (criterion.summed(logits[start:end], targets[start:end]) / total).backward()
    assert (criterion.summed(logits, targets) / total).item() == pytest.approx(expected.item(), rel=1e-12)
    assert logits.grad is not None
    assert torch.allclose(logits.grad, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("labels", [NAMES, SETS, NUMBERS], ids=lambda labels: labels.problem_type)
@given(
    rows=st.integers(1, 8),
    alpha=st.floats(0.01, 10),
    weights=st.sampled_from([None, "balanced"]),
    seed=st.integers(0, 99),
)
def test_two_passes_add_torchs_divergence_to_their_mean_loss(
    labels: LabelSet, rows: int, alpha: float, weights: Any, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2 * rows, labels.width, generator=generator, dtype=torch.float64)
    targets = torch.randint(2, (rows, 3), generator=generator).float()
    if labels is not SETS:
        targets = torch.randint(3, (rows,), generator=generator)
    changes = {} if labels is NUMBERS else {"class_weights": weights}
    criterion = build_criterion(recipe(r_drop=alpha, dropout=None, **changes), labels, targets.numpy())
    first, second = logits[:rows], logits[rows:]
    if labels is NUMBERS:
        apart = torch.nn.functional.mse_loss(first, second, reduction="none").squeeze(1)
    else:
        kind = torch.distributions.Categorical if labels is NAMES else torch.distributions.Bernoulli
        one, other = kind(logits=first), kind(logits=second)
        apart = (kl_divergence(one, other) + kl_divergence(other, one)) / 2
        apart = apart if labels is NAMES else apart.mean(1)
    if labels is NAMES and criterion.class_weights is not None:
        apart = apart * criterion.class_weights[targets]
    expected = (criterion.summed(first, targets) + criterion.summed(second, targets) + alpha * apart.sum()) / 2
    assert criterion.summed_over_passes(logits, targets).item() == pytest.approx(expected.item(), rel=1e-9)
    same = criterion.summed_over_passes(torch.cat([first, first]), targets)
    assert same.item() == pytest.approx(criterion.summed(first, targets).item(), rel=1e-12)


def test_numbers_have_the_mean_squared_error() -> None:
    logits, targets = torch.tensor([[1.0], [2.0], [5.0]]), torch.tensor([1.0, 4.0, 4.0])
    criterion = build_criterion(recipe(), NUMBERS, targets.numpy())
    assert criterion.summed(logits, targets).item() == 5.0
    assert criterion.total_weight(targets.numpy()) == 3.0
    assert (criterion.scale, criterion.reported_by(10.0).scale) == (1.0, 100.0)


def test_balanced_sets_weigh_rows_of_a_class_like_the_others() -> None:
    targets = np.array([[1, 1, 0], [0, 1, 0], [0, 1, 0], [0, 1, 0]], np.float32)
    criterion = build_criterion(recipe(class_weights="balanced"), SETS, targets)
    assert criterion.class_weights is not None
    assert criterion.class_weights.tolist() == [3.0, 1.0, 1.0]  # no row is not of spam, none is of other


def test_the_users_own_gets_what_the_task_has(own: str, tmp_path: Path) -> None:
    (tmp_path / "own_losses.py").write_text(
        "import torch\n"
        "seen = []\n"
        "def squares(logits, labels):\n"
        "    seen.append((tuple(logits.shape), tuple(labels.shape), labels.dtype))\n"
        "    losses = (logits - labels) ** 2\n"
        "    return losses if losses.ndim == 1 else losses.sum(1)\n"
    )
    custom = recipe().custom.model_copy(update={"loss": f"{own}:squares"}).model_dump()
    criterion = build_criterion(recipe(custom=custom), NUMBERS, np.zeros(3))
    assert criterion.summed(torch.tensor([[3.0], [1.0]]), torch.tensor([1.0, 1.0])).item() == 4.0
    assert criterion.reported_by(10.0).scale == 1.0
    build_criterion(recipe(custom=custom), SETS, np.zeros((3, 3), np.float32))
    assert sys.modules[own].seen == [
        ((2,), (2,), torch.float32),
        ((2,), (2,), torch.float32),
        ((2, 3), (2, 3), torch.float32),
    ]
    with pytest.raises(SeqtrackError, match=r"train.class_weights: a loss of your own for several labels gives one"):
        build_criterion(recipe(custom=custom, class_weights="balanced"), SETS, np.zeros((3, 3), np.float32))


@pytest.mark.parametrize("changes", [{"class_weights": "balanced"}, {"label_smoothing_factor": 0.1}])
def test_what_needs_classes(changes: dict[str, Any]) -> None:
    key = next(iter(changes))
    with pytest.raises(SeqtrackError, match=rf"^params.yaml: train.{key}: there are no classes in regression; set it"):
        build_criterion(recipe(**changes), NUMBERS, np.zeros(3))
