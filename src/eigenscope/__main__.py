"""`python -m eigenscope` is the command line."""

from eigenscope.cli import main

if __name__ == "__main__":
    main()
