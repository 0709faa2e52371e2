"""Tests are many and small: one thread each, and none that spins while it waits."""

import os
import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as shells leave it to what runs behind
    signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is loaded, here and in children
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # tests that import onnxruntime themselves
