"""The markers that tests of all packages use, and when they skip: `pytest -p shared_impl.pytest_plugin`.

The repository's settings ask for it; in anybody else's tests these names mean what they mean there.
"""

import os

import pytest

__all__ = ["pytest_collection_modifyitems", "pytest_configure"]

_MARKERS = (
    "slow: behavioural claims that need minutes",
    "gpu: needs a CUDA device; skipped where there is none",
    "data(dataset, ...): needs the files of these data sets; skipped where IMPL_DATA_DIR and the cache lack them",
)


def pytest_configure(config: pytest.Config) -> None:
    for marker in _MARKERS:
        config.addinivalue_line("markers", marker)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    gpu = [item for item in items if item.get_closest_marker("gpu")]
    if gpu and not _has_gpu():
        for item in gpu:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
    for item in items:
        marker = item.get_closest_marker("data")
        if marker is not None and (missing := _missing(marker.args)):
            item.add_marker(pytest.mark.skip(reason=f"not at hand: {missing}"))


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _missing(datasets: tuple[str, ...]) -> str:
    if not datasets:
        return "" if os.environ.get("IMPL_DATA_DIR") else "IMPL_DATA_DIR"
    from shared_impl.data import available

    return ", ".join(name for name in datasets if not available(name))
