"""A stack of test servers under Orkestra's names: the library behind tests/stack/stack."""
