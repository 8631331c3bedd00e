"""Reading an HDF5 file that is being written, or whose writer was killed, without HDF5's own SWMR reader.

That reader answers a wrong checksum with a hundred retries and doubling pauses: on a damaged file it hangs.  Opened
plainly, HDF5 checks once and reports; but a plain open is refused while the superblock says that there is a writer, and
trusts the end of file noted there, which the writer does not keep up to date.  So HDF5 is shown the file with these two
numbers set right.
"""

import io
import struct
from pathlib import Path

from lopt.errors import StoreError

# Superblock version 3: signature, version, sizes of offsets and lengths, consistency flags,
# addresses of base, extension, end of file and root group, checksum.
_SUPERBLOCK = struct.Struct("<8s4B4QI")
_SLACK = (
    1 << 26
)  # bytes the file may grow while it is open; more and the reader has to open it again
_MASK = 0xFFFFFFFF


class LiveFile(io.RawIOBase):
    """Read-only view of a file for h5py's file-object driver.

    Args:
        base: bytes before the superblock.

    Raises:
        StoreError: the superblock is cut off, of another version, or does not match its checksum.
    """

    def __init__(self, path: Path, base: int) -> None:
        super().__init__()
        self._raw = open(path, "rb", buffering=0)  # noqa: SIM115 (closed in close)
        self._base = base
        self._position = 0
        try:
            self._raw.seek(base)
            found = self._raw.read(_SUPERBLOCK.size)
            size = self._raw.seek(0, io.SEEK_END)
            self._superblock = _opened_for_reading(found, size + _SLACK)
        except BaseException:
            self.close()
            raise
        self._size = size + _SLACK

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move; the end is where the file may grow to."""
        start = (0, self._position, self._size)[whence]
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        """Position in bytes."""
        return self._position

    def readinto(self, buffer: memoryview) -> int:
        """Fill `buffer`; zeros, which match no checksum, where the file has not grown to."""
        target = memoryview(buffer).cast("B")
        self._raw.seek(self._position)
        count = 0
        while count < len(target) and (step := self._raw.readinto(target[count:])):
            count += step
        target[count:] = bytes(len(target) - count)
        self._cover(target)
        self._position += len(target)
        return len(target)

    def _cover(self, target: memoryview) -> None:
        """Put the altered superblock over what was read of it."""
        low = max(self._position, self._base)
        high = min(self._position + len(target), self._base + len(self._superblock))
        if low < high:
            piece = self._superblock[low - self._base : high - self._base]
            target[low - self._position : high - self._position] = piece

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def close(self) -> None:
        """Close the file below too."""
        self._raw.close()
        super().close()


def _opened_for_reading(found: bytes, size: int) -> bytes:
    """The superblock without a writer's mark and with the end of file at `size`."""
    if len(found) < _SUPERBLOCK.size or not found.startswith(b"\x89HDF\r\n\x1a\n\x03"):
        raise StoreError("cut off before, or damaged in, its HDF5 superblock")
    if checksum_lookup3(found[:-4]) != int.from_bytes(found[-4:], "little"):
        raise StoreError("its HDF5 superblock does not match its checksum")
    part = list(_SUPERBLOCK.unpack(found))
    part[4], part[7] = 0, size  # consistency flags, end of file
    altered = _SUPERBLOCK.pack(*part)[:-4]
    return altered + checksum_lookup3(altered).to_bytes(4, "little")


def checksum_lookup3(data: bytes) -> int:
    """HDF5's metadata checksum: Bob Jenkins' lookup3 hash of at least one byte, initial value 0.

    Source: HDF5 File Format Specification 3.0, "Disk Format: Level 0A" and the public description of lookup3.
    """
    a = b = c = (0xDEADBEEF + len(data)) & _MASK
    n_blocks = (len(data) - 1) // 12  # the last block, full or not, is treated differently
    words = struct.unpack(f"<{3 * n_blocks + 3}I", data.ljust(12 * n_blocks + 12, b"\0"))
    for k in range(0, 3 * n_blocks, 3):
        a, b, c = (a + words[k]) & _MASK, (b + words[k + 1]) & _MASK, (c + words[k + 2]) & _MASK
        for shift in (4, 6, 8, 16, 19, 4):
            a = ((a - c) & _MASK) ^ _rotate(c, shift)
            c = (c + b) & _MASK
            a, b, c = b, c, a
    a, b, c = ((x + w) & _MASK for x, w in zip((a, b, c), words[-3:], strict=True))
    for shift in (14, 11, 25, 16, 4, 14, 24):
        c = ((c ^ b) - _rotate(b, shift)) & _MASK
        a, b, c = b, c, a
    return b


def _rotate(x: int, k: int) -> int:
    return ((x << k) | (x >> (32 - k))) & _MASK
