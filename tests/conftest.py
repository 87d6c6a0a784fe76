"""One thread a test and a child process of it: more gain nothing on small tensors, and lose much
on a busy machine."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is first imported, here and in children
