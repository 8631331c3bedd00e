"""Make the embedded data files of lopt/data from their published packages.

    pip download --no-deps scikit-learn==1.9.1
    apt-get download bible-kjv-text=4.38          # any Debian; needs dpkg-deb and gzip
    python scripts/make_embedded_data.py scikit_learn-1.9.1-*.whl bible-kjv-text_4.38_all.deb

Sources are checked against SHA-256 sums before use and contents afterwards.  The sums of the
contents do not cover the compressed files, whose bytes depend on the version of the compressor.
"""

import gzip
import hashlib
import io
import lzma
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

SHA256 = {
    "digits.csv.gz": "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22",
    "bible.data": "6c746c2acc8a34bfded980883ff1701a5d68934a1c853ebf88a07b978fe0ae0e",
    "digits": "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826",
    "kjv": "9132b98a50f28bd3e25cee815b8d8013742b278e3c9f7999144c058a3cf3d1b8",
}
TEXT_LENGTH = 500_000
LZW_OFFSET = 368  # bible.data: a header and block table, then one Unix-compress stream
TARGET = Path(__file__).resolve().parent.parent / "lopt" / "data"


def check(name: str, content: bytes) -> bytes:
    """The content itself, or the end of the program if its SHA-256 is not the expected one."""
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256[name]:
        sys.exit(f"{name}: SHA-256 is {found}, expected {SHA256[name]}")
    return content


def make_digits(wheel: str) -> None:
    """digits.npz: x (1797, 64) uint8 in 0..16, y (1797,) uint8 in 0..9, in the source's order."""
    with zipfile.ZipFile(wheel) as archive:
        packed = check("digits.csv.gz", archive.read("sklearn/datasets/data/digits.csv.gz"))
    table = np.loadtxt(io.BytesIO(gzip.decompress(packed)), delimiter=",").astype(np.uint8)
    x, y = np.ascontiguousarray(table[:, :64]), np.ascontiguousarray(table[:, 64])
    check("digits", x.tobytes() + y.tobytes())
    np.savez_compressed(TARGET / "digits.npz", x=x, y=y)


def make_kjv(package: str) -> None:
    """kjv.txt.xz: the text from "In the beginning" on, one verse per line, labels stripped."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["dpkg-deb", "-x", package, folder], check=True)
        packed = check("bible.data", (Path(folder) / "usr/lib/bible.data").read_bytes())
    stream = packed[LZW_OFFSET:]
    whole = subprocess.run(["gzip", "-dc"], input=stream, capture_output=True, check=True).stdout
    verses = whole.decode("ascii").split("\n", 1)[1]  # the first line is the file's own title
    text = re.sub(r"(?m)^[0-9A-Za-z]+:\d+ ", "", verses)[:TEXT_LENGTH].encode("ascii")
    check("kjv", text)
    packed = lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)
    (TARGET / "kjv.txt.xz").write_bytes(packed)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    make_digits(sys.argv[1])
    make_kjv(sys.argv[2])
