"""The kernel of convolutional autoencoders, plain and variational.

    encoder   h_0 = x,  h_k = f(h_{k-1} * w_k + b_k), 3 x 3 with stride 2;  code = flatten(h_L) W + b
    latents   z = code; or, variational, z = mu + e^l eps with (mu, l) = code
    decoder   s_0 = z W' + b', a small map;  s_k = f(T(s_{k-1}; v_k) + c_k), T the transposed convolution of the same
              kind, which doubles height and width;  out = s_L w + b at every pixel (a 1 x 1 convolution)

`maps` are rows (height, width, channels, stride) as in `lopt.tasks.conv_core`, row 0 of the decoder's the small map s_0.
A transposed convolution is the adjoint of the convolution that halves its result, so its kernel has the shape
(3, 3, channels of the result, channels of the input).  Parameters lie in the order of the lines above: w_k b_k, W b,
W' b', v_k c_k, w b.  Source: task set specification 1.6, 6.3, 6.4.
"""

from lopt import rng
from lopt.lanes import kernel, lane, lanes, single_use, sum32, sync
from lopt.ops.activations import SIGMOID, activate_bwd, activate_fwd, spare
from lopt.ops.conv import conv_bwd, conv_bwd_input, conv_fwd
from lopt.ops.dense import dense_bwd, dense_bwd_input, dense_fwd
from lopt.ops.images import IMAGE_SIZES, gather_images
from lopt.ops.recurrent_parts import column_sums
from lopt.ops.variational import (
    PIXEL_CONSTANT,
    dequantise,
    latent_bwd,
    latent_fwd,
    quantised_normal,
)
from lopt.tasks.conv_core import SIDE, conv_stack_bwd, conv_stack_fwd, last_spare
from lopt.tasks.mlp_ae import reconstruction

# Behind the image block of data.sizes; maps of encoder and decoder (L + 1, 4) follow.
_ACTIVATION, _VARIATIONAL, _LAYERS, _ENC_PARAMS, _DEC_PARAMS, _ENC_UNITS, _DEC_UNITS = (
    IMAGE_SIZES + k for k in range(7)
)
_LATENTS, _MAPS = (IMAGE_SIZES + k for k in range(7, 9))


@single_use
def decoder_fwd(params, maps, code, batch, work, scratch):
    """Fills `work` behind s_0: t_1 s_1 | ... | t_L s_L, each (B, height, width, channels), s_k = f(t_k).

    Shapes: params those of the transposed convolutions; scratch: conv_scratch of any of them.
    """
    h, p = 0, 0  # offsets of the layer's input in work and of its kernel in params
    for k in range(maps.shape[0] - 1):
        height, width, cin = maps[k, 0], maps[k, 1], maps[k, 2]
        rows, columns, cout = maps[k + 1, 0], maps[k + 1, 1], maps[k + 1, 2]
        t, m = h + batch * height * width * cin, batch * rows * columns * cout
        n = SIDE * SIDE * cin * cout
        conv_bwd_input(
            params[p : p + n].reshape(SIDE, SIDE, cout, cin),
            work[h:t].reshape(batch, height, width, cin),
            work[t : t + m].reshape(batch, rows, columns, cout),
            maps[k + 1, 3],
            scratch,
        )
        y, bias = work[t : t + m].reshape(m // cout, cout), params[p + n : p + n + cout]
        for r in range(lane(), m // cout, lanes()):
            row = y[r]
            for j in range(cout):
                row[j] += bias[j]
        sync()
        p += n + cout
        h = t + m
        activate_fwd(work[t:h], work[h : h + m], code)


@single_use
def decoder_bwd(params, grad, maps, code, batch, work, scratch):
    """grad OVERWRITTEN with the gradient of params, s_0 with that of s_0.

    Shapes: work as `decoder_fwd` left it, save that the gradient of s_L lies in `last_spare`; OVERWRITTEN.
    """
    layers = maps.shape[0] - 1
    h, p = work.size, params.size
    h -= batch * maps[layers, 0] * maps[layers, 1] * maps[layers, 2]
    for back in range(layers):
        k = layers - 1 - back
        height, width, cin = maps[k, 0], maps[k, 1], maps[k, 2]
        rows, columns, cout = maps[k + 1, 0], maps[k + 1, 1], maps[k + 1, 2]
        size, m = batch * height * width * cin, batch * rows * columns * cout
        n = SIDE * SIDE * cin * cout
        p -= n + cout
        t, after = work[h - m : h], work[h : h + m]
        d = spare(t, after, code).array
        # s_{k+1} = f(t_{k+1})
        activate_bwd(t, after, d, code)
        h -= m + size  # s_k
        flat, dt = work[h : h + size], d.reshape(batch, rows, columns, cout)
        s = flat.reshape(batch, height, width, cin)
        ds = spare(work[h - size : h], flat, code).array if k > 0 else flat
        # t_{k+1} = T(s_k; v) + c
        column_sums(d.reshape(m // cout, cout), grad[p + n : p + n + cout])
        dv = grad[p : p + n].reshape(SIDE, SIDE, cout, cin)
        conv_bwd(dt, s, dv, grad[:0], maps[k + 1, 3], scratch)
        conv_fwd(
            dt,
            params[p : p + n].reshape(SIDE, SIDE, cout, cin),
            params[:0],
            ds.reshape(batch, height, width, cin),
            maps[k + 1, 3],
            scratch,
        )


@kernel
def split_channels(out, planes):
    """planes[b] = first halves of the channels of all pixels, then the second halves.

    Shapes: out (B, P, 2 C), planes (B, 2 P C) OVERWRITTEN.
    """
    batch, positions, channels = out.shape[0], out.shape[1], out.shape[2] // 2
    n = positions * channels
    for i in range(lane(), batch * positions, lanes()):
        b = i // positions
        p = i - b * positions
        pixel, target = out[b, p], planes[b]
        for c in range(channels):
            target[p * channels + c] = pixel[c]
            target[n + p * channels + c] = pixel[channels + c]
    sync()


@kernel
def join_channels(planes, out):
    """The inverse of `split_channels`: out OVERWRITTEN."""
    batch, positions, channels = out.shape[0], out.shape[1], out.shape[2] // 2
    n = positions * channels
    for i in range(lane(), batch * positions, lanes()):
        b = i // positions
        p = i - b * positions
        pixel, source = out[b, p], planes[b]
        for c in range(channels):
            pixel[c] = source[p * channels + c]
            pixel[channels + c] = source[n + p * channels + c]
    sync()


@single_use
def reconstruct(x, raw, planes, terms, partials):
    """Mean of (sigmoid(raw) - x)^2; raw OVERWRITTEN with its gradient.  Shapes: x, raw, scratch planes (B, n)."""
    batch, n = x.shape
    out = planes.reshape(planes.size)
    d = raw.reshape(raw.size)
    activate_fwd(d, out, SIGMOID)
    scale = x.dtype.type(1.0) / x.dtype.type(batch * n)
    loss = reconstruction(out.reshape(batch, n), x, raw, 0, scale, terms, partials)
    # out = sigmoid(raw); the derivative does not look at raw
    activate_bwd(out, out, d, SIGMOID)
    return loss


@single_use
def surprise(x, near, raw, planes, terms, partials):
    """Mean over the batch of -log p(near), less its constant; raw OVERWRITTEN with its gradient.

    Shapes: x (B, n); near (B, n) uniforms, OVERWRITTEN with the dequantised images; raw (B, P, 2 C) the decoder's means
    and log deviations, channels split in two; scratch planes (B, 2 n).
    """
    batch, n = x.shape
    dequantise(x.reshape(batch * n), near.reshape(batch * n))
    split_channels(raw, planes)
    scale = x.dtype.type(1.0) / x.dtype.type(batch)
    quantised_normal(planes, near, scale, terms)
    join_channels(planes, raw)
    return sum32(terms, n, partials) * scale


@kernel
def conv_ae_evaluate(params, grad, data, rows, stream, split, step, work, with_grad):
    """Mean reconstruction error, or negative evidence bound, and its gradient; see `lopt.task.Task`.

    data.sizes: image block, activation code, variational (0, 1), layers L, parameters of the encoder's and of the
    decoder's convolutions, units of both, latents Z, maps.
    Scratch: encoder's activations from the images x on | code | z, normals (if variational; else z is the code) |
    decoder's activations from s_0 on | out | out as planes | dequantised images (if variational) | terms |
    partials (32,) | scratch of a convolution.
    """
    sizes, batch = data.sizes, rows.size
    code, variational, layers = sizes[_ACTIVATION], sizes[_VARIATIONAL], sizes[_LAYERS]
    latents, cells = sizes[_LATENTS], 4 * (layers + 1)
    maps = sizes[_MAPS : _MAPS + cells].reshape(layers + 1, 4)
    up = sizes[_MAPS + cells : _MAPS + 2 * cells].reshape(layers + 1, 4)
    n, positions = maps[0, 0] * maps[0, 1] * maps[0, 2], maps[0, 0] * maps[0, 1]
    flat, seed = maps[layers, 0] * maps[layers, 1] * maps[layers, 2], up[0, 0] * up[0, 1] * up[0, 2]
    wide, last, m = (1 + variational) * latents, up[layers, 2], (1 + variational) * maps[0, 2]

    # parameters: ends of the encoder, code, small map and decoder
    a = sizes[_ENC_PARAMS]
    b = a + (flat + 1) * wide
    c = b + (latents + 1) * seed
    e = c + sizes[_DEC_PARAMS]
    w_code, w_seed = (
        params[a : b - wide].reshape(flat, wide),
        params[b : c - seed].reshape(latents, seed),
    )
    w_out = params[e : e + last * m].reshape(last, m)

    # scratch
    o = batch * sizes[_ENC_UNITS]
    enc = work[:o]
    x, h = enc[: batch * n].reshape(batch, n), enc[o - batch * flat :].reshape(batch, flat)
    hidden = work[o : o + batch * wide].reshape(batch, wide)
    o += variational * batch * wide
    z = work[o : o + batch * latents].reshape(batch, latents)
    o += batch * latents
    noise = work[o : o + variational * batch * latents]
    o += noise.size
    dec = work[o : o + batch * sizes[_DEC_UNITS]]
    o += dec.size
    raw, planes = work[o : o + batch * positions * m], work[o + batch * positions * m :]
    o += 2 * raw.size
    near = work[o : o + variational * batch * n]
    o += near.size
    terms = work[o : o + max(n, latents)]
    partials, scratch = work[o + terms.size : o + terms.size + 32], work[o + terms.size + 32 :]

    gather_images(data, rows, stream, split, step, x)
    conv_stack_fwd(params[:a], maps, code, 1, 0, batch, enc, work[:0], scratch)
    dense_fwd(h, w_code, params[b - wide : b], hidden)
    loss = work.dtype.type(0.0)
    scale = work.dtype.type(1.0) / work.dtype.type(batch)
    if variational != 0:
        rng.normals_into(noise, 0, stream, rng.LATENT + split, step)
        rng.uniforms_into(near, 0, stream, rng.INPUT_NOISE + split, step)
        sync()
        latent_fwd(hidden, noise.reshape(batch, latents), z, terms)
        loss = sum32(terms, latents, partials) * scale + n * work.dtype.type(PIXEL_CONSTANT)
    dense_fwd(z, w_seed, params[c - seed : c], dec[: batch * seed].reshape(batch, seed))
    decoder_fwd(params[c:e], up, code, batch, dec, scratch)
    final = dec[dec.size - batch * positions * last :].reshape(batch * positions, last)
    dense_fwd(
        final, w_out, params[e + last * m : e + last * m + m], raw.reshape(batch * positions, m)
    )
    planes = planes[: raw.size].reshape(batch, positions * m)
    if variational != 0:
        near_rows, channels = near.reshape(batch, n), raw.reshape(batch, positions, m)
        loss += surprise(x, near_rows, channels, planes, terms, partials)
    else:
        loss = reconstruct(x, raw.reshape(batch, n), planes, terms, partials)
    if with_grad == 0:
        return loss

    # out = s_L w + b
    d = raw.reshape(batch * positions, m)
    dense_bwd(
        final, d, grad[e : e + last * m].reshape(last, m), grad[e + last * m : e + last * m + m]
    )
    dense_bwd_input(w_out, d, last_spare(up, code, batch, dec).array.reshape(final.shape))
    decoder_bwd(params[c:e], grad[c:e], up, code, batch, dec, scratch)
    # s_0 = z W' + b'
    d = dec[: batch * seed].reshape(batch, seed)
    dense_bwd(z, d, grad[b : c - seed].reshape(latents, seed), grad[c - seed : c])
    dense_bwd_input(w_seed, d, z)
    if variational != 0:
        # z = mu + e^l noise
        latent_bwd(hidden, noise.reshape(batch, latents), z, scale)
    # code = h_L W + b
    dense_bwd(h, hidden, grad[a : b - wide].reshape(flat, wide), grad[b - wide : b])
    dense_bwd_input(w_code, hidden, last_spare(maps, code, batch, enc).array.reshape(batch, flat))
    conv_stack_bwd(params[:a], grad[:a], maps, code, 1, 0, batch, enc, work[:0], scratch)
    return loss
