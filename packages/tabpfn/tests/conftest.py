from shared_impl.testing import check_shapes

check_shapes("tabpfn_impl")
