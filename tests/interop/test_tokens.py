"""Foreign tokenizers: what they put around text, and that text is never read as a special token."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from headtohead.errors import UserError
from headtohead.interop.tokens import ForeignTokenizer, foreign_frame, text_of
from headtohead.model.architecture import one_stack, two_stacks

SIZES = {"d_model": 16, "heads": 2, "d_head": 8, "vocabulary": 8}
WORDS = {"[CLS]": 0, "[SEP]": 1, "[MASK]": 2, "[UNK]": 3, "a": 4, "b": 5}


def foreign() -> ForeignTokenizer:
    made = Tokenizer(models.WordLevel(WORDS, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens(["[CLS]", "[SEP]", "[MASK]"])
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 1)]
    )
    found = text_of(made.to_str(), "here")
    assert isinstance(found, ForeignTokenizer)
    return found


def test_text_never_becomes_a_special_token() -> None:
    assert foreign().encode("a b") == [4, 5]
    assert not {0, 1, 2} & set(foreign().encode("a [CLS] [SEP] [MASK] b"))


def test_the_frame_is_what_the_tokenizer_and_the_configs_say() -> None:
    filler = foreign_frame(one_stack("f", "full", depth=1, d_ff=8, **SIZES), foreign(), {"pad_token_id": 3})
    assert (filler.before, filler.after, filler.mask, filler.pad) == ((0,), (1,), 2, 3)
    writer = one_stack("w", "causal", depth=1, d_ff=8, **SIZES)
    found = foreign_frame(writer, foreign(), {"eos_token_id": 1}, {"eos_token_id": [1, 5]})
    assert (found.before, found.after, found.start, found.ends) == ((0,), (), (), (1, 5))
    pair = two_stacks("p", "full", depths=(1, 1), d_ff=8, **SIZES)
    found = foreign_frame(pair, foreign(), {"decoder_start_token_id": 1, "forced_bos_token_id": 0})
    assert (found.after, found.start, found.ends) == ((1,), (1, 0), ())


def test_what_is_no_tokenizer_is_refused() -> None:
    with pytest.raises(UserError, match="here is not a tokenizer that can be read"):
        text_of('{"model": 3}', "here")
