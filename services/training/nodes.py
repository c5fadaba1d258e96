"""What Ray knows of nodes and of actors without a place. It has no public way to ask that does
without its dashboard; Ray Train and Ray Serve look here, too.
"""

from collections.abc import Iterable, Mapping
from typing import Any, cast

from ray._private import state


def is_draining(node: str) -> bool:
    """Whether a node, by its id, is about to go."""
    draining: dict[str, int] = state.state.get_draining_nodes()
    return node in draining


def waiting_actors() -> set[str]:
    """Names of actors that have no process yet."""
    return {
        each["Name"]
        for each in _actors()
        if each["State"] in ("DEPENDENCIES_UNREADY", "PENDING_CREATION")
    }


def room(needs: Mapping[str, Mapping[str, float]]) -> list[dict[str, float]]:
    """What each node that stays has free, and what these actors, by name, take of it."""
    free: dict[str, dict[str, float]] = state.state.available_resources_per_node()
    going: dict[str, int] = state.state.get_draining_nodes()
    nodes = {node: dict(has) for node, has in free.items() if node not in going}
    for each in _actors():
        node = nodes.get(each["Address"]["NodeID"])
        if each["State"] == "ALIVE" and node is not None:
            for what, amount in needs.get(each["Name"], {}).items():
                node[what] = node.get(what, 0.0) + amount
    return list(nodes.values())


def _actors() -> Iterable[dict[str, Any]]:
    return cast(dict[str, dict[str, Any]], state.actors()).values()
