"""What can go wrong in a bench, said in one line."""


class BenchError(Exception):
    """The measurement cannot go on; the message says why."""


class WrongAnswer(BenchError):
    """An answer was not what it had to be: there is nothing to measure."""
