"""Adapter methods: one file each, and a table that maps their names to them.

To add a method, write a class with the interface of `Method` and add it to `table.METHODS`. These modules are also
imported where torch is not loaded (memory is predicted without it), so they use tensors only through their own methods
and import torch inside functions.
"""
