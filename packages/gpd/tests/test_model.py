import jaxtyping
import numpy as np
import pytest
import torch

from gpd_impl import (
    DPS,
    GPD,
    AnalyticGaussianDenoiser,
    DDIMSampler,
    GaussianDiffusion,
    JointDenoiser,
    MLPDenoiser,
    PiGDM,
    Recipe,
    RePaint,
    RowNoise,
    TSDiffGuidance,
    Windows,
    conditional,
    draw_gaussian,
    make_guidance,
    normalised,
    prompt_statistics,
    seasonal_covariance,
    sinusoids,
)


def small(length: int = 16, **more) -> GPD:
    torch.manual_seed(0)
    return GPD(length, hidden=12, depth=4, steps=4, **more)


@pytest.mark.parametrize("skip", ["input", "unet", "none"])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("depth", [2, 3, 6, 7])
def test_networks_of_every_kind_depend_on_data_and_level(skip, residual, depth):
    torch.manual_seed(0)
    net = MLPDenoiser(10, 8, depth, skip=skip, residual=residual)
    x = torch.randn(3, 10)
    out = net(x, torch.tensor([0.0, 1, 2]))
    assert out.shape == (3, 10)
    assert not torch.allclose(out, net(x, torch.tensor([5.0, 6, 7])))
    assert not torch.allclose(out, net(x + 1, torch.tensor([0.0, 1, 2])))


def test_targets_say_the_same_of_data_and_noise():
    covariance = seasonal_covariance(12)
    x = draw_gaussian(covariance, 3)
    found = []
    for target in ("eps", "x0", "v"):
        diffusion = GaussianDiffusion(50, target=target)
        found.append(diffusion.predict(AnalyticGaussianDenoiser(covariance, diffusion), x, torch.tensor([1, 20, 50])))
    for x0, eps in found[1:]:
        assert torch.allclose(x0, found[0][0], atol=1e-9)
        assert torch.allclose(eps, found[0][1], atol=1e-9)


def test_losses_are_those_computed_by_hand():
    x0, eps = torch.randn(2, 4, 6, dtype=torch.float64)
    k = torch.tensor([1, 5, 9, 20])
    for target in ("eps", "x0", "v"):
        diffusion = GaussianDiffusion(20, target=target, betas=(1e-3, 0.3))
        a = diffusion.alpha_bar[k][:, None]
        wanted = {"eps": eps, "x0": x0, "v": a.sqrt() * eps - (1 - a).sqrt() * x0}[target]
        zero = diffusion.loss(lambda x, k: torch.zeros_like(x), x0, k, eps)
        assert torch.allclose(zero, wanted.square().mean())
        assert torch.allclose(diffusion.loss(lambda x, k: torch.zeros_like(x), x0, k, eps, "l1"), wanted.abs().mean())


def test_schedules_end_where_they_should():
    assert float(GaussianDiffusion(1000).alpha_bar[-1]) == pytest.approx(4.04e-5, rel=0.01)
    assert float(GaussianDiffusion(1000, "constant").alpha_bar[-1]) == pytest.approx(3.2e-4, rel=0.02)
    assert float(GaussianDiffusion(100).alpha_bar[-1]) < 1e-4
    assert (np.diff(GaussianDiffusion(300, "cosine").alpha_bar.numpy()) < 0).all()


def test_an_exact_jacobian_gives_the_closed_form_where_the_model_has_none():
    covariance = seasonal_covariance(10)
    diffusion = GaussianDiffusion(40, betas=(1e-3, 0.2))
    exact = AnalyticGaussianDenoiser(covariance, diffusion)
    x = draw_gaussian(covariance, 3)
    mask = torch.stack([torch.arange(10) < n for n in (4, 6, 7)])
    start = torch.randn(3, 10, dtype=torch.float64)
    one, other = (
        DDIMSampler(40)(model, diffusion, start, x, mask, PiGDM("exact")) for model in (exact, lambda x, k: exact(x, k))
    )
    assert torch.allclose(one, other, atol=1e-6)
    mean, _ = conditional(covariance, x[:1], mask[0])
    many = DDIMSampler(40, 1.0)(
        exact, diffusion, torch.randn(4000, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
        x[:1].expand(4000, -1), mask[:1].expand(4000, -1), PiGDM("exact"),
        noise=RowNoise(0, [1], 4000),
    )  # fmt: skip
    assert (many[:, 4:].mean(0) - mean[0]).abs().max() < 0.08


def test_samples_repeat_by_seed_and_do_not_depend_on_the_batch():
    model = small()
    x = sinusoids(5, 10)[:, :, None]
    for guidance in ("dps", "replace", "repaint", "tsdiff"):
        all_of_them = model.forecast_many(x, 6, n_samples=3, guidance=guidance, seed=4)
        assert np.array_equal(all_of_them, model.forecast_many(x, 6, n_samples=3, guidance=guidance, seed=4))
        near = 1e-4 * np.abs(all_of_them).max()
        alone = model.forecast_many(x[2:3], 6, n_samples=3, guidance=guidance, seed=4, keys=[2])
        assert np.abs(alone[0] - all_of_them[2]).max() < near
        chunks = model.forecast_many(x, 6, n_samples=3, guidance=guidance, seed=4, max_rows=3)
        assert np.abs(chunks - all_of_them).max() < near
        assert np.abs(model.forecast_many(x, 6, n_samples=3, guidance=guidance, seed=5) - all_of_them).max() > 1e-3


@pytest.mark.parametrize("long", ["rolling", "joint"])
@pytest.mark.parametrize("channels", [1, 2])
def test_horizons_beyond_the_window(long, channels):
    model = small(channels=channels)
    x = sinusoids(2, 30).T
    drawn = model.forecast(x, 41, 3, long=long)
    assert drawn.shape == (3, 41, 2)
    assert np.isfinite(drawn).all()
    assert np.abs(drawn[0] - drawn[1]).max() > 1e-3
    short = model.forecast(x[:5], 4, 2, long=long)
    assert short.shape == (2, 4, 2)


def test_overlapping_windows_of_a_stationary_gaussian_agree_with_the_long_one_where_they_see_all():
    covariance = torch.eye(12, dtype=torch.float64)
    diffusion = GaussianDiffusion(20, betas=(1e-3, 0.3))
    window = AnalyticGaussianDenoiser(covariance, diffusion)
    long = AnalyticGaussianDenoiser(torch.eye(31, dtype=torch.float64), diffusion)
    x = torch.randn(2, 31, dtype=torch.float64)
    k = torch.tensor([3.0, 9.0])
    assert torch.allclose(JointDenoiser(window, 12, 31, 5)(x, k), long(x, k), atol=1e-6)
    with pytest.raises(ValueError, match="must grow"):
        JointDenoiser(window, 12, 8, 5)


def test_gaps_are_filled_and_what_is_known_stays():
    model = small()
    x = sinusoids(2, 45).T.astype(float)
    x[3:9, 0] = np.nan
    x[20:30, 1] = np.nan
    filled = model.impute(x, n_samples=4)
    known = np.isfinite(x)
    assert filled.shape == (4, 45, 2)
    assert np.isfinite(filled).all()
    assert (filled[:, known] == x[known]).all()
    assert np.array_equal(model.impute(x, known, n_samples=4), filled)
    assert np.array_equal(model.impute(x[:, :1][10:], n_samples=2)[0], x[10:, :1])
    short = np.array([1.0, np.nan, 3.0])
    assert model.impute(short, n_samples=2).shape == (2, 3, 1)


def test_a_constant_history_goes_on_as_it_is_and_gaps_in_a_history_are_no_hindrance():
    model = small()
    assert np.abs(model.forecast(np.full(12, 42.0), 4, 3) - 42).max() < 1e-2
    x = sinusoids(1, 12)[0].astype(float)
    x[4:7] = np.nan
    assert np.isfinite(model.forecast(x, 4, 2)).all()
    long = sinusoids(1, 500)[0]
    assert np.array_equal(model.forecast(long, 4, 2), model.forecast(long[-12:], 4, 2))


def test_statistics_are_of_what_is_known():
    x = torch.tensor([[1.0, 3.0, 100.0], [5.0, 5.0, 9.0], [0.0, 0.0, 0.0]])
    mask = torch.tensor([[True, True, False], [True, True, False], [False, False, False]])
    mean, deviation = prompt_statistics(x, mask)
    assert mean[:, 0].tolist() == [2.0, 5.0, 0.0]
    assert deviation[:, 0].tolist() == pytest.approx([1.0, 1e-5, 1.0])


def test_training_windows_are_normalised_by_a_prefix():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(400, 1, 32, generator=g) * 3 + 7
    prefix = normalised(x, "prefix", 1e-5, torch.Generator().manual_seed(1))
    whole = normalised(x, "window", 1e-5, torch.Generator().manual_seed(1))
    assert torch.allclose(whole.mean(1), torch.zeros(400), atol=1e-4)
    assert (prefix.mean(1).abs() > 1e-3).float().mean() > 0.9
    assert prefix.abs().max() <= 10
    assert torch.equal(normalised(x, "none", 1e-5, g), x[:, 0].clamp(-10, 10))


def test_training_learns_repeats_and_holds_out(tmp_path):
    x = sinusoids(3, 200).T
    recipe = Recipe(steps=60, batch_size=32, eval_every=20)
    model = small().fit(x, 0.7, recipe=recipe, calibrate=(8, 8))
    again = small().fit(x, 0.7, recipe=recipe, calibrate=(8, 8))
    assert model.history_[-1]["held_out"] < model.history_[0]["held_out"]
    assert float(model.guidance_scale) in (pytest.approx(0.3), 0.5, 1.0, 2.0)
    first = model.forecast(x[:8], 8, 2)
    assert np.array_equal(first, again.forecast(x[:8], 8, 2))
    # what lies behind the split moves no weight but by the choice of the best
    other = x.copy()
    other[150:] = 50.0
    blind = small().fit(other, 140, recipe=Recipe(steps=20, batch_size=32, eval_every=20))
    plain = small().fit(x, 140, recipe=Recipe(steps=20, batch_size=32, eval_every=20))
    assert np.array_equal(blind.forecast(x[:8], 8, 2), plain.forecast(x[:8], 8, 2))
    model.save(tmp_path / "model")
    loaded = GPD.from_pretrained(tmp_path / "model")
    assert np.array_equal(loaded.forecast(x[:8], 8, 2), first)
    assert float(loaded.guidance_scale) == float(model.guidance_scale)
    assert model.sample(3).shape == (3, 16, 1)
    joint = small(channels=3).fit(x, 0.7, recipe=recipe)
    assert joint.forecast(x[:8], 8, 2).shape == (2, 8, 3)


def test_recipes_and_sizes_have_names():
    assert Recipe.diffae().ema == 0.9999
    model = GPD.preset("diffae", 16, hidden=8, depth=3)
    assert model.sampler.steps == 20
    assert float(model.diffusion.betas[0]) == float(model.diffusion.betas[-1]) == pytest.approx(0.008)
    assert len(GPD.preset("gpu", 4).net.layers) == 9


def test_the_weights_of_the_package_load_and_forecast():
    model = GPD.pretrained()
    assert model.length == 192
    x = 5 + 2 * np.sin(2 * np.pi * np.arange(144) / 24)
    drawn = model.forecast(x, 24, 8, steps=20)
    truth = 5 + 2 * np.sin(2 * np.pi * np.arange(144, 168) / 24)
    assert np.mean((drawn.mean(0)[:, 0] - truth) ** 2) < 0.5 * np.var(x)


BAD = [
    (lambda m: m.forecast(np.ones(8), 0), "horizon must be a whole number of at least 1, got 0"),
    (lambda m: m.forecast(np.ones(8), 2.5), "horizon must be a whole number"),
    (lambda m: m.forecast(np.ones(8), 4, 0), "n_samples must be"),
    (lambda m: m.forecast([], 4), "not empty"),
    (lambda m: m.forecast(np.full(8, np.nan), 4), "at least one number"),
    (lambda m: m.forecast([1.0, np.inf], 4), "must be finite"),
    (lambda m: m.forecast(np.r_[1.0, np.full(20, np.nan)], 8), "a number among the steps that its window holds"),
    (lambda m: m.forecast(["a"], 4), "must hold numbers"),
    (lambda m: m.forecast(np.ones((2, 2, 2)), 4), "got shape"),
    (lambda m: m.forecast(np.ones(8), 4, guidance="x"), "guidance must be one of"),
    (lambda m: m.forecast(np.ones(8), 4, guidance="replace", scale=1.0), "scale belongs to"),
    (lambda m: m.forecast(np.ones(8), 4, guidance=DPS(), scale=1.0), "scale belongs to a guidance's name"),
    (lambda m: m.forecast(np.ones(8), 4, guidance="dps", scale=-1.0), "scale must not be negative"),
    (lambda m: m.forecast(np.ones(8), 16, long="window"), "must be below the window's 16"),
    (lambda m: m.forecast(np.ones(8), 40, stride=16), "stride must be below"),
    (lambda m: m.forecast(np.ones(8), 4, long="x"), "long must be"),
    (lambda m: m.forecast(np.ones(8), 4, steps=2000), "steps must be at most the 1000 levels"),
    (lambda m: m.forecast(np.ones(8), 4, seed=-1), "seed must not be negative"),
    (lambda m: m.forecast_many(np.ones((2, 8, 1)), 4, keys=[1]), "keys must be 2"),
    (lambda m: m.impute(np.ones(8), np.ones(9, bool)), "mask must be booleans of the shape"),
    (lambda m: m.impute(np.ones(8), np.ones(8)), "mask must be booleans"),
    (lambda m: m.impute([1.0, np.nan], np.ones(2, bool)), "must not be true where x is missing"),
    (lambda m: m.impute(np.full(8, np.nan)), "at least one known number"),
    (lambda m: m.impute(np.r_[1.0, np.full(40, np.nan), 1.0]), "no gap as long as"),
    (lambda m: m.fit(np.ones(8)), "at least the window's 16 steps"),
    (lambda m: m.fit(np.full(80, np.nan)), "series must be finite"),
    (lambda m: m.fit(np.ones(80), 1.5), "split must be"),
    (lambda m: m.sample(0), "n must be"),
    (lambda m: m.calibrate_guidance(np.ones(8), 8, 8), "valid must have"),
    (lambda m: GPD(1), "length must be at least 2"),
    (lambda m: GPD(8, normalise="x"), "normalise must be"),
    (lambda m: GPD(8, betas=[0.1]), "betas must be the first and the last"),
    (lambda m: GPD(8, levels=40), "steps must be at most the 40 levels"),
    (lambda m: GPD.preset("x"), "name must be one of"),
    (lambda m: GPD(8, channels=2, hidden=4, depth=2).forecast(np.ones((4, 3)), 2), "the model's 2 channels, got 3"),
    (lambda m: MLPDenoiser(4, 4, 1), "depth must be at least 2"),
    (lambda m: MLPDenoiser(4, 4, 3, skip="x"), "skip must be"),
    (lambda m: MLPDenoiser(4, 4, 3, time_width=3), "time_width must be even"),
    (lambda m: GaussianDiffusion(1), "levels must be at least 2"),
    (lambda m: GaussianDiffusion(10, target="x"), "target must be"),
    (lambda m: GaussianDiffusion(10, "x"), "schedule must be"),
    (lambda m: GaussianDiffusion(10), "betas must be between 0 and 1"),
    (lambda m: DDIMSampler(0), "steps must be at least 1"),
    (lambda m: DDIMSampler(5, 2.0), "eta must be"),
    (lambda m: RePaint(0), "resamples must be"),
    (lambda m: DPS(power=3), "power must be"),
    (lambda m: PiGDM(noise=0), "noise must be"),
    (lambda m: PiGDM("x"), "covariance must be"),
    (lambda m: TSDiffGuidance(loss="x"), "loss must be"),
    (lambda m: make_guidance("pigdm", 1.0), "scale belongs to"),
    (lambda m: Recipe(steps=0), "steps must be at least 1"),
    (lambda m: Recipe(ema=1.0), "ema must be"),
    (lambda m: Windows([np.ones(3)], 4), "the longest has 3"),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=[message for _, message in BAD])
def test_what_cannot_be_is_refused(call, message, monkeypatch):
    # as a user without shape checks meets it
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=message):
        call(small())
