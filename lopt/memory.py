"""How much memory this process has had at most; loading it costs next to none, or it would measure itself."""

import resource
import sys
from pathlib import Path


def peak_memory() -> int:
    """Most memory that this process has had, in bytes.

    Linux keeps it in VmHWM; `ru_maxrss`, taken elsewhere, begins at what the process that started this one had.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def forget_peak() -> None:
    """Let `peak_memory` begin anew at what the process has now, where that is possible (Linux)."""
    if Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")
