"""Overlay and headers in, C++ out."""
