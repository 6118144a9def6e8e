"""The demo page as a Space: `ivt/page.py` lies beside this file there, with the bundled gallery and checkpoint."""

from ivt.page import serve

if __name__ == "__main__":
    serve()
