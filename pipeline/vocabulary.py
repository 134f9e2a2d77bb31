"""A tokenizer trained from texts alone, for languages that no tokenizer at hand knows.

Promises: its bytes are a function of the texts and the settings, whatever the number of threads. The trainers in the
`tokenizers` library do not keep that by themselves (they number pieces, and add up probabilities, in a hash table's
order), so here all that could depend on an order is sorted, and all that is added up is an integer.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tokenizers import (
    Tokenizer,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from pipeline.errors import SeqtrackError
from pipeline.params import TokenizerKind

WHERE = "params.yaml: model.from_scratch.vocab_size"
PAD, UNKNOWN, CLS, SEP, MASK = SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CONTINUED = "##"  # how WordPiece marks what does not begin a word
LONGEST_PIECE = 16  # characters of a unigram piece, as in SentencePiece
# Share of all characters in the texts that the vocabulary has; from rarer ones [UNK] is learnt. This is SentencePiece's
# value for languages with many characters (Kudo and Richardson, 2018, arXiv:1808.06226).
COVERAGE = 0.9995
OFTEN = 2  # times that two pieces stand side by side to be one
SPARE = 1.5  # unigram: pieces to choose from, as a multiple of those wanted
ROUNDS = 3  # unigram: estimates of the pieces' frequencies, before and again after the choice


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A tokenizer and what it was made of.

    Attributes:
        tokenizer: gives `[CLS] text [SEP]`, or `[CLS] text [SEP] pair [SEP]` with 1 as the type of the pair's tokens.
        characters: different characters in the vocabulary.
        left_out: different characters that were too rare for it.
    """

    tokenizer: Tokenizer
    characters: int
    left_out: int


def train_tokenizer(texts: Iterable[str], kind: TokenizerKind, vocab_size: int) -> Trained:
    """Train a tokenizer.

    Args:
        texts: what to learn from; read once.
        kind: `wordpiece`: BERT's, in which every Chinese character stands alone; `unigram`: pieces of several
            characters wherever they often stand together, in Chinese, too. Both ignore case.
        vocab_size: most pieces, special tokens included; small data may hold fewer.

    Raises:
        SeqtrackError: there is no text, or its characters alone are more than vocab_size.
    """
    tokenizer = Tokenizer(models.BPE())  # gives way to the trained model below
    if kind == "wordpiece":
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True, handle_chinese_chars=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    else:
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.NFKC(), normalizers.BertNormalizer(lowercase=True, handle_chinese_chars=False)]
        )
        # A blank belongs to the word behind it, so that words can be told from ends of words.
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Metaspace(prepend_scheme="never"), pre_tokenizers.Punctuation("isolated")]
        )
    words = _words(texts, tokenizer)
    characters, left_out = _characters(words)
    if not characters:
        raise SeqtrackError("no text in the train split to make a vocabulary of", where="data/splits/train.parquet")
    # A word with a character that is left out is unknown as a whole, or cut there: it teaches nothing about pieces.
    words = Counter({word: count for word, count in words.items() if characters.issuperset(word)})
    if kind == "wordpiece":
        tokenizer.model = _wordpiece(words, characters, vocab_size)
    else:
        tokenizer.model = _unigram(words, characters, vocab_size)
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{CLS} $A {SEP}",
        pair=f"{CLS} $A {SEP} $B:1 {SEP}:1",
        special_tokens=[(CLS, SPECIAL.index(CLS)), (SEP, SPECIAL.index(SEP))],
    )
    return Trained(tokenizer=tokenizer, characters=len(characters), left_out=left_out)


def _words(texts: Iterable[str], tokenizer: Tokenizer) -> Counter[str]:
    """Count what the normalizer and pre-tokenizer leave of the texts."""
    words: Counter[str] = Counter()
    for text in texts:
        normal = tokenizer.normalizer.normalize_str(text)
        words.update(word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal))
    return words


def _characters(words: Mapping[str, int]) -> tuple[frozenset[str], int]:
    """Return the most frequent characters, as many as COVERAGE needs, and the number of those left out."""
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for character in word:
            counts[character] += count
    kept: set[str] = set()
    missing = sum(counts.values()) * COVERAGE
    for character, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if missing <= 0:
            break
        kept.add(character)
        missing -= count
    return frozenset(kept), len(counts) - len(kept)


def _merged(
    words: Mapping[str, int], characters: frozenset[str], size: int, first: list[str], prefix: str
) -> list[str]:
    """Join the pieces that most often stand side by side, again and again (Sennrich et al., 2016, arXiv:1508.07909).

    Args:
        words: with their counts.
        characters: of which they consist.
        size: most pieces, single characters included.
        first: pieces to begin with, in this order.
        prefix: marks pieces that do not begin a word.

    Returns:
        `first`, the other characters in order, and what was joined, in the order of joining.
    """
    tokenizer = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=OFTEN,
        # Given before the words are read: the trainer numbers what it meets there in no particular order, and
        # the number decides between pairs that are equally frequent.
        special_tokens=first,
        initial_alphabet=sorted(characters),
        continuing_subword_prefix=prefix,
        show_progress=False,
    )
    tokenizer.train_from_iterator(([word] * count for word, count in words.items()), trainer)
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    return sorted(vocabulary, key=vocabulary.__getitem__)


def _require_room(needed: int, vocab_size: int) -> None:
    if needed > vocab_size:
        raise SeqtrackError(
            "too small for the characters of the train split",
            where=WHERE,
            expected=f"at least {needed:,} (special tokens and characters alone); several times that for pieces of "
            "more than one character",
            found=f"{vocab_size:,}",
        )


def _wordpiece(words: Mapping[str, int], characters: frozenset[str], vocab_size: int) -> models.WordPiece:
    inner = sorted({f"{CONTINUED}{character}" for word in words for character in word[1:]})
    _require_room(len(SPECIAL) + len(characters) + len(inner), vocab_size)
    pieces = _merged(words, characters, vocab_size, [*SPECIAL, *inner], CONTINUED)
    return models.WordPiece({piece: index for index, piece in enumerate(pieces)}, unk_token=UNKNOWN)


def _unigram(words: Mapping[str, int], characters: frozenset[str], vocab_size: int) -> models.Unigram:
    """Return a unigram language model over pieces (Kudo, 2018, arXiv:1804.10959).

    Pieces to choose from come from merging. Their frequencies are counted in the most likely segmentation, in turns:
    counts of whole pieces, so that no rounding error depends on the order of words.
    """
    _require_room(len(SPECIAL) + len(characters), vocab_size)
    merged = _merged(words, characters, round(vocab_size * SPARE), list(SPECIAL), "")
    pieces = {piece for piece in merged if len(piece) <= LONGEST_PIECE}.difference(SPECIAL)
    counts = dict.fromkeys(pieces, 1)  # all alike, so that the first round prefers few and long pieces
    for turn in range(2 * ROUNDS):
        counts = _recount(words, counts)
        if turn == ROUNDS - 1:
            ranked = sorted(pieces - characters, key=lambda piece: (-counts[piece], piece))
            chosen = characters.union(ranked[: vocab_size - len(SPECIAL) - len(characters)])
            counts = {piece: counts[piece] for piece in chosen}
    return _unigram_model(counts)


def _recount(words: Mapping[str, int], counts: Mapping[str, int]) -> dict[str, int]:
    """Return how often each piece stands in the most likely segmentation of all words."""
    tokenizer = Tokenizer(_unigram_model(counts))
    ids = tokenizer.get_vocab()
    by_id = [0] * len(ids)
    order = sorted(words)
    for word, encoding in zip(order, tokenizer.encode_batch_fast(order), strict=True):
        for piece in encoding.ids:
            by_id[piece] += words[word]
    return {piece: by_id[ids[piece]] for piece in counts}


def _unigram_model(counts: Mapping[str, int]) -> models.Unigram:
    total = sum(max(count, 0.5) for count in counts.values())
    # A piece that was never used is half as likely as one that was used once.
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    scores = [(piece, math.log(max(count, 0.5) / total)) for piece, count in ranked]
    return models.Unigram([*((token, 0.0) for token in SPECIAL), *scores], SPECIAL.index(UNKNOWN), False)
