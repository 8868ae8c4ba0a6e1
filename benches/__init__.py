"""Speed, measured against the others: `python -m benches`.

One run measures everything, so that every figure has its counterpart from the same minutes of
the same machine. A topic (`topics/`) is one kind of work. It lists its cases, one for each
contestant and placement; the runner goes round all of them several times, so that whatever drifts
hits all alike. Every measurement starts fresh processes with interpreters of their own and ends
them again: nothing but the case being measured runs, and no accident of one memory layout decides.

Figures are medians over the rounds; ratios are taken within a round first. What a contestant may
use is its own affair, as long as its documentation says so: `contestants/` names the path taken.

Knows nothing of alongside's inside: only its public face is imported.
"""
