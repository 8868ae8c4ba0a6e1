"""Answers what it is started with, over its session; then waits, or ends."""

import sys

import alongside

session = alongside.session()
session.send(session.hello)
if sys.argv[1] == "wait":
    for _ in session:
        pass
