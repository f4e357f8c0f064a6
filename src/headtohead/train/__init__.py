"""How a network learns: recipe, optimizer, checkpoints, the one training loop."""
