"""Configurations: what goes in comes back, and every mistake is answered with its key."""

import msgspec
import pytest

from lopt import config as cfg
from lopt.errors import ConfigError, UsageError

MINIMAL = """
tasks = ["mlp"]
[optimizer]
name = "adam"
"""
FULL = """
[[tasks]]
family = "mlp"
options = { data = "digits", hidden = [32], batch_size = 64 }
weight = 2
[[tasks]]
family = "quadratic"
[optimizer]
name = "hierarchical"
options = { past_weights = true }
[es]
estimator = "pes"
pairs = 4
sigma = 1            # an integer is a fine float
horizon = 200
truncation = 20
difference = "sign"
diverged = "clip"
noise_table = 4096
[outer]
optimizer = "momentum"
options = { learning_rate = 1e-3 }
clip = 0.5
warmup = 3
schedule = "cosine"
final_fraction = 0.25
ema = 0.0
[inner]
valid_every = 0
outer_every = 5
outer_batches = 2
ceiling = 1e3
objective = "log_loss"
meta_loss_clip = [-2, 3]
[train]
outer_steps = 7
minutes = 0.5
checkpoint_minutes = 0
checkpoint_every = 2
seed = 4294967295
device = "cuda"
"""


def test_every_value_arrives() -> None:
    config = cfg.loads(FULL)
    assert [t.family for t in config.tasks] == ["mlp", "quadratic"]
    assert config.tasks[0].options == {"data": "digits", "hidden": [32], "batch_size": 64}
    assert [t.weight for t in config.tasks] == [2.0, 1.0]
    assert config.optimizer == cfg.OptimizerSpec(
        name="hierarchical", options={"past_weights": True}
    )
    assert msgspec.structs.astuple(config.es) == (
        "pes", 4, 1.0, (200, 200), 20, 0, "sign", "clip", 4096,
    )  # fmt: skip
    assert isinstance(config.es.sigma, float)
    assert config.outer.options == {"learning_rate": 1e-3}
    outer = config.outer
    assert (outer.clip, outer.warmup, outer.schedule, outer.ema) == (0.5, 3, "cosine", 0.0)
    assert msgspec.structs.astuple(config.inner) == (0, 5, 2, 1e3, "log_loss", (-2.0, 3.0))
    assert msgspec.structs.astuple(config.train) == (7, 0.5, 0.0, 2, 2**32 - 1, "cuda")


def test_a_bare_string_is_a_task_with_default_options() -> None:
    assert cfg.loads(MINIMAL).tasks == (cfg.TaskSpec(family="mlp", options={}, weight=1.0),)


@pytest.mark.parametrize("text", [MINIMAL, FULL])
def test_dumps_and_loads_are_inverse(text: str) -> None:
    config = cfg.loads(text)
    written = cfg.dumps(config)
    assert cfg.loads(written) == config
    assert cfg.dumps(cfg.loads(written)) == written
    for section in ("es", "outer", "inner", "train"):
        assert f"[{section}]" in written


def test_floats_survive_to_the_last_bit() -> None:
    config = cfg.apply_overrides(cfg.loads(MINIMAL), ["es.sigma=0.1", "outer.clip=1e-300"])
    config = msgspec.structs.replace(config, es=msgspec.structs.replace(config.es, sigma=0.1 + 0.2))
    again = cfg.loads(cfg.dumps(config))
    assert again.es.sigma == 0.30000000000000004
    assert again.outer.clip == 1e-300


def test_structs_are_immutable_and_keyword_only() -> None:
    config = cfg.loads(MINIMAL)
    with pytest.raises(AttributeError):
        config.es.sigma = 1.0  # type: ignore[misc]
    with pytest.raises(TypeError):
        cfg.EsConfig("pes")  # type: ignore[misc]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["es.sgima=1"], "unknown key es.sgima (value 1); did you mean es.sigma?"),
        (["pairs=3"], "unknown key pairs (value 3); did you mean es.pairs?"),
        (["inner.sigma=1"], "unknown key inner.sigma (value 1); did you mean es.sigma?"),
        (["trian.seed=1"], "unknown section 'trian'; did you mean 'train'?"),
        (["optimizer={name='adam', optins={}}"], "did you mean optimizer.options?"),
        (
            ["tasks=[{family='mlp', wieght=1}]"],
            "unknown key tasks.0.wieght (value 1)",
        ),
        (["optimizer={}"], "missing key optimizer.name"),
        (["es.pairs=many"], "es.pairs = 'many': expected int, got str"),
        (["es.pairs=2.5"], "es.pairs = 2.5: expected int, got float"),
        (["es.pairs=true"], "es.pairs = True: expected int, got bool"),
        (["es.sigma='1'"], "es.sigma = '1': expected float, got str"),
        (["es=4"], "es = 4: expected a table, got int"),
        (["tasks=3"], "tasks = 3: expected a list, got int"),
        (["tasks=['mlp', 3]"], "tasks.1 = 3: expected a table, got int"),
        (["tasks.0.weight=heavy"], "tasks.0.weight = 'heavy': expected float, got str"),
        (["tasks=[]"], "tasks = []: must be a list of at least one task"),
        (["tasks.1.weight=2"], "no element '1' in tasks (valid: 0 to 0)"),
        (["tasks=['mlp:data=digits']"], "tasks.family = 'mlp:data=digits'"),
        (["es.sigma.x=1"], "es.sigma = 0.01 is a value, it has no 'x'"),
        (["es.sigma"], "override 'es.sigma' is not of the form section.key=value"),
        (["es..sigma=1"], "is not of the form"),
        (["es.sigma=[1"], "'[1' is neither a TOML value nor a bare word"),
        (["es.sigma=1\npairs=2"], "neither a TOML value nor a bare word"),
    ],
)
def test_mistakes_are_named(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        cfg.apply_overrides(cfg.loads(MINIMAL), overrides)
    assert message in str(caught.value)
    assert isinstance(caught.value, UsageError)  # exit code 2


class Part(cfg.Section, kw_only=True):
    family: str
    weight: float = 1.0


class Whole(cfg.Section, kw_only=True):
    first: Part
    rest: tuple[Part, ...] = ()
    steps: int = 1


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"frist": {}}, "unknown key frist (value {}); did you mean first?"),
        ({"first": {"famly": "a"}}, "unknown key first.famly (value 'a'); did you mean first.family?"),
        (
            {"first": {"family": "a"}, "rest": [{"family": "b"}, {"famly": "c"}]},
            "unknown key rest.1.famly (value 'c'); did you mean rest.1.family? (valid: rest.1.family,",
        ),
        ({"first": {"family": "a"}, "weight": 2}, "unknown key weight (value 2); did you mean first.weight?"),
        ({"first": {"family": "a"}, "rest": [{}]}, "missing key rest.0.family"),
        ({"first": {"family": "a", "steps": 2}}, "unknown key first.steps (value 2) (valid: first.family,"),
        ({"first": {"family": "a"}, "rest": [3]}, "rest.0 = 3: expected a table, got int"),
        ({"first": {"family": 1}}, "first.family = 1: expected str, got int"),
    ],
)  # fmt: skip
def test_mistakes_in_sections_within_sections_are_named(tree: dict, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        cfg.convert(tree, Whole)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("key", "bad", "good"),
    [
        ("es.sigma", ["0", "-1", "nan", "inf"], "1e-9"),
        ("es.pairs", ["0", "-3", "2147483648"], "1"),
        ("es.truncation", ["0"], "1"),
        ("es.horizon", ["0", "[5, 4]", "[0, 3]", "[1, 2147483648]"], "[4, 4]"),
        ("es.estimator", ["'NRES'"], "full"),
        ("es.difference", ["rank"], "raw"),
        ("es.diverged", ["keep"], "clip"),
        ("outer.clip", ["0", "nan"], "1"),
        ("outer.warmup", ["-1"], "0"),
        ("outer.schedule", ["linear"], "cosine"),
        ("outer.final_fraction", ["-0.1", "1.1", "nan"], "1"),
        ("outer.ema", ["1", "-0.5", "nan"], "0"),
        ("inner.valid_every", ["-1"], "0"),
        ("inner.outer_every", ["0"], "1"),
        ("inner.outer_batches", ["0"], "1"),
        ("inner.ceiling", ["0", "inf"], "1"),
        ("inner.objective", ['"log"'], '"log_loss"'),
        ("inner.meta_loss_clip", ["[1, 1]", "[2, 1]", "[nan, 1]", "[0, inf]"], "[0, 1]"),
        ("train.outer_steps", ["0"], "1"),
        ("train.minutes", ["-1", "inf", "nan"], "0"),
        ("train.checkpoint_minutes", ["-1", "nan"], "0"),
        ("train.checkpoint_every", ["-1"], "0"),
        ("train.seed", ["-1", "4294967296"], "0"),
        ("train.device", ["gpu"], "cuda"),
    ],
)
def test_ranges(key: str, bad: list[str], good: str) -> None:
    base = cfg.loads(MINIMAL)
    for text in bad:
        with pytest.raises(ConfigError, match=rf"^{key} = "):
            cfg.apply_overrides(base, [f"{key}={text}"])
    changed = cfg.apply_overrides(base, [f"{key}={good}"])
    assert cfg.loads(cfg.dumps(changed)) == changed


def test_ranges_hold_for_structs_made_in_python() -> None:
    with pytest.raises(ConfigError, match=r"es\.sigma = -1"):
        cfg.EsConfig(sigma=-1.0)


def test_overrides_reach_everything_and_leave_the_rest() -> None:
    base = cfg.loads(FULL)
    changed = cfg.apply_overrides(
        base,
        [
            "es.sigma=0.02",
            "tasks.1.weight=3",
            "tasks.0.options.data=digits8",
            "optimizer.options.extra={a = 1}",
            "outer.schedule=constant",
        ],
    )
    assert cfg.diff(base, changed) == [
        "tasks.0.options.data",
        "tasks.1.weight",
        "es.sigma",
        "outer.schedule",
        "optimizer.options.extra.a",
    ]
    assert changed.es.sigma == 0.02
    assert changed.tasks[0].options["data"] == "digits8"
    assert base.tasks[0].options["data"] == "digits"  # the base is untouched
    assert cfg.diff(base, base) == []


def test_diff_counts_tasks_that_come_and_go() -> None:
    one, two = cfg.loads(MINIMAL), cfg.apply_overrides(cfg.loads(MINIMAL), ["tasks=['mlp','x']"])
    assert cfg.diff(one, two) == ["tasks.1.family", "tasks.1.weight"]
    assert cfg.diff(two, one) == ["tasks.1.family", "tasks.1.weight"]


def test_only_the_length_of_a_run_may_change_on_resume() -> None:
    base = cfg.loads(MINIMAL)
    for key in cfg.RESUMABLE_KEYS:
        longer = cfg.apply_overrides(base, [f"{key}=77"])
        assert cfg.diff(base, longer) == [key]
        cfg.check_resumable(base, longer)
    other = cfg.apply_overrides(base, ["train.seed=1", "es.sigma=0.5"])
    with pytest.raises(ConfigError, match=r"another es\.sigma: .* 0\.01, now .* 0\.5.*train\.seed"):
        cfg.check_resumable(base, other)


def test_load_names_the_file(tmp_path) -> None:
    path = tmp_path / "c.toml"
    with pytest.raises(ConfigError, match=r"cannot read configuration .*c\.toml"):
        cfg.load(path)
    path.write_text(MINIMAL)
    assert cfg.load(path) == cfg.loads(MINIMAL)
    path.write_text("tasks = [")
    with pytest.raises(ConfigError, match=r"c\.toml: not valid TOML"):
        cfg.load(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot read configuration"):
        cfg.load(path)
