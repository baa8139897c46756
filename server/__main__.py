"""`python -m senryu.server` is the `senryu` command.

It runs `cli` under that name, because a spawned process imports again what it was spawned from,
but never a module called `__main__`; and the lifeline is held by that import.
"""

import runpy

runpy.run_module("senryu.server.cli", run_name="__main__", alter_sys=True)
