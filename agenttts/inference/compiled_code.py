"""Where an engine keeps the code that it compiles for a GPU."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

from agenttts.files.documents import read_object
from agenttts.files.temporary import executable_directory, is_noexec

# The variables of Triton and of torch.compile, and their default places.
_PLACES: Mapping[str, str] = MappingProxyType(
    {
        "TRITON_CACHE_DIR": "~/.triton/cache",
        "TORCHINDUCTOR_CACHE_DIR": f"{tempfile.gettempdir()}/torchinductor",
    }
)
_NEEDED_BYTES = 64 << 20
"""Room for the kernels of a model: some MB."""
_TRITON_METHODS = ("mxfp4", "fp8")
"""Quantisations whose kernels transformers (5.19) compiles with Triton, if it finds both packages.

Without the package ``kernels``, it takes weights in mxfp4 apart into 16 bits while it loads them.
"""
_kept: list[tempfile.TemporaryDirectory[str]] = []  # removed when the process ends


def use_executable_caches() -> str | None:
    """Have compilers of this process keep code where it can be loaded from.

    A directory on a file system that is mounted ``noexec`` is replaced by another one, if there is
    one. Nothing has to be compiled again that was in it, because none of it could be loaded.

    Returns:
        The directory from which code cannot be loaded; None if there is none.
    """
    closed = {name: place for name, place in _places().items() if _holds_no_code(place)}
    if not closed:
        return None
    try:
        other = executable_directory(_NEEDED_BYTES)
        if is_noexec(other):
            return str(next(iter(closed.values())))
        _kept.append(tempfile.TemporaryDirectory(prefix="agenttts-compiled-", dir=other))
    except OSError:
        return str(next(iter(closed.values())))
    for name in closed:
        os.environ[name] = str(Path(_kept[-1].name) / name.lower())
    return None


def compiles_kernels(path: str) -> bool:
    """Return whether a model runs only with kernels that transformers compiles."""
    quantisation = read_object(Path(path) / "config.json").get("quantization_config")
    method = quantisation.get("quant_method") if isinstance(quantisation, Mapping) else None
    packages = all(find_spec(name) is not None for name in ("triton", "kernels"))
    return packages and method in _TRITON_METHODS


def _places() -> dict[str, Path]:
    places = {name: Path(os.environ.get(name) or usual) for name, usual in _PLACES.items()}
    try:
        return {name: place.expanduser() for name, place in places.items()}
    except RuntimeError:  # the user has no home
        return places


def _holds_no_code(place: Path) -> bool:
    """Return whether code cannot be loaded from a directory, also a future one."""
    try:
        while not place.exists() and place != place.parent:
            place = place.parent
        return is_noexec(place)
    except OSError:  # it is closed, for example: the compiler says what is wrong with it
        return False
