"""Sends back whatever arrives."""

import alongside

session = alongside.session(required=True)
for message in session:
    session.send(message)
session.close()
