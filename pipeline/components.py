"""Which things hang together, directly or through others.

Promises: the cost is linear in links and things; nothing slow is loaded before it is needed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def components(links: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Number the components of an undirected graph.

    Args:
        links: both ends of each, int64 [links, 2].
        count: of nodes.

    Returns:
        The component of each node, int64 [count].
    """
    # Late: they take a third of split's time to start, and a mistake in params.yaml is told before.
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    left, right = links.T
    graph = coo_array((np.ones(len(left), bool), (left, right)), shape=(count, count))
    found: NDArray[np.int64] = connected_components(graph, directed=False)[1].astype(np.int64)
    return found
