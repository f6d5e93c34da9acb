"""The decorator that the import hook puts on every function of groundup while the tests run."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float, as everywhere in Python's typing
