"""Native code for CPUs: plain C++ behind a plain C interface, reached by ctypes."""
