from shared_impl.testing import check_shapes

check_shapes("gpd_impl")
