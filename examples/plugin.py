"""The plug-in of plugin_host.py: it turns words round, and it has bugs.

Every third request kills it, and the word "poison" always does. It kills itself as the kernel
would when memory runs out: there is no exception, no last word, no clean-up.
"""

import os
import signal
import sys

import alongside


def main():
    session = alongside.session()
    if session is None:
        sys.exit("plugin.py does nothing by itself: run plugin_host.py, which starts it")
    for number, word in enumerate(session, start=1):
        if number % 3 == 0 or word == "poison":
            os.kill(os.getpid(), signal.SIGKILL)
        session.send({"turned": word[::-1]})
    session.close()


if __name__ == "__main__":
    main()
