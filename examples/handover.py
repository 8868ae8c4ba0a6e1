"""Start a program, hand it data, get its result: the shortest whole use of a session.

This file is both programs. `alongside.session()` tells which: it is None in the one that a person
started. That one starts the file again, with a text as first data, and receives what the other
has counted. If the other died instead, `receive` would raise `PeerGone`; there is nothing to wait
for in vain.

    python handover.py [WORD...]
"""

import sys
from collections import Counter

import alongside

TEXT = "one program starts the other and the other counts the words"


def main():
    session = alongside.session()
    if session is None:
        hand_over(" ".join(sys.argv[1:]) or TEXT)
    else:
        count_words(session)


def hand_over(text):
    with alongside.start([sys.executable, __file__], hello={"text": text, "most": 3}) as counter:
        result = counter.receive()
    print(f"{result['words']} words, counted by process {counter.peer.pid}")
    for word, times in result["commonest"]:
        print(f"{times} x {word}")


def count_words(session):
    words = session.hello["text"].split()
    commonest = Counter(words).most_common(session.hello["most"])
    with session:
        session.send({"words": len(words), "commonest": commonest})


if __name__ == "__main__":
    main()
