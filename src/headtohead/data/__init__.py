"""What a network reads: corpora, tokenizers, objectives, layouts, the ledger."""
