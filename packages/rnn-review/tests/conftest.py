from shared_impl.testing import check_shapes

check_shapes("rnn_review_impl")
