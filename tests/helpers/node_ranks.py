"""Several ranks of a node that share memory, run one after the other in one process."""

import numpy as np

from lopt.comm import SerialComm


class NodeRank(SerialComm):
    """One of them.

    Args:
        memory: what `shared_array` gives to all of them; its size and dtype must be asked for.
    """

    def __init__(self, rank: int, size: int, memory: np.ndarray) -> None:
        super().__init__()
        self.node_rank, self.node_size, self.memory = rank, size, memory

    def shared_array(self, n, dtype=np.float32):
        """`memory`."""
        assert self.memory.shape == (n,) and self.memory.dtype == dtype
        return self.memory
