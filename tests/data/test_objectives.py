"""Windows and objectives conserve text; the mixture is balanced; a wrong input is another document's."""

import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headtohead.data.corpora import Document, Pair
from headtohead.data.objectives import (
    CausalLM,
    PrefixLM,
    Restoration,
    examples,
    pair_examples,
    tokenizer_texts,
    windows,
    wrong_inputs,
)
from headtohead.data.shards import CONTINUE, PAIR, RESTORE, Example
from headtohead.data.tokenizers import ByteTokenizer
from headtohead.errors import UserError

from .small import documents, example, prose

BYTES = ByteTokenizer()
BOTH = (PrefixLM(), Restoration())
ANY_TEXT = st.text(
    st.characters(exclude_categories=["Cs"]) | st.sampled_from("ab c \u0301\u0327\u200d\ufe0f\u0e33é漢😀"),
    max_size=200,
)


@given(text=ANY_TEXT, size=st.integers(4, 64))
def test_windows_join_to_the_text_and_fit(text: str, size: int) -> None:
    found = windows(text, size)
    assert "".join(found) == text
    assert all(0 < len(w.encode()) <= size for w in found)


@given(text=ANY_TEXT, size=st.integers(40, 64))
def test_windows_part_no_character_from_its_marks(text: str, size: int) -> None:
    for window in windows(text, size)[1:]:
        attached = unicodedata.category(window[0]).startswith("M") or window[0] == "\u200d"
        at = text.index(window)
        assert not attached or len(text[:at].encode()) == 0 or _marks_before(text, at) > 4


def _marks_before(text: str, at: int) -> int:
    """How many marks in a row stand before a place: more than a cut steps back over."""
    count = 0
    while at > 0 and (unicodedata.category(text[at - 1]).startswith("M") or text[at - 1] == "\u200d"):
        count, at = count + 1, at - 1
    return count


def test_windows_are_of_nearly_one_size_and_begin_at_words() -> None:
    found = windows(prose(1, 5000), 384)
    sizes = [len(w.encode()) for w in found]
    assert min(sizes[:-1]) >= 384 - 2 * 16 - 16 and len(found) <= -(-sum(sizes) // 384) + 1
    assert sum(w[0] in " C" or w[0].isupper() for w in found) >= len(found) - 1
    with pytest.raises(ValueError, match="4 is the least"):
        windows("text", 3)


@pytest.mark.parametrize(
    "objective",
    [PrefixLM(), PrefixLM(split="random", seed=1), CausalLM()],
    ids=["middle", "random", "causal"],
)
@given(window=ANY_TEXT.filter(bool))
def test_input_and_output_are_the_window(objective: PrefixLM | CausalLM, window: str) -> None:
    given_part, output = objective.cut(window)
    assert given_part + output == window and output
    assert objective.cut(window) == (given_part, output)


def test_prefix_lm_cuts_near_the_middle_or_anywhere() -> None:
    found = windows(prose(1, 40_000), 384)
    middle = [len(PrefixLM().cut(w)[0].encode()) / len(w.encode()) for w in found]
    assert min(middle) > 0.45 and max(middle) <= 0.5
    places = [len(PrefixLM(split="random").cut(w)[0].encode()) / len(w.encode()) for w in found]
    assert min(places) < 0.15 and max(places) > 0.85
    assert places != [
        len(PrefixLM(split="random", seed=2).cut(w)[0].encode()) / len(w.encode()) for w in found
    ]


def test_restoration_takes_out_the_vowels() -> None:
    assert Restoration().cut("Every Island, été.") == ("vry slnd, été.", "Every Island, été.")


def test_restoration_refuses_text_without_vowels() -> None:
    Restoration().check([prose(1, 1000)])
    with pytest.raises(
        UserError, match=r"restoration objective needs text with vowels .* 0\.0 % .* at least 5 %"
    ):
        Restoration().check(["天地玄黄宇宙洪荒" * 100])


def test_the_training_mixture_is_balanced_and_each_window_is_used_once() -> None:
    store = examples(documents(7, 1500), BOTH, BYTES, 100)
    counts = [len(store.region_of(r)) for r in ("continuation", "restoration")]
    assert abs(counts[0] - counts[1]) <= 1
    texts = {i: "" for i in range(7)}
    for e in store:
        shown = e.output if e.region == "restoration" else np.concatenate([e.input, e.output])
        texts[e.document] += BYTES.decode(shown.tolist())
    assert [texts[i] for i in range(7)] == [d.text for d in documents(7, 1500)]


def test_the_mixture_does_not_depend_on_what_comes_after() -> None:
    few, more = (examples(documents(n, 1500), BOTH, BYTES, 100) for n in (3, 5))
    assert np.array_equal(few.table, more.table[: len(few)])


def test_held_out_windows_are_in_every_region() -> None:
    store = examples(documents(3, 1500), BOTH, BYTES, 100, every_region=True)
    one, two = (store.region_of(r) for r in ("continuation", "restoration"))
    assert len(one) == len(two) == len(store) // 2
    for i, j in zip(one, two, strict=True):
        assert [*store[i].input, *store[i].output] == list(store[j].output)


def test_an_example_knows_where_it_came_from() -> None:
    store = examples([Document("a", "Some ünusual text here", "a")], BOTH, BYTES, 100, every_region=True)
    first, second = store
    assert (first.region, first.mode, first.ends) == ("continuation", CONTINUE, False)
    assert (second.region, second.mode, second.ends) == ("restoration", RESTORE, True)
    assert first.input_bytes + first.output_bytes == second.output_bytes == 23
    assert second.input_bytes == len("Sm ünsl txt hr".encode())


def test_the_tokenizer_sees_what_a_run_sees() -> None:
    texts = documents(2, 1500)
    shown = [
        BYTES.decode(part.tolist()) for e in examples(texts, BOTH, BYTES, 100) for part in (e.input, e.output)
    ]
    assert list(tokenizer_texts(texts, BOTH, 100)) == shown


def test_pairs_become_examples_as_they_stand() -> None:
    (found,) = pair_examples([Pair("p:1", "2+2", "four", "g")], BYTES)
    assert (BYTES.decode(found.input.tolist()), BYTES.decode(found.output.tolist())) == ("2+2", "four")
    assert (found.mode, found.ends, found.region) == (PAIR, True, "answer")


@given(
    made=st.lists(
        st.tuples(st.integers(1, 9), st.integers(0, 4), st.sampled_from([CONTINUE, RESTORE])),
        min_size=1,
        max_size=40,
    )
)
def test_a_wrong_input_is_of_another_document_and_of_the_same_mode(made: list[tuple[int, int, int]]) -> None:
    right = [example([100 + i] * n, [1], mode, document=d) for i, (n, d, mode) in enumerate(made)]
    by_mode = [[e.document for e in right if e.mode == m] for m in (CONTINUE, RESTORE)]
    if any(len(set(some)) == 1 for some in by_mode):
        with pytest.raises(UserError, match="2 documents or more with different inputs"):
            wrong_inputs(right)
        return
    wrong = wrong_inputs(right)
    owner: dict[bytes, Example] = {e.input.tobytes(): e for e in right}
    for before, after in zip(right, wrong, strict=True):
        giver = owner[after.input.tobytes()]
        assert giver.document != before.document and giver.mode == before.mode
        assert after.input_bytes == giver.input_bytes
        assert after.output is before.output and after.document == before.document
    if all(2 * max(some.count(d) for d in some) <= len(some) for some in by_mode if some):
        assert (
            len({e.input.tobytes() for e in wrong}) >= len(wrong) - 2
        )  # a derangement, but for rare corners


def test_wrong_inputs_are_of_nearly_the_same_length() -> None:
    right = [example([i] * (20 + i * 7919 % 100), [1], document=i % 7) for i in range(500)]
    wrong = wrong_inputs(right)
    apart = [abs(len(a.input) - len(b.input)) for a, b in zip(right, wrong, strict=True)]
    assert float(np.mean(apart)) < 0.5 and max(apart) <= 2
    assert [e.input.tobytes() for e in wrong] == [e.input.tobytes() for e in wrong_inputs(right)]


def test_equal_inputs_are_not_exchanged() -> None:
    right = [example([7], [1], document=0), example([7], [2], document=1), example([8], [3], document=2)]
    wrong = wrong_inputs(right)
    assert all(a.input.tolist() != b.input.tolist() for a, b in zip(right, wrong, strict=True))
    with pytest.raises(UserError, match="different inputs"):
        wrong_inputs(right[:2])


def test_an_empty_input_stays() -> None:
    assert wrong_inputs([example([], [1]), example([], [2])])[1].output.tolist() == [2]


def test_a_window_that_fits_no_row_is_cut_until_it_does() -> None:
    texts = documents(3, 1500)
    store = examples(texts, BOTH, BYTES, 100, fits=lambda n, m: n + m <= 90)
    assert len(store) > len(examples(texts, BOTH, BYTES, 100))
    assert all(len(e.input) + len(e.output) <= 90 for e in store)
    for d, document in enumerate(
        texts
    ):  # nothing is lost: a restoration's output, a continuation's two sides
        sides = [
            (e.input, e.output) if e.region == "continuation" else (e.output,)
            for e in store
            if e.document == d
        ]
        assert "".join(BYTES.decode(side.tolist()) for some in sides for side in some) == document.text


def test_a_window_that_can_be_cut_no_smaller_is_refused() -> None:
    with pytest.raises(UserError, match="can be cut no smaller"):
        examples(documents(3, 1500), BOTH, BYTES, 100, fits=lambda n, m: n + m <= 1)


def test_held_out_windows_that_are_cut_stay_the_same_for_all_regions() -> None:
    store = examples(documents(3, 1500), BOTH, BYTES, 100, every_region=True, fits=lambda n, m: n + m <= 90)
    parts = [store.subset(store.region_of(region)) for region in ("continuation", "restoration")]
    for one, other in zip(*parts, strict=True):
        assert BYTES.decode([*one.input, *one.output]) == BYTES.decode(other.output.tolist())
