"""Which architecture for this data and this budget: a tuned ladder over a few, and a recommendation."""
