import pytest
import torch

from s4_impl.configs import LRA, LRA_V1, PMNIST, SC10, SCIFAR, SMNIST, WIKITEXT103, Recipe
from s4_impl.data import SequenceTask, Split
from s4_impl.model import S4Model
from s4_impl.optim import param_groups
from s4_impl.training import build_model

ALL_RECIPES = [*LRA.values(), *LRA_V1.values(), SCIFAR, SMNIST, PMNIST, SC10, WIKITEXT103]


def names_of(model, group):
    chosen = {id(p) for p in group["params"]}
    return {name for name, p in model.named_parameters() if id(p) in chosen}


@pytest.mark.parametrize("lr", [0.01, 0.0005])
def test_the_ssm_learns_slowly_and_without_weight_decay(lr):
    model = S4Model(1, 2, n_layers=1, d_model=4, d_state=4)
    groups = param_groups(model, lr, 0.05)
    slow = [group for group in groups if group["weight_decay"] == 0.0]
    (rest,) = [group for group in groups if group["weight_decay"] == 0.05]
    assert {group["lr"] for group in slow} == {min(lr, 1e-3)}
    assert rest["lr"] == lr
    own = set().union(*(names_of(model, group) for group in slow))
    prefix = "backbone.blocks.0.ssm.kernel."
    assert own == {prefix + name for name in ("log_dt", "log_decay", "frequency", "P", "B")}
    assert {prefix + "C", "backbone.blocks.0.ssm.D", "backbone.blocks.0.mix.weight"} <= names_of(model, rest)


def test_every_parameter_is_in_one_group():
    for options in ({}, {"mode": "diag", "init": "lin"}, {"mode": "dense"}, {"block": ("s4", "ff")}):
        model = S4Model(1, 2, n_layers=2, d_model=4, d_state=4, **options)
        grouped = [id(p) for group in param_groups(model, 0.01, 0.1) for p in group["params"]]
        assert sorted(grouped) == sorted(id(p) for p in model.parameters())


def test_dt_can_have_a_learning_rate_of_its_own():
    model = S4Model(1, 2, n_layers=1, d_model=4, d_state=4)
    groups = param_groups(model, 0.01, 0.05, dt_lr=0.007)
    (dt,) = [group for group in groups if group["lr"] == 0.007]
    assert names_of(model, dt) == {"backbone.blocks.0.ssm.kernel.log_dt"}


@pytest.mark.parametrize("arguments", [{"lr": 0.0}, {"lr": 0.01, "weight_decay": -1.0}, {"lr": 0.01, "ssm_lr": 0.0}])
def test_settings_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match="must be"):
        param_groups(S4Model(1, 2, n_layers=1, d_model=2, d_state=2), **arguments)


@pytest.mark.parametrize("recipe", ALL_RECIPES, ids=lambda recipe: recipe.task)
def test_every_recipe_builds_a_model_that_takes_a_training_step(recipe):
    """The real arguments, but for the width, depth and vocabulary."""
    small = {"d_model": 64 if "adaptive_cutoffs" in recipe.model else 8, "n_layers": 1}
    if "adaptive_cutoffs" in recipe.model:
        small["adaptive_cutoffs"] = (3, 6, 9)
    kind = recipe.model.get("task", "classify")
    tokens = recipe.task in ("listops", "text", "retrieval", "wikitext103")
    shape = (2, 2, 12) if recipe.task == "retrieval" else (2, 12) if tokens else (2, 12, 1)
    empty = Split(torch.zeros(0).numpy(), torch.zeros(0).numpy())
    task = SequenceTask(
        recipe.task, "retrieve" if recipe.task == "retrieval" else kind, 12 if tokens else 1, 12, [empty] * 3,
        encoder="embedding" if tokens else "linear", pooling="none" if kind == "lm" else "mean",
    )  # fmt: skip
    model = build_model("s4", task, {**recipe.model, **small})
    inputs = torch.randint(0, 12, shape) if tokens else torch.randn(shape)
    targets = torch.randint(0, 12, (2, 12) if kind == "lm" else (2,))
    optimizer = torch.optim.AdamW(param_groups(model, recipe.lr, recipe.weight_decay, dt_lr=recipe.dt_lr))
    before = model.loss(inputs, targets)
    before.backward()
    optimizer.step()
    assert torch.isfinite(before)


def test_the_recipes_are_those_of_the_paper():
    assert (LRA["listops"].model["d_state"], LRA["listops"].lr, LRA["listops"].batch_size) == (4, 0.01, 32)
    assert LRA["pathx"].model["dt_min"] == 1e-4
    assert not LRA["image"].model["prenorm"]
    assert all(recipe.model["n_layers"] == 6 and recipe.weight_decay == 0.05 for recipe in LRA.values())
    assert all(recipe.model["version"] == "v1" and recipe.schedule == "plateau" for recipe in LRA_V1.values())
    assert SCIFAR.model["n_ssm"] == 2
    assert WIKITEXT103.model["block"] == ("s4", "s4", "ff")


def test_recipes_cannot_be_changed():
    with pytest.raises(TypeError):
        LRA["listops"].model["lr"] = 1.0
    with pytest.raises(TypeError):
        LRA["new"] = LRA["listops"]
    with pytest.raises(ValueError, match="either epochs or steps"):
        Recipe(task="x", lr=0.1, batch_size=1)
