"""Ranks: who they are, and the few things they exchange.

`SerialComm` and `MpiComm` have the same members and the same semantics, so code above never asks which it holds.  Only
scalars cross the network in an outer step; the gradient is rebuilt in memory that the ranks of a node share.
mpi4py is imported when an MpiComm is made, never at import.
"""

import atexit
import contextlib
import ctypes
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from lopt.errors import CommError, LoptError, UsageError

# Variables that launchers set, with the smallest value that means "one of several ranks".
_LAUNCH_VARIABLES = (
    "PMI_SIZE",
    "OMPI_COMM_WORLD_SIZE",
    "MV2_COMM_WORLD_SIZE",
    "SLURM_STEP_NUM_TASKS",
)

NODE_VARIABLE = "LOPT_RANKS_PER_NODE"  # splits nodes into smaller groups of ranks that share memory

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
DRAIN_S = 0.3  # launchers drop what they have not read yet from a rank that aborts


class WorkCounter(Protocol):
    """Hands out 0, 1, 2, ... to whichever rank of the node asks next; each number exactly once."""

    def next(self) -> int:
        """The next number."""


class Comm(Protocol):
    """What the library needs of a communicator.

    rank, size               this rank and the number of ranks
    node_rank, node_size     the same within the node
    node_of                  node of every rank, (size,) int64, nodes numbered by their first ranks
    sent                     bytes this rank gave to collectives so far, by kind ("scalars", "control", "gather")
    """

    rank: int
    size: int
    node_rank: int
    node_size: int
    node_of: np.ndarray
    sent: dict[str, int]

    def bcast(self, value: Any, root: int = 0) -> Any:
        """A JSON-able value of the root rank, on every rank."""

    def bcast_arrays(self, arrays: Mapping[str, np.ndarray] | None) -> dict[str, np.ndarray]:
        """Rank 0's named arrays on every rank; the others pass None."""

    def allreduce_scalars(self, values: np.ndarray, kind: str = "scalars") -> None:
        """Sum a float64 vector over ranks in place.

        Each rank fills its own entries and leaves the others 0: adding zeros is exact, so the bits do not depend on the
        number of ranks.
        """

    def gather_arrays(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray] | None:
        """Named arrays of all ranks, merged on rank 0 (None elsewhere); names must differ between ranks."""

    def barrier(self) -> None:
        """Wait for all ranks."""

    def node_barrier(self) -> None:
        """Wait for all ranks of this node."""

    def shared_array(self, n: int, dtype: type = np.float32) -> np.ndarray:
        """An array of n zeros that all ranks of the node read and write; collective over the node."""

    def node_fence(self) -> None:
        """What any rank of the node wrote into shared arrays before is visible to all after."""

    def work_counter(self) -> WorkCounter:
        """A fresh counter for dynamic hand-out within the node; collective over the node."""

    def abort(self, code: int = 1) -> None:
        """End all ranks at once."""


def slice_of(n: int, part: int, parts: int) -> tuple[int, int]:
    """The `part`-th of `parts` contiguous slices of range(n), sizes differing by at most one."""
    return n * part // parts, n * (part + 1) // parts


class _SerialCounter:
    def __init__(self) -> None:
        self._next = 0

    def next(self) -> int:
        self._next += 1
        return self._next - 1


class SerialComm:
    """One rank, no MPI."""

    rank = 0
    size = 1
    node_rank = 0
    node_size = 1

    def __init__(self) -> None:
        self.node_of = np.zeros(1, np.int64)
        self.sent = {"scalars": 0, "control": 0, "gather": 0}

    def bcast(self, value: Any, root: int = 0) -> Any:
        return json.loads(json.dumps(value))

    def bcast_arrays(self, arrays: Mapping[str, np.ndarray] | None) -> dict[str, np.ndarray]:
        return {k: np.array(v) for k, v in (arrays or {}).items()}

    def allreduce_scalars(self, values: np.ndarray, kind: str = "scalars") -> None:
        _check_scalars(values)
        self.sent[kind] += values.nbytes

    def gather_arrays(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray] | None:
        self.sent["gather"] += sum(a.nbytes for a in arrays.values())
        return {k: np.array(v) for k, v in arrays.items()}

    def barrier(self) -> None:
        pass

    def node_barrier(self) -> None:
        pass

    def shared_array(self, n: int, dtype: type = np.float32) -> np.ndarray:
        return np.zeros(n, dtype)

    def node_fence(self) -> None:
        pass

    def work_counter(self) -> WorkCounter:
        return _SerialCounter()

    def abort(self, code: int = 1) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _die_with_the_launcher() -> None:
    """Have Linux kill this rank when the launcher's process on the node dies: it would spin in MPI for ever."""
    if sys.platform == "linux" and os.getppid() != 1:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class _MpiCounter:
    """A 64-bit integer in the node's shared memory, incremented by one-sided Fetch_and_op.

    Not in the memory of one rank for all nodes: where the network has no atomic operations of its own,
    everybody would wait for that rank to come out of its computing.  So would a lock for each number.
    """

    def __init__(self, mpi: Any, window: Any) -> None:
        self._mpi, self._window = mpi, window

    def next(self) -> int:
        one, got = np.ones(1, np.int64), np.empty(1, np.int64)
        self._window.Fetch_and_op(one, got, 0, 0, self._mpi.SUM)
        self._window.Flush(0)
        return int(got[0])


class MpiComm:
    """The ranks of MPI_COMM_WORLD.

    Args:
        ranks_per_node: ranks that share memory at most: those of a NUMA domain rather than of the
            node, or a pretended node; 0: all of a node.

    Raises:
        CommError: mpi4py or the MPI library it needs cannot be loaded.
    """

    def __init__(self, ranks_per_node: int = 0) -> None:
        try:
            from mpi4py import MPI
        except (ImportError, RuntimeError) as error:
            raise CommError(
                f"no working MPI library for mpi4py ({error}); install lopt[mpi] or your cluster's MPI"
            ) from error
        _die_with_the_launcher()
        self._mpi = MPI
        self._world = MPI.COMM_WORLD
        self._node = self._world.Split_type(MPI.COMM_TYPE_SHARED, key=self._world.rank)
        if ranks_per_node:
            part = self._node.rank // ranks_per_node
            self._node = self._node.Split(part, key=self._node.rank)
        self.rank, self.size = self._world.rank, self._world.size
        self.node_rank, self.node_size = self._node.rank, self._node.size
        self.node_of = self._nodes()
        self.sent = {"scalars": 0, "control": 0, "gather": 0}
        self._windows: list[Any] = []  # node-shared arrays
        atexit.register(self._free)
        if self.size > 1:
            sys.excepthook = self._end_all

    def _nodes(self) -> np.ndarray:
        first, firsts = np.array([self.rank], np.int64), np.empty(self.size, np.int64)
        self._node.Bcast(first, 0)
        self._world.Allgather(first, firsts)
        return np.unique(firsts, return_inverse=True)[1]

    def _end_all(self, kind: type[BaseException], error: BaseException, trace: Any) -> None:
        """An exception nobody caught: the other ranks would wait for this one for ever."""
        text = "".join(traceback.format_exception(kind, error, trace))
        _say(f"lopt: uncaught exception on rank {self.rank} of {self.size}\n{text}")
        self.abort(1)

    def _free(self) -> None:
        """Free the windows before MPI ends; collective, so it runs at the regular exit of all ranks only."""
        for window in self._windows:
            window.Unlock_all()
            window.Free()

    def bcast(self, value: Any, root: int = 0) -> Any:
        text = json.dumps(value).encode() if self.rank == root else b""
        length = np.array([len(text)], np.int64)
        self._world.Bcast(length, root)
        data = (
            np.frombuffer(text, np.uint8).copy()
            if self.rank == root
            else np.empty(length[0], np.uint8)
        )
        self._world.Bcast(data, root)
        self.sent["control"] += 8 + data.nbytes if self.rank == root else 0
        return json.loads(data.tobytes())

    def bcast_arrays(self, arrays: Mapping[str, np.ndarray] | None) -> dict[str, np.ndarray]:
        mine = arrays or {}
        table = self.bcast(
            [[k, np.asarray(v).dtype.str, list(np.shape(v))] for k, v in mine.items()]
        )
        received = {}
        for name, dtype, shape in table:
            array = np.ascontiguousarray(mine[name]) if self.rank == 0 else np.empty(shape, dtype)
            array = array.reshape(shape)
            self._world.Bcast(
                array.view(np.uint8) if array.ndim else array.reshape(1).view(np.uint8)
            )
            self.sent["control"] += array.nbytes if self.rank == 0 else 0
            received[name] = array
        return received

    def allreduce_scalars(self, values: np.ndarray, kind: str = "scalars") -> None:
        _check_scalars(values)
        self.sent[kind] += values.nbytes
        self._world.Allreduce(self._mpi.IN_PLACE, values, self._mpi.SUM)

    def gather_arrays(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray] | None:
        mine = {k: np.ascontiguousarray(v) for k, v in arrays.items()}
        table = json.dumps(
            [[k, v.dtype.str, list(np.shape(arrays[k])), v.nbytes] for k, v in mine.items()]
        )
        blob = b"".join(v.tobytes() for v in mine.values())
        head = table.encode()
        self.sent["gather"] += len(head) + len(blob)
        if self.rank != 0:
            self._send_bytes(head)
            self._send_bytes(blob)
            return None
        merged = {k: np.array(v).reshape(np.shape(arrays[k])) for k, v in mine.items()}
        for source in range(1, self.size):
            names = json.loads(self._receive_bytes(source))
            data, at = self._receive_bytes(source), 0
            for name, dtype, shape, nbytes in names:
                if name in merged:
                    raise CommError(f"array {name!r} was gathered from two ranks")
                merged[name] = np.frombuffer(data[at : at + nbytes], dtype).reshape(shape).copy()
                at += nbytes
        return merged

    def _send_bytes(self, data: bytes) -> None:
        self._world.Send(np.array([len(data)], np.int64), 0)
        self._world.Send(np.frombuffer(data, np.uint8), 0)

    def _receive_bytes(self, source: int) -> bytes:
        length = np.empty(1, np.int64)
        self._world.Recv(length, source)
        data = np.empty(length[0], np.uint8)
        self._world.Recv(data, source)
        return data.tobytes()

    def barrier(self) -> None:
        self._world.Barrier()

    def node_barrier(self) -> None:
        self._node.Barrier()

    def shared_array(self, n: int, dtype: type = np.float32) -> np.ndarray:
        size = np.dtype(dtype).itemsize
        window = self._mpi.Win.Allocate_shared(
            n * size if self.node_rank == 0 else 0, size, comm=self._node
        )
        window.Lock_all()
        self._windows.append(window)
        memory, _ = window.Shared_query(0)
        array = np.frombuffer(memory, dtype, count=n)
        if self.node_rank == 0:
            array[:] = 0
        self.node_fence()
        return array

    def node_fence(self) -> None:
        for window in self._windows:
            window.Sync()
        self._node.Barrier()
        for window in self._windows:
            window.Sync()

    def work_counter(self) -> WorkCounter:
        self.shared_array(1, np.int64)
        return _MpiCounter(self._mpi, self._windows[-1])

    def abort(self, code: int = 1) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        time.sleep(DRAIN_S)
        self._world.Abort(code)


def get_comm() -> Comm:
    """SerialComm, or MpiComm when a launcher started this process as one of several.

    Raises:
        CommError: the launcher says there are several ranks but MPI is missing or sees only one: N silent serial copies
            of a job would be worse than an error.  Also if LOPT_RANKS_PER_NODE is no number.
    """
    expected = launched_ranks(os.environ)
    if expected <= 1:
        return SerialComm()
    comm = MpiComm(ranks_per_node(os.environ))
    if comm.size != expected:
        raise CommError(
            f"the launcher started {expected} ranks but the MPI library sees {comm.size}: "
            "mpirun and the MPI library of mpi4py do not belong together"
        )
    return comm


def launched_ranks(environment: Mapping[str, str]) -> int:
    """Number of ranks the launcher announces in the environment; 1 if none does.

    Raises:
        CommError: a rank number is announced without a readable count.
    """
    for name in _LAUNCH_VARIABLES:
        if name in environment:
            try:
                return int(environment[name])
            except ValueError as error:
                raise CommError(f"{name}={environment[name]!r} is no number of ranks") from error
    return 2 if int(environment.get("PMIX_RANK", "0")) > 0 else 1


def ranks_per_node(environment: Mapping[str, str]) -> int:
    """Ranks that share memory at most, from LOPT_RANKS_PER_NODE in the environment; 0: as many as a node has.

    Raises:
        CommError: it is no whole number from 0.
    """
    text = environment.get(NODE_VARIABLE, "0")
    if not text.isdecimal():
        raise CommError(f"{NODE_VARIABLE}={text!r} is no number of ranks, valid: 1, 2, ... or 0")
    return int(text)


@contextlib.contextmanager
def aborting(comm: Comm, debug: bool = False) -> Iterator[None]:
    """Within it, an exception on one of several ranks ends them all within seconds, naming the rank.

    Alone, the exception goes on to the caller.
    """
    try:
        yield
    except Exception as error:
        if comm.size == 1:
            raise
        full = debug or not isinstance(error, LoptError)
        text = traceback.format_exc() if full else ""
        _say(f"{text}lopt: error on rank {comm.rank} of {comm.size}: {error}\n")
        comm.abort(2 if isinstance(error, UsageError) else 1)


def _say(text: str) -> None:
    """To stderr in one piece: lines of several ranks do not mix."""
    sys.stderr.write(text)
    sys.stderr.flush()


def _check_scalars(values: np.ndarray) -> None:
    if values.dtype != np.float64 or not values.flags.c_contiguous:
        raise CommError(f"allreduce_scalars takes contiguous float64, got {values.dtype}")
