"""The trained model in MLflow's registry: a version with an alias, so that programs load it by a name that stays.

Promises: nothing is written before the model has passed the gate and is no worse than the alias's holder; the same
model is never registered twice; the version loads as the folder does, by `models:/<name>@<alias>`.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pipeline.errors import SeqtrackError
from pipeline.gate import check_gate, lower_is_better, require_score
from pipeline.metrics import HEADLINES, default_metric
from pipeline.params import Register, Tracking
from pipeline.paths import mlflow_store
from pipeline.tracking import MODEL_TAG, quiet_store, tracked_run, unusable_store
from pipeline.trained import Trained

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

SECTION: Final = "register"
DIGEST_TAG: Final = "seqtrack.model_digest"
SPLITS_TAG: Final = "seqtrack.data.splits"  # the rows that scores are of
CARD_FOLDER: Final = "model_card"  # among the run's artifacts


@dataclass(frozen=True, kw_only=True)
class Registered:
    """What came of it.

    Attributes:
        name: the model's.
        version: the version's number, as MLflow writes it.
        fresh: whether the version is new.
        before: the version that held the alias, None where nothing did.
        run_id: the MLflow run that trained the model.
        compared: what the comparison with that version came to, a clause; empty where there was none.
    """

    name: str
    version: str
    fresh: bool
    before: str | None
    run_id: str
    compared: str


def main_score(trained: Trained, settings: Register) -> str:
    """Return the name of the score by which models of the alias are compared.

    Raises:
        SeqtrackError: register.metric names none.
    """
    name = settings.metric or f"{trained.split}.{default_metric(trained.labels.problem_type)}"
    require_score(trained.metrics, name, f"params.yaml: {SECTION}.metric")
    return name


def check(trained: Trained, settings: Register, *, force: bool) -> str:
    """Refuse a model that fails the gate or, unless forced, is worse than the alias's holder; write nothing.

    Returns:
        What the comparison came to; empty where the alias has no holder, or this model is it.

    Raises:
        SeqtrackError: it is refused, a bound or register.metric names no score, or the MLflow store cannot be used.
    """
    check_gate(trained.metrics, settings.minimum, settings.maximum, section=SECTION)
    score = main_score(trained, settings)
    with _store() as client:
        holder = _holder(client, settings)
    if holder is None or holder.tags.get(DIGEST_TAG) == trained.digest:
        return ""
    described = f"version {holder.version}, which is {settings.alias}"
    if holder.tags.get(SPLITS_TAG) != trained.manifest["inputs"]["splits"] or score not in holder.tags:
        return f"not compared with {described}: its {score} is of other rows, or not known"
    theirs, ours = float(holder.tags[score]), trained.metrics[score]
    worse = ours > theirs if lower_is_better(score) else ours < theirs
    if worse and not force:
        raise SeqtrackError(
            f"the model is worse than {described}",
            where=f"{settings.name} in {mlflow_store().tracking_uri}",
            expected=f"{score} of at {'most' if lower_is_better(score) else 'least'} {theirs:.6g}",
            found=f"{ours:.6g}",
            fix="nothing was registered; `make register FORCE=1` registers it all the same",
        )
    return f"{score} {ours:.6g}, that of {described}, was {theirs:.6g}"


def register(trained: Trained, card: Path, settings: Register, tracking: Tracking, compared: str) -> Registered:
    """Make the model a version of the registered model, and give it the alias.

    To be called after `check`. A version of this very model is found and described anew instead of made.

    Args:
        trained: what is registered.
        card: its model card, which is copied to the run's artifacts.
        settings: the section.
        tracking: where a run is filed if the training's is not in this store.
        compared: what `check` returned.

    Raises:
        SeqtrackError: the MLflow store refuses.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    example = {"text": "a text", "text_pair": "another one"} if trained.pairs else "a text"
    with tracked_run(trained.run_key, tracking.experiment_name) as run:
        # A model that came from DVC's cache, trained elsewhere, is not in this store yet.
        run.log_model(trained.folder, example, {"run_key": trained.run_key, "base_model": trained.base_model})
        run.log_files([card], CARD_FOLDER)
        uri, run_id = run.tags[MODEL_TAG], run.run_id
    tags = _tags(trained)
    with _store() as client:
        holder = _holder(client, settings)
        try:
            known = [
                version
                for version in client.search_model_versions(f"name = '{settings.name}'")
                if version.tags.get(DIGEST_TAG) == trained.digest
            ]
            with redirect_stderr(io.StringIO()):  # its steps, which are no log lines
                version = known[0] if known else mlflow.register_model(uri, settings.name, tags=tags)
            for name, value in tags.items():
                client.set_model_version_tag(settings.name, version.version, name, value)
            client.update_model_version(settings.name, version.version, _description(trained, run_id))
            client.update_registered_model(settings.name, _task(trained))
            client.set_registered_model_alias(settings.name, settings.alias, version.version)
        except MlflowException as error:
            raise SeqtrackError(
                f"MLflow does not register the model ({error})", where=mlflow_store().tracking_uri
            ) from error
    return Registered(
        name=settings.name,
        version=str(version.version),
        fresh=not known,
        before=None if holder is None else str(holder.version),
        run_id=run_id,
        compared=compared,
    )


def _holder(client: MlflowClient, settings: Register) -> ModelVersion | None:
    """Return the version that has the alias now."""
    for model in client.search_registered_models(f"name = '{settings.name}'"):
        if (number := model.aliases.get(settings.alias)) is not None:
            return client.get_model_version(settings.name, str(number))
    return None


@contextmanager
def _store() -> Iterator[MlflowClient]:
    import mlflow
    from mlflow.exceptions import MlflowException

    store = mlflow_store()
    quiet_store()
    try:
        mlflow.set_tracking_uri(store.tracking_uri)
        yield mlflow.MlflowClient()
    except (MlflowException, OSError) as error:
        raise unusable_store(store.tracking_uri, error) from error


def _tags(trained: Trained) -> dict[str, str]:
    """Return what is to be known of a version without its run: where it comes from, and its main scores."""
    inputs = trained.manifest["inputs"]
    names = [name for split in trained.results["splits"] for name in _scores_of(trained, split)]
    return {
        "seqtrack.run_key": trained.run_key,
        DIGEST_TAG: trained.digest,
        "seqtrack.base_model": trained.base_model,
        SPLITS_TAG: inputs["splits"],
        "seqtrack.data.tokenized": inputs["tokenized"],
    } | {name: repr(trained.metrics[name]) for name in names}


def _scores_of(trained: Trained, split: str) -> list[str]:
    """Return the names of all scores of a split, without the ends of their intervals."""
    return [f"{split}.{name}" for name in trained.results["splits"][split]["metrics"]]


def _task(trained: Trained) -> str:
    read = "pairs of texts" if trained.pairs else "texts"
    classes = ", ".join(trained.labels.names)[:500]
    if trained.labels.problem_type == "regression":
        return f"A number for {read}."
    kind = "Labels" if trained.labels.problem_type == "multi_label_classification" else "A class"
    return f"{kind} for {read}, of: {classes}."


def _description(trained: Trained, run_id: str) -> str:
    """Return what MLflow shows of a version: its main scores with their intervals, and where the card is."""
    lines = [f"Fine-tuned from {trained.base_model}.", ""]
    for split in trained.results["splits"]:
        found = trained.results["splits"][split]
        for name in HEADLINES[trained.labels.problem_type]:
            value = found["metrics"][name]
            low, high = found["intervals"].get(name, (None, None))
            interval = "" if low is None else f" ({low:.4g} to {high:.4g})"
            lines.append(f"- {split}.{name}: {value:.4g}{interval}, {found['rows']:,} rows")
    confidence = trained.results["bootstrap"]["confidence"]
    return "\n".join(
        [*lines, "", f"In brackets {confidence:.0%} intervals. Model card: artifact {CARD_FOLDER} of run {run_id}."]
    )
