"""`python -m saga_console` is `saga`."""

from saga_console import main

main()
