"""Errors of files that cannot be read, all of one kind."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def decoding(what: str, guess: str = "truncated or damaged?") -> Iterator[None]:
    """Raise ValueError, with the name of a file and the cause, for whatever is raised while it is decoded.

    Decoders of damaged files raise anything: of zip and npy, for instance, also RuntimeError, LZMAError, MemoryError.
    guess: the likely cause.
    """
    try:
        yield
    except Exception as error:
        raise ValueError(f"{what} cannot be read: {type(error).__name__}: {error} ({guess})") from error
