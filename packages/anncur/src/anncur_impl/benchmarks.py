"""What a search costs beside the scorer's calls, and recall against wall time when a call takes a millisecond."""

import importlib.util
import os
import sys
import types
from collections.abc import Callable, Generator, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anncur_impl.cur import CURDecomposition
from anncur_impl.data import low_rank_matrix
from anncur_impl.item_index import FlatIndex, HNSWIndex, top_k
from anncur_impl.metrics import exact_top_k, recall_at_k
from anncur_impl.scorer import MatrixScorer
from anncur_impl.search import ANNCUR
from shared_impl.bench import Benchmark, Case, Setting, Timing, checkout_revision, module_from_file
from shared_impl.cli import UserError
from shared_impl.results import Row

__all__ = ["BENCHMARKS"]

BUDGET = 200
MILLISECOND = 1e-3


def overhead(setting: Setting) -> Generator[Case | Row | str, Mapping[str, Timing] | None, None]:
    """Everything but the scorer's calls: the product, the choice of candidates, the ranking."""
    rng = np.random.default_rng(setting.seed)
    for n in (1000,) if setting.quick else (10_000, 100_000, 1_000_000):
        width, batch = BUDGET // 2, 16
        vectors = rng.standard_normal((width, n), dtype=np.float32)
        queries = rng.standard_normal((batch, width))
        anchors = np.arange(width)
        full = FlatIndex(vectors)
        half = FlatIndex(vectors.astype(np.float16))

        def one_by_one(queries: np.ndarray = queries, full: FlatIndex = full, anchors: np.ndarray = anchors) -> None:
            for query in queries:
                full.search(query[None], BUDGET // 2, anchors)

        def sorting(queries: np.ndarray = queries, vectors: np.ndarray = vectors) -> None:
            np.argsort(-(queries.astype(np.float32) @ vectors), axis=1)[:, : BUDGET // 2]

        forms: dict[str, Callable[[], object]] = {
            "one at a time": one_by_one,
            "batch": partial(full.search, queries, BUDGET // 2, anchors),
            "batch, half precision": partial(half.search, queries, BUDGET // 2, anchors),
            "batch, sorting everything": sorting,
        }
        found = yield Case(f"{batch} queries, {n:,} items", forms, "one at a time", rounds=5, size=n)
        assert found is not None
        milliseconds = 1e3 * found["one at a time"].median_s / batch
        yield Row(f"{n:,} items", "one at a time", "ms a query", milliseconds, higher_is_better=False)
        yield Row(f"{n:,} items", "batch", "ms a query", 1e3 * found["batch"].median_s / batch, higher_is_better=False)
        for name, index in (("batch", full), ("batch, half precision", half)):
            yield Row(f"{n:,} items", name, "MiB of item vectors", index.vectors.nbytes / 2**20, higher_is_better=False)
    yield f"{BUDGET // 2} anchors, {BUDGET // 2} candidates; vectors of random numbers"


def hnsw(setting: Setting) -> Iterator[Case | Row | str]:
    """A graph over the item vectors against the exact product."""
    try:
        import hnswlib  # noqa: F401
    except ImportError:
        yield "hnswlib is not installed: nothing to compare"
        yield Row("hnswlib", "absent", "installed", 0.0)
        return
    for n in (2000,) if setting.quick else (10_000, 50_000, 200_000):
        matrix = low_rank_matrix(queries=200, items=n, seed=setting.seed)
        made = ANNCUR.from_matrix(matrix[:150], scorer=MatrixScorer(matrix[150:]), budget=BUDGET, seed=setting.seed)
        vectors = made.index_.vectors
        queries = matrix[150:][:, made.anchors_]
        graph = HNSWIndex(vectors)
        none = np.empty(0, dtype=np.int64)
        yield Case(
            f"{len(queries)} queries, {n:,} items",
            {
                "flat": lambda q=queries, m=made, a=none: m.index_.search(q, 100, a),
                "hnsw": lambda q=queries, g=graph, a=none: g.search(q, 100, a),
            },
            baseline="flat",
            rounds=5,
        )
        exact, found = made.index_.search(queries, 100, none), graph.search(queries, 100, none)
        yield Row(f"{n:,} items", "hnsw", "recall of the exact product's 100 best %", 100 * recall_at_k(exact, found))


def wall_time(setting: Setting) -> Iterator[Case | Row | str]:
    """Recall of the best ten against time, with a scorer that takes a millisecond a call (added, not slept)."""
    import time

    items = 2000 if setting.quick else 10_000
    matrix = low_rank_matrix(queries=250, items=items, seed=setting.seed)
    anchors, tests = matrix[:200], matrix[200:]
    truth = exact_top_k(tests, 10)
    for budget in (50, 100) if setting.quick else (50, 100, 200, 400):
        made = ANNCUR.from_matrix(anchors, scorer=MatrixScorer(tests), budget=budget, seed=setting.seed)
        begun = time.perf_counter()
        result = made.search(range(len(tests)), 10)
        own = (time.perf_counter() - begun) / len(tests)
        noise = np.random.default_rng(setting.seed).random(tests.shape)
        random = top_k(noise, budget)
        label = f"{budget} calls of 1 ms among {items:,} items"
        yield Row(label, "ANNCUR", "recall@10 %", 100 * recall_at_k(truth, result.ids))
        yield Row(label, "random candidates", "recall@10 %", 100 * recall_at_k(truth, random))
        yield Row(label, "ANNCUR", "ms a query", 1e3 * (own + budget * MILLISECOND), higher_is_better=False)
        yield Row(label, "brute force", "ms a query", 1e3 * items * MILLISECOND, higher_is_better=False)


def official(setting: Setting) -> Iterator[Case | Row | str]:
    """The authors' CURApprox, imported from a checkout of iesl/anncur whose folder is in ANNCUR_OFFICIAL_DIR."""
    place = os.environ.get("ANNCUR_OFFICIAL_DIR", "")
    path = Path(place) / "eval" / "matrix_approx_zeshel.py"
    if not place or not path.is_file():
        raise UserError("bench official needs ANNCUR_OFFICIAL_DIR: the folder of a checkout of iesl/anncur")
    kind = _official(path)
    items = 500 if setting.quick else 5000
    matrix = low_rank_matrix(queries=500, items=items, seed=setting.seed)
    anchors, tests = matrix[:200], matrix[200:]
    rows, none = np.arange(200), np.empty(0, dtype=np.int64)
    whole = torch.from_numpy(matrix)
    for width in (50,) if setting.quick else (50, 100, 300):
        ours = ANNCUR.from_matrix(anchors, k_anchor_items=width, rcond=None, seed=setting.seed)
        chosen = ours.anchors_
        queries = tests[:, chosen]

        def theirs(chosen: np.ndarray = chosen) -> Any:
            return kind(whole[rows], whole[:, chosen], rows, chosen, "rows")

        def refit(width: int = width) -> ANNCUR:
            return ANNCUR.from_matrix(anchors, k_anchor_items=width, rcond=None, seed=setting.seed)

        other = theirs()
        label = f"{width} anchor items, {items:,} items"
        expected = (other.latent_rows @ other.latent_cols).numpy()
        made = CURDecomposition.fit(matrix, rows, chosen, rcond=None).reconstruct()
        difference = float(np.abs(made - expected).max() / np.abs(matrix).max())
        yield Row(label, "ours", "largest difference over largest score", difference, higher_is_better=False)
        best = other.topk_in_row(torch.from_numpy(queries), 100).indices.numpy()
        found = ours.index_.search(queries, 100, none)
        yield Row(label, "ours", "same items among the 100 best %", 100 * recall_at_k(best, found))
        searches: dict[str, Callable[[], object]] = {
            "official": partial(other.topk_in_row, torch.from_numpy(queries), 100),
            "ours": partial(ours.index_.search, queries, 100, none),
        }
        yield Case(f"300 searches, {label}", searches, "official", rounds=7)
        yield Case(f"building, {label}", {"official": theirs, "ours": refit}, "official", rounds=7)
    yield f"iesl/anncur@{checkout_revision(Path(place))}; its check of equal blocks compares with a tolerance here"


def _official(path: Path) -> Any:
    """Their class. It imports IPython, which it does not use here, and its check of whole matrices for equality fails
    wherever it compares more than one number."""
    absent = importlib.util.find_spec("IPython") is None
    if absent:
        sys.modules["IPython"] = types.SimpleNamespace(embed=None)  # type: ignore[assignment]
    try:
        module = module_from_file(path, "official_anncur")
    finally:
        if absent:
            del sys.modules["IPython"]

    class Tolerant:
        eq = staticmethod(torch.allclose)

        def __getattr__(self, name: str) -> Any:
            return getattr(torch, name)

    module.torch = Tolerant()
    return module.CURApprox


BENCHMARKS: Mapping[str, Benchmark] = {
    "overhead": Benchmark("Search without the scorer's calls", overhead, xlabel="items"),
    "hnsw": Benchmark("A graph against the exact product", hnsw),
    "official": Benchmark("The authors' decomposition beside ours", official),
    "wall-time": Benchmark("Recall against time at a millisecond a call", wall_time),
}
