"""Make the claims' options and fixtures known to `pytest claims`, `pytest bench` and `pytest tests` alike."""

pytest_plugins = ["claims.plugin", "pytester"]
