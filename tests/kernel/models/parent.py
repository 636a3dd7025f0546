"""A model that starts a process of its own."""

import subprocess


class Parent:
    def predict(self) -> int:
        return subprocess.Popen(["sleep", "300"]).pid
