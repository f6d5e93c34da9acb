"""YAML files, read strictly: no tags that make objects, no key twice, and 1e-3 is a number."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from groundup.core.errors import UsageError
from groundup.core.files import explained

LARGEST = 1 << 20  # bytes; a file of settings has some hundred


def read_yaml(path: str | Path) -> Any:
    """What the file holds. UsageError where it is too large, no YAML, or has a key twice."""
    place = Path(path)
    with explained(path):
        if place.stat().st_size > LARGEST:
            raise UsageError(f"{path} has {place.stat().st_size:,} bytes: that is no file of settings")
        content = place.read_bytes()
    try:
        return yaml.load(content.decode("utf-8-sig"), Loader=_Strict)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise UsageError(f"{path} is no YAML: {' '.join(str(error).split())}") from None


class _Strict(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise UsageError(f"the key {key!r} stands twice")
        return super().construct_mapping(node, deep=deep)


# YAML 1.1 takes 1e-3 for a text: its numbers need a point
_Strict.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)
