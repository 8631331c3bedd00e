"""Has the test-suite teeth?  Deliberate breakages of the library, each noticed by a named test.

A breakage replaces one piece of source text in a copy of the library; the named test runs there in a process of its
own, kernels as plain Python (nothing to compile), and must fail.  All named tests pass in the copy that is whole.
A new breakage is one more entry of the table; `node` is a test of tests/, fast in plain Python: well under 3 s.
"""

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
COLLECTED_AND_FAILED = 1  # pytest's code; 2 or 4: it could not import or find the test
TIMEOUT_S = 120
# What an edit that is no working program brings about; it proves nothing.
NOT_A_PROGRAM = re.compile(r"\b(SyntaxError|IndentationError|NameError|ImportError|Unbound\w+)\b")


class Breakage(NamedTuple):
    """`old`, which occurs once in lopt/`file`, becomes `new`; then `node`, a test of tests/, fails."""

    reason: str
    file: str
    old: str
    new: str
    node: str


# Beginnings of names of tests.
RNG, OPS, DATA, CONFIG = (f"test_{f}.py::test_" for f in ("rng", "ops", "data", "config"))
OWN, TABLES = "test_data_in_tasks.py::test_", "test_tables.py::test_"
TASKS, OPTIMIZERS = "test_closed_form_tasks.py::test_", "test_optimizers.py::test_"
LEARNED, VERIFY = "test_learned_optimizers.py::test_", "test_verify.py::test_"
MODEL = "test_own_model.py::test_"
TILES, RESNET = "test_tiles.py::test_", "test_resnet.py::test_"
ROLLOUT, META, TRAIN = (f"test_{f}.py::test_" for f in ("rollout", "meta", "train"))
ES, PARTS, OUTER = (f"test_{f}.py::test_" for f in ("es", "es_parts", "outer"))
STRATEGIES, MINIMIZE = (f"test_{f}.py::test_" for f in ("strategies", "minimize"))
SCALE, CLUSTER = "test_scale.py::test_", "test_cluster_model.py::test_"
STORE, COMM, EVALUATE = (f"test_{f}.py::test_" for f in ("store", "comm", "evaluate_and_plots"))
ANCHORED, READERS = "test_anchored.py::test_", "test_readers.py::test_"
SCORES, COMPARISON = (f"test_{f}.py::test_" for f in ("scores", "comparison"))
ATTENTION, MEMORY = "test_attention.py::test_", "test_memory.py::test_"
GPES, NOISE_TABLE, POPULATIONS = (
    f"test_{f}.py::test_" for f in ("gpes", "noise_table", "populations")
)

LAUNCH = "test_cuda.py::test_a_launch_trains_every_particle_with_its_own_theta_whatever_the_lanes"
STACK = OPS + "stack_does_not_depend_on_the_lanes[widths1]"
TEXTBOOK = OPTIMIZERS + "hand_made_optimizers_follow_the_textbook"
HIERARCHICAL = VERIFY + "trajectory_is_reproduced[case0-rnn_mlp]"
LOSSES = ROLLOUT + "every_loss_is_that_of_its_split_at_its_address"
ENDS = ROLLOUT + "whatever_is_not_finite_ends_a_training_where_it_happens"
SCALED = PARTS + "normalised_slopes_have_unit_rms_in_each_group[1.0]"
RESUME = TRAIN + "resume_gives_the_bits_of_an_uninterrupted_run"
FALLBACK = STORE + "a_damaged_checkpoint_falls_back_to_the_one_before[truncated]"
LIES = STORE + "weights_that_lie_are_refused"

# fmt: off
BREAKAGES = [Breakage(*entry) for entry in (
    # Random numbers
    ("a constant of Philox", "rng.py",
     "np.uint64(0xD2511F53)", "np.uint64(0xD2511F57)", RNG + "philox_known_answers"),
    ("order of the counter's words", "rng.py",
     "philox(block, c1, c2, c3, k0, k1)", "philox(block, c1, c3, c2, k0, k1)",
     RNG + "address_is_the_documented_one"),
    ("purpose ignored", "rng.py",
     "np.uint64(purpose) & _MASK,", "np.uint64(0),", RNG + "address_is_the_documented_one"),
    ("Box-Muller without the 2", "rng.py",
     "_F(-2.0) * log_u", "_F(-1.0) * log_u", RNG + "normals_equal_box_muller_in_float64"),

    # Lanes and ops
    ("no barrier before partial sums are added up", "lanes.py",
     "    sync()\n    total = partials.dtype.type(0)", "    total = partials.dtype.type(0)",
     TASKS + "eigen_noise_needs_all_its_barriers"),
    ("no barrier after a layer's bias", "ops/dense.py",
     "            row[j] += b[j]\n    sync()", "            row[j] += b[j]", STACK),
    ("gradient of a bias not summed over the batch", "ops/dense.py",
     "db[j] += row[j]", "db[j] = row[j]", OPS + "dense_layer"),
    ("derivative of tanh", "ops/activations.py",
     "d[i] *= one - y[i] * y[i]", "d[i] *= one - y[i]", OPS + "activation_derivatives[tanh]"),
    ("gradient of cross-entropy without 1 / B", "ops/losses.py",
     "factor = scale / total", "factor = logits.dtype.type(1.0) / total",
     OPS + "cross_entropy_gradient"),
    ("backward of an MLP skips the activation", "ops/mlp_stack.py",
     "            activate_bwd(z, x, dz, code)\n", "",
     OPS + "stack_gradients[widths1]"),
    ("a gradient overwrites what the derivative reads", "ops/activations.py",
     "Returned(y if reads_argument(code) else x)", "Returned(x if reads_argument(code) else y)",
     OPS + "stack_gradients[widths1]"),
    ("the cubic term of the polynomial has the wrong sign", "arch/orthogonal.py",
     "poly[i, j] = b * gram[i, j] +", "poly[i, j] = -b * gram[i, j] +",
     ANCHORED + "singular_values_go_through_the_polynomial_and_vectors_stay[shape0]"),
    ("an orthogonal factor enters with the size it has", "arch/anchored.py",
     "np.float64(weights.orthogonal[0]) * see.inverse_root(mean_square)",
     "np.float64(weights.orthogonal[0])",
     ANCHORED + "float64_kernel_agrees_with_the_reference[orthogonal-mixed]"),
    ("a small start grows without bound", "arch/anchored_head.py",
     "max(initial, min(1.0 / inverse_rms, usual))", "max(initial, 1.0 / inverse_rms)",
     ANCHORED + "a_small_start_grows_by_its_rate_up_to_the_usual_scale[shape0-0.25]"),
    ("next to zero is not zero", "arch/anchored_head.py",
     "AS_ZERO = 1e-2", "AS_ZERO = 0.0",
     ANCHORED + "a_matrix_next_to_zero_steps_as_one_of_zeros"),
    ("what dropout leaves is not divided by its share", "ops/dropout.py",
     "zero, factor = x.dtype.type(0.0), x.dtype.type(1.0) / x.dtype.type(keep)",
     "zero, factor = x.dtype.type(0.0), x.dtype.type(1.0)",
     ATTENTION + "what_dropout_leaves_is_the_input_on_average"),
    ("the gradient of attention weights is not dropped", "ops/attention.py",
     "ds = thinned(slopes, keep, noise, here, room)", "ds = thinned(slopes, 1.0, noise, here, room)",
     ATTENTION + "dropped_weights_agree_with_the_reference[False]"),
    ("dropout in validation", "tasks/transformer_options.py",
     "keep = hyper[0] if split == TRAIN else one", "keep = hyper[0]",
     ATTENTION + "dropout_is_off_outside_of_training"),

    ("sums of squares along runs instead of means", "arch/factored.py",
     "] = s / cast(length) + eps", "] = s + eps",
     VERIFY + "trajectory_is_reproduced[case0-adafac_mlp]"),
    ("sums of a stretch are products", "stretches.py",
     "values[k, fixed] + values[k, moving + i]\n\n\n", "values[k, fixed] * values[k, moving + i]\n\n\n",
     TILES + "outer_products_and_sums_of_a_stretch[5-16-float32]"),
    ("a rate beside its floor as if it were a time", "bench/measure.py",
     "return self.floor / self.value if self.at_most", "return self.floor / self.value if not self.at_most",
     "test_bench.py::test_a_row_beside_its_floor_and_what_was_asked[50.0-False-0.5-False]"),

    # Memory
    ("two buffers for gradients of maps", "tasks/conv_common.py",
     "units = self._mlp_begin + stack_units(self.widths) + 1",
     "units = self._mlp_begin + stack_units(self.widths) + 2 * max(map(math.prod, self.maps[1:]))",
     MEMORY + "scratch_worked_out_by_hand"),
    ("arguments of activations counted where nobody reads them", "ops/mlp_stack.py",
     "widths[0] + held(activation) * sum(widths[1:-1])", "widths[0] + 2 * sum(widths[1:-1])",
     MEMORY + "counts_worked_out_by_hand"),

    # Tasks and data
    ("a shortcut passes no gradient back", "tasks/resnet_core.py",
     "        add_into(dx, d_maps[", "        add_into(dx[:0], d_maps[",
     RESNET + "blocks_whose_last_gamma_is_zero_do_nothing"),
    ("a shortcut is not added", "tasks/resnet_core.py",
     "    if unit[ROLE] == END:\n        added", "    if False:\n        added",
     RESNET + "a_gradient_comes_around_every_block[basic]"),
    ("stride in a 1 x 1 unit", "tasks/resnet_plan.py",
     "stride if k == strided else 1", "stride if k == 0 else 1",
     RESNET + "a_stride_is_that_of_the_first_3x3_unit[bottleneck-strides1-heights1]"),
    ("tied maxima all get the gradient", "ops/window_pool.py",
     "left_over[c] -= hit", "left_over[c] -= zero", RESNET + "the_first_of_equal_maxima_gets_the_gradient"),
    ("gradient of a quadratic without the 2", "tasks/quadratic.py",
     "factor = params.dtype.type(2.0) * c", "factor = c",
     TASKS + "loss_and_gradient_without_noise[1.0]"),
    ("the same noise at every step", "tasks/quadratic.py",
     "rng.normals_into(matrix, 0, stream, purpose, step)",
     "rng.normals_into(matrix, 0, stream, purpose, 0)",
     TASKS + "noise_is_fresh_at_every_address_and_repeats_at_the_same[0.3]"),
    ("gradient of a penalty forgotten", "tasks/logistic.py",
     "dw[i] += l2 * w[i]", "dw[i] += l2 * l2 * w[i]",
     TASKS + "the_penalty_is_half_l2_times_the_squared_weights[1.0]"),
    ("gradient of a test function", "tasks/functions2d.py",
     "- 400.0 * x * b", "- 200.0 * x * b", TASKS + "values_worked_out_by_hand[rosenbrock]"),
    ("starting box of a test function", "tasks/functions2d.py",
     '"beale": Facts(_square(-4.5, 4.5)', '"beale": Facts(_square(-5.0, 5.0)',
     TASKS + "starting_points_fill_the_published_box[beale]"),
    ("fan of a convolution without its window", "tasks/initialisers.py",
     "field = math.prod(shape[:-2])", "field = 1", "test_initialisers.py::test_fans"),
    ("splits overlap", "data/datasets.py",
     "tuple(itertools.pairwise(ends))", "tuple((max(a - 1, 0), b) for a, b in itertools.pairwise(ends))",
     DATA + "split_ranges_of_any_size"),
    ("rows in the source's order", "data/datasets.py",
     'np.argsort(words, kind="stable")', "np.arange(rows)", DATA + "permutation_never_changes"),
    ("labels not permuted with their rows", "data/datasets.py",
     "y[order].astype(np.int32)", "y.astype(np.int32)", DATA + "labels_belong_to_their_rows"),
    ("labels of ImageNet begin at 1", "data/readers/imagenet_npz.py",
     ".astype(np.int64) - 1,", ".astype(np.int64),", READERS + "an_imagenet_folder_is_read_in_the_order_of_its_batches"),
    ("batches of ImageNet in the order of their names as text", "data/readers/imagenet_npz.py",
     "(len(file.name), file.name)", "file.name", READERS + "an_imagenet_folder_is_read_in_the_order_of_its_batches"),
    ("bytes scaled otherwise than on the host", "ops/dense.py",
     "np.float32(value) / np.float32(255.0)", "np.float32(value) / np.float32(256.0)",
     OWN + "every_family_trains_on_a_file_in_memory_or_not[logistic]"),
    ("some mapped rows taken for the first ones", "data/user_file.py",
     "splits=ranges, in_bytes", "splits=splits, in_bytes", OWN + "bytes_that_fill_no_whole_float"),
    ("embedding as large as that of bytes", "tasks/text_windows.py",
     "return self.vocab or self.source.vocabulary", "return self.vocab or 256",
     OWN + "embeddings_are_as_large_as_the_vocabulary[word_rnn_language_model]"),
    ("classes of R counted from 0", "data/r_objects.py",
     "[found.values - 1]", "[found.values % 2]", TABLES + "a_data_frame_is_read[bytes-2]"),

    # Optimizers
    ("adam without bias correction", "arch/adam.py",
     "step = cast(rate / correct1)", "step = cast(rate)",
     OPTIMIZERS + "adams_first_step_is_the_sign[1.0-adam]"),
    ("adam does not count its steps", "arch/adam.py",
     "state[2 * n] = cast(t)", "state[2 * n] = cast(1.0)", TEXTBOOK + "[adam-1.0]"),
    ("momentum goes uphill", "arch/sgd.py",
     "params[i] -= rate * m\n", "params[i] += rate * m\n",
     OPTIMIZERS + "momentum_is_powers_of_a_matrix[momentum]"),
    ("lion mixes with the wrong decay", "arch/adaptive.py",
     "c = b1 * state[i] + a1 * grad[i]", "c = b2 * state[i] + a2 * grad[i]",
     TEXTBOOK + "[lion-1.0]"),
    ("sign of lion", "arch/adaptive.py",
     "sign = step if c > zero", "sign = -step if c > zero", OPTIMIZERS + "lion_steps_by_the_sign"),
    ("adafactor without the mean of its rows", "arch/adafactor.py",
     "math.sqrt(rows[rest * nb + j] / mean)", "math.sqrt(rows[rest * nb + j])",
     OPTIMIZERS + "adafactor_is_exact_when_squares_have_rank_one"),
    ("message between tensors dropped", "arch/hierarchical.py",
     "row[i] = memory.between[i]", "row[i] = 0.0", HIERARCHICAL),
    ("messages without an LSTM", "arch/hierarchical.py",
     "self.to_mlp) if self.lstm_hidden > 0 else (0, 0, 0)", "self.to_mlp)",
     LEARNED + "numbers_of_meta_parameters"),
    ("message from the parameters dropped", "arch/hierarchical.py",
     "row[memory.between.size + i] = memory.from_mlp[k, i]",
     "row[memory.between.size + i] = 0.0", HIERARCHICAL),
    ("features in another order", "arch/features.py",
     "rows[3 + 2 * n_decays + k], rows[3 + 3 * n_decays + k]",
     "rows[3 + 3 * n_decays + k], rows[3 + 2 * n_decays + k]", HIERARCHICAL),
    ("no barrier between clip and sum", "arch/per_parameter.py",
     "            partials[c, k] = partials.dtype.type(0.0)\n    sync()\n",
     "            partials[c, k] = partials.dtype.type(0.0)\n",
     LEARNED + "long_reductions_do_not_depend_on_the_lanes[hierarchical]"),
    ("an input's factor enters its square as it is", "arch/adafac_factored.py",
     "m[i] * m[i], f[i] * f[i]", "m[i] * m[i], f[i]",
     LEARNED + "float64_kernels_agree_with_the_reference[adafac_mlp-mixed]"),
    ("weights of two inputs exchanged", "arch/adafac_factored.py",
     "(of_m1 + of_m1r * r[i] + of_m1f", "(of_m1r + of_m1 * r[i] + of_m1f",
     LEARNED + "float64_kernels_agree_with_the_reference[adafac_mlp-mixed]"),
    ("sums of squares read before all lanes have added", "arch/adafac_factored.py",
     "+= square * factor\n    sync()\n", "+= square * factor\n",
     LEARNED + "long_reductions_do_not_depend_on_the_lanes[adafac_mlp]"),
    ("feature rows of two tensors in one place", "arch/per_parameter.py",
     "offset // BLOCK + k + (start", "offset // BLOCK + (start",
     LEARNED + "float64_kernels_agree_with_the_reference[small-mixed]"),
    ("squares of rows are their sums", "lanes.py",
     "partials[c, k] += rows[c, i] * rows[c, i]", "partials[c, k] += rows[c, i]",
     TILES + "row_sums_add_to_32_partials[4-33-float32]"),
    ("bias of a layer below its floor", "lanes.py",
     "np.fmax(product + start, floor)", "np.fmax(product, floor) + start",
     TILES + "layer_turns_nan_into_the_floor"),
    ("equal initial weights in all layers", "arch/mlp_optimizer.py",
     "stream, rng.THETA, k)", "stream, rng.THETA, 0)",
     LEARNED + "initial_weights_have_their_law_and_are_drawn_apart[mlp]"),
    ("verification that passes everything", "verify.py",
     "worst = max(worst, error / largest[key]", "worst = max(worst, 0.0 * largest[key]",
     VERIFY + "a_small_change_of_theta_is_noticed[case0-mlp]"),

    # A model of the user's own
    ("an infinite state is kept", "optimizer.py",
     "np.isfinite(flat).all() and np.isfinite(new).all()", "np.isfinite(flat).all()",
     MODEL + "gradients_of_any_size_give_a_finite_step_or_none[adam0]"),
    ("infinite parameters are returned", "optimizer.py",
     "np.isfinite(flat).all() and np.isfinite(new).all()", "np.isfinite(new).all()",
     MODEL + "a_loss_and_parameters_too_large_are_refused_too"),
    ("the user's own state is the one that is updated", "optimizer.py",
     "new = state.flat.copy()", "new = state.flat",
     MODEL + "gradients_of_any_size_give_a_finite_step_or_none[adam0]"),
    ("a learned optimizer starts untrained where no theta is given", "optimizer.py",
     "        if not self.hand_made:\n", "        if False:\n",
     MODEL + "a_learned_optimizer_does_not_guess_its_theta[anchored]"),
    ("whoever does not say so is hand-made", "optimizer.py",
     "hand_made: ClassVar[bool] = False", "hand_made: ClassVar[bool] = True",
     MODEL + "hand_made_optimizers_are_those_with_a_textbook"),
    ("weights start without their theta", "store/weights.py",
     "opt.init(params, self.theta)", "opt.init(params, opt.init_theta())",
     MODEL + "weights_start_on_a_model"),
    ("imaginary parts are dropped", "model_arrays.py",
     'array.dtype.kind != "f"', 'array.dtype.kind not in "fc"',
     MODEL + "what_is_no_tensor_of_finite_floats_is_refused[complex]"),
    ("a tensor too many is not noticed", "model_arrays.py",
     "arrays.keys() == set(layout.names)", "arrays.keys() >= set(layout.names)",
     MODEL + "tensors_missing_or_too_many_are_named[more]"),
    ("options of any type", "registry.py",
     "        msgspec.convert(values, fields)\n", "        pass\n",
     "test_registry.py::test_options_of_strategies_of_a_wrong_type"),

    # Inner training
    ("meta-loss on training rows", "rollout.py",
     "stream, OUTER_VALID,\n", "stream, TRAIN,\n", LOSSES),
    ("batches from all splits", "rollout.py",
     "splits[0], splits[1], stream", "splits[0], splits[7], stream", LOSSES),
    ("validation loss at the wrong steps", "rollout.py",
     "t % valid_every == 0", "(t + 1) % valid_every == 0", LOSSES),
    ("divergence not flagged", "rollout.py",
     "status[FLAG] = DIVERGED", "status[FLAG] = CEILING", ENDS + "[nan loss]"),
    ("NaN in a gradient passed on", "rollout.py",
     " and not has_nonfinite(buffers.grad)", "", ENDS + "[nan gradient]"),
    ("losses not normalised", "meta.py",
     "return (loss - self.low) / (self.high - self.low)", "return loss",
     META + "normalised_losses_are_1_before_training_and_0_at_the_lowest"),
    ("a short window weighs as much", "meta.py",
     " * steps / self._truncation", "",
     META + "windows_add_up_to_the_mean_over_the_episode_in_units_of_k"),
    ("weights of tasks ignored", "meta.py",
     "np.asarray(weights, float) / np.sum(weights)", "np.ones(len(weights)) / len(weights)",
     META + "tasks_are_drawn_by_their_weights"),

    # Evolution strategies
    ("sum of PES not reset", "es/estimators.py",
     "state.xi[state.t == 0] = 0", "pass",
     ES + "pes_accumulator_starts_at_the_current_perturbation"),
    ("noise not reused", "es/estimators.py",
     "return state.episode", "return np.full_like(state.episode, outer_step)",
     ES + "nres_windows_add_up_to_full_es"),
    ("a block of GPES ends a window late", "es/estimators.py",
     "since = windows % self._block", "since = np.maximum(windows - 1, 0) % self._block",
     GPES + "its_ends_are_pes_and_noise_reuse_to_the_bit[0-same1]"),
    ("GPES resumed with one perturbation a window", "es/estimators.py",
     "range(first, first + windows, self._block)", "range(first, first + windows)",
     GPES + "resume_in_mid_block_has_the_same_bits[4]"),
    ("truncated ES goes on from a perturbed particle", "es/estimators.py",
     "{key: array.copy() for key, array in mean.items()}", "mean",
     ES + "the_configuration_of_a_run_fits[raw]"),
    ("slope of a pair without the 2", "es/estimator.py",
     "/ (2 * self.sigma)", "/ self.sigma", ES + "one_pair_in_one_dimension"),
    ("lost pairs count as 0", "es/estimator.py",
     "shaped / (self.pairs - record.n_lost)", "shaped / self.pairs",
     ES + "a_lost_pair_is_dropped[nan-nres]"),
    ("more than half may be lost", "es/pairs.py",
     "if 2 * (raised + diverged) <= pairs:", "if raised + diverged <= pairs:",
     ES + "more_than_half_lost_stops_with_the_reasons[nres]"),
    ("first episodes not cut", "es/windowed.py",
     "self._cut(horizon, outer_step, i) if first[i] else horizon", "horizon",
     ES + "first_episodes_are_cut_at_whole_windows_evenly"),
    ("all slices of a noise table begin at one place", "es/noise.py",
     "0, count, streams[i]", "0, count, streams[0]", NOISE_TABLE + "places_are_even_and_follow_the_address"),
    ("blocks of a slice all alike", "es/noise.py",
     "at = places[i] + start + first", "at = places[i] + start",
     NOISE_TABLE + "sums_on_a_node_are_those_of_the_rows_to_the_bit[1-5000]"),
    ("a baseline of reused points counts the own pair", "es/strategies/reuse.py",
     "(sums.sum() - sums) / (2 * np.maximum(n - kept, 1))", "np.full(len(sums), sums.sum() / (2 * n))",
     "test_strategy_models.py::test_baselines_leave_the_own_pair_out"),
    ("bad points of CMA-ES count at their own length", "es/strategies/cma.py",
     "w * z.shape[1] / np.sum(z**2, axis=1)", "w", STRATEGIES + "first_step_of_cma[False-0]"),
    ("negative weights of CMA-ES take the largest bound", "es/strategies/cma.py",
     "(min(bounds) / -worse", "(max(bounds) / -worse", STRATEGIES + "negative_weights_of_cma"),
    ("a noisy search by the order of losses", "es/minimize.py",
     "if noisy or not set(options)", "if not set(options)",
     MINIMIZE + "usual_strategy[3-options5-antithetic]"),
    ("sign of the antithetic pair", "es/perturbation.py",
     "return theta + shift, theta - shift", "return theta - shift, theta + shift",
     PARTS + "perturbed_is_symmetric"),
    ("slices cut through a block of the generator", "es/perturbation.py",
     "slice_of(-(-n // 4), comm", "slice_of(n // 4, comm",
     PARTS + "node_shared_sum_equals_the_plain_one_to_the_bit[2-4097]"),
    ("tasks normalised together", "es/shaping.py",
     "mine = slopes[groups == g]", "mine = slopes", SCALED),
    ("tasks added up without their units", "es/tasks.py",
     "((finite - mix.centre[t]) / mix.scale[t])", "(finite - mix.centre[t])",
     POPULATIONS + "the_loss_of_tasks_is_the_mean_in_units_of_their_changes"),
    ("all populations draw the same", "es/minimize.py",
     "search), seed + k, saved", "search), seed, saved",
     POPULATIONS + "from_one_start_populations_differ_by_their_seeds"),
    ("an older state of pycma goes on with the newest object", "es/strategies/pycma.py",
     "if len(state.replica.told) != state.step:", "if False:",
     "test_pycma.py::test_an_earlier_state_is_as_good_as_the_last_pycma"),

    # Outer optimizer
    ("outer gradient not clipped", "es/outer.py",
     "np.clip(grad, -self._cfg.clip, self._cfg.clip)", "grad.copy()",
     OUTER + "clip_is_per_coordinate[1.0]"),
    ("warm-up starts at 0", "es/outer.py",
     "peak * (outer_step + 1) / cfg.warmup", "peak * outer_step / cfg.warmup",
     OUTER + "warm_up_is_linear_and_never_zero"),
    ("cosine ends a step too late", "es/outer.py",
     "self._outer_steps - 1 - cfg.warmup", "self._outer_steps - cfg.warmup",
     OUTER + "cosine_goes_from_the_full_rate_to_the_final_fraction"),
    ("average of theta without bias correction", "es/outer.py",
     "weight = (1 - decay) / (1 - decay ** (state.count + 1))", "weight = 1 - decay",
     OUTER + "average_is_the_bias_corrected_exponential_mean"),
    ("a learned outer optimizer sees no validation loss", "es/outer.py",
     "for is_valid in (1, 0) if opt.uses_valid_loss", "for is_valid in (0,) if opt.uses_valid_loss",
     OUTER + "a_learned_one_hears_the_meta_loss_twice_and_follows_the_schedule"),
    ("meta-parameters of a learned outer optimizer left where they are", "es/outer.py",
     "opt.init_theta() if self._learned is None else self._learned", "opt.init_theta()",
     OUTER + "a_learned_one_uses_its_own_meta_parameters"),

    # Files
    ("row counted before it is written", "store/run_file.py",
     "        try:\n            for name, dataset in self._columns.items():\n",
     "        try:\n            self._done[()] = self.rows + 1\n            file.flush()\n"
     "            for name, dataset in self._columns.items():\n", STORE + "a_really_full_disk[0]"),
    ("checksum of a row not looked at", "store/run_file.py",
     "            if wrong.size:\n", "            if False:\n", STORE + "swapped_rows_are_noticed"),
    ("checksum of texts not looked at", "store/run_file.py",
     "if _text_digest(texts, axes) != header.sha256:", "if False:",
     STORE + "altered_content_is_noticed[run]"),
    ("checksum of a file not looked at", "store/container.py",
     'if hashlib.file_digest(raw, "sha256").hexdigest() != header.sha256:', "if False:",
     STORE + "altered_content_is_noticed[weights]"),
    ("files written in place", "store/container.py",
     'return path.with_name(f".{path.name}.tmp")', "return path",
     STORE + "a_failed_write_leaves_old_files_and_no_temporary[write-checkpoint]"),
    ("any schema version read", "store/container.py",
     "if version != schema.VERSION:", "if False:",
     STORE + "what_is_no_such_file_is_refused_by_name[weights]"),
    ("unknown datasets accepted", "store/schema.py",
     "    if found:\n        raise", "    if False:\n        raise", LIES + "[one more]"),
    ("NaN in weights accepted", "store/weights.py",
     "int(np.count_nonzero(~np.isfinite(theta)))", "0", LIES + "[NaN]"),
    ("a damaged checkpoint pushes out a sound one", "store/checkpoint.py",
     "if _is_sound(newest):", "if newest.exists():", FALLBACK),

    # Ranks
    ("slices of ranks overlap", "comm.py",
     "n * (part + 1) // parts", "-(-n * (part + 1) // parts)",
     COMM + "slices_cover_everything_once[7-3]"),
    ("a launcher's variable ignored", "comm.py",
     '    "PMI_SIZE",\n', "", COMM + "announced_ranks"),
    ("largest instead of sum", "comm.py",
     "self._mpi.IN_PLACE, values, self._mpi.SUM", "self._mpi.IN_PLACE, values, self._mpi.MAX",
     COMM + "conformance[2]"),
    ("one node, whatever was asked for", "comm.py",
     "        if ranks_per_node:\n", "        if False:\n",
     COMM + "conformance_on_several_nodes[3-2-sizes0]"),
    ("each node's slices of a row made from its beginning", "es/perturbation.py",
     "start + a - i * size, table[i]", "start, table[i]",
     SCALE + "normals_of_a_node_are_those_of_their_addresses[3]"),
    ("a round's numbers without the ones too large", "es/pairs.py",
     "self._taken += len(mine) + self._comm.node_size", "self._taken += len(mine)",
     SCALE + "a_hand_out_follows_the_order_and_ties_go_by_number[2]"),
    ("cheapest pieces first", "es/pairs.py",
     "np.argsort(-np.asarray(costs, np.float64)", "np.argsort(np.asarray(costs, np.float64)",
     SCALE + "dynamic_hand_out_ends_within_a_tenth_of_the_ideal[16-0-2.0]"),
    ("owners by number of pieces, not by cost", "es/pairs.py",
     "loads[first] += costs[i]", "loads[first] += 1.0", PARTS + "work_is_shared_out_by_cost"),
    ("a node's ranks rebuild alone in the model", "cluster_model.py",
     "costs.noise / sharers", "costs.noise",
     CLUSTER + "ranks_of_a_node_share_rebuilding_and_asking[8-0.008]"),
    ("restarts cost nothing in the model", "cluster_model.py",
     "math.exp(restart / mtbf)", "1.0", CLUSTER + "failures_cost_what_is_expected[3.0-100.0-1.0]"),
    ("an error ends with code 0", "comm.py",
     "        if comm.size == 1:\n            raise\n",
     "        if comm.size == 1:\n            raise SystemExit(0) from error\n",
     EVALUATE + "errors_are_one_short_line"),
    ("an error blamed on rank 0", "comm.py",
     "lopt: error on rank {comm.rank} of", "lopt: error on rank 0 of",
     COMM + "an_error_on_one_rank_ends_all_and_names_the_rank"),

    # Configuration, training, evaluation
    ("unknown keys not named", "config.py",
     "        if key in valid:\n            continue", "        if True:\n            continue",
     CONFIG + "mistakes_are_named"),
    ("resumed with any configuration", "config.py",
     "    if changed:\n", "    if False:\n",
     CONFIG + "only_the_length_of_a_run_may_change_on_resume"),
    ("resumed without the outer optimizer's state", "train.py",
     'self.outer_state = self.outer.load_arrays(_below("outer/", arrays))', "pass",
     RESUME + "[full]"),
    ("resumed without the estimator's state", "train.py",
     'self.es_state = self.estimator.load_state(_below("es/", arrays), self.theta)', "pass",
     RESUME + "[nres]"),
    ("theta shipped instead of its average", "train.py",
     "trainer.problem.opt, trainer.theta_ema, origin", "trainer.problem.opt, trainer.theta, origin",
     TRAIN + "what_is_shipped_is_the_average_of_theta"),
    ("inner steps not added up", "train.py",
     "self.inner_steps += estimate.inner_steps", "self.inner_steps = estimate.inner_steps",
     TRAIN + "a_row_says_what_the_outer_step_was"),
    ("tuned on the test split", "evaluate.py",
     "final = results.outer_loss[i, :, :, -1].mean(axis=1)",
     "final = results.test_loss[i].mean(axis=1)",
     EVALUATE + "tuning_chooses_by_validation_and_reports_test"),
    ("final loss on another split", "evaluate.py",
     "runner.split_loss(particle.params, TEST,", "runner.split_loss(particle.params, 2,",
     EVALUATE + "the_final_loss_is_that_of_32_batches_of_the_test_split"),
    ("verdict reversed", "evaluate.py",
     "if learned.mean < rival.mean", "if learned.mean > rival.mean",
     EVALUATE + "the_verdict_is_honest"),

    # GPU
    ("noise added to a theta that is not there yet", "cuda_rollout.py",
     "theta[i] = base[i]\n            sync()\n", "theta[i] = base[i]\n", LAUNCH),
    ("both members of a pair at theta + sigma z on a GPU", "cuda_rollout.py",
     "theta, scales[p], 0, noise[p]", "theta, abs(scales[p]), 0, noise[p]", LAUNCH),
    ("a batch read before all its rows are drawn", "rollout.py",
     "rng.BATCH + TRAIN, t)\n            sync()\n", "rng.BATCH + TRAIN, t)\n", LAUNCH),
    ("a CPU in place of the GPU that was asked for", "rollout.py",
     'if device == "cpu":', "if device in DEVICES:",
     ROLLOUT + "bad_arguments_are_refused[DeviceError-'cuda'-arguments2]"),
    ("losses of a batch given to the wrong members", "es/pairs.py",
     "[next(done) for _ in requests]", "[next(done) for _ in requests][::-1]",
     ES + "all_at_once_or_pair_after_pair_is_the_same[nres-0]"),

    # Scores and comparisons
    ("an envelope that forgets", "scores.py",
     "return best_so_far(np.asarray(curves, np.float64).min(axis=0))",
     "return np.asarray(curves, np.float64).min(axis=0)",
     SCORES + "the_envelope_is_the_lowest_loss_so_far"),
    ("saturation not flagged", "scores.py",
     "SpeedUp(float(steps[-1]) / at, True)", "SpeedUp(float(steps[-1]) / at, False)",
     SCORES + "saturation_is_flagged_and_not_extrapolated"),
    ("a finished run of whatever configuration is kept", "sweep.py",
     'DONE if same and run.state == "finished"', 'DONE if run.state == "finished"',
     "test_sweep.py::test_a_run_of_another_configuration_is_refused"),
    ("a sweep goes on after a signal", "sweep.py",
     'outcome.reason == "signal"', 'outcome.reason == "time"',
     "test_sweep.py::test_a_signal_ends_the_sweep"),
    ("a tie that narrows an interval of wins", "scores.py",
     "(math.floor, math.ceil)", "(math.floor, math.floor)",
     SCORES + "a_tie_widens_the_interval_of_a_win_rate"),
    ("validation losses shown as training losses", "judgement.py",
     '_last_tenth(curves, rows, "train")', '_last_tenth(curves, rows, "valid")',
     COMPARISON + "training_losses_stand_beside_test_losses"),
    ("a card silent on losses without a known bound", "scores_text.py",
     'return family["win_rate"] < 0.5', "return False",
     COMPARISON + "a_card_says_where_it_loses"),
    ("a card that takes lower bounds for speed-ups", "scores_text.py",
     'if value is not None and of["saturated"]', "if value is None",
     COMPARISON + "a_card_marks_saturated_speed_ups"),
    ("scores written into the installed package", "card.py",
     "if not Path(weights).is_file():", "if not loaded.path.is_file():",
     COMPARISON + "scores_are_not_written_into_the_installed_package"),
    ("log ratios upside down", "judgement.py",
     "scores.log_ratio(a, b,", "scores.log_ratio(b, a,",
     COMPARISON + "a_judgement_of_known_losses"),
    ("a list that forgets what it has", "optlist.py",
     "after = np.minimum(best[:, None], scores).mean(axis=0)", "after = scores.mean(axis=0)",
     COMPARISON + "the_greedy_order_is_known"),
    ("a cosine that rises again", "arch/schedules.py",
     "min(t / total, 1.0)", "t / total",
     OPTIMIZERS + "a_cosine_decay_ends_at_a_standstill[adam-options0]"),
    ("steps of momentum are not counted", "arch/sgd.py",
     "state.dtype.type(t + 1.0)", "state.dtype.type(t)",
     OPTIMIZERS + "a_cosine_decay_ends_at_a_standstill[momentum-options1]"),

    ("a search of which the first trial is the best", "judgement.py",
     "final_losses(curves, task, family, len(curves.members(family)))",
     "final_losses(curves, task, family, 1)",
     COMPARISON + "settings_are_chosen_by_the_last_tenth_of_their_curves"),
    ("an experiment that always ends well", "experiment.py",
     "return 1 if missed else 0", "return 0",
     "test_experiment.py::test_the_verdict_is_the_exit_code[missed]"),
    ("numbers are cut off, not rounded", "experiment.py",
     "near = (bits + np.uint32(1 << (DROPPED - 1)))", "near = bits",
     "test_experiment.py::test_rounded_to_twelve_bits"),
    ("a given folder's picture lands in docs/", "experiment.py",
     "    if given is None:\n", "    if True:\n",
     "test_experiment.py::test_what_is_drawn_and_where_to"),
    ("an experiment deaf to --config", "experiment.py",
     "read(args.config, kind)", 'read(here / name, kind)',
     "test_experiment.py::test_a_run_begins[given1-20]"),
    ("a band without the highest run", "plots.py",
     "runs.min(axis=0), runs.max(axis=0)", "runs.min(axis=0), line",
     EVALUATE + "a_band_encloses_all_runs"),

    # The house
    ("kernels kept when a file they call changes", "kernel_cache.py",
     "for file in sorted(seen):", "for file in [path]:",
     "test_kernel_cache.py::test_the_digest_follows_the_imports"),
    ("an import that points up", "task.py",
     "SPLITS = (", "def _up():\n    from lopt.rollout import rollout\n\n\nSPLITS = (",
     "test_layers.py::test_imports_point_down[task.py]"),
    ("importing lopt loads HDF5", "layout.py",
     "import json\n", "import json\n\nimport h5py\n",
     "test_layers.py::test_import_is_free_of_side_effects"),
)]
# fmt: on


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the library and its tests."""
    folder = tmp_path_factory.mktemp("house")
    for name in ("lopt", "tests"):
        leave = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / name, ignore=leave)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


@contextlib.contextmanager
def broken(house: Path, breakage: Breakage) -> Iterator[None]:
    """Within it, one file of the copy is broken.

    Raises:
        ValueError: the text to replace is not there, or more than once.
    """
    path = house / "lopt" / breakage.file
    source = path.read_text()
    if (count := source.count(breakage.old)) != 1:
        raise ValueError(
            f"{breakage.reason!r}: its text occurs {count} times in lopt/{breakage.file}, must "
            f"occur once; say the breakage in terms of the present source:\n{breakage.old}"
        )
    try:
        _write(path, source.replace(breakage.old, breakage.new))
        yield
    finally:
        _write(path, source)


def _write(path: Path, source: str) -> None:
    """Write a source file; its bytecode goes, which a change in the same second would leave in use."""
    path.write_text(source)
    for compiled in path.parent.glob(f"__pycache__/{path.stem}.*"):
        compiled.unlink()


def run_tests(house: Path, *nodes: str) -> subprocess.CompletedProcess:
    """Run tests of the copy, without compiling; NumPy's warnings of overflow are none of compiled kernels."""
    arguments = ["-x", "-q", "-p", "no:cacheprovider", "-W", "ignore::RuntimeWarning"]
    environment = {"NUMBA_DISABLE_JIT": "1", "PYTHONPATH": str(house)}
    return subprocess.run(
        [sys.executable, "-m", "pytest", *arguments, *(f"tests/{node}" for node in nodes)],
        cwd=house, env={**os.environ, **environment}, capture_output=True, text=True,
        timeout=TIMEOUT_S * (1 if len(nodes) == 1 else 5),
    )  # fmt: skip


def noticed(house: Path, node: str) -> str:
    """Empty if the test fails by itself; otherwise what happened instead."""
    done = run_tests(house, node)
    failed = f"FAILED tests/{node}" in done.stdout
    if done.returncode == COLLECTED_AND_FAILED and failed and not NOT_A_PROGRAM.search(done.stdout):
        return ""
    return f"code {done.returncode} from {node}\n{done.stdout[-3000:]}{done.stderr[-1000:]}"


def test_the_whole_copy_passes(house: Path) -> None:
    nodes = sorted({breakage.node for breakage in BREAKAGES})
    done = run_tests(house, *nodes)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr


@pytest.mark.parametrize("breakage", BREAKAGES, ids=lambda b: f"{b.file}: {b.reason}")
def test_a_breakage_is_noticed(house: Path, breakage: Breakage) -> None:
    with broken(house, breakage):
        assert noticed(house, breakage.node) == ""


# The harness itself


NODE = RNG + "address_is_the_documented_one"


@pytest.mark.parametrize(
    ("old", "new", "node", "words"),
    [
        ("INIT = 1 ", "INIT = 1  ", NODE, "code 0"),
        ("INIT = 1 ", "INIT = = 1 ", NODE, "code 4"),
        ("import math\n", "import maths\n", NODE, "code 4"),
        ("INIT = 1 ", "INIT = 1  ", RNG + "nothing", "code 4"),
        ("return philox(block", "return philux(block", NODE, "NameError"),
    ],
    ids=["harmless", "no syntax", "no import", "no such test", "no such name"],
)
def test_what_is_not_a_noticed_breakage(
    house: Path, old: str, new: str, node: str, words: str
) -> None:
    with broken(house, Breakage("control", "rng.py", old, new, node)):
        assert words in noticed(house, node)


@pytest.mark.parametrize(("old", "count"), [("no such text", 0), ("sine", 6)])
def test_a_text_that_is_not_there_once_is_an_error(house: Path, old: str, count: int) -> None:
    with (
        pytest.raises(ValueError, match=rf"'control'.* occurs {count} times in lopt/rng\.py"),
        broken(house, Breakage("control", "rng.py", old, "", NODE)),
    ):
        pass
