"""For all tests: one thread, since the models are tiny and a second thread only waits for the first."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the interpreters that tests start

import torch

torch.set_num_threads(1)
