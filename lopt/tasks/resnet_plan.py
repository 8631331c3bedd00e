"""What a residual network consists of: its units and blocks, and the two tables that the kernel reads.

The kernel is in `lopt.tasks.resnet_core`.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from lopt.ops.conv import conv_size
from lopt.tasks.resnet_core import IDENTITY, POOL_SIDE, POOL_STRIDE, PROJECTION, WITHOUT

Map = tuple[int, int, int]  # height, width, channels
Stage = tuple[int, int, int, int]  # blocks, channels, inner channels, stride

# Sides of the kernels of a block's units; the first 3 x 3 one has the block's stride.
BLOCKS = {"basic": (3, 3), "bottleneck": (1, 3, 1)}

_STEM = {"block": "bottleneck", "stem": (7, 64, 2), "max_pool": True}
# The two networks on which a learned optimizer was compared with tuned Adam: Metz et al. 2020, appendix F.3.
NETWORKS = {
    "cifar14": {
        **_STEM,
        "stages": ((1, 128, 32, 1), (1, 128, 32, 2), (1, 128, 64, 1), (1, 128, 64, 2)),
    },
    "imagenet35": {
        **_STEM,
        "stages": (
            (1, 128, 32, 1), (1, 128, 32, 2), (2, 256, 64, 1), (1, 256, 64, 2),
            (3, 512, 128, 1), (1, 512, 128, 2), (2, 1024, 256, 1),
        ),
    },
}  # fmt: skip


class Unit(NamedTuple):
    """A convolution with its norm: prefix of its tensors, side and stride of its kernel, maps before and behind it."""

    name: str
    side: int
    stride: int
    before: Map
    after: Map

    @property
    def kernel_shape(self) -> tuple[int, int, int, int]:
        """(side, side, cin, cout)."""
        return self.side, self.side, self.before[2], self.after[2]

    @property
    def products(self) -> int:
        """Multiplications of one image."""
        return self.after[0] * self.after[1] * math.prod(self.kernel_shape)


class Block(NamedTuple):
    """Units with a shortcut around them, WITHOUT (the stem), IDENTITY or PROJECTION; a projection is its last unit."""

    units: tuple[Unit, ...]
    shortcut: int

    @property
    def chain(self) -> tuple[Unit, ...]:
        """The units but the projection."""
        return self.units[: len(self.units) - (self.shortcut == PROJECTION)]

    @property
    def last(self) -> Unit:
        """The unit that makes the block's map."""
        return self.chain[-1]


def unit_behind(name: str, before: Map, side: int, channels: int, stride: int) -> Unit:
    """The unit that makes so many channels of a map."""
    height, width = (conv_size(n, side, stride, "same") for n in before[:2])
    return Unit(name, side, stride, before, (height, width, channels))


def pooled(before: Map) -> Map:
    """What the maximum behind the stem makes of a map."""
    height, width = (conv_size(n, POOL_SIDE, POOL_STRIDE, "same") for n in before[:2])
    return height, width, before[2]


def block_behind(
    name: str, before: Map, sides: Sequence[int], channels: int, inner: int, stride: int
) -> Block:
    """The block of that kind that makes so many channels of a map."""
    units: list[Unit] = []
    strided = sides.index(3)
    for k, side in enumerate(sides):
        here = units[-1].after if units else before
        width = channels if k == len(sides) - 1 else inner
        step = stride if k == strided else 1
        units.append(unit_behind(f"{name}_conv{k}", here, side, width, step))
    if (channels, stride) == (before[2], 1):
        return Block(tuple(units), IDENTITY)
    skip = unit_behind(f"{name}_skip", before, 1, channels, stride)
    return Block((*units, skip), PROJECTION)


def network(
    image: Map, kind: str, stem: tuple[int, int, int], max_pool: bool, stages: Sequence[Stage]
) -> list[Block]:
    """The stem, then all blocks; options as in `lopt.tasks.resnet.Resnet`."""
    side, width, stride = stem
    blocks = [Block((unit_behind("stem", image, side, width, stride),), WITHOUT)]
    here = pooled(blocks[0].last.after) if max_pool else blocks[0].last.after
    for count, channels, inner, stride in stages:
        for k in range(count):
            name, step = f"block{len(blocks) - 1}", stride if k == 0 else 1
            blocks.append(block_behind(name, here, BLOCKS[kind], channels, inner, step))
            here = blocks[-1].last.after
    return blocks


class Tables(NamedTuple):
    """What `lopt.tasks.resnet_core` reads: numbers kept per image and besides, rows of units and of blocks."""

    kept: int
    kept_fixed: int
    units: list[int]
    blocks: list[int]


def tables(blocks: Sequence[Block], max_pool: bool, vectors: int) -> Tables:
    """Offsets of everything; a unit has so many vectors besides its kernel."""
    units, rows, count, params = [], [], 0, 0
    place, kept = (0, 0), (math.prod(blocks[0].units[0].before), 0)  # of input and kept numbers
    for k, block in enumerate(blocks):
        first = place
        for unit in block.units:
            size, channels = math.prod(unit.after), unit.after[2]
            is_projection = unit is block.units[-1] and block.shortcut == PROJECTION
            source = first if is_projection else place
            units += [unit.side, unit.stride, *unit.before, *unit.after, params, *source, *kept]
            params += math.prod(unit.kernel_shape) + vectors * channels
            kept = kept[0] + size + size // channels, kept[1] + channels  # xhat | rstd
            if not is_projection:
                place, kept = (kept[0] + size, kept[1]), (kept[0] + 2 * size, kept[1])  # y | h
        if k == 0 and max_pool:
            place, kept = kept, (kept[0] + math.prod(pooled(block.last.after)), kept[1])
        rows += [count, count + len(block.chain), block.shortcut]
        count += len(block.units)
    return Tables(*kept, units, rows)


def largest_map(blocks: Sequence[Block]) -> int:
    """Numbers of the largest map that has a gradient."""
    return max(math.prod(u.after) for block in blocks for u in block.units)
