"""Token lookups.  Token ids live in float scratch: exact integers up to 2^24."""

from lopt.lanes import kernel, lane, lanes, sync


@kernel
def windows_fwd(tokens, rows, texts, vocab, ids):
    """ids[t, r] = min(token t of window r, vocab - 1): one window of a text per row of the batch.

    Row r asks for text rows[r] % texts from its token rows[r] // texts on.
    Shapes: tokens (texts * n,) int32, one text after the other; rows (B,) int64; ids (L, B)
    OVERWRITTEN.
    """
    length, batch = ids.shape
    n = tokens.size // texts
    for t in range(length):
        row = ids[t]
        for r in range(lane(), batch, lanes()):
            start = rows[r] // texts + (rows[r] % texts) * n
            row[r] = min(tokens[start + t], vocab - 1)
    sync()


@kernel
def embedding_fwd(table, ids, x):
    """x[i] = table[ids[i]].  Shapes: table (V, E), ids (n,), x (n, E) OVERWRITTEN."""
    width = x.shape[1]
    for i in range(ids.size):
        source, target = table[int(ids[i])], x[i]
        for e in range(lane(), width, lanes()):
            target[e] = source[e]
    sync()


@kernel
def embedding_bwd(ids, dx, dtable):
    """dtable[v] = sum of dx[i] over all i with ids[i] = v, OVERWRITTEN; rows of absent tokens are 0.

    Each lane owns columns, so rows are added in the order of i whatever the number of lanes.
    """
    # x[i] = table[ids[i]]
    vocab, width = dtable.shape
    flat = dtable.reshape(vocab * width)
    for i in range(lane(), vocab * width, lanes()):
        flat[i] = dtable.dtype.type(0.0)
    sync()
    for i in range(ids.size):
        target, source = dtable[int(ids[i])], dx[i]
        for e in range(lane(), width, lanes()):
            target[e] += source[e]
    sync()
