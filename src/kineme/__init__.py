"""kineme tells what people are doing in video. See README.md for the file map."""

__version__ = "0.1.0"
