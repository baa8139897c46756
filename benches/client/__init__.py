"""Asks a server over HTTP and notes when what came: the one client that all figures rest on."""
