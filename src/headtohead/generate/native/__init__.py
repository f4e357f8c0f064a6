"""The fast way to decode on a CPU: one C++ function for a whole stream, compiled once a machine."""
