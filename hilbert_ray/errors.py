"""The root of every error that one message explains, and the exit code that it gives a command."""

from typing import ClassVar


class HilbertError(Exception):
    """Something that the user can put right; the message names the fault, the rule and the remedy.

    Every named error of the library derives from it. The command line prints the message and ends with
    `exit_code`; any other exception is a bug and shows its traceback.
    """

    exit_code: ClassVar[int] = 2
    """2: wrong input or settings, refused before work begins; 1: work that began and cannot continue."""
