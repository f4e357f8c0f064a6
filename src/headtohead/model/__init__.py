"""What a network is: its description, its visibility, its budget, the one Transformer."""
