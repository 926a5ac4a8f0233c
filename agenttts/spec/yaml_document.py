"""Read YAML as a document of plain values, with the line of every key.

Two rules differ from PyYAML's ``safe_load``, which follows YAML 1.1:

- A field that takes text gets the scalar as it is written in the file: ``time: 12:00:00``,
  ``account: 0700``, ``name: yes``.
- In other fields, a scalar is a number only in the forms that every reader takes for the same
  number. ``7e9`` is one more form, which readers of YAML 1.1 take for text. There is no base 60
  (``1:30`` is 90 in YAML 1.1), no octal number with a leading zero, and no date.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from pydantic import BaseModel

from agenttts.errors import KeyPath, UserError, dotted, shortened
from agenttts.spec.field_types import field_type, is_text_field, step

_TAG = "tag:yaml.org,2002:"
# Limits far above real specs, which have about six levels and a thousand values. Aliases of aliases
# can stand for any number of values.
_DEEPEST = 50
_MOST_VALUES = 200_000
# Of 64 bits, which tables hold. Python's own whole numbers have no limit, but its floats have.
_LARGEST = 2**63 - 1
_SCALAR_TAGS = {_TAG + name for name in ("str", "int", "float", "bool", "null")}
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9_]*|0b[01_]+|0x[0-9a-fA-F_]+)$")
_FLOAT = re.compile(
    r"(?:[-+]?(?:[0-9][0-9_]*)\.[0-9_]*(?:[eE][-+]?[0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?[0-9]+[eE][-+]?[0-9]+"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)


# libyaml's parser, if PyYAML was built with it, reads a spec ten times as fast (2 ms instead of
# 20 ms, 2026-11). Its emitter writes every text so that it is read again unchanged; PyYAML's own
# does not if the text has characters such as NEL and a byte order mark.
_SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_SafeDumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class _Loader(_SafeLoader):  # type: ignore[misc, valid-type]
    """PyYAML's safe loader with the number forms described above."""


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, form)
        for tag, form in resolvers
        if tag.removeprefix(_TAG) not in ("int", "float", "timestamp")
    ]
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}


class _Dumper(_SafeDumper):  # type: ignore[misc, valid-type]
    """PyYAML's safe dumper, with quotes also at what `_Loader` takes for numbers."""


for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver(_TAG + "int", _INT, list("-+0123456789"))
    _class.add_implicit_resolver(_TAG + "float", _FLOAT, list("-+0123456789."))


def read_document(
    model: type[BaseModel], text: str, source: str
) -> tuple[dict[str, Any], dict[KeyPath, int]]:
    """Return the document in ``text``, and the line of every key and list element.

    Raises:
        UserError: The text is not valid YAML, gives a key twice or is not a mapping.
    """
    reader = _Reader(source)
    document = reader.read(text, model)
    if not isinstance(document, dict):
        raise UserError(
            f"a mapping of keys is expected at the top, not {_kind(document)}", file=source
        )
    return document, reader.lines


def load_plain(text: str) -> Any:
    """Return the value of a YAML text as ``yaml.safe_load`` does.

    Raises:
        yaml.YAMLError: The text is not valid YAML.
    """
    return yaml.load(text, Loader=_SafeLoader)


def dump_document(document: Mapping[str, Any]) -> str:
    """Return a document of plain values as YAML, its keys in their order.

    Characters above U+FFFF, such as emoji, are written as escapes, which read as the same text.
    """
    text: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


def read_value(model: type[BaseModel], path: Sequence[str | int], text: str) -> Any:
    """Return the value of ``text``, read as the value at ``path`` of a document.

    Raises:
        UserError: The text is not valid YAML.
    """
    return _Reader("the value").read(text, field_type(model, path))


class _Reader:
    """Builds one document; ``lines`` holds the line of each of its keys."""

    def __init__(self, source: str) -> None:
        self.lines: dict[KeyPath, int] = {}
        self._source = source
        self._open: set[int] = set()
        self._built = 0

    def read(self, text: str, annotation: Any) -> Any:
        try:
            self._check_depth(text)
            self._loader = _Loader(text)
            node = self._loader.get_single_node()
            return self._build(node, annotation, ()) if node else None
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            problem = getattr(error, "problem", None) or str(error)
            raise self._error(f"not valid YAML: {problem}", mark) from None

    def _check_depth(self, text: str) -> None:
        """Refuse deep nesting, which would overflow the stack of libyaml's composer.

        No real spec or profile is nested that deeply.
        """
        depth = 0
        for event in yaml.parse(text, Loader=_Loader):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:
                raise self._error(f"nested more than {_DEEPEST} levels deep", event.start_mark)

    def _build(self, node: yaml.Node, annotation: Any, path: KeyPath) -> Any:
        self._built += 1
        if self._built > _MOST_VALUES:
            raise self._refused(
                node, f"aliases make more than {_MOST_VALUES} values of this document", known=True
            )
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, annotation)
        if id(node) in self._open:
            raise self._refused(node, "this alias is a part of what it stands for")
        self._open.add(id(node))
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            built: Any = self._mapping(node, annotation, path)
        elif isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            built = self._sequence(node, annotation, path)
        else:
            raise self._unknown_tag(node)
        self._open.remove(id(node))
        return built

    def _mapping(self, node: yaml.MappingNode, annotation: Any, path: KeyPath) -> dict[Any, Any]:
        built: dict[Any, Any] = {}
        for key, value in self._pairs(node, path):
            below = (*path, key.value)
            self.lines[below] = key.start_mark.line + 1
            down = step(annotation, key.value) or Any
            # A field of any type gets the keys as YAML reads them. Sections and typed mappings get
            # the keys as they are written.
            name = self._scalar(key, Any) if annotation is Any else key.value
            built[name] = self._build(value, down, below)
        return built

    def _pairs(
        self, node: yaml.MappingNode, path: KeyPath
    ) -> list[tuple[yaml.ScalarNode, yaml.Node]]:
        """Return the keys and values of a mapping, with those that ``<<`` merges into it.

        A key of the mapping itself goes before one that is merged, and an earlier merge before a
        later one (https://yaml.org/type/merge.html).
        """
        seen: set[str] = set()
        for key, _ in node.value:
            name = self._key(key)
            if name in seen:
                twice = f"{dotted((*path, name))} is given twice; keep one of the two"
                raise self._refused(key, twice, known=True)
            seen.add(name)
        self._loader.flatten_mapping(node)  # puts behind what goes before
        last = {self._key(key): (key, value) for key, value in node.value}
        pairs = list(last.values())
        node.value = pairs  # for the other places of an alias
        return pairs

    def _key(self, node: yaml.Node) -> str:
        if isinstance(node, yaml.ScalarNode):
            return str(node.value)
        raise self._refused(node, "a key is one word or text, not a list or mapping")

    def _sequence(self, node: yaml.SequenceNode, annotation: Any, path: KeyPath) -> list[Any]:
        down = step(annotation, 0) or Any
        built = []
        for position, value in enumerate(node.value):
            self.lines[(*path, position)] = value.start_mark.line + 1
            built.append(self._build(value, down, (*path, position)))
        return built

    def _scalar(self, node: yaml.ScalarNode, annotation: Any) -> Any:
        if node.tag == _TAG + "str":
            return node.value
        if node.tag not in _SCALAR_TAGS:
            raise self._unknown_tag(node)
        try:
            value = self._loader.construct_object(node)
        except (ValueError, KeyError):
            kind = node.tag.removeprefix(_TAG)
            raise self._refused(node, f"'{node.value}' is not a valid {kind}") from None
        if is_text_field(annotation, value):
            return node.value
        if isinstance(value, int) and abs(value) > _LARGEST:
            raise self._refused(
                node, f"the number {shortened(node.value)} is too large", known=True
            )
        return value

    def _unknown_tag(self, node: yaml.Node) -> UserError:
        tag = node.tag.replace(_TAG, "!!")
        return self._refused(node, f"the tag '{tag}' is not supported; leave it out")

    def _refused(self, node: yaml.Node, why: str, *, known: bool = False) -> UserError:
        """Return the error about a node.

        With ``known``, the node is valid YAML and its meaning is the error.
        """
        prefix = "" if known else "not valid YAML here: "
        return self._error(f"{prefix}{why}", node.start_mark)

    def _error(self, message: str, mark: Any) -> UserError:
        line = mark.line + 1 if mark else None
        return UserError(message, file=self._source, line=line)


def _kind(value: Any) -> str:
    return {list: "a list", str: "text", type(None): "nothing"}.get(
        type(value), type(value).__name__
    )
