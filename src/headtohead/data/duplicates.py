"""Near-duplicate texts, found in time that grows with the text: for splits that must not share any."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from headtohead.data.shards import mix

DUPLICATE = 0.5  # estimated Jaccard similarity from which two texts are near-duplicates
SHINGLE = 16  # bytes of lower-case text with single spaces: about three words
SKETCH = 512  # least hashes kept of a text


def near_duplicates(texts: Sequence[str], threshold: float = DUPLICATE) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, that link texts to their near-duplicates; groups follow by chaining.

    A text's sketch is the 512 least hashes of its 16-byte shingles (bottom-k MinHash, Broder 1997). The share
    of the union's 512 least that both sketches hold estimates the Jaccard similarity, within about 0.02.
    Shingles that many texts hold are phrases of the genre ("translate into French: ") and do not count. Only
    neighbours in the list of texts that hold one and the same hash are compared, so the work grows with the
    text and not with the square of their number.
    """
    plain = [" ".join(text.lower().split()) for text in texts]
    first: dict[str, int] = {}
    links = [(first[text], i) for i, text in enumerate(plain) if first.setdefault(text, i) != i]
    distinct = sorted(first.values())
    sketches = [_sketch(plain[i]) for i in distinct]
    # A full sketch knows its text's hashes up to its last one, a shorter one knows them all.
    known = [int(s[-1]) if len(s) == SKETCH else 2**64 - 1 for s in sketches]
    sketches = _without_phrases(sketches)
    hashes, owners = _flat(sketches)
    shared = hashes[1:] == hashes[:-1]
    candidates = np.stack([owners[:-1][shared], owners[1:][shared]], axis=1)
    pairs, counts = np.unique(candidates, axis=0, return_counts=True)
    sizes = np.array([len(s) for s in sketches], np.int64)
    # Alike, two texts share half or more of the lesser sketch; a quarter of that will do to look closer,
    # since a third text that stands between them in a hash's list takes that hash out of the count.
    close = pairs[counts >= 0.25 * threshold * sizes[pairs].min(axis=1)]
    for i, j in close.tolist():
        if _jaccard(sketches[i], sketches[j], min(known[i], known[j])) >= threshold:
            links.append((distinct[i], distinct[j]))
    return links


def _flat(sketches: Sequence[npt.NDArray[np.uint64]]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """All hashes in order, equal ones by owner, and the number of the sketch that holds each."""
    hashes = np.concatenate([np.empty(0, np.uint64), *sketches])
    owners = np.repeat(np.arange(len(sketches)), [len(s) for s in sketches])
    sort = np.lexsort((owners, hashes))
    return hashes[sort], owners[sort]


def _without_phrases(sketches: list[npt.NDArray[np.uint64]]) -> list[npt.NDArray[np.uint64]]:
    """Sketches without the hashes that more than a twentieth of them (and more than 8) hold."""
    hashes, counts = np.unique(_flat(sketches)[0], return_counts=True)
    phrases = hashes[counts > max(8, len(sketches) / 20)]
    return [np.setdiff1d(sketch, phrases, assume_unique=True) for sketch in sketches]


def _jaccard(one: npt.NDArray[np.uint64], two: npt.NDArray[np.uint64], known: int) -> float:
    """The share of the hashes up to `known`, that either text has, that both have."""
    one, two = one[one <= known], two[two <= known]
    both = len(np.intersect1d(one, two, assume_unique=True))
    return both / max(1, len(one) + len(two) - both)


def _sketch(plain: str) -> npt.NDArray[np.uint64]:
    """The least hashes of a text's shingles, sorted; a text shorter than a shingle has one hash, of all of
    it.
    """
    data = np.frombuffer(plain.encode(), np.uint8).astype(np.uint64) + np.uint64(1)
    if len(data) < SHINGLE:
        data = np.concatenate([data, np.zeros(SHINGLE - len(data), np.uint64)])
    base, width = 0x9E3779B97F4A7C15, 1
    while width < SHINGLE:  # a polynomial hash, modulo 2^64, of 2w bytes from two of w bytes
        data = data[:-width] * np.uint64(base) + data[width:]
        base, width = base * base % 2**64, 2 * width
    hashes = mix(data)
    if len(hashes) > 4 * SKETCH:  # sort only the least of them, unless repeats leave too few
        least = np.unique(np.partition(hashes, 4 * SKETCH)[: 4 * SKETCH])
        if len(least) >= SKETCH:
            return least[:SKETCH]
    return np.unique(hashes)[:SKETCH]
