"""The paper card of each package, and the evidence that it names."""

import re

import catalog
import pytest
import workspace

from shared_impl.cli import Card, parse_card
from shared_impl.results import Record


@pytest.fixture
def card(folder) -> Card:
    return parse_card((folder / "pyproject.toml").read_text(encoding="utf-8"))


def test_a_card_can_be_read_and_is_filled_in(card, package):
    assert card.slug == package
    assert card.authors
    assert all(card.authors)
    assert card.claims
    for name in ("title", "venue", "gives", "headline"):
        value = getattr(card, name)
        assert value.strip(), name
        assert "\n" not in value, name
    assert re.fullmatch(r"\d{4}\.\d{4,5}|[a-z-]+/\d{7}|none", card.arxiv)
    assert re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{7,40}|none", card.official_code)
    assert 1950 < card.year < 2100
    assert card.family in catalog.FAMILIES
    assert len(card.headline.split()) <= 15, "the headline must fit into a line of the catalogue"


def test_every_test_that_a_claim_names_exists(card, folder):
    missing = []
    for claim in card.claims:
        if claim.test:
            file, _, node = claim.test.partition("::")
            if node.partition("[")[0] not in catalog.tests_of(folder / file):
                missing.append(f"claim {claim.id}: {claim.test}")
    assert missing == []


def test_every_record_that_a_claim_names_exists(card, folder):
    records = {claim.id: claim.record for claim in card.claims if claim.record}
    assert {i: record for i, record in records.items() if not (folder / record).is_file()} == {}


def test_every_record_can_be_read_and_is_the_package_s_own(package, folder):
    for path in sorted((folder / "results").glob("*.json")):
        record = Record.load(path)
        assert record.package == workspace.distribution(package), path.name
        assert record.rows, path.name
        expected = f"bench_{record.experiment}" if record.kind == "bench" else f"{record.experiment}-{record.preset}"
        # what was timed on a GPU stands beside what was timed on a processor
        on_gpu = record.kind == "bench" and "--device cuda" in record.command
        assert path.stem == (f"{expected}_gpu" if on_gpu else expected)
        assert [plot for plot in record.plots if not (folder / "results" / plot).is_file()] == [], path.name


def test_claims_are_tested_one_by_one(card, folder):
    """A test of the claims file that no claim names, or one that two name, means that card and tests drifted apart."""
    named = [claim.test.partition("::")[2].partition("[")[0] for claim in card.claims if claim.test]
    assert sorted(set(named)) == sorted(named)
    in_claims_file = {
        c.test.partition("::")[2].partition("[")[0] for c in card.claims if c.test and "test_claims" in c.test
    }
    assert catalog.tests_of(folder / "tests" / "test_claims.py").keys() - in_claims_file == set()
