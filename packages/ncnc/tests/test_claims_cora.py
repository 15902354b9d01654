"""Claims on the real Cora graph, one seed of the full recipe; minutes each."""

import pytest

from ncnc_impl.experiments import run_seed


@pytest.fixture(scope="module")
def cora_hits():
    """Hits@100 in percent of one seed of Cora, with and without target link removal."""
    from shared_impl.data import available

    if not available("planetoid"):
        pytest.skip("the Planetoid files are not at hand")
    return {name: run_seed("cora", name, 0)["hits@100"] for name in ("cn", "ncn", "ncn_no_removal")}


@pytest.mark.slow
@pytest.mark.data
def test_cora_reaches_the_papers_range(cora_hits):
    assert 84 <= cora_hits["ncn"] <= 92
    assert 31 <= cora_hits["cn"] <= 37


@pytest.mark.slow
@pytest.mark.data
def test_without_target_link_removal_scores_drop(cora_hits):
    assert cora_hits["ncn_no_removal"] <= cora_hits["ncn"] - 1
