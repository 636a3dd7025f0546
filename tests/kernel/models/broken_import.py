"""A model whose imports do not resolve."""

import a_module_that_nobody_has  # noqa: F401


class Model:
    def predict(self) -> int:
        return 1
