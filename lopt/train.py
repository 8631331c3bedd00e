"""The outer loop: estimate the meta-gradient, step the outer optimizer, log, checkpoint, resume.

Every rank runs the same loop and holds the same bits: the estimator's one allreduce of scalars makes them equal, the
rest is a deterministic function of them.  Rank 0 alone owns the files.
"""

import contextlib
import dataclasses
import inspect
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
import numpy as np

from lopt import config as cfg
from lopt import cuda_device, store
from lopt.augment import AugmentedTask
from lopt.comm import Comm, SerialComm
from lopt.errors import LostPairsError
from lopt.es import Estimate, OuterOptimizer, make_estimator
from lopt.meta import MetaProblem, Objective
from lopt.optimizer import Optimizer, optimizer
from lopt.progress import Progress
from lopt.rollout import Schedule
from lopt.task import Task
from lopt.tasks import task

PHASES = ("rollout", "exchange", "rebuild", "outer", "files")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended: reason "finished", "time" (minutes used up) or "signal"."""

    reason: str
    outer_steps: int
    out: Path

    @property
    def message(self) -> str:
        """One line for the terminal."""
        if self.reason == "finished":
            return f"finished after {self.outer_steps} outer steps: {self.out / 'weights.h5'}"
        why = "time is up" if self.reason == "time" else "stopped by a signal"
        return f"{why} after {self.outer_steps} outer steps: {self.out / 'weights.h5'}; resume with --resume"


class Stop:
    """Set by SIGTERM or SIGUSR1: finish the outer step, write a checkpoint, leave with exit code 0."""

    def __init__(self) -> None:
        self.asked = False
        self._before = {s: signal.signal(s, self._ask) for s in (signal.SIGTERM, signal.SIGUSR1)}

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True

    def restore(self) -> None:
        """Put the previous handlers back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)


def build(config: cfg.Config) -> tuple[list[Task], list[float], Optimizer]:
    """Tasks, their weights and the optimizer that a configuration names.

    Raises:
        UsageError: an unknown name or a refused option.
    """
    tasks = [task(spec.family, spec.augment, **spec.options) for spec in config.tasks]
    weights = [spec.weight for spec in config.tasks]
    return tasks, weights, optimizer(config.optimizer.name, **config.optimizer.options)


def schedule_of(config: cfg.Config) -> Schedule:
    """When inner training looks at which split."""
    inner = config.inner
    return Schedule(inner.valid_every, inner.outer_every, inner.outer_batches, inner.ceiling)


def meta_problem(config: cfg.Config) -> MetaProblem:
    """The configured meta-training problem."""
    tasks, weights, opt = build(config)
    es, train_ = config.es, config.train
    return MetaProblem(
        tasks, weights, opt, schedule_of(config), es.horizon, es.truncation,
        Objective(config.inner.objective == "log_loss", config.inner.meta_loss_clip), train_.seed, train_.device,
    )  # fmt: skip


class Trainer:
    """A meta-training run on one rank: theta, estimator state, outer optimizer state, and the step over them."""

    def __init__(self, config: cfg.Config, comm: Comm) -> None:
        self.config, self.comm = config, comm
        if config.train.device == "cuda":
            cuda_device.select(comm.node_rank, comm.node_size)
        self.problem = meta_problem(config)
        self.layout = self.problem.opt.theta_layout
        self.estimator = make_estimator(config.es, self.problem, comm, config.train.seed)
        self.outer = OuterOptimizer(
            config.outer, self.layout, config.train.outer_steps, learned_outer(config.outer)
        )
        self.theta = self.problem.opt.init_theta(config.train.seed)
        if comm.size > 1 and len(self.problem.tasks) > 1 and not self.problem.batched:
            self.problem.time_tasks(self.theta, comm)
        self.es_state = self.estimator.init(self.theta)
        self.outer_state = self.outer.init(self.theta)
        self.outer_step = 0
        self.inner_steps = 0
        self.wall_s = 0.0

    def step(self) -> tuple[dict[str, Any], Estimate]:
        """One outer step; returns the row for the run file and the estimate it was made from."""
        begin = time.perf_counter()
        estimate, self.es_state = self.estimator.step(self.theta, self.outer_step, self.es_state)
        middle = time.perf_counter()
        before = self.theta
        loss = float(np.nanmean(estimate.losses))
        self.theta, self.outer_state = self.outer.step(
            before, estimate.grad, self.outer_state, loss
        )
        self.outer_step += 1
        end = time.perf_counter()
        self.wall_s += end - begin
        self.inner_steps += estimate.inner_steps
        return self._row(estimate, before, {**estimate.seconds, "outer": end - middle}), estimate

    def _row(
        self, estimate: Estimate, before: np.ndarray, seconds: dict[str, float]
    ) -> dict[str, Any]:
        pair_mean = estimate.losses.mean(axis=1)
        kept = pair_mean[np.isfinite(pair_mean)]
        spread = float(kept.std(ddof=1)) if kept.size > 1 else 0.0
        clip = self.config.outer.clip
        return {
            "outer_step": self.outer_step - 1,
            "meta_loss": float(kept.mean()),
            "meta_loss_std": spread,
            "meta_loss_se": spread / np.sqrt(kept.size),
            "grad_norm": _norm(estimate.grad),
            "update_norm": _norm(self.theta - before),
            "theta_norm": self._block_norms(self.theta),
            "theta_ema_norm": self._block_norms(self.theta_ema),
            "sigma": self.config.es.sigma,
            "learning_rate": self.outer.learning_rate(self.outer_step - 1),
            "wall_s": self.wall_s,
            "phase_s": np.array([seconds.get(name, 0.0) for name in PHASES]),
            "inner_steps": self.inner_steps,
            "pairs_lost": estimate.n_lost,
            "n_clipped": int((np.abs(estimate.grad) > clip).sum()),
            "bytes_sent": estimate.bytes_sent,
            "pair_losses": estimate.losses,
            "pair_groups": estimate.groups,
        }

    def _block_norms(self, theta: np.ndarray) -> np.ndarray:
        return np.array([_norm(v) for v in self.layout.views(theta).values()])

    def checkpoint(self) -> dict[str, np.ndarray] | None:
        """All arrays a resumed run needs, on rank 0 (None elsewhere); collective."""
        arrays = self.estimator.gather_state(self.es_state)
        if arrays is None:
            return None
        own = {
            "theta": self.theta,
            "counters": np.array([self.outer_step, self.inner_steps], np.int64),
            "wall_s": np.array([self.wall_s]),
        }
        outer = {f"outer/{k}": v for k, v in self.outer.state_arrays(self.outer_state).items()}
        return {**own, **outer, **{f"es/{k}": v for k, v in arrays.items()}}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Continue from `checkpoint`'s arrays, whatever the number of ranks was."""
        self.theta = arrays["theta"].copy()
        self.outer_step, self.inner_steps = (int(x) for x in arrays["counters"])
        self.wall_s = float(arrays["wall_s"][0])
        self.outer_state = self.outer.load_arrays(_below("outer/", arrays))
        self.es_state = self.estimator.load_state(_below("es/", arrays), self.theta)

    @property
    def theta_ema(self) -> np.ndarray:
        """Exponential moving average of theta: what is shipped."""
        return self.outer.average(self.outer_state)


def _norm(v: np.ndarray) -> float:
    return float(np.linalg.norm(v.astype(np.float64)))


def _below(head: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {k[len(head) :]: v for k, v in arrays.items() if k.startswith(head)}


def learned_outer(outer: cfg.OuterConfig) -> tuple[Optimizer, np.ndarray] | None:
    """The learned optimizer that steps theta, and its meta-parameters; None: a hand-made one does."""
    if not outer.weights:
        return None
    weights = store.load_weights(outer.weights)
    opt = optimizer(weights.architecture, **{**weights.options, **outer.options})
    return opt, opt.check_theta(weights.theta)


def prepare_kernels(config: cfg.Config) -> None:
    """Have every kernel of a configuration in memory, and in the cache for the other ranks of the node.

    What is not on disk yet is compiled in a process of its own: a compiler takes 250 MiB and does not give them back.
    """
    tasks, _, opt = build(config)
    plain = [t.task if isinstance(t, AugmentedTask) else t for t in tasks]
    kinds = {type(x) for x in (*plain, opt)}
    if not all(inspect.getattr_static(kind, "entry").stored for kind in kinds):
        code = "import sys; from lopt import config, train; train.compile_kernels(config.loads(sys.stdin.read()))"
        # Whatever goes wrong in there goes wrong again below, where it can be reported.
        subprocess.run(
            [sys.executable, "-c", code], input=cfg.dumps(config), text=True, capture_output=True
        )
    compile_kernels(config)


def compile_kernels(config: cfg.Config) -> None:
    """Run every kernel of a configuration once."""
    every = config.inner.outer_every
    small = msgspec.structs.replace(config.es, pairs=1, truncation=every, horizon=(every, every))
    trainer = Trainer(msgspec.structs.replace(config, es=small), SerialComm())
    with contextlib.suppress(
        LostPairsError
    ):  # the only pair may diverge; everything ran all the same
        trainer.step()
    theta = trainer.theta
    for pair in {trainer.problem.group(0, p): p for p in range(100)}.values():
        trainer.problem.run(theta, trainer.problem.start(theta, 0, pair), 0, pair, 0, every)


class RunFiles:
    """The files of a run: only rank 0 touches the disk, and what it finds there is told to all ranks."""

    def __init__(self, config: cfg.Config, out: Path, comm: Comm, resume: bool) -> None:
        self._config, self._out, self._comm = config, out, comm
        self._writer: store.RunWriter | None = None
        self._saved: store.Checkpoint | None = None
        self._resume = resume
        self.seconds = 0.0  # spent on files since the last row
        if comm.rank != 0:
            return
        if resume:
            self._saved = store.load_checkpoint(out)
            cfg.check_resumable(cfg.loads(self._saved.meta["config"]), config)
        else:
            for name in ("run.h5", "checkpoint.h5", "weights.h5"):
                store.refuse_existing(out / name)

    def open(self, trainer: Trainer) -> None:
        """Create or reopen the run file; on resuming, give the saved state to every rank.  Collective."""
        comm, train_ = self._comm, self._config.train
        if self._resume:
            trainer.restore(comm.bcast_arrays(self._saved.arrays if self._saved else None))
        if comm.rank != 0:
            return
        text, path = cfg.dumps(self._config), self._out / "run.h5"
        common = {
            "config_text": text,
            "seed": train_.seed,
            "ranks": comm.size,
            "device": train_.device,
        }
        if self._resume:
            self._writer = store.RunWriter.resume(path, trainer.outer_step, **common)
        else:
            self._writer = store.RunWriter.create(
                path,
                theta_layout=trainer.layout,
                tasks=[t.name for t in trainer.problem.tasks],
                phases=PHASES,
                pairs=self._config.es.pairs,
                **common,
            )

    def append(self, row: dict[str, Any]) -> None:
        """Add one row; "files" is the time that files took since the row before."""
        if self._writer is None:
            return
        begin = time.perf_counter()
        row["phase_s"][PHASES.index("files")] = self.seconds
        self._writer.append(row)
        self.seconds = time.perf_counter() - begin

    def checkpoint(self, trainer: Trainer) -> None:
        """Checkpoint and current weights; collective."""
        begin = time.perf_counter()
        arrays = trainer.checkpoint()
        if self._writer is None or arrays is None:
            return
        self._writer.sync()
        meta = {"config": cfg.dumps(self._config), "outer_step": trainer.outer_step}
        store.save_checkpoint(self._out, arrays, meta)
        train_ = self._config.train
        origin = {
            **store.provenance(train_.seed, self._comm.size, train_.device),
            "config": meta["config"],
            "tasks": [t.name for t in trainer.problem.tasks],
            "outer_steps": trainer.outer_step,
            "inner_steps": trainer.inner_steps,
            "core_hours": trainer.wall_s * self._comm.size / 3600,
        }
        store.save_weights(self._out / "weights.h5", trainer.problem.opt, trainer.theta_ema, origin)
        self.seconds += time.perf_counter() - begin

    def finish(self, reason: str) -> None:
        """Say how the run ended and close."""
        if self._writer is not None:
            self._writer.finish(reason)


def train(config: cfg.Config, out: Path, comm: Comm, resume: bool = False) -> Outcome:
    """Meta-train; every rank calls it.  Writes run.h5, checkpoints and weights.h5 into `out`.

    Raises:
        StoreError: `out` holds a run and `resume` is False, or nothing sound to resume from, or a write failed.
        ConfigError: resuming with a configuration that differs in more than its length.
        LostPairsError: more than half of the pairs of an outer step were lost.
    """
    files = RunFiles(config, out, comm, resume)
    if comm.node_rank == 0:  # one rank of a node compiles, the others load from its cache
        prepare_kernels(config)
    comm.node_barrier()
    trainer = Trainer(config, comm)
    files.open(trainer)
    if comm.rank == 0:
        print(plan(trainer), flush=True)
    if not resume:
        files.checkpoint(trainer)  # a job killed before its first checkpoint can be resumed too
    stop = Stop()
    try:
        reason = _loop(trainer, files, stop)
    except Exception:
        files.finish("failed")
        raise
    finally:
        stop.restore()
    files.checkpoint(trainer)
    files.finish(reason)
    return Outcome(reason, trainer.outer_step, out)


def _loop(trainer: Trainer, files: RunFiles, stop: Stop) -> str:
    """Outer steps until done, out of time or asked to stop; returns the reason."""
    settings, comm = trainer.config.train, trainer.comm
    saved_at, saved_step = trainer.wall_s, trainer.outer_step
    lost = 0
    with Progress(
        settings.outer_steps, "outer step", comm.rank == 0, trainer.outer_step
    ) as progress:
        while trainer.outer_step < settings.outer_steps:
            row, estimate = trainer.step()
            files.append(row)
            progress.update(trainer.outer_step, f"meta-loss {row['meta_loss']:.4f}")
            if estimate.n_lost:
                lost += estimate.n_lost
                why = f": {estimate.fault}" if estimate.fault else ""
                progress.note(
                    f"outer step {row['outer_step']}: {estimate.n_lost} pairs lost{why} ({lost} so far)"
                )
            late = settings.minutes > 0 and trainer.wall_s >= 60 * settings.minutes
            due = trainer.wall_s - saved_at >= 60 * settings.checkpoint_minutes or (
                settings.checkpoint_every > 0
                and trainer.outer_step - saved_step >= settings.checkpoint_every
            )
            asked, late, due = _agree(comm, stop.asked, late, due)
            if asked or late:
                return "signal" if asked else "time"
            if due:
                files.checkpoint(trainer)
                saved_at, saved_step = trainer.wall_s, trainer.outer_step
    return "finished"


def _agree(comm: Comm, asked: bool, late: bool, due: bool) -> tuple[bool, bool, bool]:
    """Clocks and signals differ between ranks: a signal counts if any rank got it, the clock is rank 0's."""
    flags = np.array([asked, late and comm.rank == 0, due and comm.rank == 0], np.float64)
    comm.allreduce_scalars(flags, "control")
    return bool(flags[0] > 0), bool(flags[1] > 0), bool(flags[2] > 0)


def plan(trainer: Trainer) -> str:
    """What the run is going to do and about how long it takes, from one timed window."""
    config, problem = trainer.config, trainer.problem
    es, settings = config.es, config.train
    begin = time.perf_counter()
    problem.run(trainer.theta, problem.start(trainer.theta, 0, 0), 0, 0, 0, es.truncation)
    per_step = (time.perf_counter() - begin) / es.truncation
    window = es.horizon[1] if es.estimator == "full" else es.truncation
    inner = 2 * es.pairs * window
    hours = (
        (settings.outer_steps - trainer.outer_step) * inner * per_step / trainer.comm.size / 3600
    )
    limit = settings.minutes / 60 if settings.minutes > 0 else float("inf")
    names = ", ".join(t.name for t in problem.tasks[:3]) + (
        ", ..." if len(problem.tasks) > 3 else ""
    )
    return "\n".join(
        [
            f"tasks         {len(problem.tasks)}: {names}",
            f"optimizer     {problem.opt.name}, D = {problem.n_theta} meta-parameters",
            f"estimator     {es.estimator}, {es.pairs} antithetic pairs, sigma {es.sigma:g}, "
            f"truncation {es.truncation}, horizon {es.horizon[0]}..{es.horizon[1]}",
            f"outer step    {inner} inner steps, about {inner * per_step / trainer.comm.size:.2f} s "
            f"on {trainer.comm.size} rank(s)",
            f"predicted     {min(hours, limit):.3g} hours for {settings.outer_steps} outer steps"
            + (f" or until {settings.minutes:g} minutes are used" if limit < hours else ""),
        ]
    )
