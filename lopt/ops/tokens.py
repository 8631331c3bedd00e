"""From images to sequences of tokens and from sequences to one row per example, forward and backward.

Sizes: B examples, T tokens of width D, M = B T.
"""

from lopt.lanes import kernel, lane, lanes, single_use, sync


@kernel
def patches_fwd(images, height, width, channels, patch, x):
    """Squares of patch x patch pixels as rows of x, row by row through the image; no gradient: data is not trained.

    What is left at the right and at the bottom when the patch does not divide the image is dropped.
    Shapes: images (B, height width channels); x (B (height // patch) (width // patch), patch patch channels)
    OVERWRITTEN.
    """
    batch, across = images.shape[0], width // patch
    squares, line = (height // patch) * across, patch * channels
    for k in range(lane(), batch * squares, lanes()):
        b = k // squares
        row = (k - b * squares) // across
        column = k - b * squares - row * across
        target = x[k]
        for i in range(patch):
            start = ((row * patch + i) * width + column * patch) * channels
            source, part = images[b, start : start + line], target[i * line : (i + 1) * line]
            for j in range(line):
                part[j] = source[j]
    sync()


@kernel
def positions_fwd(positions, x):
    """x[b] += positions, for every example.  Shapes: positions (T D,) or empty: nothing happens; x (B T D,) UPDATED."""
    n = positions.size
    for b in range(x.size // max(n, 1) if n > 0 else 0):
        part = x[b * n : (b + 1) * n]
        for i in range(lane(), n, lanes()):
            part[i] += positions[i]
    sync()


@kernel
def positions_bwd(d, dpositions):
    """dpositions = sum of d over the examples, OVERWRITTEN; shapes as in `positions_fwd`."""
    # x[b] += positions
    n = dpositions.size
    for i in range(lane(), n, lanes()):
        dpositions[i] = d.dtype.type(0.0)
    for b in range(d.size // max(n, 1) if n > 0 else 0):
        part = d[b * n : (b + 1) * n]
        for i in range(lane(), n, lanes()):
            dpositions[i] += part[i]
    sync()


@single_use
def prepend_fwd(token, rest, x):
    """x[b] = token, then the T - 1 rows of example b.  Shapes: token (D,), rest (B (T - 1) D,), x (B T D,) OVERWRITTEN."""
    width = token.size
    batch = (x.size - rest.size) // width
    n, m = x.size // batch, rest.size // batch
    for b in range(batch):
        part, source = x[b * n : (b + 1) * n], rest[b * m : (b + 1) * m]
        for j in range(lane(), width, lanes()):
            part[j] = token[j]
        behind = part[width:]
        for i in range(lane(), m, lanes()):
            behind[i] = source[i]
    sync()


@single_use
def prepend_bwd(d, dtoken, drest):
    """dtoken and drest OVERWRITTEN with the gradients, given that of x; shapes as in `prepend_fwd`."""
    # x[b] = token, rest[b]
    width = dtoken.size
    batch = (d.size - drest.size) // width
    n, m = d.size // batch, drest.size // batch
    for j in range(lane(), width, lanes()):
        dtoken[j] = d.dtype.type(0.0)
    for b in range(batch):
        part, target = d[b * n : (b + 1) * n], drest[b * m : (b + 1) * m]
        for j in range(lane(), width, lanes()):
            dtoken[j] += part[j]
        behind = part[width:]
        for i in range(lane(), m, lanes()):
            target[i] = behind[i]
    sync()


@single_use
def first_fwd(x, h):
    """h[b] = first token of example b.  Shapes: x (M, D), h (B, D) OVERWRITTEN."""
    batch, width = h.shape
    length = x.shape[0] // batch
    for b in range(batch):
        source, target = x[b * length], h[b]
        for j in range(lane(), width, lanes()):
            target[j] = source[j]
    sync()


@single_use
def first_bwd(dh, d):
    """d = the gradient of x, OVERWRITTEN: that of h at the first tokens, 0 elsewhere."""
    # h[b] = x[b T]
    batch, width = dh.shape
    length = d.shape[0] // batch
    for b in range(batch):
        for t in range(length):
            target, source = d[b * length + t], dh[b]
            for j in range(lane(), width, lanes()):
                target[j] = source[j] if t == 0 else d.dtype.type(0.0)
    sync()


@kernel
def mean_fwd(x, h):
    """h[b] = mean over the tokens of example b.  Shapes: x (M, D), h (B, D) OVERWRITTEN."""
    batch, width = h.shape
    length = x.shape[0] // batch
    share = x.dtype.type(1.0 / length)
    for b in range(batch):
        target = h[b]
        for j in range(lane(), width, lanes()):
            target[j] = x.dtype.type(0.0)
        for t in range(length):
            source = x[b * length + t]
            for j in range(lane(), width, lanes()):
                target[j] += share * source[j]
    sync()


@kernel
def mean_bwd(dh, d):
    """d = the gradient of x, OVERWRITTEN."""
    # h[b] = mean_t x[b T + t]
    batch, width = dh.shape
    length = d.shape[0] // batch
    share = d.dtype.type(1.0 / length)
    for b in range(batch):
        for t in range(length):
            target, source = d[b * length + t], dh[b]
            for j in range(lane(), width, lanes()):
                target[j] = share * source[j]
    sync()


@kernel
def swap(x, rows, columns, y):
    """Every example's matrix transposed: y[b, j, i] = x[b, i, j].  Its own backward pass, with sizes swapped.

    Shapes: x (B rows columns,); y of the same size, OVERWRITTEN.
    """
    n = rows * columns
    for b in range(x.size // n):
        source, target = x[b * n : (b + 1) * n], y[b * n : (b + 1) * n]
        for j in range(lane(), columns, lanes()):
            line = target[j * rows : (j + 1) * rows]
            for i in range(rows):
                line[i] = source[i * columns + j]
    sync()
