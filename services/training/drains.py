"""Whether a node of Ray is being drained."""

from ray._private import state  # Ray Train looks here, too: there is no public way.


def is_draining(node: str) -> bool:
    """By its id, of the node of this process."""
    draining: dict[str, int] = state.state.get_draining_nodes()
    return node in draining
