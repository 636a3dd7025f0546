"""The wire of Huterox: frames, kinds, errors, limits. Everything that another language must agree on; see SPEC.md.

Pure: no socket, clock or thread. `payload` needs NumPy and is imported only where arrays are handled.
"""
