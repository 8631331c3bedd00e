"""TaskSet's 109 fixed tasks: published names, and the family and options that each stands for.

A name is enough: `lopt.task("TwoD_Bowl10")`.  Names are as published, mistakes included; where a name and the published
model disagree the model counts, and a comment says what the name claims.  Published data are stood in for as those of
the sampled families are, `stands_for` keeps the original's name.
Source: Metz et al. 2020, "Using a thousand optimization tasks to learn hyperparameter search strategies", and its task
set; task set specification 5 and 6.
"""

from typing import Any

from lopt.tasks.images import STAND_INS
from lopt.tasks.initialisers import TRUNCATED_STD

Options = dict[str, Any]
Group = dict[str, Options]


def image(family: str, dataset: str, batch: int, **options: Any) -> Options:
    """A task on images; weights by the original library's default law unless told otherwise."""
    data = {"data": STAND_INS[dataset], "stands_for": dataset, "batch_size": batch}
    return {"family": family, **data, "initialiser": "sonnet", **options}


# Sequences.  Fresh random tokens, zero initial state, V = tokens + 2.

CELLS = {"LSTM": "lstm", "GRU": "gru", "VRNN": "vanilla"}
ALL = ("LSTM", "GRU", "VRNN")
SEQUENCES = (  # kind, name of the items; cells, width, items, tokens
    ("Associative", "Pairs", ("LSTM",), 128, 5, 20),
    ("Associative", "Pairs", ("LSTM",), 128, 20, 50),
    ("Associative", "Pairs", ("LSTM",), 256, 40, 100),
    ("Associative", "Pairs", ALL, 128, 10, 50),
    ("Associative", "Pairs", ALL, 256, 20, 50),
    ("Copy", "Length", ("LSTM",), 128, 5, 10),
    ("Copy", "Length", ("LSTM",), 128, 20, 20),
    ("Copy", "Length", ("LSTM",), 128, 50, 5),
    ("Copy", "Length", ALL, 128, 20, 10),
    ("Copy", "Length", ALL, 256, 40, 50),
)


def sequences() -> Group:
    """Copying and associative recall."""
    return {
        f"{kind}_{cell}{width}_BS128_{unit}{items}_Tokens{tokens}": {
            "family": "synthetic_sequence", "kind": kind.lower(), "cell": CELLS[cell],
            "cell_dim": width, "items": items, "symbols": tokens, "batch_size": 128,
        }
        for kind, unit, cells, width, items, tokens in SEQUENCES
        for cell in cells
    }  # fmt: skip


# Functions of two variables.  One starting point for all runs; which one is the original's random generator's affair.


def functions() -> Group:
    """Bowls of four condition numbers, and four classic test functions."""
    start: Options = {"family": "function2d", "fixed_start": True}
    bowls = {
        f"TwoD_Bowl{c}": {**start, "function": "bowl", "condition": float(c)}
        for c in (1, 10, 100, 1000)
    }
    others = {
        "Rosenbrock": "rosenbrock",
        "Ackley": "ackley",
        "Beale": "beale",
        "StyblinskiTang": "styblinski_tang",
    }
    return bowls | {f"TwoD_{n}": {**start, "function": f} for n, f in others.items()}


# Text.  Learned initial state, the library's default weights throughout.


def language_models() -> Group:
    """Bytes.  The original leaves padding out of the loss; windows of a stream have none.  256 ids, never cut off."""
    common = {
        "family": "char_rnn_language_model", "stands_for": "lm1b/bytes", "vocab": 256,
        "embed_dim": 64, "trainable_init": True, "length": 128, "batch_size": 128,
    }  # fmt: skip
    return {  # "avg" in the names means nothing
        f"FixedLM_lm1b_patch128_{cell}{width}_embed64_avg_bs128": {
            **common,
            "cell": CELLS[cell],
            "cell_dim": width,
        }
        for cell, width in (("GRU", 64), ("GRU", 128), ("GRU", 256), ("LSTM", 128), ("LSTM", 256))
    }


TEXTS: dict[str, Options] = {
    "patch32_LSTM128_bs128": {},
    "patch128_LSTM128_bs64": {},
    "patch32_LSTM128_E128_bs128": {"embed_dim": 128},
    "patch128_LSTM128_embed128_bs64": {"embed_dim": 128},
    "patch128_LSTM128_avg_bs64": {"pooling": "avg"},
    "patch32_GRU128_bs128": {"cell": "gru"},
    "patch32_GRU64_avg_bs128": {"cell": "gru", "cell_dim": 64, "pooling": "avg"},
    "patch32_VRNN128_tanh_bs128": {"cell": "vanilla"},
    "patch32_VRNN64_tanh_avg_bs128": {"cell": "vanilla", "cell_dim": 64, "pooling": "avg"},
    "patch32_VRNN64_relu_avg_bs128": {
        "cell": "vanilla", "cell_dim": 64, "cell_activation": "relu", "pooling": "avg",
    },
    "patch32_IRNN64_relu_avg_bs128": {
        "cell": "vanilla", "cell_dim": 64, "cell_activation": "relu", "pooling": "avg",
        "cell_initialisers": ("identity", "sonnet"),
    },
    "patch32_IRNN64_relu_last_bs128": {
        "cell": "vanilla", "cell_dim": 64, "cell_activation": "relu",
        "cell_initialisers": ("identity", "sonnet"),
    },
}  # fmt: skip


def text_classification() -> Group:
    """Two classes.  A table of 10,000 rows, of which the text has 8,185: the others are dead but paid for."""
    common = {
        "family": "rnn_text_classification", "text": "source0+source1", "vocab": 10000,
        "stands_for": "imdb_reviews/subwords8k", "embed_dim": 64, "cell": "lstm", "cell_dim": 128,
        "trainable_init": True, "pooling": "last",
    }  # fmt: skip
    found = {}
    for name, options in TEXTS.items():
        long = name.startswith("patch128")
        window = {"length": 128, "batch_size": 64} if long else {"length": 32, "batch_size": 128}
        found[f"FixedTextRNNClassification_imdb_{name}"] = {**common, **window, **options}
    return found


# Perceptrons.


def mlps() -> Group:
    """Two losses on three data sets; dropout, layer norm and "batch norm" on one."""
    found = {}
    for dataset in ("cifar10", "mnist", "food101_32x32"):
        for short, loss in (("mse", "sigmoid_squares"), ("ce", "cross_entropy")):
            found[f"FixedMLP_{dataset.replace('_', '')}_{short}_128x128x128_relu_bs128"] = image(
                "mlp", dataset, 128, hidden=(128, 128, 128), loss=loss
            )

    def normed(**options: Any) -> Options:
        return image("norm_mlp", "cifar10", 128, bias=True, **options)

    for percent in (5, 8, 2):  # tenths of the units are kept, also in evaluation
        found[f"FixedMLP_cifar10_Dropout0{percent}_128x128_relu_bs128"] = normed(
            hidden=(128, 128), norm="none", keep=percent / 10
        )
    for activation in ("relu", "tanh"):
        found[f"FixedMLP_cifar10_LayerNorm_128x128x128_{activation}_bs128"] = normed(
            hidden=(128,) * 3, norm="layer", activation=activation
        )
    # The names claim batch norm: it runs in inference mode on moving averages that nobody updates, and has no gamma.
    for name, hidden in (("128x128x128", (128,) * 3), ("64x64x64x64x64", (64,) * 5)):
        found[f"FixedMLP_cifar10_BatchNorm_{name}_relu_bs128"] = normed(
            hidden=hidden, norm="frozen", gamma=False
        )
    return found


def mlp_autoencoders() -> Group:
    """Sigmoid outputs, mean square of the pixels' errors."""
    return {
        f"FixedMLPAE_{dataset}_{'x'.join(map(str, hidden))}_bs128": image(
            "mlp_ae", dataset, 128, hidden=hidden, output_type="sigmoid"
        )
        for dataset, hidden in (
            ("mnist", (32, 32, 32)),
            ("mnist", (128, 32, 128)),
            ("cifar10", (128, 32, 128)),
        )
    }


MLP_VAES = (  # hidden layers and then latents of the encoder, hidden layers of the decoder
    # the names say cifar101 for cifar10
    ("FixedMLPVAE_cifar101_128x32x128_bs128", "cifar10", 128, (128, 32), (128,)),
    ("FixedMLPVAE_cifar101_128x128x32x128x128_bs128", "cifar10", 128, (128, 128, 32), (128, 128)),
    ("FixedMLPVAE_mnist_128x8x128x128_bs128", "mnist", 128, (128, 8), (128, 128)),
    ("FixedMLPVAE_mnist_128x128x8x128_bs128", "mnist", 128, (128, 128, 8), (128,)),
    ("FixedMLPVAE_mnist_128x64x32x64x128_bs64", "mnist", 64, (128, 64, 32), (64, 128)),
    ("FixedMLPVAE_food10132x32_128x64x32x64x128_bs64", "food101_32x32", 64, (128, 64, 32), (64, 128)),
    # neither ImageNet nor 30 pixels
    ("Imagenet32x30_FC_VAE_128x64x32x64x128_relu_bs256", "food101_32x32", 256, (128, 64, 32), (64, 128)),
)  # fmt: skip


def mlp_vaes() -> Group:
    """On images 2x - 1, with the likelihood's grey steps still those of [0, 1]."""
    return {
        name: image("mlp_vae", dataset, batch, encoder=encoder, decoder=decoder, center=True)
        for name, dataset, batch, encoder, decoder in MLP_VAES
    }


# Flows.


def nvps() -> Group:
    """On mnist.  Weights by the law of another library's dense layers."""
    rows = (
        ("2layer_bs64", 2, 2048),
        ("5layer_bs64", 5, 2048),
        ("5layer_thin_bs64", 5, 128),
        ("3layer_thin_bs64", 3, 128),
        ("9layer_thin_bs16", 9, 128),  # the batch is 64 here too
    )
    return {
        f"FixedNVP_mnist_{name}": image(
            "nvp", "mnist", 64, blocks=blocks, hidden=(width,) * 2, initialiser="glorot_uniform"
        )
        for name, blocks, width in rows
    }


def mafs() -> Group:
    """With MADE's masks for any width.

    The published masks (`upstream=True` of the family) are autoregressive for the first only; the other two have fewer
    hidden units than pixels, which leaves a constant per pixel.
    """
    rows = (
        ("mnist_2layer_bs64", 2, 2048),
        ("mnist_3layer_thin_bs64", 3, 128),
        ("cifar10_3layer_bs64", 3, 1024),
    )
    return {
        f"FixedMAF_{name}": image(
            "maf", name.split("_")[0], 64, blocks=blocks, hidden=(width,) * 2,
            initialiser="glorot_normal",
        )
        for name, blocks, width in rows
    }  # fmt: skip


# Convolutions: 3 x 3, the first with stride 2.

TANH: Options = {"activation": "tanh"}
NORMED: Options = {"batch_norm": True}
HE: Options = {**TANH, "initialiser": "he_normal"}
# std sqrt(1.3 * 2 / fan_in) before the cut at two standard deviations, not corrected for it
SCALED: Options = {
    **TANH,
    "initialiser": "variance_scaling",
    "init_scale": 1.3 * 2.0 * TRUNCATED_STD**2,
}


def gaussian(std: float) -> Options:
    """Tanh units, weights N(0, std^2)."""
    return {**TANH, "initialiser": "random_normal", "init_scale": std}


POOLED = (  # name behind FixedImageConv_, data, batch, channels, options
    ("cifar10_32x64x64_bs128", "cifar10", 128, (32, 64, 64), {}),
    ("cifar10_32x64x64_tanh_bs64", "cifar10", 64, (32, 64, 64), TANH),
    ("cifar10_32x64x128_he_bs64", "cifar10", 64, (32, 64, 128), {**HE, "pooling": "max"}),
    ("cifar10_32x64x128_normal_bs64", "cifar10", 64, (32, 64, 128), gaussian(0.02)),
    ("cifar10_32x64x128_largenormal_bs64", "cifar10", 64, (32, 64, 128), gaussian(0.2)),
    ("cifar10_32x64x128_smallnormal_bs64", "cifar10", 64, (32, 64, 128), gaussian(0.002)),
    ("cifar10_32x64x128x128x128_avg_he_bs64", "cifar10", 64, (32, 64, 128, 128, 128), HE),
    ("cifar10_batchnorm_32x64x64_bs128", "cifar10", 128, (32, 64, 64), NORMED),
    ("cifar10_batchnorm_32x32x32x64x64_bs128", "cifar10", 128, (32, 32, 32, 64, 64), NORMED),
    ("food101_batchnorm_32x32x32x64x64_bs128", "food101_32x32", 128, (32, 32, 32, 64, 64), NORMED),
    ("cifar100_bn_32x64x128x128_bs128", "cifar100", 128, (32, 64, 128, 128), NORMED),
    ("coil10032x32_bn_32x64x128x128_bs128", "coil100_32x32", 128, (32, 64, 128, 128), NORMED),
    ("sun39732x32_bn_32x64x128x128_bs128", "sun397_32x32", 128, (32, 64, 128, 128), NORMED),
)

FLATTENED = (  # name, data, batch, channels, dense layers, options
    ("FixedImageConv_cifar10_32x64x64_flatten_bs128", "cifar10", 128, (32, 64, 64), (), {}),
    ("FixedImageConv_cifar10_32x64x64_fc_64_bs128", "cifar10", 128, (32, 64, 64), (64,), {}),
    ("FixedImageConv_mnist_32x64x64_fc_64_bs128", "mnist", 128, (32, 64, 64), (64,), {}),
    ("Mnist_Conv_32x16x64_flatten_FC32_tanh_bs32", "mnist", 32, (32, 16, 64), (32,), TANH),
    ("FixedImageConv_cifar10_32x64x128_flatten_FC64x32_tanh_he_bs8", "cifar10", 8, (32, 64, 128),
     (64, 32), HE),
    ("FixedImageConv_cifar10_32x64x128_flatten_FC64x32_tanh_variance_scaling_bs64", "cifar10", 64,
     (32, 64, 128), (64, 32), SCALED),
    ("FixedImageConv_cifar100_32x64x128_FC64x32_tanh_variance_scaling_bs64", "cifar100", 64,
     (32, 64, 128), (64, 32), SCALED),
    ("FixedImageConv_cifar100_32x64x64_flatten_bs128", "cifar100", 128, (32, 64, 64), (), {}),
    ("FixedImageConv_food10164x64_Conv_32x64x64_flatten_bs64", "food101_64x64", 64, (32, 64, 64),
     (), {}),
    ("FixedImageConv_colorectalhistology32x32_32x64x64_flatten_bs128", "colorectal_histology_32x32",
     128, (32, 64, 64), (), {}),
)  # fmt: skip


def convolutions() -> Group:
    """Pooled ones keep the default law for their linear layer; flattened ones use one law throughout."""

    def shape(channels: tuple[int, ...]) -> Options:
        n = len(channels)
        return {"channels": channels, "strides": (2, *(1,) * (n - 1)), "padding": ("same",) * n}

    found = {
        f"FixedImageConv_{name}": image(
            "conv_pooling",
            dataset,
            batch,
            **shape(channels),
            readout_initialiser="sonnet",
            **options,
        )
        for name, dataset, batch, channels, options in POOLED
    }
    for name, dataset, batch, channels, fc, options in FLATTENED:
        found[name] = image("conv_fc", dataset, batch, **shape(channels), fc=fc, **options)
    return found


CONV_AES = (  # name behind FixedImageConvAE_, channels, latents, channels of the decoder, batch
    ("mnist_32x32x32x32x32_bs128", (32, 32), 32, (32, 32), 128),
    ("mnist_32x64x8x64x32_bs128", (32, 64), 8, (64, 32), 128),
    ("mnist_32x64x32x64x32_bs512", (32, 64), 32, (64, 64), 512),  # the decoder is not 64x32
    ("cifar10_32x32x32x32x32_bs128", (32, 32), 32, (32, 32), 128),
    ("cifar10_32x64x8x64x32_bs128", (32, 64), 8, (64, 32), 128),
)

CONV_VAES = (  # name behind FixedImageConvVAE_, data, channels, latents, batch; decoders mirror
    ("mnist_32x32x32x32x32_bs128", "mnist", (32, 32), 32, 128),
    ("mnist_32x64x32x64x32_bs128", "cifar10", (32, 64), 32, 128),  # not mnist
    ("cifar10_32x64x128x64x32_bs128", "cifar10", (32, 64), 128, 128),
    ("mnist_64x128x128x128x64_bs128", "mnist", (64, 128), 128, 128),
    ("cifar10_64x128x256x128x256x128x64_bs128", "cifar10", (64, 128, 256), 128, 128),
    ("cifar10_32x64x128x64x128x64x32_bs128", "cifar10", (32, 64, 128), 64, 128),
    ("cifar10_32x64x128x64x128x64x32_bs512", "cifar10", (32, 64, 128), 64, 512),
)


def conv_autoencoders() -> Group:
    """Sigmoid outputs, mean square of the pixels' errors."""
    return {
        f"FixedImageConvAE_{name}": image(
            "conv_ae",
            name.split("_")[0],
            batch,
            channels=channels,
            latents=latents,
            decoder=decoder,
        )
        for name, channels, latents, decoder, batch in CONV_AES
    }


def conv_vaes() -> Group:
    """On images 2x - 1, as the perceptrons'."""
    return {
        f"FixedImageConvVAE_{name}": image(
            "conv_vae", dataset, batch, channels=channels, latents=latents, decoder=channels[::-1],
            center=True,
        )
        for name, dataset, channels, latents, batch in CONV_VAES
    }  # fmt: skip


GROUPS: dict[str, Group] = {
    "2d": functions(),
    "conv": convolutions(),
    "conv_ae": conv_autoencoders(),
    "conv_vae": conv_vaes(),
    "language_model": language_models(),
    "mlp": mlps(),
    "mlp_ae": mlp_autoencoders(),
    "mlp_vae": mlp_vaes(),
    "nvp": nvps(),
    "maf": mafs(),
    "text_classification": text_classification(),
    "sequence": sequences(),
}

FIXED: Group = {name: options for group in GROUPS.values() for name, options in group.items()}
