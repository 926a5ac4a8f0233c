"""Find a user's own task by name, and freeze its source into a run.

Trials run elsewhere, in a container without the user's files and without this machine's PYTHONPATH.
The file may also be edited meanwhile. So at launch the source is copied to the run directory, and
trials import it from there. A file is copied as it is, and a module or package as its whole
top-level folder. Any other import of the task must be in the image.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import shutil
import sys
from pathlib import Path
from types import ModuleType

from agenttts.errors import UserError, nearest_name, valid_names
from agenttts.tasks.base import Task
from agenttts.tasks.user_code import WRONG, prints_apart, told

_DECLARATIVE = (".yaml", ".yml")
_LARGEST_BYTES = 20_000_000
_ignored = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")


def is_declarative(name: str) -> bool:
    """Return whether a task's name is the name of a declarative task's file."""
    return name.endswith(_DECLARATIVE)


def load_class(name: str) -> type[Task]:
    """Return the class that ``FILE.py:Class`` or ``package.module:Class`` names.

    Raises:
        UserError: There is no such file, module or class, or it cannot be imported.
    """
    place, _, class_name = name.rpartition(":")
    module = _load_file(name, Path(place)) if place.endswith(".py") else _import(name, place)
    found = getattr(module, class_name, None)
    if not (inspect.isclass(found) and issubclass(found, Task)):
        problem = "has no" if found is None else "has something else than a Task as"
        raise UserError(
            f"'{name}': '{place}' {problem} '{class_name}'; "
            f"{valid_names(class_name, _tasks_in(module))}",
            at=("name",),
        )
    if missing := sorted(getattr(found, "__abstractmethods__", ())):
        raise UserError(f"'{name}' does not implement {', '.join(missing)}", at=("name",))
    return found


def freeze_source(name: str, folder: Path) -> None:
    """Copy the source of the task called ``name`` into the new ``folder``.

    Built-in tasks have no source to copy. Links that lead nowhere are left out.

    Raises:
        UserError: The package is too large to be a task's own, or a file of it cannot be copied.
    """
    source = _source(name)
    if source is None:
        return
    folder.mkdir()
    if source.is_file():
        shutil.copy(source, folder / source.name)
        return
    if _is_too_large(source):
        raise UserError(
            f"task '{name}': its package {source} takes more than {_LARGEST_BYTES / 1e6:.0f} MB, "
            "the most that is copied into a run as a task's own source (with what its links lead "
            "to); move the task into a file or a package of its own",
        )
    try:
        shutil.copytree(
            source, folder / source.name, ignore=_ignored, ignore_dangling_symlinks=True
        )
    except shutil.Error as error:  # of all files that cannot be copied
        file, _, reason = error.args[0][0]
        raise UserError(
            f"task '{name}': {file} cannot be copied into the run ({reason}), as all of the "
            f"package {source} is; make it readable or move it elsewhere"
        ) from error
    finally:  # a package may be installed read-only, and who may not write cannot remove either
        for place, _, _ in os.walk(folder):
            Path(place).chmod(Path(place).stat().st_mode | 0o700)


def frozen_files(folder: Path) -> list[Path]:
    """Return the files of a frozen source, in order; none if ``folder`` is not there.

    Files that were made in it later are left out: Python's bytecode, and hidden files, such as
    those of NFS.
    """
    found: list[Path] = []
    for place, folders, files in os.walk(folder, followlinks=True):
        left_out = _ignored(place, [*folders, *files])
        folders[:] = [name for name in folders if name not in left_out]
        found += [Path(place, name) for name in files if name not in left_out]
    return sorted(found)


def make_importable(name: str, folder: str) -> None:
    """Let a task's module or package be imported from ``folder``.

    A file is loaded by its path. On `sys.path`, which engines get too, the folder of a file called
    queue.py would hide the module of that name from all of them.
    """
    if not _is_file(name) and folder not in sys.path:
        sys.path.insert(0, folder)


def frozen_name(name: str, folder: Path) -> str:
    """Return the name by which trials find a task frozen into ``folder``."""
    if is_declarative(name):
        return str(folder / Path(name).name)
    place, separator, class_name = name.rpartition(":")
    return f"{folder / Path(place).name}{separator}{class_name}" if place.endswith(".py") else name


def missing_file(path: Path, what: str) -> UserError:
    """Return the error about a missing file of a task.

    It suggests the nearest name in the file's folder.
    """
    names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    near = nearest_name(path.name, names)
    hint = f"; did you mean '{path.parent / near}'?" if near else ""
    return UserError(f"there is no {what} {path}{hint}", at=("name",))


def _is_too_large(source: Path) -> bool:
    """Return whether a copy of a package would exceed the limit; links are followed."""
    size = 0
    for folder, folders, files in os.walk(source, followlinks=True):
        left_out = _ignored(folder, [*folders, *files])
        folders[:] = [name for name in folders if name not in left_out]
        paths = [Path(folder, name) for name in files if name not in left_out]
        size += sum(path.stat().st_size for path in paths if path.exists())
        if size > _LARGEST_BYTES:
            return True
    return False


def _is_file(name: str) -> bool:
    return is_declarative(name) or name.rpartition(":")[0].endswith(".py")


def _source(name: str) -> Path | None:
    if is_declarative(name):
        return Path(name)
    place = name.rpartition(":")[0]
    if place.endswith(".py"):
        return Path(place)
    top = place.partition(".")[0]
    if not top or top == "agenttts":
        return None
    module = importlib.import_module(top)
    if module.__file__ is not None:
        file = Path(module.__file__)
        return file.parent if file.name == "__init__.py" else file
    return Path(next(iter(module.__path__)))  # a folder of modules without __init__.py


def _load_file(name: str, path: Path) -> ModuleType:
    if not path.is_file():
        raise missing_file(path, "Python file")
    # A name of its own, so that a file called json.py hides no other module.
    module_name = f"agenttts_user_task_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickles look their module up by name.
    sys.modules[module_name] = module
    try:
        with prints_apart(module_name):
            spec.loader.exec_module(module)
    except WRONG as error:  # whatever a user's module does when it is imported
        del sys.modules[module_name]
        raise UserError(f"'{name}': {told(error, {str(path)}, str(path))}", at=("name",)) from error
    return module


def _import(name: str, place: str) -> ModuleType:
    try:
        with prints_apart(place):
            return importlib.import_module(place)
    except WRONG as error:  # as above
        if file := _importing(error):
            raise UserError(f"'{name}': {told(error, {file}, file)}", at=("name",)) from error
        raise UserError(
            f"'{name}': cannot import '{place}' ({type(error).__name__}: {error}); "
            "install the package "
            "that has it, or put its folder on PYTHONPATH",
            at=("name",),
        ) from error


def _importing(error: BaseException) -> str | None:
    """Return the file of the module that was being imported when the error occurred.

    It is None if no module was found to import.
    """
    traceback = error.__traceback__
    while traceback is not None:
        file = traceback.tb_frame.f_code.co_filename
        if file not in (__file__, importlib.__file__) and not file.startswith("<frozen "):
            return file
        traceback = traceback.tb_next
    return None


def _tasks_in(module: object) -> list[str]:
    """Return the task classes of a module, for a suggestion."""
    members = inspect.getmembers(module, inspect.isclass)
    return [name for name, value in members if issubclass(value, Task) and value is not Task]
