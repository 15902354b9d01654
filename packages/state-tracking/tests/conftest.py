from shared_impl.testing import check_shapes

check_shapes("state_tracking_impl")
