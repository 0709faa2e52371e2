"""The streams of a video, and what each is called where.

A *stream* is what a model takes: `rgb` or `flow`. TAO's keys, files and exported inputs say `rgb`
or `of`.
Leaves out: which streams a spec asks for (settings.py), and torch.
"""

TAO_WORDS = {"rgb": "rgb", "flow": "of"}  # in keys, in model.model_type, of exported inputs
STREAM_OF = {word: stream for stream, word in TAO_WORDS.items()}
PARTS = {"rgb": "model_rgb", "flow": "model_of"}  # submodules of a model of both
CHANNELS = {"rgb": 3, "flow": 2}  # of a frame
FOLDERS = {"rgb": ("rgb",), "flow": ("u", "v")}  # of a video that lies in images
STREAM_FOLDERS = ("rgb", "u", "v")
