"""Named exceptions. Each carries the exit code that the command line returns for it."""

import re
from collections.abc import Iterable
from difflib import get_close_matches

_SHOWN = 5  # names in a message


class TersorError(Exception):
    """Base of all errors that a user can cause. Messages name the file, tensor or option and the remedy."""

    exit_code = 1


class UsageError(TersorError, ValueError):
    """An option, recipe, pattern or argument is wrong or contradicts another one."""

    exit_code = 2


class InputError(TersorError):
    """An input cannot be read: missing, unreadable, of an unknown kind, or damaged."""

    exit_code = 3


class UnsafeFileError(InputError):
    """A torch file asks to run pickled code; tersor never does that."""


class UnsupportedTypeError(InputError):
    """A dtype or file type that tersor does not handle."""


class MissingExtraError(InputError):
    """An optional dependency is needed for this kind of file; the message says which to install."""


class CorruptFileError(TersorError):
    """A .tsr file is damaged, truncated or malicious. Nothing read from it can be trusted."""

    exit_code = 4


class UnsupportedVersionError(CorruptFileError):
    """A .tsr file of a format version that this tersor does not know."""


class LimitError(CorruptFileError):
    """A .tsr file declares sizes above the format's or the caller's limits."""


class OutputError(TersorError):
    """The output cannot be written: it exists already, the disk is full, or the folder is not writable."""

    exit_code = 5


class MismatchError(TersorError):
    """Tensors and module (or two files) do not fit: names missing, unexpected, or of another shape."""

    exit_code = 6


class CalibrationError(MismatchError):
    """Samples do not fit the model, a layer saw NaN or Inf, or no sample reached a layer."""


class ResumeError(MismatchError):
    """A saved state of a training session is of another recipe or network; the message says what differs."""


class DivergenceError(TersorError):
    """The loss of a training session is NaN or infinite; the message says at which step."""

    exit_code = 6


class StructureError(TersorError):
    """A network's structure cannot be followed or changed as asked; the message names the group, module and op."""

    exit_code = 6


def named(name: str, error: TersorError) -> TersorError:
    """The error, with the name of what it is about before its message, unless that has it.

    A name is there if the message begins with it and a colon, quotes it, or holds it as a whole and it has a point:
    "1" and "weight" are words of many messages.
    """
    said = str(error)
    whole = "." in name and re.search(rf"(?<![\w.]){re.escape(name)}(?!\.?\w)", said)
    if not name or said.startswith(f"{name}:") or repr(name) in said or whole:
        return error
    return type(error)(f"{name}: {said}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about a name that is unknown: "; did you mean a, b?", or nothing where none is near."""
    near = get_close_matches(name, list(dict.fromkeys(known)), n=3, cutoff=0.5)
    return f"; did you mean {', '.join(near)}?" if near else ""


def shortlist(names: Iterable[str]) -> str:
    """A handful of names for a message, and how many more there are: "a, b, c, d, e and 5 more"."""
    every = list(names)
    return ", ".join(every[:_SHOWN]) + (f" and {len(every) - _SHOWN} more" if len(every) > _SHOWN else "")


class TersorWarning(UserWarning):
    """Something was done differently from what was asked, without loss; the message says what and why."""
