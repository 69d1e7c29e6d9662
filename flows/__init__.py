"""Prefect flows and the named recipes. The command line starts Prefect only when it is asked to."""
