import importlib
import inspect

import s4_impl


def test_every_public_name_is_an_object_and_no_module_hides_one():
    modules = ("hippo_matrix", "cauchy_sum", "vandermonde_sum", "kernel", "layer", "model")
    for module in modules:
        importlib.import_module(f"s4_impl.{module}")
    for name in s4_impl.__all__:
        assert not inspect.ismodule(getattr(s4_impl, name)), name
    for name in ("hippo", "nplr", "cauchy", "vandermonde", "param_groups"):
        assert callable(getattr(s4_impl, name))
