"""The version of this package, and where it lives."""

__version__ = "0.1.0.dev0"
# of the repository, once there is one: a release without it is refused by a test
ADDRESS = ""
