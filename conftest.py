"""What the tests of the pytest plugin need; the plugin itself is loaded where this package is installed."""

pytest_plugins = ["pytester"]
