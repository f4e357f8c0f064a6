"""Every objective on a text that is read byte by byte, with what chance chose: input, output and places by hand."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from headtohead.data.objectives import (
    KINDS,
    UL2,
    BlankInfilling,
    CausalLM,
    Codes,
    Denoising,
    GapSentences,
    MaskedLM,
    Objective,
    PrefixLM,
    Restoration,
    SpanCorruption,
    T5Gemma2Mixture,
    UniLM,
    blanks,
    holes,
    noise,
    spans,
)
from headtohead.data.shards import SPECIAL, Example
from headtohead.data.tokenizers import ByteTokenizer

X, Y = "<extra_id_0>", "<extra_id_1>"
NO = SPECIAL
Drawn = tuple[str, tuple[Any, ...], Any]
"""A method of `Draws`, what it is asked (the settings of a choice are left out), and what it answers."""
Worked = Callable[..., Example]


class Given:
    """`Draws` whose every answer is written down."""

    def __init__(self, drawn: Sequence[Drawn]) -> None:
        self.left = list(drawn)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def answer(*asked: Any) -> Any:
            assert self.left, f"{name}{asked} is not written down"
            method, wanted, found = self.left.pop(0)
            assert (method, wanted) == (name, asked if name in ("below", "sample", "parts") else ())
            return [asked[0][i] for i in found] if name == "shuffled" else found

        return answer


@pytest.fixture
def worked(monkeypatch: pytest.MonkeyPatch) -> Worked:
    """Makes an example by the drawn choices, all of which must be asked for, and compares it with what is told."""

    def work(
        kind: Objective, window: str, drawn: Sequence[Drawn], *, input: str, output: str, mode: str,
        shown: str = "", where: Sequence[int] | None = None,
    ) -> Example:  # fmt: skip
        given = Given(drawn)
        for module in (spans, holes, noise, blanks):
            monkeypatch.setattr(module, "Draws", lambda seed, text: given)
        tokenizer = ByteTokenizer(kind.specials(64))
        codes = Codes(tokenizer)
        e = kind.make(window, tokenizer.encode_many(kind.texts(window)), codes).example(0, kind.region)
        assert not given.left
        assert e.input.tolist() == ids(input, tokenizer, codes)
        assert e.output.tolist() == ids(output, tokenizer, codes)
        assert e.shown.tolist() == ids(shown, tokenizer, codes)
        assert (None if e.where is None else e.where.tolist()) == where
        assert e.mode == codes[mode]
        return e

    return work


def ids(text: str, tokenizer: ByteTokenizer, codes: Codes) -> list[int]:
    """Text in which special tokens are written by their names."""
    pieces = re.split(r"(<[a-z][a-z0-9_-]*>)", text)
    return [i for piece in pieces for i in ([codes[piece]] if piece[:1] == "<" else tokenizer.encode(piece))]


def test_every_objective_is_worked_here() -> None:
    here = {CausalLM, PrefixLM, Restoration, SpanCorruption, UL2, T5Gemma2Mixture, MaskedLM, UniLM,
            BlankInfilling, Denoising, GapSentences}  # fmt: skip
    assert here == set(KINDS.values())


def test_causal_lm_is_all_output(worked: Worked) -> None:
    e = worked(CausalLM(), "of the people", [], input="", output="of the people", mode="<text>")
    assert (e.input_bytes, e.output_bytes, e.ends) == (0, 13, False)


def test_prefix_lm_cuts_before_a_space(worked: Worked) -> None:
    """13 bytes: the sixth is the middle, and a space is there."""
    e = worked(PrefixLM(), "of the people", [], input="of the", output=" people", mode="<continue>")
    assert (e.input_bytes, e.output_bytes, e.ends) == (6, 7, False)


def test_restoration_gives_the_vowels_back(worked: Worked) -> None:
    e = worked(Restoration(), "Every Island", [], input="vry slnd", output="Every Island", mode="<restore>")
    assert (e.input_bytes, e.output_bytes, e.ends) == (8, 12, True)


# 40 tokens, 15 % of them 6, in spans of 3: two spans. 34 kept tokens as 4 + 30, 6 missing ones as 2 + 4.
FORTY = "abcdefghijklmnopqrstuvwxyz0123456789ABCD"
TWO_SPANS: dict[str, Any] = {
    "input": f"abcd{X}ghijklmnopqrstuvwxyz0123456789{Y}",
    "output": f"{X}ef{Y}ABCD",
    "where": [NO, 4, 4, NO, 35, 35, 35, 35],
}
PARTED: list[Drawn] = [("parts", (34, 2), [4, 30]), ("parts", (6, 2), [2, 4])]


def test_span_corruption(worked: Worked) -> None:
    e = worked(SpanCorruption(), FORTY, PARTED, mode="<denoise>", **TWO_SPANS)
    assert (e.input_bytes, e.output_bytes, e.ends) == (34, 6, True)
    assert e.text.tolist() == [False, True, True, False, True, True, True, True]


def test_ul2_r_denoiser_takes_few_short_spans(worked: Worked) -> None:
    worked(UL2(), FORTY, [("choice", (), 0), *PARTED], mode="<r>", **TWO_SPANS)


def test_ul2_s_denoiser_takes_the_end(worked: Worked) -> None:
    """20 tokens, a quarter is 5: lengths of 1 to 9 are equally likely, and it is 1 + 4."""
    worked(
        UL2(), "abcdefghijklmnopqrst", [("choice", (), 2), ("below", (9,), 4)], mode="<s>",
        input=f"abcdefghijklmno{X}", output=f"{X}pqrst", where=[NO, 15, 15, 15, 15, 15],
    )  # fmt: skip


def test_ul2_x_denoiser_takes_many_short_spans(worked: Worked) -> None:
    """12 tokens, half of them in spans of 3: two spans; kept 1 + 5, missing 4 + 2."""
    worked(
        UL2(), "abcdefghijkl",
        [("choice", (), 3), ("parts", (6, 2), [1, 5]), ("parts", (6, 2), [4, 2])], mode="<x>",
        input=f"a{X}fghij{Y}", output=f"{X}bcde{Y}kl", where=[NO, 1, 1, 1, 1, NO, 7, 7],
    )  # fmt: skip


def test_ul2_x_denoiser_takes_one_long_span(worked: Worked) -> None:
    """12 tokens, half of them in spans of 64: one span of 6."""
    worked(
        UL2(), "abcdefghijkl",
        [("choice", (), 6), ("parts", (6, 1), [6]), ("parts", (6, 1), [6])], mode="<x>",
        input=f"abcdef{X}", output=f"{X}ghijkl", where=[NO, 6, 6, 6, 6, 6, 6],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("choice", "mode", "drawn", "input", "output", "where"),
    [
        # Spans of 3, 15 % of 20 tokens: one span of 3.
        (0, "<r>", [("parts", (17, 1), [17]), ("parts", (3, 1), [3])],
         f"abcdefghijklmnopq{X}", f"{X}rst", [NO, 17, 17, 17]),
        # Spans of 12, half of 20: 10 / 12 is nearest to one span.
        (1, "<x>", [("parts", (10, 1), [10]), ("parts", (10, 1), [10])],
         f"abcdefghij{X}", f"{X}klmnopqrst", [NO, *[10] * 10]),
        # Spans of 32, 15 %.
        (2, "<x>", [("parts", (17, 1), [17]), ("parts", (3, 1), [3])],
         f"abcdefghijklmnopq{X}", f"{X}rst", [NO, 17, 17, 17]),
        # Spans of 32, half.
        (3, "<x>", [("parts", (10, 1), [10]), ("parts", (10, 1), [10])],
         f"abcdefghij{X}", f"{X}klmnopqrst", [NO, *[10] * 10]),
        # One span of three quarters: 15 of 20.
        (4, "<x>", [("parts", (5, 1), [5]), ("parts", (15, 1), [15])],
         f"abcde{X}", f"{X}fghijklmnopqrst", [NO, *[5] * 15]),
    ],
    ids=["short", "half by 12", "long", "half by 32", "three quarters"],
)  # fmt: skip
def test_t5gemma2(
    choice: int, mode: str, drawn: list[Drawn], input: str, output: str, where: list[int], worked: Worked
) -> None:
    given = [("choice", (), choice), *drawn]
    worked(
        T5Gemma2Mixture(), "abcdefghijklmnopqrst", given, mode=mode, input=input, output=output, where=where
    )


def test_masked_lm_at_a_plain_rate(worked: Worked) -> None:
    """A quarter of 8 tokens."""
    e = worked(
        MaskedLM(rate=0.25, replace="mask"), "abcdefgh", [("sample", (8, 2), [1, 6])], mode="<fill>",
        input="a<mask>cdef<mask>h", output="bg", where=[1, 6],
    )  # fmt: skip
    assert e.in_place and (e.input_bytes, e.output_bytes, e.ends) == (6, 2, False)


def test_masked_lm_as_berts(worked: Worked) -> None:
    """Below 0.8 a mask, below 0.9 any byte (here z), else the token itself: all three are answered."""
    drawn: list[Drawn] = [
        ("sample", (8, 3), [0, 3, 5]), ("uniform", (), 0.79), ("uniform", (), 0.85), ("below", (256,), ord("z")),
        ("uniform", (), 0.95),
    ]  # fmt: skip
    worked(
        MaskedLM(rate=0.375),
        "abcdefgh",
        drawn,
        mode="<fill>",
        input="<mask>bczefgh",
        output="adf",
        where=[0, 3, 5],
    )


def test_masked_lm_by_whole_words(worked: Worked) -> None:
    """A quarter of 13 tokens is 3: of one, two, three (in the order two, one, three) the first is enough."""
    worked(
        MaskedLM(rate=0.25, replace="mask", whole_words=True), "one two three", [("shuffled", (), [1, 0, 2])],
        mode="<fill>", input="one <mask><mask><mask> three", output="two", where=[4, 5, 6],
    )  # fmt: skip


# 15 % of 10 tokens, rounded, are 2 holes: at 3 (one token), and at 7 a long one of which one token is left.
APART: list[Drawn] = [
    ("below", (10,), 3), ("uniform", (), 0.5), ("below", (10,), 7), ("uniform", (), 0.1), ("below", (2,), 1),
    ("uniform", (), 0.3), ("uniform", (), 0.85), ("below", (256,), ord("z")),
]  # fmt: skip


@pytest.mark.parametrize(
    ("way", "mode", "input", "shown", "output"),
    [
        (0, "<whole>", "abc<mask>efgzij", "", "dh"),
        (1, "<pair-holes>", "abc<mask>e", "fgzij", "dh"),
        (2, "<forward>", "", "abc<mask>efgzij", "dh"),
        (3, "<backward>", "", "jih<mask>fedzba", "gc"),
    ],
)
def test_unilm_sees_a_text_in_four_ways(
    way: int, mode: str, input: str, shown: str, output: str, worked: Worked
) -> None:
    e = worked(
        UniLM(), "abcdefghij", [("choice", (), way), *APART], mode=mode, input=input, shown=shown, output=output,
        where=[3, 7],
    )  # fmt: skip
    assert e.in_place and not e.ends


def test_unilm_hides_two_tokens_in_a_row(worked: Worked) -> None:
    drawn: list[Drawn] = [
        ("choice", (), 0), ("below", (10,), 3), ("uniform", (), 0.1), ("below", (2,), 0), ("uniform", (), 0.3),
        ("uniform", (), 0.3),
    ]  # fmt: skip
    worked(
        UniLM(), "abcdefghij", drawn, mode="<whole>", input="abc<mask><mask>fghij", output="de", where=[3, 4]
    )


def test_glm_fills_short_blanks_in_any_order(worked: Worked) -> None:
    """3 tokens of 10, as spans of 1 and of 2 (5 cut down). 6 tokens are free beside the one between the spans:
    2 before, 1 more between, 3 after, drawn as parts of 9 from 1 up. The second span is written first.
    """
    drawn: list[Drawn] = [
        ("poisson", (), 1), ("poisson", (), 5), ("parts", (9, 3), [3, 2, 4]), ("shuffled", (), [1, 0]),
    ]  # fmt: skip
    e = worked(
        BlankInfilling(rate=0.3), "abcdefghij", drawn, mode="<infill>",
        input="ab<mask>de<mask>hij", output="fg<blank-end>c", where=[5, 5, NO, 2],
    )  # fmt: skip
    assert (e.input_bytes, e.output_bytes, e.ends) == (7, 3, True)


def test_glm_fills_sentences(worked: Worked) -> None:
    worked(
        BlankInfilling(spans="sentences"), "One. Two. Six.", [("shuffled", (), [1, 0, 2]), ("shuffled", (), [0])],
        mode="<infill>", input="One. <mask>Six.", output="Two. ", where=[5] * 5,
    )  # fmt: skip


def test_glm_fills_one_long_blank(worked: Worked) -> None:
    """Half of 10 tokens and 0.4 of the other half: 7, at one of the places 0 to 3."""
    worked(
        BlankInfilling(spans="document"), "abcdefghij",
        [("uniform", (), 0.4), ("below", (4,), 1), ("shuffled", (), [0])], mode="<infill>",
        input="a<mask>ij", output="bcdefgh", where=[1] * 7,
    )  # fmt: skip


def test_bart_permutes_sentences(worked: Worked) -> None:
    e = worked(
        Denoising(mask=0), "One. Two! Three.", [("shuffled", (), [2, 0, 1])], mode="<denoise>",
        input="Three.One. Two! ", output="One. Two! Three.",
    )  # fmt: skip
    assert (e.input_bytes, e.output_bytes, e.ends) == (16, 16, True)


BARTS: dict[str, Any] = {"output": "abcdef", "mode": "<denoise>"}


def test_bart_rotates(worked: Worked) -> None:
    kind = Denoising(permute=False, rotate=True, mask=0)
    worked(kind, "abcdef", [("below", (6,), 2)], input="cdefab", **BARTS)


def test_bart_deletes(worked: Worked) -> None:
    e = worked(
        Denoising(permute=False, delete=0.5, mask=0),
        "abcdef",
        [("sample", (6, 3), [0, 2, 5])],
        input="bde",
        **BARTS,
    )
    assert (e.input_bytes, e.output_bytes) == (3, 6)


def test_bart_masks_tokens(worked: Worked) -> None:
    kind = Denoising(permute=False, mask=0.5, masks="tokens")
    worked(kind, "abcdef", [("sample", (6, 3), [1, 2, 4])], input="a<mask><mask>d<mask>f", **BARTS)


def test_bart_infills(worked: Worked) -> None:
    """3 tokens of 6, in spans of 2, of none, and of 1 (5 cut down); 3 are free, so there are 4 places between
    them, of which the spans take 0, 2 and 3.
    """
    drawn: list[Drawn] = [
        ("poisson", (), 2), ("poisson", (), 0), ("poisson", (), 5), ("sample", (4, 3), [0, 2, 3]),
    ]  # fmt: skip
    kind = Denoising(permute=False, mask=0.5)
    worked(kind, "abcdef", drawn, input="<mask>cd<mask>e<mask>", **BARTS)


def test_bart_permutes_then_rotates_then_deletes_then_masks(worked: Worked) -> None:
    """``B.A. ``, from its second token on ``.A. B``, without the first and fourth ``A.B``; the middle is hidden."""
    drawn: list[Drawn] = [
        ("shuffled", (), [1, 0]), ("below", (5,), 1), ("sample", (5, 2), [0, 3]), ("sample", (3, 1), [1]),
    ]  # fmt: skip
    kind = Denoising(rotate=True, delete=0.4, mask=0.34, masks="tokens")
    worked(kind, "A. B.", drawn, input="A<mask>B", output="A. B.", mode="<denoise>")


def test_gap_sentences(worked: Worked) -> None:
    """One of three sentences; the first two share all their words with the rest, and the first of them is taken."""
    window = "The cat sat. The cat sat. It rained."
    worked(
        GapSentences(), window, [], mode="<summarise>", input="<mask>The cat sat. It rained.", output="The cat sat. ",
    )  # fmt: skip
