"""The test suite. Shared code is in `tests.support`, fixtures in the ``conftest.py`` files."""

import pytest

# So that a failed assertion in a shared function shows its values.
pytest.register_assert_rewrite("tests.support")
