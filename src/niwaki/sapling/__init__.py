"""The bundled teacher: a small code model trained on the Python standard library."""
