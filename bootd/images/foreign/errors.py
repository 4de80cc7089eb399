"""The one error of the readers of foreign images: the file is wrong, never this program."""


class ForeignError(Exception):
    """A foreign image that is truncated, damaged, unsafe or not understood. The text is for an operator."""
