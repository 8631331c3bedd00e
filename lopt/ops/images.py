"""A batch of images: gathered, randomly cropped, flipped and recoloured, then scaled.

Augmentation of TaskSet (task set specification 2.2).  It runs on every split.  The random numbers of
the image in slot r of a batch are the uniforms 8r .. 8r + 7 of the address (stream, AUGMENT + split,
step): crop row, crop column, flip_lr, flip_ud, brightness, saturation, hue, contrast.
"""

import numpy as np

from lopt import rng
from lopt.lanes import inlined, kernel, lane, lanes, single_use, sync
from lopt.ops.dense import from_byte, gather_examples

# The image block: the first entries of data.sizes and of data.hyper.
IMAGE_SIZES = 8
IMAGE_HYPER = 6
_HEIGHT, _WIDTH, _CHANNELS, _CROP, _FLIP_LR, _FLIP_UD, _COLOUR, _IN_BYTES = range(IMAGE_SIZES)
_SCALE, _SHIFT, _BRIGHTNESS, _SATURATION, _HUE, _CONTRAST = range(IMAGE_HYPER)


@single_use
def gather_images(data, rows, stream, split, step, x):
    """x[r] = scale * a(image rows[r]) + shift with the augmentation a; data is not trained.

    data.sizes begins with height, width, channels of the stored images, pixels cropped from each of
    height and width, flags flip_lr, flip_ud, colour, and whether data.floats holds bytes.  data.hyper
    begins with scale, shift and the ranges of brightness, saturation, hue, contrast.
    Shapes: rows (B,) int64; x (B, (height - crop) (width - crop) channels) OVERWRITTEN.
    """
    sizes, hyper, cast = data.sizes, data.hyper, x.dtype.type
    height, width, channels, crop = sizes[_HEIGHT], sizes[_WIDTH], sizes[_CHANNELS], sizes[_CROP]
    scale, shift = cast(hyper[_SCALE]), cast(hyper[_SHIFT])
    flip_lr, flip_ud, colour = sizes[_FLIP_LR], sizes[_FLIP_UD], sizes[_COLOUR]
    if crop == 0 and flip_lr == 0 and flip_ud == 0 and colour == 0:
        gather_examples(data.floats, sizes[_IN_BYTES], rows, scale, shift, x)
        return
    n, purpose = height * width * channels, rng.AUGMENT + split
    for r in range(lane(), x.shape[0], lanes()):
        place = rng.uniform4(2 * r, stream, purpose, step)
        first, end = rows[r] * n, (rows[r] + 1) * n
        top = int(float(place[0]) * (crop + 1))
        left = int(float(place[1]) * (crop + 1))
        mirror = flip_lr != 0 and place[2] < 0.5
        upturn = flip_ud != 0 and place[3] < 0.5
        out = x[r].reshape(height - crop, (width - crop) * channels)
        if sizes[_IN_BYTES] != 0:
            stored = data.floats.view(np.uint8)[first:end].reshape(height, width * channels)
            _place(stored, top, left, mirror, upturn, channels, out)
            pixels = x[r]
            for j in range(pixels.size):
                pixels[j] = from_byte(pixels[j])
        else:
            image = data.floats[first:end].reshape(height, width * channels)
            _place(image, top, left, mirror, upturn, channels, out)
        if colour != 0:
            tint = rng.uniform4(2 * r + 1, stream, purpose, step)
            _recolour(
                x[r],
                cast(hyper[_BRIGHTNESS]) * _signed(cast(tint[0])),
                cast(1.0) + cast(hyper[_SATURATION]) * _signed(cast(tint[1])),
                cast(6.0) * cast(hyper[_HUE]) * _signed(cast(tint[2])),
            )
            _contrast(x[r], cast(1.0) + cast(hyper[_CONTRAST]) * _signed(cast(tint[3])))
        row = x[r]
        for j in range(row.size):
            row[j] = scale * row[j] + shift
    sync()


@inlined
def _signed(u):
    """A uniform in [0, 1) to one in [-1, 1)."""
    one = type(u)(1.0)
    return u + u - one


@kernel
def _place(image, top, left, mirror, upturn, channels, out):
    """out = a window of the image, perhaps mirrored left to right or turned upside down.

    Shapes: image (height, width * channels); out (rows, columns * channels).  One lane's work.
    """
    rows, length = out.shape
    columns = length // channels
    for i in range(rows):
        y = top + (rows - 1 - i if upturn else i)
        source = image[y, left * channels : left * channels + length]
        target = out[i]
        if mirror:
            for j in range(columns):
                for c in range(channels):
                    target[j * channels + c] = source[(columns - 1 - j) * channels + c]
        else:
            for j in range(length):
                target[j] = source[j]


@inlined
def _ramp(k, low, chroma, six):
    """One colour of HSV to RGB: low + chroma * max(0, min(1, |k - 3| - 1)), k taken modulo 6."""
    zero, one, three = type(k)(0.0), type(k)(1.0), type(k)(3.0)
    k = k - six if k >= six else k
    return low + chroma * max(zero, min(one, abs(k - three) - one))


@kernel
def _recolour(pixels, brighter, saturate, turn):
    """Brightness, saturation, hue of RGB pixels (n * 3,), in place.  One lane's work.

    brighter is added; S of HSV is multiplied by `saturate` >= 0 and clipped to [0, 1]; H moves by
    `turn` sixths of the circle, |turn| <= 6.  S is 1 - min / max, or 0 where max <= 0.
    """
    cast = pixels.dtype.type
    zero, one, two, four, six = cast(0.0), cast(1.0), cast(2.0), cast(4.0), cast(6.0)
    turn = turn + six if turn < zero else turn
    for i in range(pixels.size // 3):
        red = pixels[3 * i] + brighter
        green = pixels[3 * i + 1] + brighter
        blue = pixels[3 * i + 2] + brighter
        high = max(red, max(green, blue))
        low = min(red, min(green, blue))
        chroma = high - low
        part = one / (chroma if chroma > zero else one)
        hue = four + (red - green) * part
        hue = two + (blue - red) * part if high == green else hue
        hue = (green - blue) * part if high == red else hue
        # chroma = S max: at most max, at least 0
        chroma = min(chroma * saturate, max(high, zero))
        low = high - chroma
        hue = hue + turn  # in [-1, 11]
        hue = hue + six if hue < zero else hue
        hue = hue - six if hue >= six else hue
        pixels[3 * i] = _ramp(hue, low, chroma, six)
        pixels[3 * i + 1] = _ramp(hue + four, low, chroma, six)
        pixels[3 * i + 2] = _ramp(hue + two, low, chroma, six)


@kernel
def _contrast(pixels, factor):
    """(p - m) factor + m in place, m the mean of each of three channels.  One lane's work."""
    cast, count = pixels.dtype.type, pixels.size // 3
    red, green, blue, share = cast(0.0), cast(0.0), cast(0.0), cast(1.0 / count)
    for i in range(count):
        red += pixels[3 * i]
        green += pixels[3 * i + 1]
        blue += pixels[3 * i + 2]
    red, green, blue = red * share, green * share, blue * share
    for i in range(count):
        pixels[3 * i] = (pixels[3 * i] - red) * factor + red
        pixels[3 * i + 1] = (pixels[3 * i + 1] - green) * factor + green
        pixels[3 * i + 2] = (pixels[3 * i + 2] - blue) * factor + blue
