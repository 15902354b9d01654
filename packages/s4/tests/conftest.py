"""Shapes of the package are checked at every call in the tests."""

from shared_impl.testing import check_shapes

check_shapes("s4_impl")
