import sys
import types

import pytest

from shared_impl.lazy import attach


def make_package(monkeypatch, exports):
    package = types.ModuleType("lazy_demo")
    package.__path__ = []
    inner = types.ModuleType("lazy_demo.inner")
    inner.answer = 42
    monkeypatch.setitem(sys.modules, "lazy_demo", package)
    monkeypatch.setitem(sys.modules, "lazy_demo.inner", inner)
    package.__getattr__, package.__dir__, package.__all__ = attach("lazy_demo", exports)
    return package, inner


def test_a_name_comes_from_its_module_and_stays(monkeypatch):
    package, inner = make_package(monkeypatch, {"inner": ["answer"]})
    assert "answer" not in vars(package)
    assert package.answer == 42
    assert vars(package)["answer"] == 42
    assert package.inner is inner
    assert package.__all__ == ["answer"]
    assert "answer" in dir(package)


def test_an_unknown_name_is_an_attribute_error(monkeypatch):
    package, _ = make_package(monkeypatch, {"inner": ["answer"]})
    with pytest.raises(AttributeError, match="no attribute 'question'"):
        _ = package.question


def test_one_name_from_two_modules_is_refused():
    with pytest.raises(ValueError, match="twice is exported by a and by b"):
        attach("p", {"a": ["twice"], "b": ["twice"]})
