"""The errors that hicast raises; every message says what was expected, what was found and what to do."""


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
