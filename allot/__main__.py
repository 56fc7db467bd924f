"""python -m allot: the command line."""

from allot.cli import main

if __name__ == "__main__":
    main()
