"""Operators by name on remote servers (coordinator.py), for programs that do not run under the preload."""
