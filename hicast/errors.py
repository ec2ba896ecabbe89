"""The errors that hicast raises; every message says what was expected, what was found and what to do."""

_ALLOCATION_WORDS = ("can't allocate memory", "not enough memory", "out of memory")


class HicastError(Exception):
    """Base of all errors meant for the user; the command line prints one line and leaves with `exit_code`."""

    exit_code = 1


class UsageError(HicastError):
    """A request that cannot be understood: unknown name, contradiction, bad setting."""

    exit_code = 2


class SettingsError(UsageError):
    """One or more problems in settings or presets, reported together."""

    def __init__(self, problems: list[str]) -> None:
        """Keep `problems` (one sentence each) and join them into one message."""
        super().__init__("; ".join(problems))
        self.problems = list(problems)


class InputError(HicastError):
    """A file that cannot be read as what it should be."""


class OutputError(HicastError):
    """A result that cannot be written where it should go."""


class ModelError(HicastError):
    """A model folder or weight file that is missing, damaged or of the wrong kind."""


class MemoryLimitError(HicastError):
    """Work that does not fit into memory; the message names the settings that would."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the CPU or a device; told by name and text, so that torch need not be loaded."""
    if isinstance(error, MemoryError) or any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _ALLOCATION_WORDS)
