"""`python -m infraredcity`."""

from infraredcity.cli import main

if __name__ == "__main__":
    main()
