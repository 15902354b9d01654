"""`python -m tabpfn_impl`, and `torchrun -m tabpfn_impl` for training with several processes."""

import sys

from tabpfn_impl.cli import main

sys.exit(main())
