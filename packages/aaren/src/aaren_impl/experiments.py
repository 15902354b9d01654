"""The paper's four kinds of task, declared: Aaren beside its Transformer twin, on sets that run here."""

from collections.abc import Mapping
from typing import Any

from shared_impl.experiments import Context, Experiment, Metric, Run, Table, grid

from .classifier import Classifier
from .data import chirps, ett_splits, load_uea
from .hawkes import Hawkes, poisson_nll
from .offline import OfflineSet, pendulum_set, read_minari
from .tasks import decisions, events, forecasts
from .training import Plan

__all__ = ["EXPERIMENTS"]

TWINS = ("aaren", "transformer")
HORIZONS = (96, 192, 336, 720)
# The ten of the paper's classification table, and minari's sets of the four bodies of its reinforcement learning
UEA = ("EthanolConcentration", "FaceDetection", "Handwriting", "Heartbeat", "JapaneseVowels", "PEMS-SF",
       "SelfRegulationSCP1", "SelfRegulationSCP2", "SpokenArabicDigits", "UWaveGestureLibrary")  # fmt: skip
BODIES = [f"mujoco/{body}/{level}-v0" for body in ("halfcheetah", "ant", "hopper", "walker2d")
          for level in ("simple", "medium", "expert")]  # fmt: skip


def plan(run: Run, context: Context, **given: Any) -> Plan:
    """Steps and learning rate of the run's options, seed and device of the run."""
    chosen = {k: run.options[k] for k in ("steps", "lr") if k in run.options}
    return Plan(**(given | chosen), seed=run.seed, device=context.device, folder=context.folder)


def forecast_ett(run: Run, context: Context) -> dict[str, Any]:
    """MSE and MAE on the test months, all windows at stride 1 unless the preset says otherwise."""
    o = dict(run.options)
    settings = {k: o[k] for k in ("context", "horizon", "n_layers", "d_model", "d_ff", "epochs", "stride") if k in o}
    parts = ett_splits(run.data, o["context"])
    if run.model == "last value":
        # No training: one step of the smallest model, whose measure has the naive error beside its own
        small = {**settings, "n_layers": 1, "d_model": 4, "d_ff": 4}
        small.pop("epochs", None)
        found = forecasts("aaren", parts, Plan(steps=1), **small)[1]
        return {"mse": found["last_value_mse"], "mae": found["last_value_mae"]}
    found = forecasts(run.model, parts, plan(run, context), **settings)[1]
    return {name: found[name] for name in ("mse", "mae")}


def hawkes_events(run: Run, context: Context) -> dict[str, Any]:
    """NLL an event on test sequences; the true process and a Poisson process beside the models."""
    process, n = Hawkes(), run.options["sequences"]
    drawn = process.sample(n + n // 2, seed=run.seed)
    train, test = drawn[:n], drawn[n:]
    if run.model == "truth":
        return {"nll": process.nll(test)}
    if run.model == "poisson":
        return {"nll": poisson_nll(train, test, process.n_marks)}
    return events(run.model, train, test, process.n_marks, plan(run, context, lr=3e-3))[1]


def classify(run: Run, context: Context) -> dict[str, Any]:
    """Accuracy on the test part; of made sweeps 300 new ones."""
    recipe, steps = run.options.get("recipe", "own"), run.options.get("steps")
    parts: Any
    if run.data.startswith("chirps"):
        parts = (chirps(n := run.options["n"], seed=run.seed), chirps(min(300, n), seed=10_000 + run.seed))
        if run.data == "chirps, cut":
            parts = tuple(([case[: 40 + 8 * (i % 12)] for i, case in enumerate(x)], y) for x, y in parts)
    else:
        parts = load_uea(run.data)
    (x, y), (new_x, new_y) = parts
    model = Classifier(model=run.model, steps=steps, recipe=recipe, max_seconds=3600.0, random_state=run.seed)
    found = model.fit(x, y).predict(new_x)
    return {"accuracy": float((found == new_y).mean()), "steps": model.n_steps_}


def offline(run: Run, context: Context) -> dict[str, Any]:
    """Return in new episodes, and D4RL's score of it."""
    o = run.options
    data: OfflineSet
    if run.data == "Pendulum":
        data = pendulum_set(o["episodes"], seed=run.seed)
    else:
        data = read_minari(run.data)
    if run.model == "behaviour":
        average = float(sum(e.rewards.sum() for e in data.episodes) / len(data.episodes))
        return {"return": average, "score": data.score(average)}
    settings = {k: o[k] for k in ("n_layers", "d_model", "d_ff", "context", "rollouts") if k in o}
    found = decisions(run.model, data, plan(run, context), **settings)[1]
    return {name: found[name] for name in ("return", "score")}


def ett_grid(horizons: tuple[int, ...], data: tuple[str, ...], seeds: int, **options: Any) -> list[Run]:
    """Both models with these seeds, and the last value once."""
    each = [{"context": 96, "horizon": h, **options} for h in horizons]
    return [
        *grid(data=data, model=TWINS, seeds=seeds, options=each),
        *grid(data=data, model=["last value"], options=each),
    ]


SMALL = {"n_layers": 2, "d_model": 64, "d_ff": 128}
# The library's script of its Transformer: two encoder layers of 512, ten epochs, Adam at 1e-4
FULL = {"n_layers": 2, "d_model": 512, "d_ff": 2048, "epochs": 10, "lr": 1e-4, "stride": 1}
EVENT_MODELS = (*TWINS, "gru", "linear", "poisson", "truth")
TINY = {"n_layers": 1, "d_model": 8, "d_ff": 8}

EXPERIMENTS: Mapping[str, Experiment] = {
    "ett": Experiment(
        name="ett",
        title="Forecasting the ETT series, input 96",
        runs={
            "cpu": ett_grid(HORIZONS, ("ETTh1", "ETTh2"), 3, **SMALL, steps=200, lr=1e-3, stride=8),
            "paper": ett_grid(HORIZONS, ("ETTh1", "ETTh2"), 5, **FULL),
            "smoke": ett_grid((96,), ("ETTh1",), 1, **TINY, steps=2, lr=1e-3, stride=500),
        },
        execute=forecast_ett,
        table=Table(
            [Metric("mse", "MSE", higher_is_better=False), Metric("mae", "MAE", higher_is_better=False)],
            row=lambda run: f"{run.data}, {run.options['horizon']} h",
        ),
        notes=["cpu: two layers of 64, 200 steps of 32 windows, best weights by the validation months, every eighth "
               "window; the last value on the same windows"],
    ),
    "events": Experiment(
        name="events",
        title="Hawkes events, three marks",
        runs={
            "cpu": grid(data=["Hawkes"], model=EVENT_MODELS, seeds=3, options={"sequences": 200, "steps": 300}),
            "paper": grid(data=["Hawkes"], model=EVENT_MODELS, seeds=5, options={"sequences": 2000, "steps": 5000}),
            "smoke": grid(data=["Hawkes"], model=(*TWINS, "poisson", "truth"), options={"sequences": 12, "steps": 2}),
        },
        execute=hawkes_events,
        table=Table(
            [
                Metric("nll", "NLL an event", higher_is_better=False),
                Metric("rmse", "time RMSE", higher_is_better=False),
                Metric("accuracy", "mark accuracy %", scale=100),
            ]
        ),
        notes=["200 sequences of 50 to 200 events to train on, 100 to test"],
    ),
    "uea": Experiment(
        name="uea",
        title="Classification of sequences",
        runs={
            "cpu": [
                *grid(data=["chirps"], model=(*TWINS, "gru"), seeds=3, options={"n": 300}),
                *grid(data=["JapaneseVowels", "BasicMotions"], model=(*TWINS, "gru"), seeds=3),
            ],
            "paper": grid(data=UEA, model=TWINS, seeds=5, options={"recipe": "paper"}),
            "smoke": grid(data=["chirps", "chirps, cut"], model=TWINS, options={"n": 20, "steps": 2}),
        },
        execute=classify,
        table=Table(Metric("accuracy", "accuracy %", scale=100)),
        notes=["JapaneseVowels is one of the paper's ten UEA sets, BasicMotions a further one; chirps are made"],
    ),
    "rl": Experiment(
        name="rl",
        title="Offline Pendulum, three behaviour policies",
        runs={
            "cpu": grid(
                data=["Pendulum"], model=(*TWINS, "behaviour"), seeds=3,
                options={"episodes": 150, "steps": 600, "rollouts": 20, **SMALL},
            ),
            # Decision Transformer's recipe
            "paper": grid(
                data=BODIES, model=(*TWINS, "behaviour"), seeds=5,
                options={"steps": 100_000, "lr": 1e-4, "rollouts": 100},
            ),
            "smoke": grid(
                data=["Pendulum"], model=TWINS,
                options={"episodes": 3, "steps": 2, "rollouts": 1, **TINY},
            ),
        },
        execute=offline,
        table=Table([Metric("score", "normalised score"), Metric("return", "return")]),
        notes=["a score of 0 is the random policy's mean return in the data, 100 the good one's"],
    ),
}  # fmt: skip
