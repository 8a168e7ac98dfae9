"""YAML whose numbers stay text, whose duplicate keys are found, and whose every value knows its line.

text -> `Document(root, value)`. Plain scalars are text, but for null, true, false, and numbers in JSON's
spelling (`JsonNumber`): nothing becomes a float, a date, an octal or a sexagesimal, and `NO` is not false.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import yaml

from schemas.explain import Loc
from schemas.meters import JsonNumber


class YamlError(ValueError):
    """The text is not one YAML document; `line` is from 1."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True, slots=True)
class Document:
    """`value` is made of dict, list, str, `JsonNumber`, bool, None; `root` is the tree it was made from.

    `duplicate_keys`: where a key stands twice in a mapping, of which YAML would quietly keep the last, and a
    message that says so.
    """

    root: yaml.Node | None
    value: object
    duplicate_keys: tuple[tuple[Loc, str], ...] = ()

    def line(self, loc: Loc) -> int | None:
        """The line, from 1, of what this location names, or of what is there of the way to it."""
        node, line = self.root, None
        for part in (*loc, None):
            if node is None:
                break
            line = node.start_mark.line + 1
            children: dict[Any, yaml.Node] = {}
            if isinstance(node, yaml.MappingNode):
                children = {key.value: child for key, child in node.value if isinstance(key, yaml.ScalarNode)}
            elif isinstance(node, yaml.SequenceNode):
                children = dict(enumerate(node.value))
            node = children.get(part)
        return line


def read_yaml(text: str | bytes) -> Document:
    """Parse one document; `YamlError` with its line and column for bad syntax."""
    try:
        loader = _Loader(text.decode("utf-8-sig") if isinstance(text, bytes) else text)
        root = loader.get_single_node()
        if root is None:
            return Document(None, None)
        duplicates = tuple(
            _duplicate_keys(root, (), set())
        )  # first: construction writes merged keys into the tree
        return Document(root, loader.construct_document(root), duplicates)
    except UnicodeDecodeError as error:
        raise YamlError(f"not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise YamlError("nested too deeply") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        about = " ".join(part for part in (error.context, error.problem) if part)
        where = f", column {mark.column + 1}" if mark else ""
        raise YamlError(f"not YAML{where}: {about}", mark.line + 1 if mark else None) from None
    except yaml.YAMLError as error:  # a control character, mostly
        raise YamlError(f"not YAML: {str(error).splitlines()[0]}") from None


def _duplicate_keys(node: yaml.Node, loc: Loc, seen: set[int]) -> Iterator[tuple[Loc, str]]:
    if id(node) in seen:  # an alias: its anchor was looked at
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for index, child in enumerate(node.value):
            yield from _duplicate_keys(child, (*loc, index), seen)
    elif isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, child in node.value:
            if isinstance(key, yaml.ScalarNode):
                line = key.start_mark.line + 1
                if key.value in lines:
                    first = lines[key.value]
                    yield (*loc, key.value), f"is a key twice in one mapping, in lines {first} and {line}"
                lines[key.value] = line
                yield from _duplicate_keys(child, (*loc, key.value), seen)


class _Loader(yaml.SafeLoader):
    """Knows text, lists, mappings, merges and what `_resolve` adds; refuses `!!int`, `!!set` and the like."""

    yaml_implicit_resolvers: ClassVar[Any] = {}  # type: ignore[misc]  # types-PyYAML lacks the ClassVar
    yaml_constructors: ClassVar[Any] = {
        tag: yaml.SafeLoader.yaml_constructors[tag]
        for tag in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:seq", "tag:yaml.org,2002:map", None)
    }


def _resolve(tag: str, pattern: str, first: str, construct: Callable[[str], object] | None = None) -> None:
    # PyYAML only looks at patterns filed under the scalar's first character; "" is the empty scalar's.
    compiled = re.compile(rf"(?:{pattern})\Z", re.ASCII)
    for character in [*first, *([""] if compiled.match("") else [])]:
        _Loader.add_implicit_resolver(tag, compiled, [character])
    if construct is not None:
        _Loader.add_constructor(tag, lambda _, node: construct(node.value))


_resolve("!null", "~|null|Null|NULL|", "~nN", lambda _: None)
_resolve("!bool", "true|True|TRUE|false|False|FALSE", "tTfF", lambda text: text.lower() == "true")
_resolve("!number", r"-?(0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?", "-0123456789", JsonNumber)
_resolve("tag:yaml.org,2002:merge", "<<", "<")
