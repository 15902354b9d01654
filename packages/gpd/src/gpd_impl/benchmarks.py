"""What is timed against what: batches, guidance, steps, the conditional model, the reference networks, defaults."""

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from shared_impl.bench import Benchmark, Case, Setting, checkout_revision, module_from_file
from shared_impl.results import Row

from .baselines import SeasonalNaive
from .data import made_corpus, sinusoids
from .diffusion import GaussianDiffusion
from .forecaster import GPDForecaster
from .guidance import DPS, PiGDM, RePaint, Replace, TSDiffGuidance
from .metrics import crps, crps_by_pairs
from .model import GPD
from .network import MLPDenoiser, parameter_count
from .sampler import DDIMSampler, Step
from .timeline import default_period, on_grid

__all__ = ["BENCHMARKS", "CHECKOUT", "DPS_CHECKOUT", "TSDIFF_CHECKOUT"]

CHECKOUT = "GPD_DIFFAE_DIR"
"""environment variable: a checkout of phizaz/diffae, whose network this is"""
TSDIFF_CHECKOUT = "GPD_TSDIFF_DIR"
"""environment variable: a checkout of amazon-science/unconditional-time-series-diffusion"""
DPS_CHECKOUT = "GPD_DPS_DIR"
"""environment variable: a checkout of DPS2022/diffusion-posterior-sampling"""


def batch(setting: Setting) -> Iterator[Case | Row]:
    """All windows in one batch against one window at a time; a row of samples depends on no other."""
    model = GPD(192, hidden=512, depth=6)
    for n in (4,) if setting.quick else (16, 64, 256):
        x = sinusoids(n, 96, seed=setting.seed)[:, :, None]
        draw = partial(model.forecast_many, horizon=96, n_samples=1, steps=5)

        def one(x: Any = x, draw: Any = draw) -> np.ndarray:
            return np.concatenate([draw(x[i : i + 1], keys=[i]) for i in range(len(x))])

        yield Case(f"{n} windows", {"one at a time": one, "one batch": partial(draw, x)}, "one at a time", 3, n)
        apart = np.abs(one() - draw(x)).max()
        yield Row(f"{n} windows", "one batch", "largest difference", float(apart), higher_is_better=False)


def _prompted(n: int, samples: int = 4) -> tuple[GPD, Tensor, Tensor, Tensor]:
    model = GPD(192, hidden=512, depth=6)
    model.net.requires_grad_(False)
    x = torch.from_numpy(sinusoids(n, 192)).repeat_interleave(samples, 0)
    mask = (torch.arange(192) < 96).expand(len(x), -1)
    return model, x, mask, torch.randn(len(x), 192)


def guidance(setting: Setting) -> Iterator[Case | Row]:
    """A step of each guidance against the step without, and rows times steps a second."""
    model, y, mask, x = _prompted(4 if setting.quick else 256)
    step = Step(model.diffusion, 500, 480, torch.randn_like)
    known = torch.where(mask, y, 0.0)
    forms: dict[str, Callable[[], object]] = {"no guidance": lambda: _without(step, model.net, x)}
    for name, one in (
        ("replace", Replace()), ("repaint, 5", RePaint(5)), ("dps", DPS()), ("pigdm", PiGDM()),
        ("tsdiff", TSDiffGuidance()),
    ):  # fmt: skip
        forms[name] = partial(_quietly, one, model.net, x, step, known, mask)
    label = f"{len(x):,} rows, 192 steps, 6 layers of 512"
    found: Any = yield Case(label, forms, "no guidance", 5)
    for name, timing in found.items():
        yield Row(label, name, "thousand rows x steps a second", len(x) / timing.median_s / 1000)


def _without(step: Step, net: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return step.plain(net, x)


def _quietly(one: Any, *given: Any) -> Tensor:
    with torch.no_grad():
        out: Tensor = one(*given)
    return out


def steps(setting: Setting) -> Iterator[Case | Row]:
    """DDIM steps against quality: the package's weights on made series that they have not seen."""
    model = GPD.pretrained()
    x = made_corpus(8 if setting.quick else 128, 192, seed=9_000)
    x = (x / x[:, :96].std(1, keepdims=True))[:, :, None]
    counts = (4, 8) if setting.quick else (5, 10, 20, 50, 100)
    for count in counts:
        drawn = model.forecast_many(x[:, :96], 96, n_samples=16, steps=count, seed=setting.seed)
        got = crps(np.clip(drawn, -50, 50).transpose(1, 0, 2, 3), np.clip(x[:, 96:], -50, 50))
        yield Row(f"{count} steps", "GPD", "CRPS", got, higher_is_better=False)
    forms = {
        f"{c} steps": partial(model.forecast_many, x[:16, :96], 96, n_samples=4, steps=c)
        for c in (counts[0], counts[-1])
    }
    yield Case("16 windows, 4 samples", forms, f"{counts[-1]} steps", 3)


def conditional(setting: Setting) -> Iterator[Case]:
    """DPS through the unconditional network against a conditional one of the same size, which needs no gradient."""
    model, y, mask, x = _prompted(4 if setting.quick else 64)
    net = MLPDenoiser(192, 512, 6).requires_grad_(False)
    sampler, diffusion = DDIMSampler(10), GaussianDiffusion()
    past, start = y[:, :96], x[:, 96:]

    def beside(x: Tensor, k: Tensor) -> Tensor:
        out: Tensor = net(torch.cat([past, x], 1), k)[:, 96:]
        return out

    forms: dict[str, Callable[[], object]] = {
        "conditional": lambda: sampler(beside, diffusion, start),
        "unconditional, dps": lambda: sampler(model.net, diffusion, x, y, mask, DPS()),
    }
    yield Case(f"{len(x)} rows, 10 steps", forms, "conditional", 5)


def crps_forms(setting: Setting) -> Iterator[Case | Row]:
    """CRPS by one sort against all pairs."""
    rng = np.random.default_rng(0)
    for m in (10,) if setting.quick else (20, 100, 400):
        samples, truth = rng.standard_normal((m, 2000)), rng.standard_normal(2000)
        forms = {"pairs": partial(crps_by_pairs, samples, truth), "sort": partial(crps, samples, truth)}
        yield Case(f"{m} samples", forms, "pairs", 3, m)
        apart = abs(crps(samples, truth) - crps_by_pairs(samples, truth))
        yield Row(f"{m} samples", "sort", "difference", apart, higher_is_better=False)


# The reference codes -------------------------------------------------------------------------------------------------


def _checkout(name: str, file: str) -> Path | None:
    place = os.environ.get(name)
    return Path(place) if place and (Path(place) / file).is_file() else None


def official(setting: Setting) -> Iterator[Case | Row | str]:
    """Beside the reference network (diffae), TSDiff's guidance and network, and DPS: equal weights, equal inputs."""
    found = False
    if (folder := _checkout(CHECKOUT, "model/latentnet.py")) is not None:
        found = True
        yield f"phizaz/diffae at {checkout_revision(folder)}"
        yield from _diffae(folder, setting.quick)
    if (folder := _checkout(TSDIFF_CHECKOUT, "src/uncond_ts_diff/sampler/observation_guidance.py")) is not None:
        found = True
        yield f"amazon-science/unconditional-time-series-diffusion at {checkout_revision(folder)}"
        yield from _tsdiff(folder, setting.quick)
    if (folder := _checkout(DPS_CHECKOUT, "guided_diffusion/condition_methods.py")) is not None:
        found = True
        yield f"DPS2022/diffusion-posterior-sampling at {checkout_revision(folder)}"
        yield from _dps(folder)
    if not found:
        yield f"no checkout: set {CHECKOUT}, {TSDIFF_CHECKOUT} or {DPS_CHECKOUT}"
        yield Row("checkouts", "reference codes", "found", 0.0)


class _StandIn(ModuleType):
    """A module whose every name is there, and does nothing."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__ = []  # a package

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made = type(name, (nn.Module,), {})
        setattr(self, name, made)
        return made


class _Imported:
    """Stand-ins for what a reference file imports beside torch, while it is imported."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def __enter__(self) -> None:
        self.before = {name: sys.modules.get(name) for name in self.names}
        sys.modules.update({name: _StandIn(name) for name in self.names})

    def __exit__(self, *_: object) -> None:
        for name, module in self.before.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module


def _diffae(folder: Path, quick: bool) -> Iterator[Case | Row]:
    names = ("choices", "config_base", "gpd_diffae", "gpd_diffae.blocks", "gpd_diffae.unet")
    with _Imported(*names):
        choices: Any = sys.modules["choices"]

        class Activation:
            silu, none, relu, lrelu = "silu", "none", "relu", "lrelu"

        choices.Activation = Activation
        choices.__all__ = ["Activation"]
        for name in ("gpd_diffae.blocks", "gpd_diffae.unet"):
            vars(sys.modules[name])["__all__"] = []
        config: Any = sys.modules["config_base"]
        config.BaseConfig = object
        sys.modules["gpd_diffae.nn"] = module_from_file(folder / "model" / "nn.py", "gpd_diffae.nn")
        latent = module_from_file(folder / "model" / "latentnet.py", "gpd_diffae.latentnet")
        del sys.modules["gpd_diffae.nn"]

    class Act(str):
        def get_act(self) -> nn.Module:
            return nn.SiLU() if self == "silu" else nn.Identity()

    Activation.silu, Activation.none = Act("silu"), Act("none")
    sizes = ((16, 32, 4),) if quick else ((192, 512, 6), (512, 2048, 10))
    for length, hidden, depth in sizes:
        config = latent.MLPSkipNetConfig(
            num_channels=length, skip_layers=list(range(1, depth)), num_hid_channels=hidden, num_layers=depth,
            activation=Activation.silu, last_act=Activation.none,
        )  # fmt: skip
        theirs = latent.MLPSkipNet(config).eval()
        ours = MLPDenoiser(length, hidden, depth).eval()
        state = theirs.state_dict()
        own = {}
        for key in ours.state_dict():
            place = key.replace("last.", f"layers.{depth - 1}.linear.").replace("level.", "linear_emb.")
            own[key] = state[place.replace("time.", "time_embed.")]
        ours.load_state_dict(own)
        x, k = torch.randn(64, length), torch.randint(0, 1000, (64,))
        with torch.no_grad():
            apart = (ours(x, k.float()) - theirs(x, k).pred).abs().max()
        label = f"{length} long, {depth} layers of {hidden}"
        count = sum(p.numel() for p in theirs.parameters())
        yield Row(label, "diffae", "largest difference", float(apart), higher_is_better=False)
        yield Row(label, "diffae", "parameters, theirs", float(count))
        yield Row(label, "ours", "parameters, by the formula", float(parameter_count(length, hidden, depth)))
        forms: dict[str, Callable[[], object]] = {
            "diffae": lambda n=theirs, x=x, k=k: _call(n, x, k), "ours": lambda n=ours, x=x, k=k: _call(n, x, k),
        }  # fmt: skip
        yield Case(f"{label}, a pass of 64", forms, "diffae", 5)


def _call(net: nn.Module, x: Tensor, k: Tensor) -> object:
    with torch.no_grad():
        return net(x, k)


def _tsdiff(folder: Path, quick: bool) -> Iterator[Case | Row | str]:
    """Their guidance with our network in the place of theirs; then our network beside theirs of S4."""
    source = folder / "src" / "uncond_ts_diff"
    packages = (
        "gluonts", "gluonts.torch", "gluonts.torch.util", "uncond_ts_diff", "uncond_ts_diff.predictor",
        "uncond_ts_diff.utils", "uncond_ts_diff.model",
    )  # fmt: skip

    def extract(values: Tensor, t: Tensor, shape: Any) -> Tensor:
        return values.gather(-1, t).reshape(len(t), *[1] * (len(shape) - 1))

    with _Imported(*packages):
        sys.modules["uncond_ts_diff.utils"].extract = extract  # type: ignore[attr-defined]
        guide = module_from_file(source / "sampler" / "observation_guidance.py", "gpd_tsdiff.guidance")
    net = MLPDenoiser(24, 32, 4).double().requires_grad_(False)
    diffusion = GaussianDiffusion(50)
    levels, m = diffusion.levels, 4
    y = torch.from_numpy(sinusoids(3, 24)).double().repeat_interleave(m, 0)
    mask = (torch.arange(24) < 16).expand(len(y), -1)

    class Model(nn.Module):
        """What their guidance asks of a model, on our network: data of shape (rows, length, 1)."""

        timesteps = levels
        ab = diffusion.alpha_bar
        posterior_variance = diffusion.betas * (1 - ab[:-1]) / (1 - ab[1:])
        sqrt_one_minus_alphas_cumprod = (1 - ab[1:]).sqrt()

        def fast_denoise(self, x: Tensor, t: Tensor, features: Any = None) -> Tensor:
            return diffusion.predict(net, x[:, :, 0], t + 1)[0][:, :, None]

        def p_sample(self, x: Tensor, t: Tensor, i: int, features: Any = None) -> Tensor:
            mean, variance = diffusion.posterior(x[:, :, 0], i + 1, self.fast_denoise(x, t)[:, :, 0])
            return (mean + (variance**0.5 * torch.randn_like(mean) if i else 0.0))[:, :, None]

    for loss, scale in (("quantile", 4.0), ("MSE", 1.0)):
        theirs = guide.DDPMGuidance(Model(), 8, scale=scale, num_samples=m, guidance=loss)
        torch.manual_seed(0)
        expected = theirs._reverse_diffusion(y[:, :, None], mask[:, :, None].double(), None, scale)[:, :, 0]
        torch.manual_seed(0)
        ours = DDIMSampler(levels, 1.0)(
            net, diffusion, torch.randn_like(y[:, :, None])[:, :, 0], y, mask,
            TSDiffGuidance(scale, "quantile" if loss == "quantile" else "mse"), samples=m, overwrite=False,
            noise=lambda like: torch.randn_like(like),
        )  # fmt: skip
        apart = float((ours - expected).abs().max() / expected.abs().max())
        yield Row(
            f"{levels} steps, {loss} loss", "TSDiff", "largest relative difference", apart, higher_is_better=False
        )
    yield from _s4_backbone(source, quick)


def _s4_backbone(source: Path, quick: bool) -> Iterator[Case | str]:
    rows = 8 if quick else 64
    x, k = torch.randn(rows, 192), torch.randint(0, 100, (rows,))
    try:
        with warnings.catch_warnings(), _Imported("gpd_s4", "pytorch_lightning", "pytorch_lightning.utilities"):
            warnings.simplefilter("ignore")
            vars(sys.modules["pytorch_lightning.utilities"])["rank_zero_only"] = lambda function: function
            sys.modules["gpd_s4.s4"] = module_from_file(source / "arch" / "s4.py", "gpd_s4.s4")
            backbones = module_from_file(source / "arch" / "backbones.py", "gpd_s4.backbones")
            # the sizes of their configuration for most sets: 64 wide, 3 blocks
            theirs = backbones.BackboneModel(
                input_dim=1, hidden_dim=64, output_dim=1, step_emb=128, num_residual_blocks=3, num_features=1
            ).requires_grad_(False)
            theirs(x[:, :, None], k)
    except (ImportError, AttributeError, TypeError, RuntimeError) as error:
        yield f"TSDiff's S4 network does not run here: {type(error).__name__}: {str(error)[:80]}"
        return
    finally:
        sys.modules.pop("gpd_s4.s4", None)
    ours = MLPDenoiser(192, 512, 6).requires_grad_(False)

    def through(net: Callable[[Tensor, Tensor], Tensor], x: Tensor) -> object:
        x = x.clone().requires_grad_()
        return torch.autograd.grad(net(x, k).square().sum(), x)

    forms: dict[str, Callable[[], object]] = {
        "TSDiff's S4": partial(through, theirs, x[:, :, None]),
        "ours": partial(through, ours, x),
    }
    yield Case(f"a guided pass of {rows} windows of 192", forms, "TSDiff's S4", 5)


def _dps(folder: Path) -> Iterator[Row]:
    """Their gradient of the norm, a row at a time: over a batch their norm runs over all rows."""
    methods = module_from_file(folder / "guided_diffusion" / "condition_methods.py", "gpd_dps")
    model, y, mask, x = _prompted(3, 1)
    step = Step(model.diffusion, 500, 499, torch.zeros_like)
    known = torch.where(mask, y, 0.0)

    class Operator:
        def forward(self, x: Tensor) -> Tensor:
            return torch.where(mask[:1], x, 0.0)

    class Noise:
        __name__ = "gaussian"

    rows = []
    for i in range(len(x)):
        one = x[i : i + 1].clone().requires_grad_()
        x0 = step.predict(model.net, one)[0]
        rows.append(methods.PosteriorSampling(Operator(), Noise()).grad_and_value(one, x0, known[i : i + 1])[0])
    ours = DPS().gradient(model.net, x, step, known, mask)[0]
    apart = float((torch.cat(rows) - ours).abs().max() / ours.abs().max())
    yield Row("gradient of the norm", "DPS", "largest relative difference", apart, higher_is_better=False)


def defaults(setting: Setting) -> Iterator[Row]:
    """The forecaster as it comes on small data of many kinds: its skill against repeating the last period."""
    rng = np.random.default_rng(setting.seed)
    t = np.arange(600)
    months = pd.date_range("2015-01-01", periods=72, freq="MS")
    sets: dict[str, pd.Series] = {
        "72 months, season and trend": pd.Series(
            100 + t[:72] + 10 * np.sin(2 * np.pi * t[:72] / 12) + rng.normal(0, 2, 72), months
        ),
        "200 hours": pd.Series(
            np.sin(2 * np.pi * t[:200] / 24) + rng.normal(0, 0.2, 200), pd.date_range("2024", periods=200, freq="h")
        ),
        "120 days, weekly": pd.Series(
            np.tile([5.0, 3, 3, 4, 6, 9, 8], 18)[:120] + rng.normal(0, 0.7, 120), pd.date_range("2024", periods=120)
        ),
        "300 steps of a walk": pd.Series(np.cumsum(rng.standard_normal(300))),
        "600 numbered steps, period 30": pd.Series(np.sin(2 * np.pi * t / 30) + rng.normal(0, 0.3, 600)),
        "36 quarters": pd.Series(
            np.tile([1.0, 3, 2, 4], 9) + 0.1 * t[:36] + rng.normal(0, 0.2, 36),
            pd.date_range("2015", periods=36, freq="QS"),
        ),
    }  # fmt: skip
    for name, series in list(sets.items())[: 2 if setting.quick else None]:
        h = min(24, len(series) // 5)
        known, truth = series.iloc[:-h], series.iloc[-h:].to_numpy()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            forecaster = GPDForecaster(random_state=setting.seed, n_samples=20 if setting.quick else 100).fit(known)
        found = forecaster.predict(h).to_numpy()[:, 0]
        period = default_period(on_grid(known.to_frame())[1], known.to_numpy())
        naive = SeasonalNaive(period).forecast(known.to_numpy()[None, :, None], h)[0, 0, :, 0]
        ratio = ((found - truth) ** 2).mean() / ((naive - truth) ** 2).mean()
        yield Row(name, "GPDForecaster", "warned (1) or not (0)", float(not forecaster.skill_ > 0))
        yield Row(name, "GPDForecaster", "squared error, of the last period's", float(ratio), higher_is_better=False)


BENCHMARKS: Mapping[str, Benchmark] = {
    "batch": Benchmark("All windows in one batch, and one at a time", batch, xlabel="windows"),
    "guidance": Benchmark("A step of each guidance", guidance),
    "steps": Benchmark("DDIM steps against quality", steps),
    "conditional": Benchmark("Guidance through the network, and a conditional network", conditional),
    "crps": Benchmark("CRPS by a sort, and by pairs", crps_forms, xlabel="samples"),
    "official": Benchmark("Beside the reference codes", official),
    "defaults": Benchmark("As it comes, on small data", defaults),
}
