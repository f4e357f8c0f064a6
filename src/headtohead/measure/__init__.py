"""What may be claimed: scoring, baselines, statistics."""
