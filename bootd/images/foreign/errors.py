"""The one error of the readers of foreign images: the file is wrong, never this program."""


class ForeignError(Exception):
    """A foreign image that is truncated, damaged, unsafe or not understood. The text is for an operator."""

    def __str__(self) -> str:
        """One line that a terminal only shows: names in it are whoever's who made the image."""
        return "".join(character if character.isprintable() else "?" for character in super().__str__())
