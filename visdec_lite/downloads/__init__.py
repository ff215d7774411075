"""Data sets and weights from the network, in a way that can be trusted.

Enters: a name of the registry. Leaves: its files in the data home, whole and checked, or a sentence that says why
not and what to do. Read `registry` (what there is), `resume` (one transfer), `fetch` (one file), `unpack`
(archives), `ledger` (what is remembered), `store` (an entry: get, look, verify), `commands` (the words).
"""
