"""`python -m senryu.benches` is `senryu bench`."""

import sys

from .cli import main

sys.exit(main(sys.argv[1:]))
