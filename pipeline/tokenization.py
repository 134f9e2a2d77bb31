"""The tokenize stage's work: canonical rows to Arrow files, with what was cut counted.

Promises: output depends on rows, tokenizer and max_length alone: not on the split, the number of threads or what was
tokenized before. What is cut is told by the check `truncation`, with the longest rows as examples.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.bulk_encoding import BulkEncoder
from pipeline.checks import MOST_EXAMPLES, CheckResult, Example, Finding, judge_one, snippet
from pipeline.checks_told import failure, show_checks
from pipeline.console import facts, say
from pipeline.encoding import Encoder
from pipeline.errors import SeqtrackError
from pipeline.model_source import resolve
from pipeline.outputs import output_folder, sha256_file, write_json, write_manifest, write_text
from pipeline.params import Model, Tokenize
from pipeline.progress import progress
from pipeline.row_store import rows_at
from pipeline.token_cache import TokenCache, text_digests
from pipeline.tokens import TokenStore, shard_writer, token_columns, token_schema

BATCH_ROWS = 2_000  # rows tokenized at once: enough to keep all threads busy, little enough to keep memory flat
BINS = 20  # bars of the length histogram


def tokenize_rows(
    rows: Path, folder: Path, reports: Path, tokenize: Tokenize, model: Model, cache: Path | None = None
) -> None:
    """Tokenize rows.parquet.

    Args:
        rows: canonical rows.
        folder: output folder for the Arrow files and manifest.
        reports: folder that gets tokenization.json (truncation, lengths) and length_distribution.csv.
        tokenize: the section.
        model: the section; names the tokenizer.
        cache: folder of tokens made before, for as many tokenizers as there are; None tokenizes all rows.

    Raises:
        SeqtrackError: rows or tokenizer are missing, max_length is more than the model can read, or rows are cut and
            tokenize.truncation is error.
    """
    source = resolve(model, weights=False)
    encoder = Encoder.load(source.folder, tokenize.max_length, trust_remote_code=model.trust_remote_code)
    try:
        file = pq.ParquetFile(rows, memory_map=True)
    except FileNotFoundError:
        raise SeqtrackError("file not found", where=str(rows), fix="run `dvc repro` to build it") from None
    with file, output_folder(folder) as out:
        total = file.metadata.num_rows
        say(f"tokenize: {total:,} rows with {source.name}, at most {tokenize.max_length} tokens each")
        with (
            shard_writer(out, token_types=encoder.has_token_types) as writer,
            progress("tokenize", total, "rows") as bar,
        ):
            for row_ids, encoded in encoded_batches(file, encoder, cache):
                writer.write(row_ids, encoded)
                bar.advance(len(row_ids))
        padding = dataclasses.asdict(encoder.padding)
        store = TokenStore(sorted(out.glob("*.arrow")), encoder.padding)
        check = judge_one("truncation", _truncation(store, rows, encoder), tokenize.truncation)
        show_checks((check,))
        if check.status == "fail":
            raise failure((check,), str(rows), "tokenize.truncation: warn")
        write_manifest(
            out,
            inputs={"rows": sha256_file(rows), "tokenizer": _tokenizer_digest(source.folder)},
            params={"max_length": tokenize.max_length, "model": source.name, "commit": source.commit},
            rows={"rows": total},
            padding=padding,
        )
    _report(store, reports, tokenize.max_length, check)


def encoded_batches(
    file: pq.ParquetFile, encoder: Encoder, cache: Path | None
) -> Iterator[tuple[pa.Array, pa.RecordBatch]]:
    """Yield all rows in order, as row ids and `tokens.token_columns`: from the cache where it has them.

    Rows are read, looked up and written while the tokenizer works on the next ones.
    """
    bulk = BulkEncoder(encoder)
    schema = token_schema(token_types=encoder.has_token_types)
    kept = None
    if cache is not None and (definition := bulk.definition) is not None:
        kept = TokenCache(cache, definition, schema)
    with ThreadPoolExecutor(bulk.threads) as pool:
        waiting: deque[Callable[[], tuple[pa.Array, pa.RecordBatch]]] = deque()
        for batch in file.iter_batches(BATCH_ROWS, columns=["row_id", "text", "text_pair"]):
            waiting.append(_start(batch, bulk, pool, kept))
            if len(waiting) > bulk.threads:
                yield waiting.popleft()()
        while waiting:
            yield waiting.popleft()()
    if kept is not None:
        kept.close()


def _start(
    batch: pa.RecordBatch, bulk: BulkEncoder, pool: Executor, kept: TokenCache | None
) -> Callable[[], tuple[pa.Array, pa.RecordBatch]]:
    """Start to tokenize the rows of a batch that are new; return what waits for them and gives all rows."""
    texts, pairs = batch["text"].to_pylist(), batch["text_pair"].to_pylist()
    if kept is None:
        encoding = pool.submit(bulk, texts, pairs)
        return lambda: (batch["row_id"], token_columns(encoding.result()))
    digests = text_digests(texts, pairs)
    places = kept.find(digests)
    new = np.flatnonzero(places < 0)
    fresh = pool.submit(bulk, [texts[row] for row in new], [pairs[row] for row in new])

    def finish() -> tuple[pa.Array, pa.RecordBatch]:
        rows = token_columns(fresh.result())
        if len(new):
            kept.add(digests[new], rows)
        if len(new) < len(batch):
            rows = kept.merge(places, rows)
        return batch["row_id"], rows

    return finish


def _tokenizer_digest(folder: Path) -> str:
    """Return one digest over the files that define a tokenizer."""
    names = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
    patterns = ("vocab*", "merges.txt", "*.model")
    files = sorted({folder / name for name in names} | {path for pattern in patterns for path in folder.glob(pattern)})
    total = hashlib.sha256()
    for file in files:
        if file.is_file():
            total.update(f"{file.name}\0{sha256_file(file)}\n".encode())
    return total.hexdigest()


def _truncation(store: TokenStore, rows: Path, encoder: Encoder) -> Finding:
    """Count the rows that are longer than max_length; the examples are the longest of them."""
    full, limit = store.full_lengths, encoder.max_length
    cut = np.flatnonzero(full > limit)
    if not len(cut):
        return Finding(count=0, message=f"no row has more than {limit} tokens; the longest has {full.max(initial=0):,}")
    lost = int((full[cut] - limit).sum(dtype=np.int64))
    usual = int(np.percentile(full, 99, method="higher"))
    most = encoder.tokenizer.model_max_length
    better = min(usual, most)
    if usual <= limit:
        fix = "look at the examples: these few rows may be something else than the rest"
    elif better > limit:
        left = int(np.count_nonzero(full > better))
        fix = f"set tokenize.max_length to {better}, which cuts {left:,} rows; training takes the longer for it"
    else:
        fix = f"divide long texts into rows, or choose a model that reads more than this one's {most:,} tokens"
    longest = np.sort(cut[np.argsort(-full[cut], kind="stable")][:MOST_EXAMPLES])
    found = rows_at(rows, longest, ("source", "line", "text", "text_pair")).to_pylist()
    return Finding(
        count=len(cut),
        message=f"rows ({len(cut) / len(full):.1%}) have more than {limit} tokens and are cut there: "
        f"{lost / full.sum(dtype=np.int64):.1%} of all tokens are lost",
        fix=fix,
        examples=tuple(
            Example(
                source=row["source"],
                line=row["line"],
                snippet=f"{full[position]:,} tokens: "
                + snippet(" | ".join(text for text in (row["text"], row["text_pair"]) if text is not None)),
            )
            for position, row in zip(longest, found, strict=True)
        ),
    )


def _report(store: TokenStore, reports: Path, max_length: int, check: CheckResult) -> None:
    full = store.full_lengths
    truncated = int(np.count_nonzero(full > store.lengths))
    rows = len(full)
    kept, all_tokens = int(store.lengths.sum()), int(full.sum(dtype=np.int64))
    percentiles = {f"p{q}": int(np.percentile(full, q, method="higher")) for q in (50, 90, 95, 99)} if rows else {}
    write_json(
        reports / "tokenization.json",
        {
            "check": dataclasses.asdict(check),
            "rows": rows,
            "max_length": max_length,
            "truncated_rows": truncated,
            "truncated_ratio": truncated / rows if rows else 0.0,
            "tokens": kept,
            "tokens_before_truncation": all_tokens,
            "lengths_before_truncation": {"max": int(full.max(initial=0)), **percentiles},
        },
    )
    write_text(reports / "length_distribution.csv", _histogram(full))
    facts(
        "tokenize",
        [
            ("rows", f"{rows:,}"),
            ("tokens", f"{kept:,} of {all_tokens:,} before truncation"),
            ("lengths", ", ".join(f"{name} {value}" for name, value in percentiles.items())),
        ],
    )


def _histogram(lengths: npt.NDArray[np.int32]) -> str:
    """Return rows by length as CSV: BINS equal bins up to the 99th percentile, and one for the few longer rows.

    One very long text would otherwise widen all bins until the usual lengths share a single one.
    """
    longest = int(lengths.max(initial=1))
    usual = int(np.percentile(lengths, 99, method="higher")) if len(lengths) else 1
    edges = np.unique(np.ceil(np.linspace(0, usual, BINS + 1)).astype(np.int64))
    if longest > usual:
        edges = np.append(edges, longest)
    # Bins include their upper end, as the column's name says.
    counts = np.diff(np.searchsorted(np.sort(lengths), edges, side="right"))
    lines = [f"{end},{count}\n" for end, count in zip(edges[1:], counts, strict=True)]
    return "tokens_up_to,rows\n" + "".join(lines)
