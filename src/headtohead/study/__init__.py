"""The experiment: plan, runner, page."""
