"""What Ray knows of nodes and of actors without a place. It has no public way to ask that does
without its dashboard; Ray Train and Ray Serve look here, too.
"""

from typing import Any, cast

from ray._private import state


def is_draining(node: str) -> bool:
    """Whether a node, by its id, is about to go."""
    draining: dict[str, int] = state.state.get_draining_nodes()
    return node in draining


def waiting_actors() -> set[str]:
    """Names of actors that have no process yet."""
    actors = cast(dict[str, dict[str, Any]], state.actors())
    return {
        each["Name"]
        for each in actors.values()
        if each["State"] in ("DEPENDENCIES_UNREADY", "PENDING_CREATION")
    }
