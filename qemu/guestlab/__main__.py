"""`python3 -m guestlab`: the command line of `qemu/run`."""

import sys

from guestlab.cli import main

sys.exit(main(sys.argv[1:]))
