"""The one exception a person is meant to read."""


class UserError(Exception):
    """Something the user can correct: one sentence that says what is wrong and what to do.

    The command line prints it without a traceback. Every other exception is a bug and keeps its traceback.
    """
