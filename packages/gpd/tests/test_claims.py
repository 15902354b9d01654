"""The claims of the paper and of its parts that a test can decide, a test each."""

import math

import numpy as np
import pytest
import torch

from gpd_impl import (
    DPS,
    GPD,
    AnalyticGaussianDenoiser,
    DDIMSampler,
    GaussianDiffusion,
    MLPDenoiser,
    PiGDM,
    Recipe,
    RePaint,
    Replace,
    RowNoise,
    SeasonalNaive,
    Step,
    TSDiffGuidance,
    conditional,
    draw_gaussian,
    optimise,
    parameter_count,
    seasonal_covariance,
    sinusoids,
    time_embedding,
    two_modes,
)

GUIDANCES = [Replace(), RePaint(3), DPS(), DPS(0.1, 2), PiGDM(), TSDiffGuidance(), TSDiffGuidance(1.0, "mse", "ddim")]


def small(length: int = 24, **more) -> GPD:
    torch.manual_seed(0)
    return GPD(length, hidden=16, depth=4, steps=5, **more)


def test_the_forward_process_has_the_stated_mean_and_variance():
    diffusion = GaussianDiffusion(100)
    x0 = torch.full((40_000, 1), 1.5, dtype=torch.float64)
    g = torch.Generator().manual_seed(0)
    for k in (1, 40, 100):
        ab = float(diffusion.alpha_bar[k])
        # step by step: x_k = sqrt(1 - beta_k) x_{k-1} + sqrt(beta_k) z
        x = x0
        for beta in diffusion.betas[:k]:
            x = (1 - beta).sqrt() * x + beta.sqrt() * torch.randn(x.shape, generator=g, dtype=torch.float64)
        n = len(x)
        assert abs(float(x.mean()) - math.sqrt(ab) * 1.5) < 3 * math.sqrt((1 - ab) / n)
        assert abs(float(x.var()) - (1 - ab)) < 3 * (1 - ab) * math.sqrt(2 / n)
        assert torch.allclose(diffusion.noisy(x0, k, torch.zeros_like(x0)), math.sqrt(ab) * x0)


def test_ddim_with_eta_one_on_all_levels_is_ddpm():
    diffusion = GaussianDiffusion(50)
    g = torch.Generator().manual_seed(0)
    x, x0 = torch.randn(2, 3, 8, generator=g, dtype=torch.float64)
    for k in range(1, 51):
        step = Step(diffusion, k, k - 1, torch.zeros_like, eta=1.0)
        mean, variance = diffusion.posterior(x, k, x0)
        assert torch.allclose(step.move(x0, diffusion.noise_of(x, k, x0)), mean, atol=1e-9)
        assert step.sigma() ** 2 == pytest.approx(variance, abs=1e-12)


def test_unconditional_ddim_reproduces_the_covariance_better_with_more_steps():
    covariance = seasonal_covariance(24)
    diffusion = GaussianDiffusion(1000)
    model = AnalyticGaussianDenoiser(covariance, diffusion)
    errors = []
    for steps in (5, 20, 200):
        # the map is linear: its matrix is what it makes of the unit vectors
        made = DDIMSampler(steps)(model, diffusion, torch.eye(24, dtype=torch.float64))
        errors.append(float((made.T @ made - covariance).norm() / covariance.norm()))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.02


@pytest.mark.parametrize("target", ["eps", "x0", "v"])
def test_tweedies_mean_is_the_closed_form(target):
    covariance = seasonal_covariance(12)
    diffusion = GaussianDiffusion(60, target=target)
    model = AnalyticGaussianDenoiser(covariance, diffusion)
    x = draw_gaussian(covariance, 4)
    for k in (1, 30, 60):
        ab = float(diffusion.alpha_bar[k])
        inner = ab * covariance + (1 - ab) * torch.eye(12)
        expected = math.sqrt(ab) * x @ torch.linalg.solve(inner, covariance)
        assert torch.allclose(diffusion.predict(model, x, k)[0], expected, atol=1e-8)
        spread = covariance - ab * covariance @ torch.linalg.solve(inner, covariance)
        assert torch.allclose(model.covariance(k), spread, atol=1e-9)


@pytest.mark.parametrize("guidance", GUIDANCES, ids=repr)
def test_an_empty_mask_is_the_unconditional_sampler_and_a_full_one_gives_what_is_known(guidance):
    model = small()
    y = torch.from_numpy(sinusoids(3, 24))
    sampler = DDIMSampler(5, 0.5, 10.0)

    def draw(mask=None):
        noise, side = RowNoise(3, range(3)), RowNoise(4, range(3))
        more = () if mask is None else (y, mask, guidance)
        return sampler(model.net, model.diffusion, noise(y), *more, noise=noise, side=side)

    assert torch.equal(draw(torch.zeros_like(y, dtype=torch.bool)), draw())
    assert torch.equal(draw(torch.ones_like(y, dtype=torch.bool)), y)


@pytest.mark.parametrize("guidance", ["dps", "replace", "repaint", "pigdm"])
def test_a_forecast_follows_level_and_scale_of_its_history(guidance):
    model = small()
    x = sinusoids(1, 16)[0].astype(float)
    base = model.forecast(x, 8, 3, guidance=guidance, seed=2)
    for a, b in ((3.0, -7.0), (1e-3, 5.0), (2e4, 0.0)):
        moved = model.forecast(a * x + b, 8, 3, guidance=guidance, seed=2)
        assert np.abs((moved - b) / a - base).max() < 1e-4 * max(1.0, np.abs(base).max())


def test_the_future_never_changes_a_forecast_or_what_it_is_normalised_by():
    model = small()
    x = sinusoids(1, 40)[0].astype(float)
    first = model.forecast(x[:20], 12, 3)
    x[20:] = 1e6
    assert np.array_equal(model.forecast(x[:20], 12, 3), first)
    # within a window: what the mask hides changes nothing
    hidden = np.arange(24) >= 15
    one, other = x[:24].copy(), x[:24].copy()
    other[hidden] = -1e6
    assert np.array_equal(
        model.impute(one, ~hidden, n_samples=2), model.impute(np.where(hidden, np.nan, other), n_samples=2)
    )


def test_one_model_serves_every_split_of_its_window():
    model = small()
    x = sinusoids(1, 24)[0]
    for history in range(1, 24):
        drawn = model.forecast(x[:history], 24 - history, 2, steps=2)
        assert drawn.shape == (2, 24 - history, 1)
        assert np.isfinite(drawn).all()


def test_the_gradient_of_dps_is_that_of_finite_differences_and_of_each_row_alone():
    torch.manual_seed(0)
    net = MLPDenoiser(8, 12, 4).double().requires_grad_(False)
    diffusion = GaussianDiffusion(50)
    step = Step(diffusion, 20, 15, torch.zeros_like)
    x, y = torch.randn(2, 3, 8, dtype=torch.float64)
    mask = (torch.arange(8) < 5).expand(3, 8)
    for power in (1, 2):
        guidance = DPS(power=power)
        found, _ = guidance.gradient(net, x, step, y, mask)

        def distance(x, power=power):
            return torch.where(mask, y - diffusion.predict(net, x, 20)[0], 0.0).norm(dim=1) ** power

        for i in range(8):
            h = torch.zeros(8, dtype=torch.float64)
            h[i] = 1e-6
            slope = (distance(x + h) - distance(x - h)) / 2e-6
            assert torch.allclose(found[:, i], slope, atol=1e-5)
        alone = torch.cat([guidance.gradient(net, x[[r]], step, y[[r]], mask[[r]])[0] for r in range(3)])
        assert torch.allclose(found, alone, atol=1e-12)
    # where all is met there is no direction
    x0 = diffusion.predict(net, x, 20)[0]
    assert torch.equal(DPS().gradient(net, x, step, x0, mask)[0], torch.zeros_like(x))


def test_parameters_are_those_of_the_formula_and_of_the_reference():
    for length, hidden, depth in ((192, 512, 6), (24, 16, 4), (5, 7, 2)):
        net = MLPDenoiser(length, hidden, depth)
        assert sum(p.numel() for p in net.parameters()) == parameter_count(length, hidden, depth)
    assert parameter_count(512, 2048, 10) == 54_109_696
    assert parameter_count(512, 2048, 20) == 117_106_176


def test_the_noise_level_is_embedded_as_cosines_then_sines():
    row = time_embedding(torch.tensor([3.0]), 64)[0]
    expected = [math.cos(3 * 10_000 ** (-i / 32)) for i in range(32)] + [
        math.sin(3 * 10_000 ** (-i / 32)) for i in range(32)
    ]
    assert row.tolist() == pytest.approx(expected, abs=1e-6)


def _distance(guidance, samples: int, series: int = 60) -> tuple[float, float]:
    """Squared distance of the mean of samples to the conditional mean, and that of true samples."""
    covariance = seasonal_covariance(48)
    diffusion = GaussianDiffusion(200, betas=(1e-4, 0.04))
    model = AnalyticGaussianDenoiser(covariance, diffusion)
    x = draw_gaussian(covariance, series, 1)
    mask = torch.arange(48) < 32
    mean, spread = conditional(covariance, x, mask)
    y = x.repeat_interleave(samples, 0)
    noise, side = RowNoise(0, range(series), samples), RowNoise(1, range(series), samples)
    out = DDIMSampler(200, 1.0)(
        model, diffusion, noise(y), y, mask.expand(len(y), -1), guidance, noise=noise, side=side, samples=samples
    )
    found = out.view(series, samples, 48)[:, :, 32:].mean(1)
    return float((found - mean).square().mean()), float(spread.diagonal().mean() / samples)


def test_on_a_gaussian_process_exact_guidance_is_at_the_floor_repaint_near_it_and_replace_twice_as_far():
    exact, floor = _distance(PiGDM("exact", 1e-4), 20)
    assert exact < 1.2 * floor
    repaint, floor8 = _distance(RePaint(5), 8)
    assert repaint < 1.5 * floor8
    replace, _ = _distance(Replace(), 20)
    assert replace > 2 * floor
    assert _distance(DPS(0.5), 20)[0] < 2 * floor


@pytest.mark.slow
def test_a_small_trained_model_has_at_most_six_tenths_of_the_naive_error():
    model = GPD(96, hidden=256, depth=6, steps=25)
    model.fit(list(sinusoids(3000, 192, seed=1)), 1.0, recipe=Recipe(steps=2500))
    valid = list(sinusoids(40, 96, seed=2))
    model.calibrate_guidance(valid, 72, 24, windows=40)
    x = sinusoids(100, 96, seed=3)[:, :, None]
    drawn = model.forecast_many(x[:, :72], 24, n_samples=16)
    error = np.mean((drawn.mean(1) - x[:, 72:]) ** 2)
    naive = min(np.mean((SeasonalNaive(p).forecast(x[:, :72], 24)[:, 0] - x[:, 72:]) ** 2) for p in (1, 8, 12, 24, 48))
    assert error <= 0.6 * naive


@pytest.mark.slow
def test_both_modes_of_a_future_are_met_where_least_squares_predicts_the_middle():
    model = GPD(48, hidden=128, depth=5, steps=50)
    data = two_modes(20_000, seed=1)
    model.fit(list(data), 1.0, recipe=Recipe(steps=2500))
    x = two_modes(40, seed=2)[:, :, None]
    model.calibrate_guidance(list(two_modes(40, seed=3)), 32, 16, windows=40)
    drawn = model.forecast_many(x[:, :32], 16, n_samples=50)[..., 0].mean(2) - np.zeros((40, 1))
    assert (drawn > 0.75).mean() >= 0.25
    assert (drawn < -0.75).mean() >= 0.25
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.ReLU(), torch.nn.Linear(64, 16))
    rows = torch.from_numpy(data)

    def loss(net, generator):
        batch = rows[torch.randint(len(rows), (256,), generator=generator)]
        return (net(batch[:, :32]) - batch[:, 32:]).square().mean()

    optimise(net, loss, Recipe(steps=800, ema=0.99))
    with torch.no_grad():
        middle = net(torch.from_numpy(x[:, :32, 0])).mean(1)
    assert middle.abs().max() < 1.0
