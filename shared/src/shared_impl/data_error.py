"""The one error of everything that reads data files."""

from shared_impl.cli import UserError

__all__ = ["DataError"]


class DataError(UserError):
    """A data file is missing, damaged, refused or out of reach; the message says what to do about it."""
