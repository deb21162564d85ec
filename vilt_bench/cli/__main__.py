"""`python -m vilt_bench.cli` is `vilt-bench`."""

import sys

from vilt_bench.cli import main

sys.exit(main())
