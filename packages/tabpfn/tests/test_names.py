import inspect

import tabpfn_impl


def test_every_public_name_is_an_object():
    assert "TabPFNClassifier" in tabpfn_impl.__all__
    for name in tabpfn_impl.__all__:
        assert not inspect.ismodule(getattr(tabpfn_impl, name)), name
