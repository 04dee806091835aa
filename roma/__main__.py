"""`python -m roma`."""

from roma.cli import main

if __name__ == "__main__":
    main()
