"""A coding session, replayed against any server of the Messages API: what is read twice, and how
long one waits. `python -m senryu.benches.agentic --help` tells the rest."""
