"""Text, pairs and tasks that are had by the name of a package: pinned, checked, cached. No torch."""
