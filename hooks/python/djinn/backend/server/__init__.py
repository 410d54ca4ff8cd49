"""`python3 -m djinn.backend.server.server` starts djinn-gpu-server."""
