"""A model whose code imports a library that takes much memory."""

import large_library


class Model:
    """Answers how large it is."""

    def predict(self) -> int:
        return len(large_library.HELD)
