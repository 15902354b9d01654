"""The hyper-parameters have the distributions that the paper says."""

import numpy as np
import pytest
from scipy import stats

from tabpfn_impl.hyperpriors import (
    MetaBeta,
    MetaChoice,
    MetaGamma,
    MetaTruncatedNormal,
    UniformInt,
    softmax_choice,
    truncated_normal,
)

N = 20_000


def rng():
    return np.random.default_rng(0)


def test_meta_gamma_is_a_rounded_gamma_whose_mean_is_the_scale():
    values = MetaGamma(3.0, 100.0, 4).sample(rng(), N)
    assert values.dtype == np.int64
    assert values.min() >= 4
    # the mean of U(0, 100) is 50
    assert values.mean() == pytest.approx(54, abs=1.5)


def test_meta_gamma_has_the_distribution_of_the_two_step_draw():
    generator = np.random.default_rng(1)
    by_hand = []
    for _ in range(N):
        a, s = generator.uniform(0, np.log(2)), generator.uniform(0, 3)
        by_hand.append(2 + round(stats.gamma.rvs(np.exp(a), scale=s / np.exp(a), random_state=generator)))
    ours = MetaGamma(2.0, 3.0, 2).sample(rng(), N)
    values = np.arange(2, 12)
    ours_share = (ours[:, None] == values).mean(0)
    np.testing.assert_allclose(ours_share, (np.array(by_hand)[:, None] == values).mean(0), atol=0.015)


def test_meta_beta_lies_below_its_scale():
    values = MetaBeta(0.6, 0.1, 5.0).sample(rng(), N)
    assert values.min() >= 0
    assert values.max() <= 0.6
    assert values.mean() == pytest.approx(0.3, abs=0.01)


def test_meta_truncated_normal_is_log_uniform_up_to_its_spread():
    values = MetaTruncatedNormal(0.01, 10.0).sample(rng(), N)
    assert values.min() >= 0
    # ln of the mean is uniform between ln .01 and ln 10
    assert np.median(np.log(values)) == pytest.approx(np.log(0.01 * 10) / 2, abs=0.1)


def test_truncated_normal_is_scipys():
    mean, std = np.full(N, 0.3), np.full(N, 0.5)
    values = truncated_normal(rng(), mean, std)
    assert stats.kstest(values, stats.truncnorm(-0.6, np.inf, loc=0.3, scale=0.5).cdf).pvalue > 0.01


def test_softmax_choice_draws_with_the_softmax():
    logits = np.tile([1.0, 0.0, -1.0], (N, 1))
    share = np.bincount(softmax_choice(rng(), logits), minlength=3) / N
    np.testing.assert_allclose(share, np.exp([1, 0, -1]) / np.exp([1, 0, -1]).sum(), atol=0.015)


def test_meta_choice_prefers_neither_end_absolutely():
    share = MetaChoice().sample(rng(), N).mean()
    # the mean over u ~ U(-3, 5) of 1 / (1 + e^{u - 1}) is 1/2
    assert share == pytest.approx(0.5, abs=0.015)
    assert set(MetaChoice((0, 1, 2), -5.0, 6.0).sample(rng(), 100).tolist()) == {0, 1, 2}


def test_uniform_int_has_half_the_weight_at_its_ends():
    share = np.bincount(UniformInt(2, 10).sample(rng(), N), minlength=11)[2:] / N
    np.testing.assert_allclose(share, np.array([1, 2, 2, 2, 2, 2, 2, 2, 1]) / 16, atol=0.01)
