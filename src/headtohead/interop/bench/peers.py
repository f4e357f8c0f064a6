"""Networks of transformers of the same shape as one of ours, to be timed beside it.

The shape is what costs: widths, depths, heads, feed-forward, vocabulary. What transformers lacks (norms of Q, K and V
without weights, RoPE in cross-attention) its twin does without, so it has a little less to do.
"""

from __future__ import annotations

from typing import Any

from headtohead.errors import UserError
from headtohead.model.architecture import Architecture
from headtohead.model.parts import GATED


def require_transformers() -> Any:
    """The package. Raises UserError, with what to install, where it isn't."""
    try:
        import transformers
    except ImportError:
        raise UserError("--against transformers needs it: pip install 'headtohead[hub]'") from None
    transformers.logging.set_verbosity_error()
    return transformers


def twin(a: Architecture, length: int) -> Any:
    """A network of transformers as wide and as deep as `a`, in fp32 with weights of its own init.

    Llama's for one causal stack with gates; T5 v1.1's for two stacks of equal width.

    Raises:
        UserError: for a network that neither has the form of.
    """
    transformers = require_transformers()
    if any(stream.width is not None for stream in a.streams) or a.feed_forward not in GATED:
        raise UserError(f"{a.name}: there is no network of transformers of its form to time beside it")
    d_ff = {layer.d_ff for stream in a.streams for layer in stream.layers}
    if len(d_ff) > 1:
        raise UserError(f"{a.name}: its layers differ in d_ff, and those of transformers' networks don't")
    if len(a.streams) == 1:
        return transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                vocab_size=a.vocabulary,
                hidden_size=a.d_model,
                intermediate_size=d_ff.pop(),
                num_hidden_layers=a.depths[0],
                num_attention_heads=a.heads,
                num_key_value_heads=a.key_heads or a.heads,
                head_dim=a.d_head,
                max_position_embeddings=length,
                tie_word_embeddings=a.embeddings.tied,
                pad_token_id=0,
            )
        )
    if not a.two_streams:
        raise UserError(f"{a.name}: there is no network of transformers of its form to time beside it")
    return transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            vocab_size=a.vocabulary,
            d_model=a.d_model,
            d_kv=a.d_head,
            d_ff=d_ff.pop(),
            num_layers=a.depths[0],
            num_decoder_layers=a.depths[1],
            num_heads=a.heads,
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=a.embeddings.tied,
            dropout_rate=0.0,
            decoder_start_token_id=1,
            pad_token_id=0,
        )
    )
