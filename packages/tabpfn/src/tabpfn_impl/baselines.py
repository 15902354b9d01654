"""What TabPFN is compared with: scikit-learn's classifiers, and further libraries where they are installed."""

import contextlib
import functools
import importlib
import importlib.util
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["BASELINES", "PEERS", "available_peers", "make_baseline"]


def _numeric(estimator: Any, *, scale: bool) -> Any:
    """The estimator behind what a frame needs: ranks for categories, means for missing values, perhaps scaling."""
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, StandardScaler

    steps: list[Any] = [_Encode(), SimpleImputer(keep_empty_features=True)]
    steps.append(StandardScaler() if scale else FunctionTransformer())
    return make_pipeline(*steps, estimator)


class _Encode:
    """`TableEncoder` as a step of a pipeline."""

    def fit(self, X: Any, y: Any = None) -> "_Encode":
        from tabpfn_impl.preprocess import TableEncoder

        self.encoder_ = TableEncoder().fit(X)
        return self

    def fit_transform(self, X: Any, y: Any = None) -> Any:
        return self.fit(X).transform(X)

    def transform(self, X: Any) -> Any:
        return self.encoder_.transform(X)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        return {}

    def set_params(self, **params: Any) -> "_Encode":
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "encoder_")


def _logistic_regression(seed: int) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold

    search = GridSearchCV(
        LogisticRegression(max_iter=2000),
        {"C": np.logspace(-4, 4, 9)},
        scoring="neg_log_loss",
        cv=StratifiedKFold(3, shuffle=True, random_state=seed),
    )
    return _numeric(search, scale=True)


def _knn(seed: int) -> Any:
    from sklearn.neighbors import KNeighborsClassifier

    return _numeric(KNeighborsClassifier(15), scale=True)


def _random_forest(seed: int) -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return _numeric(RandomForestClassifier(200, random_state=seed), scale=False)


def _gradient_boosting(seed: int) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier

    return _numeric(HistGradientBoostingClassifier(random_state=seed), scale=False)


BASELINES: dict[str, Callable[[int], Any]] = {
    "logistic regression": _logistic_regression,
    "15-NN": _knn,
    "random forest": _random_forest,
    "gradient boosting": _gradient_boosting,
}
"""from scikit-learn; logistic regression's C is the best of nine by cross-validated log-loss"""

PEERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "XGBoost": ("xgboost", "XGBClassifier", {"n_jobs": 1}),
    "LightGBM": ("lightgbm", "LGBMClassifier", {"n_jobs": 1, "verbosity": -1}),
    "CatBoost": ("catboost", "CatBoostClassifier", {"thread_count": 1, "verbose": False, "allow_writing_files": False}),
    "tabicl": ("tabicl", "TabICLClassifier", {"n_jobs": 1}),
}
"""name: the module that must be installed, its class, and arguments beside the seed"""


@functools.cache
def available_peers() -> tuple[str, ...]:
    """Those of `PEERS` that are installed, and whose weights, if it has some, are here or can be downloaded."""
    installed = [name for name, (module, *_) in PEERS.items() if importlib.util.find_spec(module) is not None]
    return tuple(name for name in installed if name != "tabicl" or _has_weights(name))


def _has_weights(name: str) -> bool:
    try:
        # it speaks of its download on stdout, which belongs to results
        with contextlib.redirect_stdout(sys.stderr):
            make_baseline(name).fit(np.eye(8), np.arange(8) % 2)
    except OSError as error:
        warnings.warn(f"{name} is left out: {error}", stacklevel=3)
        return False
    return True


def make_baseline(name: str, seed: int = 0) -> Any:
    """A classifier by name.

    Raises:
        ValueError: a name that is not known, or a library that is not installed.
    """
    if name in BASELINES:
        return BASELINES[name](seed)
    if name not in PEERS:
        raise ValueError(f"baseline must be one of {', '.join([*BASELINES, *PEERS])}, got {name!r}")
    module, kind, arguments = PEERS[name]
    if importlib.util.find_spec(module) is None:
        raise ValueError(f"{name} is not installed: pip install {module}")
    make = getattr(importlib.import_module(module), kind)
    return _numeric(make(random_state=seed, **arguments), scale=False)
