"""MinHash signatures of many sets at once, in numpy.

Promises: two sets agree in a slot with probability equal to their Jaccard similarity; a signature depends on its set
alone and is the same on every machine; the time is linear in the elements, however they are spread over the sets.

Broder, "On the resemblance and containment of documents", 1997; slots cut to 16 bits after Li and König, "b-Bit Minwise
Hashing", 2010, which lets unequal minima agree with a chance of 2**-16: noise for a search whose finds are verified.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.normalize import ShingleHashes, mix64

VERSION = 1  # of the signatures: what is stored under another version is not reused

_PIECE = 64  # elements looked at together: a longer set is cut, and the minima of its pieces merged
_BLOCK = 512  # pieces at once: their minima, slots x pieces x 4 bytes, stay in the second-level cache


def signatures(sets: ShingleHashes, slots: int) -> NDArray[np.uint16]:
    """Return the signature of each set, uint16, shape (slots, sets); an empty set has 0xffff ^ 0xffff everywhere.

    Slot i is the minimum over the set of (a_i x + b_i) mod 2**32 with a_i odd, folded to 16 bits; x is the upper half
    of an element's hash, which is as good as random, so that a linear function suffices as a permutation.
    """
    constants = mix64(np.arange(1, slots + 1, dtype=np.uint64))
    factor = (constants >> np.uint64(32)).astype(np.uint32)[:, None] | np.uint32(1)
    shift = constants.astype(np.uint32)[:, None]
    elements = (sets.hashes >> np.uint64(32)).astype(np.uint32)
    sizes = np.diff(sets.offsets)
    pieces = np.maximum((sizes + _PIECE - 1) // _PIECE, 1)
    first_piece = np.cumsum(pieces) - pieces
    within = np.arange(pieces.sum()) - np.repeat(first_piece, pieces)
    starts = np.repeat(sets.offsets[:-1], pieces) + within * _PIECE
    lengths = np.minimum(np.repeat(sets.offsets[1:], pieces) - starts, _PIECE)
    minima = np.empty((slots, len(starts)), np.uint32)
    order = np.argsort(-lengths, kind="stable")  # pieces of like length together, the longest first
    hashed = np.empty((slots, _BLOCK), np.uint32)
    for begin in range(0, len(order), _BLOCK):
        block = order[begin : begin + _BLOCK]
        lowest = np.full((slots, len(block)), 0xFFFFFFFF, np.uint32)
        remaining = len(block) - np.searchsorted(lengths[block][::-1], np.arange(_PIECE), side="right")
        for place, count in enumerate(remaining[remaining > 0].tolist()):
            values = hashed[:, :count]
            np.multiply(factor, elements[starts[block[:count]] + place], out=values)
            np.add(values, shift, out=values)
            np.minimum(lowest[:, :count], values, out=lowest[:, :count])
        minima[:, block] = lowest
    if len(starts) > len(sizes):
        minima = np.minimum.reduceat(minima, first_piece, axis=1)
    minima ^= minima >> np.uint32(16)
    return minima.astype(np.uint16)
