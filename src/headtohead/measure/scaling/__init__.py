"""Scaling laws: fits of anyone's table of losses, with intervals, a held-out size and a frontier. No torch."""
