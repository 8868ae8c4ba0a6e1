"""The editor of the demo: it gets pictures, edits them and sends them back.

It does not know who started it. It takes up its session, shows that the first picture arrived by
giving it back, and then answers requests until the other side closes. Before each edit it says
that it begins, so that the other side knows what it is at.

Run viewer.py, which starts this program.
"""

import sys
import time

import alongside
import edits


def main():
    session = alongside.session()
    if session is None:
        sys.exit("editor.py has nobody to work for: run viewer.py, which starts it")
    try:
        with session:
            serve(session)
    except alongside.PeerGone as gone:
        sys.exit(f"editor.py: {gone}")


def serve(session):
    session.send(edits.pack(edits.unpack(session.hello)))
    for request in session:
        session.send({"begun": request["edit"]})
        session.send(answer(request))


def answer(request):
    picture = edits.unpack(request["picture"])
    begin = time.perf_counter()
    result = edits.apply(picture, request["edit"], request["parameters"])
    computed_s = time.perf_counter() - begin
    return {"picture": edits.pack(result), "computed_s": computed_s}


if __name__ == "__main__":
    main()
