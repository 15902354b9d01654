from shared_impl.testing import check_shapes

check_shapes("mossformer2_impl")
