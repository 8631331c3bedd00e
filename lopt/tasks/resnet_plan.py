"""What a residual network consists of: its units and blocks, and the table that the kernel reads.

The kernel is in `lopt.tasks.resnet_core`.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from lopt.ops.conv import conv_size
from lopt.tasks.resnet_core import BEGIN, CHAIN, D_ADDED, END, POOL_SIDE, POOL_STRIDE, SKIP

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
    """A chain of units, and the unit of its shortcut, if that is not the identity; the stem has no shortcut."""

    chain: tuple[Unit, ...]
    skip: tuple[Unit, ...]

    @property
    def is_stem(self) -> bool:
        """Whether there is no shortcut."""
        return len(self.chain) == 1

    @property
    def units(self) -> tuple[Unit, ...]:
        """All of them, in the order of evaluation."""
        return (*self.skip, *self.chain)

    @property
    def after(self) -> Map:
        """The block's map."""
        return self.chain[-1].after

    def role(self, unit: Unit) -> int:
        """What the kernel has to do around a unit."""
        if self.is_stem:
            return CHAIN
        if unit in self.skip:
            return SKIP
        if unit is self.chain[-1]:
            return END
        return BEGIN if unit is self.chain[0] and not self.skip else CHAIN


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
    chain: list[Unit] = []
    strided = sides.index(3)
    for k, side in enumerate(sides):
        here = chain[-1].after if chain else before
        width = channels if k == len(sides) - 1 else inner
        step = stride if k == strided else 1
        chain.append(unit_behind(f"{name}_conv{k}", here, side, width, step))
    if (channels, stride) == (before[2], 1):
        return Block(tuple(chain), ())
    return Block(tuple(chain), (unit_behind(f"{name}_skip", before, 1, channels, stride),))


def network(
    image: Map, kind: str, stem: tuple[int, int, int], max_pool: bool, stages: Sequence[Stage]
) -> list[Block]:
    """The stem, then all blocks; options as in `lopt.tasks.resnet.Resnet`."""
    side, width, stride = stem
    blocks = [Block((unit_behind("stem", image, side, width, stride),), ())]
    here = pooled(blocks[0].after) if max_pool else blocks[0].after
    for count, channels, inner, stride in stages:
        for k in range(count):
            name, step = f"block{len(blocks) - 1}", stride if k == 0 else 1
            blocks.append(block_behind(name, here, BLOCKS[kind], channels, inner, step))
            here = blocks[-1].after
    return blocks


class Table(NamedTuple):
    """What `lopt.tasks.resnet_core` reads: numbers kept per image and besides, one row of UNIT numbers per unit."""

    kept: tuple[int, int]
    rows: list[int]


def table(blocks: Sequence[Block], max_pool: bool, activations: tuple[int, int]) -> Table:
    """Offsets of everything; codes of the activations of stem and blocks."""
    rows: list[int] = []
    gradients = gradient_maps(blocks, max_pool)
    params, kept = 0, (math.prod(blocks[0].chain[0].before), 0)
    place = (0, 0)  # of the next unit's input
    for block in blocks:
        first = added = place
        for unit in block.units:
            size, channels = math.prod(unit.after), unit.after[2]
            role = block.role(unit)
            source = first if unit in (*block.skip, block.chain[0]) else place
            rows += [unit.side, unit.stride, *unit.before, *unit.after, params, *source, *kept]
            rows += [*added, role, activations[not block.is_stem], *next(gradients)]
            params += math.prod(unit.kernel_shape) + 2 * channels
            y = kept[0] + size + size // channels, kept[1] + channels  # behind xhat | rstd
            h = y[0] + size, y[1]
            if role == SKIP:
                added, kept = y, h
            else:
                place, kept = h, (h[0] + size, h[1])
        if block.is_stem and max_pool:
            place, kept = kept, (kept[0] + math.prod(pooled(block.after)), kept[1])
    return Table(kept, rows)


def gradient_maps(blocks: Sequence[Block], max_pool: bool) -> Iterator[tuple[int, int]]:
    """For each unit in the order of evaluation, which maps have the gradients of what it makes and of its input.

    Backwards, the chain goes from map to map, 0 and 1 in turn.  A shortcut's unit comes last in its block: it goes from
    D_ADDED to that of the two which the chain has left, and there the chain's result is added.
    """
    found, at = [], 0
    for k, block in reversed(list(enumerate(blocks))):
        for unit in reversed(block.units):
            found.append((D_ADDED if block.role(unit) == SKIP else at, 1 - at))
            at = 1 - at
        at = 1 - at if k == 1 and max_pool else at
    return iter(reversed(found))


def largest_map(blocks: Sequence[Block]) -> int:
    """Numbers of the largest map that has a gradient."""
    return max(math.prod(u.after) for block in blocks for u in block.units)
