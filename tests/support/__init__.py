"""Code that several test files share: one module per topic, imported as ``tests.support.X``.

Fixtures are in the ``conftest.py`` files. ``tests/test_suite.py`` checks that tests import shared
code from here only.
"""
