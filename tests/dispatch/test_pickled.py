from __future__ import annotations

import gc
import pickle
from functools import partial

import pytest

from agenttts.dispatch.pickled import Pickled


class Loaded:
    """Notes when it is loaded whether Python searches for garbage; one may fail to load."""

    def __init__(self, fails: bool = False) -> None:
        self.fails = fails
        self.searched = gc.isenabled()

    def __reduce__(self):
        return (_fail if self.fails else Loaded), ()

    def __call__(self) -> bool:
        return self.searched


def _fail() -> None:
    raise ValueError("cannot be loaded")


@pytest.mark.parametrize("before", [True, False])
def test_the_function_itself_is_loaded_without_searches_for_garbage(before):
    enabled = gc.isenabled()
    try:
        (gc.enable if before else gc.disable)()
        found = pickle.loads(pickle.dumps(Pickled.of(Loaded())))
        assert gc.isenabled() is before
        with pytest.raises(ValueError, match="cannot be loaded"):
            pickle.loads(pickle.dumps(Pickled.of(Loaded(fails=True))))
        assert gc.isenabled() is before
    finally:
        (gc.enable if enabled else gc.disable)()
    assert isinstance(found, Loaded)
    assert found() is False
    assert pickle.loads(pickle.dumps(Pickled.of(partial(int, "7"))))() == 7
