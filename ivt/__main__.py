"""`python -m ivt …` is `ivt …`."""

from .cli import main

if __name__ == "__main__":
    main()
