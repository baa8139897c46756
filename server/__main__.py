"""`python -m senryu.server` is the `senryu` command."""

import sys

from .cli import main

sys.exit(main())
