"""SerialComm and MpiComm behave alike; the launcher's word is checked; an error on one rank ends all."""

import os
import re
import select
import signal
import sys
import textwrap

import numpy as np
import pytest
from helpers.mpi import kill_group, launch, start

from lopt.comm import SerialComm, get_comm, launched_ranks, ranks_per_node, slice_of
from lopt.errors import CommError

CONFORMANCE = textwrap.dedent(
    """
    import numpy as np
    from lopt.comm import get_comm, slice_of
    comm = get_comm()
    assert 0 <= comm.rank < comm.size and 0 <= comm.node_rank < comm.node_size <= comm.size
    # scalars: each fills its own, the bits are those of one rank
    values = np.zeros(7)
    mine = [i for i in range(7) if i % comm.size == comm.rank]
    values[mine] = (-1.0) ** np.array(mine) / (3.0 + np.array(mine))
    comm.allreduce_scalars(values)
    assert values.tobytes() == ((-1.0) ** np.arange(7) / (3.0 + np.arange(7))).tobytes()
    assert comm.sent["scalars"] == 56
    # broadcasts
    assert comm.bcast({"a": [1, 2.5, None]} if comm.rank == 0 else None) == {"a": [1, 2.5, None]}
    arrays = {"x": np.arange(6.0).reshape(2, 3), "n": np.int64(4), "e": np.zeros((0, 2), np.float32)}
    got = comm.bcast_arrays(arrays if comm.rank == 0 else None)
    assert got["x"].tolist() == [[0, 1, 2], [3, 4, 5]] and int(got["n"]) == 4 and got["e"].shape == (0, 2)
    # gather of ragged arrays
    merged = comm.gather_arrays({f"r{comm.rank}": np.full((comm.rank, 2), comm.rank, np.float32)})
    if comm.rank == 0:
        assert {k: v.shape for k, v in merged.items()} == {f"r{r}": (r, 2) for r in range(comm.size)}
    else:
        assert merged is None
    # node-shared memory: every rank writes its slice, every rank reads all
    shared = comm.shared_array(11, np.float64)
    assert (shared == 0).all()
    comm.node_fence()  # all have looked before anyone writes
    lo, hi = slice_of(11, comm.node_rank, comm.node_size)
    shared[lo:hi] = np.arange(lo, hi)
    comm.node_fence()
    assert shared.tolist() == list(range(11))
    # what one node writes no other sees
    comm.node_fence()
    if comm.node_rank == 0:
        shared[0] = comm.rank
    comm.node_fence()
    comm.barrier()
    assert shared[0] == comm.rank - comm.node_rank
    # every number handed out once on each node
    counter, mine = comm.work_counter(), np.zeros(50)
    while (i := counter.next()) < 50:
        mine[i] += 1
    comm.allreduce_scalars(mine)
    assert (mine == comm.node_of[-1] + 1).all()
    assert comm.node_of.tolist() == sorted(comm.node_of) and comm.node_of[0] == 0
    assert (comm.node_of == comm.node_of[comm.rank]).sum() == comm.node_size
    comm.barrier()
    print(f"rank {comm.rank} of {comm.size} fine, node of {comm.node_size}", flush=True)
    """
)


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_conformance(ranks: int) -> None:
    done = launch(ranks, ["-c", CONFORMANCE], timeout=60)
    assert done.code == 0, done.err
    assert done.out.count("fine") == ranks


@pytest.mark.mpi
@pytest.mark.parametrize(("ranks", "most", "sizes"), [(3, 2, [2, 2, 1]), (4, 1, [1] * 4)])
def test_conformance_on_several_nodes(ranks: int, most: int, sizes: list[int]) -> None:
    """Pretended nodes: shared memory is the node's alone, all the rest crosses them."""
    done = launch(ranks, ["-c", CONFORMANCE], timeout=60, LOPT_RANKS_PER_NODE=str(most))
    assert done.code == 0, done.err
    found = re.findall(r"node of (\d)", done.out)  # ranks may speak in each other's lines
    assert sorted(map(int, found), reverse=True) == sizes


@pytest.mark.mpi
def test_nobody_waits_for_a_number_while_another_rank_computes() -> None:
    """Rank 0 computes without a word to MPI until all others have their numbers."""
    code = textwrap.dedent(
        """
        import numpy as np
        from lopt.comm import get_comm
        comm = get_comm()
        counter, done = comm.work_counter(), comm.shared_array(comm.size)
        comm.barrier()
        if comm.rank == 0:
            while done[1:].sum() < comm.size - 1:
                pass
        else:
            numbers = [counter.next() for _ in range(3)]
            done[comm.rank] = 1
        comm.barrier()
        print("fine", flush=True)
        """
    )
    done = launch(3, ["-c", code], timeout=60)
    assert done.code == 0, done.err
    assert done.out.count("fine") == 3


@pytest.mark.mpi
def test_an_error_on_one_rank_ends_all_and_names_the_rank() -> None:
    """Rank 1 raises while the others wait in a collective that would never end."""
    code = textwrap.dedent(
        """
        from lopt.comm import aborting, get_comm
        from lopt.errors import UsageError
        comm = get_comm()
        with aborting(comm):
            if comm.rank == 1:
                raise UsageError("planted")
            comm.barrier()
        """
    )
    done = launch(3, ["-c", code], timeout=120)
    assert done.code != 0
    assert "error on rank 1 of 3: planted" in done.err


@pytest.mark.mpi
@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells a process that its parent died")
def test_ranks_do_not_outlive_the_launchers_process() -> None:
    """All ranks but one wait in a collective; the process that started them is killed."""
    code = textwrap.dedent(
        """
        import os, signal
        from lopt.comm import get_comm
        comm = get_comm()
        os.write(1, b"%d %d\\n" % (os.getpid(), os.getppid()))  # at once: ranks share the line
        if comm.rank == 1:
            signal.pause()
        comm.barrier()
        """
    )
    process = start(2, ["-c", code])
    try:
        found = [process.stdout.readline().split() for _ in range(2)]
        watched = [os.pidfd_open(int(pid)) for pid, _ in found]
        os.kill(int(found[0][1]), signal.SIGKILL)
        ended = [bool(select.select([fd], [], [], 30)[0]) for fd in watched]
        for fd in watched:
            os.close(fd)
    finally:
        kill_group(process)
        process.communicate()
    assert ended == [True, True]


def test_a_launcher_without_working_mpi_is_an_error() -> None:
    """Two ranks announced, but this process is alone: not a silent serial copy."""
    code = "from lopt.comm import get_comm; get_comm()"
    done = launch(1, ["-c", code], OMPI_COMM_WORLD_SIZE="2")
    assert done.code != 0
    assert "CommError" in done.err


def test_a_broken_mpi_library_is_an_error() -> None:
    code = "import sys; sys.modules['mpi4py'] = None\nfrom lopt.comm import get_comm\nget_comm()"
    done = launch(1, ["-c", code], PMI_SIZE="4")
    assert done.code != 0
    assert "no working MPI library" in done.err


@pytest.mark.parametrize(
    ("environment", "ranks"),
    [
        ({}, 1),
        ({"PMI_SIZE": "1"}, 1),
        ({"PMI_SIZE": "3"}, 3),
        ({"SLURM_STEP_NUM_TASKS": "64"}, 64),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, 2),
        ({"PMIX_RANK": "5"}, 2),
    ],
)
def test_announced_ranks(environment: dict, ranks: int) -> None:
    assert launched_ranks(environment) == ranks


def test_an_unreadable_count_is_an_error() -> None:
    with pytest.raises(CommError, match="PMI_SIZE='many'"):
        launched_ranks({"PMI_SIZE": "many"})


def test_an_unreadable_number_of_ranks_of_a_node_is_an_error() -> None:
    assert [ranks_per_node({}), ranks_per_node({"LOPT_RANKS_PER_NODE": "16"})] == [0, 16]
    for text in ("two", "-1", "1.5", ""):
        with pytest.raises(CommError, match=f"LOPT_RANKS_PER_NODE='{text}'"):
            ranks_per_node({"LOPT_RANKS_PER_NODE": text})


def test_without_a_launcher_there_is_no_mpi(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PMI_SIZE", "PMIX_RANK", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    assert isinstance(get_comm(), SerialComm)


@pytest.mark.parametrize(("n", "parts"), [(0, 3), (1, 4), (7, 3), (35799, 128)])
def test_slices_cover_everything_once(n: int, parts: int) -> None:
    slices = [slice_of(n, i, parts) for i in range(parts)]
    assert [i for lo, hi in slices for i in range(lo, hi)] == list(range(n))
    sizes = [hi - lo for lo, hi in slices]
    assert max(sizes) - min(sizes) <= 1


def test_scalars_must_be_float64() -> None:
    with pytest.raises(CommError, match="float64"):
        SerialComm().allreduce_scalars(np.zeros(3, np.float32))
