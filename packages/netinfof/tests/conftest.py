from shared_impl.testing import check_shapes

check_shapes("netinfof_impl")
