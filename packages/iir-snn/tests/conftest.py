from shared_impl.testing import check_shapes

check_shapes("iir_snn_impl")
