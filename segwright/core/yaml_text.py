"""Parsing of untrusted YAML: plain values only, with limits of size, depth and expanded aliases."""

from __future__ import annotations

from typing import Any

import yaml

MAX_TEXT = 1_000_000  # characters
MAX_PARTS = 200_000  # values, with aliases expanded


def load_yaml(text: str) -> Any:
    """The document as dicts, lists and plain values; yaml.YAMLError for any invalid document, including recursive ones
    and those that expand beyond the limits."""
    if len(text) > MAX_TEXT:
        raise yaml.YAMLError(f"more than {MAX_TEXT} characters")
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _weigh(node)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.YAMLError:
        raise
    except RecursionError as error:
        raise yaml.YAMLError("nested too deep") from error
    except (ValueError, TypeError, OverflowError, LookupError, AttributeError) as error:  # dates, numbers, keys
        raise yaml.YAMLError(f"a value that cannot be read: {error}") from error


def _weigh(root: Any) -> None:
    """Raise YAMLError if the tree, with aliases expanded, is larger than MAX_PARTS or contains itself."""
    weights: dict[int, int] = {}
    open_: set[int] = set()
    waiting = [(root, False)]
    while waiting:
        node, done = waiting.pop()
        key = id(node)
        if isinstance(node, yaml.MappingNode):
            inner = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            inner = node.value
        else:
            inner = []
        if done:
            open_.discard(key)
            weights[key] = 1 + sum(weights[id(part)] for part in inner)
            if weights[key] > MAX_PARTS:
                raise yaml.YAMLError(f"more than {MAX_PARTS} values, with its aliases expanded")
            continue
        if key in weights:
            continue
        if key in open_:
            raise yaml.YAMLError("an alias to a value that contains it")
        open_.add(key)
        waiting.append((node, True))
        waiting += [(part, False) for part in inner if id(part) not in weights]
        if any(id(part) in open_ for part in inner):
            raise yaml.YAMLError("an alias to a value that contains it")
