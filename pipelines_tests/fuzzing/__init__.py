"""A fuzzer of the public API on Hypothesis: calls with one bad argument must end in a right result or name it.

- `strategies`: right and bad values for each kind of argument, as source text.
- `entries`: the table of public functions, classes and methods, with the kind of each argument.
- `pieces`: the names that the source text may use.
- `oracle`: runs one call and judges its outcome.
- `survey`: runs many calls and groups the failures; `python -m pipelines_tests.fuzzing --calls 10000 --seed 0`.
"""
