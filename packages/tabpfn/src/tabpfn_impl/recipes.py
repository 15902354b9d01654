"""Training recipes by name."""

from tabpfn_impl.training import TrainRecipe

__all__ = ["RECIPES"]

_MODEL_CPU = {
    "d_model": 64, "n_layers": 3, "n_heads": 2, "features_per_token": 2, "summary_tokens": 3, "row_layers": 6,
    "d_row": 192, "row_heads": 6,
}  # fmt: skip

RECIPES: dict[str, TrainRecipe] = {
    # the shipped network: what two cores bring to a good level in under two hours
    "cpu": TrainRecipe(
        architecture="cell",
        model=_MODEL_CPU,
        prior={"most_low": 10, "binary_p": 0.4, "group_size": 2, "class_causes_p": 0.35, "trees_p": 0.3},
        minutes=100.0,
        rows=(48, 64, 96, 128, 192, 256, 384, 512, 768),
        cells_per_group=30_000,
        row_cells=16,
        min_group=1,
        groups_per_step=6,
        ramp_steps=1500,
        optimizer="muon",
        lr=2e-3,
        compile=True,
        eval_every=500,
        held_out=16,
    ),
    # the row network of 4 M parameters, half an hour of one GPU
    "gpu": TrainRecipe(
        architecture="row",
        model={"d_model": 256, "n_layers": 8, "n_heads": 4},
        minutes=30.0,
        rows=(256, 384, 512, 768, 1152),
        features=(2, 4, 8, 16, 24, 32, 48, 64, 80, 100),
        cells_per_group=4_000_000,
        groups_per_step=1,
        max_group=64,
        lr=5e-4,
        warmup_steps=1000,
        eval_every=1000,
        workers=12,
    ),
    # the size and schedule of the paper: 18,000 steps of 512 tables on eight GPUs
    "paper": TrainRecipe(
        architecture="row",
        model={"d_model": 512, "n_layers": 12, "n_heads": 4},
        steps=18_000,
        rows=(1152,),
        features=tuple(range(2, 101, 2)),
        train_shares=tuple(round(0.02 * i, 2) for i in range(1, 44)),
        cells_per_group=100_000_000,
        groups_per_step=8,
        max_group=64,
        lr=1e-4,
        warmup_steps=900,
        eval_every=750,
        workers=16,
    ),
    "tiny": TrainRecipe(
        architecture="cell",
        model={"d_model": 16, "n_layers": 2, "n_heads": 2},
        steps=20,
        rows=(16, 32),
        features=(2, 4),
        cells_per_group=400,
        eval_every=10,
        held_out=1,
        warmup_steps=5,
        workers=0,
    ),
}
