"""Lets `python -m senryu.quant` do what `senryu quantize` does."""

import sys

from .cli import main

sys.exit(main(sys.argv[1:]))
