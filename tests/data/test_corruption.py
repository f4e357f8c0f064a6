"""Objectives that corrupt a text: worked examples by hand, what they conserve, and how much they take."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headtohead.data.corpora import Document
from headtohead.data.objectives import (
    KINDS,
    UL2,
    BlankInfilling,
    Codes,
    Denoising,
    Draws,
    GapSentences,
    MaskedLM,
    Objective,
    Restoration,
    SpanCorruption,
    T5Gemma2Mixture,
    UniLM,
    examples,
    objective,
)
from headtohead.data.objectives.blanks import blanked
from headtohead.data.objectives.gaps import by_rouge, by_subsequence
from headtohead.data.objectives.holes import hidden
from headtohead.data.objectives.noise import infilled
from headtohead.data.objectives.spans import Denoiser, corrupted
from headtohead.data.objectives.words import is_word, sentences, words
from headtohead.data.shards import SPECIAL, Example, ExampleStore
from headtohead.data.tokenizers import ByteTokenizer, Tokenizer, train_tokenizer
from headtohead.errors import UserError

from .rebuilding import from_holes, from_places, from_sentinels
from .small import documents, prose

WINDOW = 128
ANY_TEXT = st.text(
    st.characters(exclude_categories=["Cs"]) | st.sampled_from("ab c. d! \n漢字。是的，é😀"),
    min_size=1,
    max_size=100,
)
CORRUPTING: tuple[Objective, ...] = (
    SpanCorruption(),
    SpanCorruption(rate=0.5, mean=8),
    UL2(),
    T5Gemma2Mixture(),
    MaskedLM(),
    MaskedLM(rate=0.3, replace="mask", whole_words=True),
    UniLM(),
    BlankInfilling(),
    BlankInfilling(spans="sentences"),
    BlankInfilling(spans="document"),
    Denoising(),
    Denoising(permute=False, rotate=True, delete=0.2, masks="tokens", mask=0.15),
    GapSentences(),
    GapSentences(score="lcs", rate=0.25, blanks=False),
    Restoration(removed="order"),
)


def tokenizer_of(kind: Objective) -> Tokenizer:
    return ByteTokenizer(kind.specials(4 * WINDOW))


def made(kind: Objective, window: str, tokenizer: Tokenizer) -> Example:
    ids = tokenizer.encode_many(kind.texts(window))
    return kind.make(window, ids, Codes(tokenizer)).example(0, kind.region)


def name(kind: Objective) -> str:
    return str(kind).replace(" ", ",")


# ------------------------------------------------------------------------------------------------------------
# By hand.


def test_span_corruption_by_hand() -> None:
    text, X, Y = [10, 11, 12, 13, 14, 15], 90, 91
    assert corrupted(text, [(1, 3), (5, 6)], [X, Y]) == (
        [10, X, 13, 14, Y],
        [X, 11, 12, Y, 15],
        [SPECIAL, 1, 1, SPECIAL, 4],
    )


def test_blank_infilling_by_hand() -> None:
    text, MASK, END = [10, 11, 12, 13, 14, 15], 90, 91
    assert blanked(text, [(2, 3), (4, 6)], [1, 0], MASK, END) == (
        [10, 11, MASK, 13, MASK],
        [14, 15, END, 12],
        [4, 4, SPECIAL, 2],
    )


def test_text_infilling_by_hand() -> None:
    assert infilled([10, 11, 12, 13], [(1, 2), (3, 0)], 90) == [10, 90, 90, 13]
    assert infilled([10, 11], [(0, 0), (2, 0)], 90) == [90, 10, 11, 90]


def test_masking_by_hand() -> None:
    codes = Codes(ByteTokenizer(("<fill>", "<mask>")))
    text = [10, 11, 12, 13]
    assert hidden(text, [1, 3], "mask", Draws(0, ""), codes) == [10, codes["<mask>"], 12, codes["<mask>"]]


def test_gap_sentences_by_hand() -> None:
    pieces = ["The cat sat. ", "It rained. ", "A cat sat down."]
    # cat and sat are shared: 2 of 3 words with 6 others (F1 4/9), none of 2, 2 of 4 with 5 others (F1 4/9).
    assert by_rouge(pieces, 1) == [0]
    assert by_rouge(pieces, 2) == [0, 2]
    # One alone: (cat sat) is in the rest for the first and the last; then "It rained." adds nothing to either.
    assert by_subsequence(pieces, 1) == [0]
    window = "".join(pieces)
    e = made(GapSentences(rate=0.3), window, tokenizer := tokenizer_of(GapSentences()))
    mask = Codes(tokenizer)["<mask>"]
    assert e.input.tolist() == [mask, *tokenizer.encode("It rained. A cat sat down.")]
    assert tokenizer.decode(e.output.tolist()) == "The cat sat. "
    without = made(GapSentences(rate=0.3, blanks=False), window, tokenizer)
    assert without.input.tolist() == tokenizer.encode("It rained. A cat sat down.")


def test_rouge_is_chosen_over_the_longest_subsequence_where_order_matters() -> None:
    pieces = ["a b c d. ", "d c b a. ", "a x b y c z e. "]
    assert by_rouge(pieces, 1) == [0] and by_subsequence(pieces, 1) == [0]
    mixed = ["d c b a. ", "a b c d x y. ", "a b c d. "]
    assert by_rouge(mixed, 1) == [0]  # all of its words are in the rest
    assert by_subsequence(mixed, 1) == [1]  # but in no such order


def test_restoration_of_order_by_hand() -> None:
    pytest.importorskip("jieba")
    assert Restoration(removed="order").cut("我们研究语言。") == ("们我研究言语。", "我们研究语言。")


def test_words_and_sentences_by_hand() -> None:
    assert words("It's 3 o'clock, naïve!") == ["It's", " ", "3", " ", "o'clock", ",", " ", "naïve", "!"]
    assert [w for w in words("It's 3, ok") if is_word(w)] == ["It's", "3", "ok"]
    assert sentences("One. Two!  Three") == ["One. ", "Two!  ", "Three"]
    assert sentences("他来了。我走了！好") == ["他来了。", "我走了！", "好"]
    assert sentences("first, second; third") == ["first, ", "second; ", "third"]
    assert sentences("3.14 is pi. Yes") == ["3.14 is pi. ", "Yes"]


def test_chinese_words_are_those_of_jieba() -> None:
    pytest.importorskip("jieba")
    assert words("我们研究语言。") == ["我们", "研究", "语言", "。"]


# ------------------------------------------------------------------------------------------------------------
# What is conserved.


@given(text=ANY_TEXT)
def test_words_and_sentences_join_to_the_text(text: str) -> None:
    assert "".join(words(text)) == text
    assert "".join(sentences(text)) == text


@pytest.mark.parametrize("kind", CORRUPTING, ids=name)
@settings(max_examples=60, deadline=None)
@given(window=ANY_TEXT)
def test_input_and_output_give_back_the_window(kind: Objective, window: str) -> None:
    tokenizer = tokenizer_of(kind)
    e, whole = made(kind, window, tokenizer), tokenizer.encode(window)
    codes = Codes(tokenizer)
    assert len(e.output) and e.output_bytes == codes.bytes_of(e.output[e.text])
    assert e.input_bytes + e.output_bytes >= len(window.encode())
    match kind:
        case SpanCorruption() | UL2() | T5Gemma2Mixture():
            assert from_places(e) == from_sentinels(e, codes) == whole
        case BlankInfilling():
            assert from_places(e) == whole
        case MaskedLM():
            assert from_holes(e) == whole
        case UniLM():
            assert from_holes(e) in (whole, whole[::-1])
        case Denoising() | Restoration():
            assert e.output.tolist() == whole
        case GapSentences(blanks=True):
            pieces = iter(
                tokenizer.encode_many([kind.texts(window)[i] for i in kind.chosen(kind.texts(window))])
            )
            mask = codes["<mask>"]
            assert [x for t in e.input.tolist() for x in (next(pieces) if t == mask else [t])] == whole
        case GapSentences():
            assert sorted([*e.input.tolist(), *e.output.tolist()]) == sorted(whole)
        case _:
            pytest.fail(f"{kind} promises nothing that is tested")


@pytest.mark.parametrize("kind", CORRUPTING, ids=name)
def test_a_window_is_corrupted_in_one_way(kind: Objective) -> None:
    """Whoever reads it, in whatever order; and another seed in another."""
    tokenizer = tokenizer_of(kind)
    windows = [prose(i, WINDOW)[:WINDOW] for i in range(12)]
    first = [made(kind, w, tokenizer) for w in windows]
    again = [made(kind, w, tokenizer) for w in reversed(windows)][::-1]
    for a, b in zip(first, again, strict=True):
        assert a.input.tolist() == b.input.tolist() and a.output.tolist() == b.output.tolist()
    if "seed" in type(kind).model_fields:
        other = [made(kind.model_copy(update={"seed": 1}), w, tokenizer) for w in windows]
        assert any(a.output.tolist() != b.output.tolist() or a.input.tolist() != b.input.tolist()
                   for a, b in zip(first, other, strict=True))  # fmt: skip


@pytest.mark.parametrize("kind", CORRUPTING, ids=name)
def test_stores_keep_examples_as_they_are(kind: Objective, tmp_path) -> None:
    tokenizer = tokenizer_of(kind)
    found = examples(documents(3, 900), [kind], tokenizer, WINDOW)
    found.save(tmp_path, "train")
    again = ExampleStore.open(tmp_path, "train")
    for e, f in zip(found, again, strict=True):
        assert e.held == f.held and e.in_place == f.in_place and e.region == f.region == kind.region
        for one, two in ((e.input, f.input), (e.output, f.output), (e.shown, f.shown)):
            assert np.array_equal(one, two)
        assert (e.where is None) == (f.where is None)
        assert e.where is None or (f.where is not None and np.array_equal(e.where, f.where))
    assert [e.held for e in found] == list(
        zip(found.lengths_in.tolist(), found.lengths_out.tolist(), strict=True)
    )


# ------------------------------------------------------------------------------------------------------------
# How much is taken.


@given(length=st.integers(2, 600), rate=st.floats(0.05, 0.9), mean=st.floats(1, 70), seed=st.integers(0, 99))
def test_spans_are_as_many_and_as_long_as_t5s(length: int, rate: float, mean: float, seed: int) -> None:
    spans = Denoiser(mean, rate, "").spans(length, Draws(seed, "x"), 100)
    missing = min(max(round(length * rate), 1), length - 1)
    assert sum(end - start for start, end in spans) == missing
    assert len(spans) == min(max(round(missing / mean), 1), missing, length - missing, 100)
    assert spans[0][0] > 0 and spans[-1][1] == length
    assert all(a[1] < b[0] for a, b in pairwise(spans))


def test_ul2_draws_its_seven_denoisers_equally() -> None:
    tokenizer = tokenizer_of(UL2())
    codes = Codes(tokenizer)
    modes = [made(UL2(), prose(i, 256)[:256], tokenizer).mode for i in range(1400)]
    shares = [modes.count(codes[m]) / len(modes) for m in ("<r>", "<s>", "<x>")]
    assert np.allclose(shares, [2 / 7, 1 / 7, 4 / 7], atol=0.04)
    kinds = [(d.mean, d.rate, d.mode) for d, _ in UL2().denoisers]
    assert kinds == [(3, 0.15, "<r>"), (8, 0.15, "<r>"), (0.25, 0.25, "<s>"), (3, 0.5, "<x>"), (8, 0.5, "<x>"),
                     (64, 0.15, "<x>"), (64, 0.5, "<x>")]  # fmt: skip


def test_the_s_denoiser_takes_a_quarter_from_the_end() -> None:
    denoiser = Denoiser(0.25, 0.25, "<s>", at_end=True)
    spans = [denoiser.spans(200, Draws(i, "w"), 100) for i in range(2000)]
    assert all(len(s) == 1 and s[0][1] == 200 for s in spans)
    assert np.mean([s[0][1] - s[0][0] for s in spans]) == pytest.approx(50, rel=0.04)


def test_t5gemma2_takes_half_its_windows_as_one_span_of_three_quarters() -> None:
    tokenizer = tokenizer_of(T5Gemma2Mixture())
    found = [made(T5Gemma2Mixture(), prose(i, 256)[:256], tokenizer) for i in range(600)]
    lengths = [len(from_places(e)) for e in found]
    long = [e for e, n in zip(found, lengths, strict=True) if e.text.sum() == round(0.75 * n)]
    assert 0.44 < len(long) / len(found) < 0.56
    assert all((~e.text).sum() == 1 for e in long)


def test_masking_takes_its_rate_and_replaces_by_eighty_ten_ten() -> None:
    kind = MaskedLM()
    tokenizer = tokenizer_of(kind)
    mask = Codes(tokenizer)["<mask>"]
    masked = same = other = total = 0
    for i in range(300):
        window = prose(i, 200)[:200]
        ids = tokenizer.encode(window)
        e = made(kind, window, tokenizer)
        assert len(e.output) == round(0.15 * len(ids))
        assert e.where is not None
        seen = e.input[e.where]
        total += len(seen)
        masked += int((seen == mask).sum())
        same += int((seen == e.output).sum())
        other += int(((seen != mask) & (seen != e.output)).sum())
        untouched = np.ones(len(ids), bool)
        untouched[e.where] = False
        assert np.array_equal(e.input[untouched], np.array(ids)[untouched])
    assert np.allclose([masked / total, same / total, other / total], [0.8, 0.1, 0.1], atol=0.015)


def test_whole_words_are_hidden_whole() -> None:
    kind = MaskedLM(rate=0.3, replace="mask", whole_words=True)
    training = [prose(i, 4000) for i in range(3)]
    tokenizer = train_tokenizer(training, 400, kind.specials(WINDOW))
    several = 0
    for i in range(40):
        window = prose(i, WINDOW)[:WINDOW]
        e = made(kind, window, tokenizer)
        assert e.where is not None
        ids = tokenizer.encode(window)
        starts = np.concatenate([[0], np.cumsum(tokenizer.sizes[ids])])
        hidden_bytes = np.zeros(len(window.encode()), bool)
        for place in e.where:
            hidden_bytes[starts[place] : starts[place + 1]] = True
        at = 0
        for word in words(window):
            size = len(word.encode())
            if is_word(word):
                part = hidden_bytes[at : at + size]
                assert part.all() or not part.any(), (word, window)
                several += int(part.all())
            at += size
    assert several > 100


def test_unilm_sees_in_four_ways() -> None:
    kind = UniLM()
    tokenizer = tokenizer_of(kind)
    codes = Codes(tokenizer)
    found = [made(kind, prose(i, 120)[:120], tokenizer) for i in range(900)]
    shares = [np.mean([e.mode == codes[m] for e in found]) for m in UniLM.MODES]
    assert np.allclose(shares, [1 / 3, 1 / 3, 1 / 6, 1 / 6], atol=0.05)
    for e in found:
        length = len(e.input) + len(e.shown)
        halves = {codes["<whole>"]: length, codes["<pair-holes>"]: length // 2}
        assert len(e.input) == halves.get(e.mode, 0)
        assert e.where is not None and len(e.where) == round(0.15 * length)


def test_glm_takes_its_share_in_spans_of_mean_three_and_shuffles_them() -> None:
    kind = BlankInfilling()
    tokenizer = tokenizer_of(kind)
    lengths, ascending = [], 0
    for i in range(300):
        e = made(kind, prose(i, 400)[:400], tokenizer)
        assert e.where is not None
        text = e.where[e.text]
        assert e.text.sum() == round(0.15 * len(from_places(e)))
        places = [int(p) for n, p in enumerate(text) if n == 0 or p != text[n - 1]]
        assert len(places) == (~e.text).sum() + 1 == len(set(places))
        ascending += places == sorted(places)
        lengths += [int((text == p).sum()) for p in places]
    assert np.mean(lengths) == pytest.approx(3.1, abs=0.25)  # Poisson 3, a length of 0 counted as 1
    assert ascending < 5


def test_bart_hides_three_tenths_in_spans_and_permutes_sentences() -> None:
    kind = Denoising(permute=False)
    tokenizer = tokenizer_of(kind)
    mask = Codes(tokenizer)["<mask>"]
    gone = []
    for i in range(200):
        e = made(kind, prose(i, 300)[:300], tokenizer)
        gone.append(1 - (e.input != mask).sum() / len(e.output))
    assert np.mean(gone) == pytest.approx(0.3, abs=0.01)
    only = Denoising(mask=0.0)
    e = made(only, "One. Two! Three? Four. Five.", tokenizer)
    assert sorted(e.input.tolist()) == sorted(e.output.tolist()) and e.input.tolist() != e.output.tolist()


# ------------------------------------------------------------------------------------------------------------
# Files.


def test_every_kind_can_be_named() -> None:
    for word, kind in KINDS.items():
        assert isinstance(objective(word), kind)
        assert objective({"kind": word}) == objective(word)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("span", "no objective is called 'span'"),
        ({"kind": "masked", "rat": 0.2}, "rat"),
        ({"kind": "masked", "rate": 1.5}, "rate"),
        ({"rate": 0.15}, "no objective is called None"),
    ],
)
def test_what_is_no_objective_is_one_line(value: object, message: str) -> None:
    with pytest.raises(UserError, match=message) as told:
        objective(value)  # type: ignore[arg-type]
    assert "\n" not in str(told.value)


def test_a_mixture_of_objectives_shares_the_windows() -> None:
    kinds = (SpanCorruption(), MaskedLM(), GapSentences())
    specials = tuple(dict.fromkeys(s for kind in kinds for s in kind.specials(WINDOW)))
    store = examples([Document("a", prose(1, 3000), "a")], kinds, ByteTokenizer(specials), WINDOW)
    counts = [len(store.region_of(kind.region)) for kind in kinds]
    assert sum(counts) == len(store) and max(counts) - min(counts) <= 1
