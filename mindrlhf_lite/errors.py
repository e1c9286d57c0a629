"""What commands tell people from faults of the program."""


class UserError(ValueError):
    """A mistake in what the user gave: settings, data, files. Its message says what, and how to mend it.

    Commands print it without a stack trace and end with exit code 2. Any other ValueError is a fault of the program.
    """
