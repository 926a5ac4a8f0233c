"""Let programs built against glibc 2.38 or later run on an older glibc.

    python3 elf_unversion.py FILE...

Only for files whose sole need of the newer glibc is ``__isoc23_strtol`` and its kin: what a newer C
compiler makes of ``strtol``, with the same signature, that also accepts a ``0b`` prefix. Each such
import is renamed to the classic function, its version requirement is dropped, and the requirement
of the newer glibc is replaced by one that the file has already. Files keep their size; a file with
any other need is left alone and reported, with exit status 1.

Layout of what is edited: ELF-64, little-endian (System V ABI, and the Linux Standard Base for
symbol versions).
"""

import re
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

OLDEST_MISSING = 38  # glibc 2.38 introduced the __isoc23_ functions
PREFIX = "__isoc23_"
RENAMABLE = re.compile(r"__isoc23_strto(l|ul|ll|ull|imax|umax)")

SHT_DYNSYM = 11
SHT_GNU_VERNEED = 0x6FFFFFFE
SHT_GNU_VERSYM = 0x6FFFFFFF
SYMBOL_SIZE = 24
VERSION_MASK = 0x7FFF  # the top bit of a version index means "hidden"
VER_NDX_GLOBAL = 1  # "no particular version"


class Section(NamedTuple):
    """A section header (Elf64_Shdr), in file order."""

    name: int
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    alignment: int
    entry_size: int


class Requirement(NamedTuple):
    """A version that the file requires of a library (Elf64_Vernaux); symbols refer to its
    number.
    """

    number: int
    name: str
    offset: int


class NotPatchable(Exception):
    """The file is not what this program can edit; it was not changed."""


def sections(image: bytearray) -> list[Section]:
    """The section headers of an ELF-64 file."""
    if image[:6] != b"\x7fELF\x02\x01":
        raise NotPatchable("not a little-endian ELF-64 file")
    (table,) = struct.unpack_from("<Q", image, 0x28)
    entry_size, count = struct.unpack_from("<HH", image, 0x3A)
    return [
        Section(*struct.unpack_from("<IIQQQQIIQQ", image, table + i * entry_size))
        for i in range(count)
    ]


def string_at(image: bytearray, offset: int) -> str:
    return image[offset : image.index(0, offset)].decode()


def requirements(image: bytearray, verneed: Section, strings: int) -> Iterator[Requirement]:
    """Every required version. Both levels of the table are linked lists of relative offsets."""
    library = verneed.offset
    while True:
        _, count, _, first, next_library = struct.unpack_from("<HHIII", image, library)
        entry = library + first
        for _ in range(count):
            _, _, index, name, step = struct.unpack_from("<IHHII", image, entry)
            yield Requirement(index, string_at(image, strings + name), entry)
            entry += step
        if not next_library:
            return
        library += next_library


def is_too_new(version: str) -> bool:
    match = re.fullmatch(r"GLIBC_2\.(\d+)(?:\.\d+)?", version)
    return match is not None and int(match[1]) >= OLDEST_MISSING


def unversion(image: bytearray) -> list[str]:
    """Edit ``image`` in place; the names of the imports that were renamed (none: nothing to do)."""
    all_sections = sections(image)
    by_type = {section.type: section for section in all_sections}
    if SHT_GNU_VERNEED not in by_type:
        return []  # static, or without symbol versions
    symbols, versions = by_type[SHT_DYNSYM], by_type[SHT_GNU_VERSYM]
    strings = all_sections[symbols.link].offset
    required = list(requirements(image, by_type[SHT_GNU_VERNEED], strings))
    too_new = {r.number: r for r in required if is_too_new(r.name)}
    if not too_new:
        return []
    replacement = next(
        (r for r in required if r.name.startswith("GLIBC_2.") and r.number not in too_new), None
    )
    if replacement is None:
        raise NotPatchable("requires no older glibc version that could stand in")

    renamed = []
    for i in range(symbols.size // SYMBOL_SIZE):
        symbol, version = symbols.offset + i * SYMBOL_SIZE, versions.offset + 2 * i
        (index,) = struct.unpack_from("<H", image, version)
        if index & VERSION_MASK not in too_new:
            continue
        (name_offset,) = struct.unpack_from("<I", image, symbol)
        name = string_at(image, strings + name_offset)
        if not RENAMABLE.fullmatch(name):
            raise NotPatchable(f"needs {name} of {too_new[index & VERSION_MASK].name}")
        # The classic name is the tail of the new one, so it is in the string table already.
        struct.pack_into("<I", image, symbol, name_offset + len(PREFIX))
        struct.pack_into("<H", image, version, VER_NDX_GLOBAL)
        renamed.append(name)
    for requirement in too_new.values():
        for field in (slice(0, 4), slice(8, 12)):  # vna_hash and vna_name
            target = slice(requirement.offset + field.start, requirement.offset + field.stop)
            source = slice(replacement.offset + field.start, replacement.offset + field.stop)
            image[target] = image[source]
    return renamed


def main(paths: list[str]) -> int:
    status = 0
    for path in map(Path, paths):
        image = bytearray(path.read_bytes())
        try:
            renamed = unversion(image)
        except NotPatchable as reason:
            print(f"{path}: not patched: {reason}", file=sys.stderr)
            status = 1
            continue
        if renamed:
            path.write_bytes(image)
        print(f"{path}: {', '.join(renamed) or 'nothing to do'}")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
