"""Where this machine's pip gets packages from, and the same settings for uv.

uv installs what pip would in a fifth of the CPU time, but does not read pip's configuration.
``python -m agenttts.images.pip_settings`` prints the variables of `uv_environment`, one
``NAME=VALUE`` a line. ``containers/install-cpu.sh`` does this before anything is installed, so this
module needs no other package.
"""

from __future__ import annotations

import ast
import math
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from urllib.parse import unquote, urlsplit

from agenttts.files.commands import ask

# The pip options that say where packages come from. The other options (user, target, ...) concern
# the host's own installations.
PIP_OPTIONS = (
    "index-url",
    "extra-index-url",
    "find-links",
    "no-index",
    "trusted-host",
    "proxy",
    "timeout",
    "retries",
)
# Where pip keeps what it has downloaded, and whether it does.
_CACHE_OPTIONS = ("cache-dir", "no-cache-dir")
CONFIG_S = 60
_UV_VARIABLES = MappingProxyType(
    {
        "index-url": "UV_DEFAULT_INDEX",
        "extra-index-url": "UV_INDEX",
        "find-links": "UV_FIND_LINKS",
        "no-index": "UV_OFFLINE",
        "trusted-host": "UV_INSECURE_HOST",
        "timeout": "UV_HTTP_TIMEOUT",
        "retries": "UV_HTTP_RETRIES",
        "cert": "SSL_CERT_FILE",
    }
)


def pip_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """Return pip's options on where packages come from and are kept.

    These are `PIP_OPTIONS`, ``cert``, and those of its cache.

    The settings are those of ``pip config list`` in ``environ``. As in pip, a command's own section
    overrides ``[global]``, and the environment overrides both. If this machine has no pip, the
    settings come from the environment's ``PIP_*`` alone.
    """
    for python in (sys.executable, "python3"):
        listing = ask(
            [python, "-m", "pip", "--disable-pip-version-check", "config", "list"],
            CONFIG_S,
            # pip.conf may say 'user = true' for 'pip install'. 'pip config' would take it for its
            # own option --user. The other variable is Python's -P, which a python3 before 3.11 does
            # not know: a pip.py in the current directory must not hide pip.
            {**environ, "PIP_USER": "0", "PYTHONSAFEPATH": "1"},
        )
        if listing.succeeded:
            return parse_pip_config(listing.text)
    return parse_pip_config(
        "\n".join(
            f":env:.{name[4:].lower().replace('_', '-')}={value!r}"
            for name, value in environ.items()
            if name.startswith("PIP_")
        )
    )


def uv_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Return pip's settings (`pip_settings`) as variables of uv.

    As in pip, the newest file of all indexes is taken, not that of the first index that has one.
    Local links that do not exist are left out: uv ends at one, where pip only warns.
    """
    variables = {
        variable: settings[option]
        for option, variable in _UV_VARIABLES.items()
        if option in settings
    }
    links = [link for link in variables.pop("UV_FIND_LINKS", "").split() if not _is_absent(link)]
    if links:
        variables["UV_FIND_LINKS"] = ",".join(links)  # the only one of uv's lists with commas
    if "UV_HTTP_TIMEOUT" in variables:  # whole seconds
        variables["UV_HTTP_TIMEOUT"] = _rounded_up(variables["UV_HTTP_TIMEOUT"])
    if "proxy" in settings:
        variables |= dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY"), settings["proxy"])
    if _switches_off_cache(settings):
        variables["UV_NO_CACHE"] = "1"
    elif "cache-dir" in settings:
        variables["UV_CACHE_DIR"] = str(uv_cache(settings, {}))
    return {**variables, "UV_INDEX_STRATEGY": "unsafe-best-match", "UV_NO_PROGRESS": "1"}


def pip_cache(settings: Mapping[str, str], environ: Mapping[str, str]) -> Path | None:
    """Return pip's cache; None if the user has switched it off."""
    if _switches_off_cache(settings):
        return None
    chosen = settings.get("cache-dir")
    return Path(chosen).expanduser().absolute() if chosen else _caches(environ) / "pip"


def uv_cache(settings: Mapping[str, str], environ: Mapping[str, str]) -> Path | None:
    """Return uv's cache; None if the user has switched pip's or uv's off.

    It is in pip's cache where the user has moved that, for instance out of a home with a quota.
    """
    if _switches_off_cache(settings) or environ.get("UV_NO_CACHE"):
        return None
    if environ.get("UV_CACHE_DIR"):
        return Path(environ["UV_CACHE_DIR"]).absolute()
    pip = pip_cache(settings, environ)
    return pip / "uv" if pip is not None and "cache-dir" in settings else _caches(environ) / "uv"


def _switches_off_cache(settings: Mapping[str, str]) -> bool:
    return settings.get("no-cache-dir", "").lower() in ("1", "true", "yes", "on", "y", "t")


def _caches(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("XDG_CACHE_HOME") or Path(environ.get("HOME") or Path.home(), ".cache"))


def parse_pip_config(listing: str) -> dict[str, str]:
    """Return the options of interest in the output of ``pip config list``.

    The output has lines of the form ``section.option='value'``. A value that is a list is returned
    as one line of items separated by blanks, with absolute paths for local folders.
    """
    order = {"global": 0, "download": 1, "wheel": 1, "install": 2, ":env:": 3}
    found: dict[str, tuple[int, str]] = {}
    for line in listing.splitlines():
        match = re.fullmatch(r"(:env:|[\w-]+)\.([\w-]+)=(.*)", line.strip())
        if match is None or match[1] not in order:
            continue
        section, option, quoted = match.groups()
        # PIP_DEFAULT_TIMEOUT is another spelling of timeout.
        option = option.removeprefix("default-")
        try:
            value = str(ast.literal_eval(quoted))
        except (SyntaxError, ValueError):
            value = quoted
        wanted = (*PIP_OPTIONS, *_CACHE_OPTIONS, "cert")
        if option in wanted and order[section] >= found.get(option, (-1, ""))[0]:
            found[option] = (order[section], " ".join(value.split()))
    settings = {option: value for option, (_, value) in found.items() if value}
    if "find-links" in settings:
        settings["find-links"] = " ".join(map(_absolute, settings["find-links"].split()))
    return settings


def local_folders(settings: Mapping[str, str]) -> list[Path]:
    """Return the directories that pip's settings name, as paths or ``file:`` URLs.

    For an index (``index-url``, ``extra-index-url``) it is the parent directory, because the pages
    of an index link to files beside it.
    """
    folders = []
    for link in settings.get("find-links", "").split():
        path = _local_path(link)
        if path is not None:
            folders.append(path.parent if path.is_file() else path)
    for option in ("index-url", "extra-index-url"):
        for url in settings.get(option, "").split():
            path = _local_path(url)
            if path is not None:
                folders.append(path.parent if path.parent != Path("/") else path)
    return folders


def _local_path(link: str) -> Path | None:
    """Return the path of a local link, or None for a remote one."""
    if link.startswith("file:"):
        return Path(unquote(urlsplit(link).path))
    return None if "://" in link else Path(link)


def _is_absent(link: str) -> bool:
    path = _local_path(link)
    return path is not None and not path.exists()


def _rounded_up(seconds: str) -> str:
    """Return the next whole number.

    What is no number is returned as it is, because pip ends at it too.
    """
    try:
        return str(math.ceil(float(seconds)))
    except (ValueError, OverflowError):
        return seconds


def _absolute(link: str) -> str:
    path = None if link.startswith("file:") else _local_path(link)
    return link if path is None else str(path.expanduser().absolute())


if __name__ == "__main__":
    for _name, _value in uv_environment(pip_settings(os.environ)).items():
        if _name not in os.environ:
            print(f"{_name}={_value}")
