"""The benches room: measures, over HTTP, like a client. Numbers carry machine and versions."""
