"""What all tests share."""

import pytest
from hypothesis import settings

pytest.register_assert_rewrite("tests.kitchen")

from tests.kitchen import kitchen, place  # noqa: E402

__all__ = ["kitchen", "place"]  # fixtures

# How long an example takes says more of the machine's other work than of the code.
settings.register_profile("any-machine", deadline=None)
settings.load_profile("any-machine")
