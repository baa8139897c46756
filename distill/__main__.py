"""Lets `python -m senryu.distill` do what `senryu distill` does."""

import sys

from .cli import main

sys.exit(main(sys.argv[1:]))
