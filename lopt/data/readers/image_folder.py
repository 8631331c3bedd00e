"""Folders of images: class = sub-folder.  Needs Pillow (`pip install "lopt[images]"`)."""

import dataclasses
import importlib.util
import os
import re
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lopt.data.readers import base
from lopt.data.readers.registry import register_reader
from lopt.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
DECODERS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
MAX_PIXELS = 1 << 26  # of a picture as stored, before it is resized
FITS = ("exact", "crop", "stretch")
MODES = {"L": 1, "RGB": 3}
CONVERTED = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


@dataclasses.dataclass(frozen=True)
class Policy:
    """What pictures become: size (height, width), how they are made to fit, channels (0: as they are)."""

    size: tuple[int, int]
    fit: str
    channels: int


@register_reader("images")
def read_images(
    path: Path, *, size: str = "", fit: str = "exact", channels: int = 0, test: str = ""
) -> base.Rows:
    """A folder with one sub-folder of pictures for each class; names in alphabetical order.

    size      "HEIGHTxWIDTH"; if empty, that of the first picture
    fit       exact: a picture of another size is an error; crop: shrink or enlarge until the picture
              covers the size, cut the centre; stretch: resize both sides, whatever the proportions.
              Resizing averages over areas (Pillow's BOX filter).
    channels  0: all pictures must be grey, or all RGB, with 8 bits; 1 or 3: convert other modes
              (transparent pixels over white); 16-bit pictures are always refused
    test      another folder with the same classes: the source's own test set
    Files with other suffixes are left out and counted in the notes.  Rotation tags are not applied.

    Raises:
        DataError: Pillow is not installed, no classes or pictures, one that cannot be decoded or has another
            size or mode, a broken link, or a name that is not UTF-8.
    """
    if importlib.util.find_spec("PIL") is None:
        raise DataError('pictures need Pillow, which is not installed: pip install "lopt[images]"')
    if fit not in FITS or channels not in (0, 1, 3):
        raise DataError(
            f"options fit = {fit!r}, channels = {channels}; expected one of {', '.join(FITS)} and 0, 1 or 3"
        )
    names, files, labels, notes = _listing(path)
    with _open(files[0]) as first:
        policy = Policy(
            _size(size) if size else (first.height, first.width),
            fit,
            channels or MODES.get(first.mode, 0),
        )
        if not policy.channels:
            raise DataError(
                f"{base.shown(files[0])} has mode {first.mode}; say what to convert it to (channels 1 or 3)"
            )
    train = _rows(path, files, labels, policy, convert=channels > 0)
    train = dataclasses.replace(train, class_names=names, notes=notes)
    if not test:
        return train
    others, files, labels, notes = _listing(Path(test))
    if unknown := sorted(set(others) - set(names)):
        raise DataError(
            f"{base.shown(test)} has the class {unknown[0]!r}, {base.shown(path)} has not"
        )
    codes = np.array([names.index(n) for n in others])
    other = _rows(Path(test), files, codes[labels], policy, convert=channels > 0)
    return base.joined(train, dataclasses.replace(other, notes=notes))


def _listing(root: Path) -> tuple[tuple[str, ...], list[str], np.ndarray, tuple[str, ...]]:
    """Class names, files in order, label of each file, and notes."""
    with base.reading(root):
        classes = [e for e in sorted(os.scandir(root), key=lambda e: e.name) if e.is_dir()]
    files: list[str] = []
    counts, left_out = [], []
    for folder in classes:
        if not folder.name.isprintable():
            raise DataError(f"{base.shown(folder.path)}: a class needs a printable UTF-8 name")
        before = len(files)
        with base.reading(root):
            entries = sorted(os.scandir(folder.path), key=lambda e: e.name)
        for entry in entries:
            if entry.name.lower().endswith(SUFFIXES):
                files.append(_picture(entry))
            elif entry.is_dir():
                raise DataError(f"{base.shown(entry.path)} is a folder inside a class")
            else:
                left_out.append(entry.path)
        counts.append(len(files) - before)
        if not counts[-1]:
            raise DataError(f"{base.shown(folder.path)} holds no picture ({', '.join(SUFFIXES)})")
    if not files:
        raise DataError(f"{base.shown(root)} has no sub-folders of pictures")
    base.check_size(base.shown(root), len(files), 1)
    notes = (
        (
            f"{len(left_out)} files without a picture's suffix left out, first {base.shown(left_out[0])}",
        )
        if left_out
        else ()
    )
    return tuple(c.name for c in classes), files, np.repeat(np.arange(len(classes)), counts), notes


def _picture(entry: os.DirEntry[str]) -> str:
    """Path of an entry that is a regular file or a link to one; a pipe would never end."""
    try:
        regular = stat.S_ISREG(entry.stat().st_mode)
    except OSError as error:
        raise DataError(f"cannot read {base.shown(entry.path)}: {error.strerror}") from error
    if not regular:
        raise DataError(f"{base.shown(entry.path)} is not a regular file")
    return entry.path


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})", text)
    if match is None:
        raise DataError(f"option size = {text!r}, expected HEIGHTxWIDTH, for example 32x32")
    return int(match[1]), int(match[2])


def _rows(
    root: Path, files: list[str], labels: np.ndarray, policy: Policy, convert: bool
) -> base.Rows:
    shape = (*policy.size, policy.channels)
    pixels = int(np.prod(shape))
    base.check_size(base.shown(root), len(files), pixels)
    step = base.block_rows(pixels)

    def blocks() -> Iterator[np.ndarray]:
        for lo in range(0, len(files), step):
            chosen = files[lo : lo + step]
            block = np.empty((len(chosen), *shape), np.uint8)
            for i, file in enumerate(chosen):
                block[i] = _decoded(file, policy, convert).reshape(shape)
            yield block

    return base.Rows((root,), shape, np.dtype(np.uint8), labels, blocks, ((0, base.shown(root)),))


def _open(path: str) -> "Image":
    """A picture with its header read.  Pillow's decoders raise whatever occurs to them."""
    import PIL.Image

    base.regular_file(Path(path))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = PIL.Image.open(path, formats=DECODERS)
    except Exception as error:
        reason = "no picture" if isinstance(error, PIL.UnidentifiedImageError) else error
        raise DataError(f"{base.shown(path)} cannot be decoded: {reason}") from error
    if not 0 < image.width * image.height <= MAX_PIXELS:
        image.close()
        raise DataError(
            f"{base.shown(path)} claims {image.width} x {image.height} pixels, at most {MAX_PIXELS}"
        )
    return image


def _decoded(path: str, policy: Policy, convert: bool) -> np.ndarray:
    """Pixels of a picture under a policy, uint8."""
    with _open(path) as image:
        size = (image.height, image.width)
        if policy.fit == "exact" and size != policy.size:
            raise DataError(
                f"{base.shown(path)} is {size[0]}x{size[1]}, expected {policy.size[0]}x{policy.size[1]}; "
                "choose a size and fit = crop or stretch to resize"
            )
        mode = {n: m for m, n in MODES.items()}[policy.channels]
        if image.mode != mode and not (convert and image.mode in CONVERTED):
            hint = f"; channels = {policy.channels} converts" if image.mode in CONVERTED else ""
            raise DataError(f"{base.shown(path)} has mode {image.mode}, expected {mode}{hint}")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return np.asarray(_fitted(_flat(image, mode), policy))
        except Exception as error:  # Pillow's decoders raise whatever occurs to them
            raise DataError(f"{base.shown(path)} cannot be decoded: {error}") from error


def _flat(image: "Image", mode: str) -> "Image":
    """The picture in a mode, transparent pixels over white."""
    import PIL.Image

    if image.mode == mode:
        return image
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = PIL.Image.new("RGBA", image.size, "white")
        image = PIL.Image.alpha_composite(white, image)
    return image.convert(mode)


def _fitted(image: "Image", policy: Policy) -> "Image":
    """The picture in the size of the policy."""
    import PIL.Image

    height, width = policy.size
    if (image.height, image.width) == policy.size:
        return image
    box = None
    if policy.fit == "crop":
        scale = min(image.width / width, image.height / height)
        left, top = (image.width - scale * width) / 2, (image.height - scale * height) / 2
        box = (left, top, left + scale * width, top + scale * height)
    return image.resize((width, height), PIL.Image.Resampling.BOX, box=box)
