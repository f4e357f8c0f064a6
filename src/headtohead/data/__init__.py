"""What a network reads: text in, examples out, packed into the batches one architecture needs."""
