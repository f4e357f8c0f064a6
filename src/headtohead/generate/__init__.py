"""How a network writes: decoding on the KV cache."""
