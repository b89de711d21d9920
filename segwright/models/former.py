"""Arguments of saved networks by the names and defaults of earlier releases; imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ENSEMBLE = "ensemble"  # the architecture of several networks as one, in create_model and in saved models

# Arguments that bundles of version 1 do not name, since they had these values then
FORMER_DEFAULTS: dict[str, dict[str, Any]] = {
    "upernet": {"channels": 256, "aux": False},
    "segformer": {"channels": 256},
    "pspnet": {"grid_aligned": False},
}


# Arguments of constructors by their former names
FORMER_ARGUMENTS = {"pixels": "input_scale"}


def with_current_names(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a saved network under the names of today."""
    found = {FORMER_ARGUMENTS.get(key, key): value for key, value in arguments.items()}
    members = found.get("members")
    if isinstance(members, list):
        found["members"] = [
            {**member, "arguments": with_current_names(member["arguments"])}
            if isinstance(member, dict) and isinstance(member.get("arguments"), dict)
            else member
            for member in members
        ]
    return found


def with_former_defaults(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a network that was saved under the defaults of :data:`FORMER_DEFAULTS`, for today's."""
    found = {**FORMER_DEFAULTS.get(name, {}), **arguments}
    members = found.get("members")
    if name == ENSEMBLE and isinstance(members, list):
        found["members"] = [
            {**member, "arguments": with_former_defaults(str(member.get("architecture")), member.get("arguments", {}))}
            if isinstance(member, dict) and isinstance(member.get("arguments", {}), dict)
            else member
            for member in members
        ]
    return found
