"""Hostile input: for each parser one property, `check(data)`, which holds for any bytes.

The unit tests try it with hypothesis, `make fuzz` with atheris, which looks for new paths.
"""
