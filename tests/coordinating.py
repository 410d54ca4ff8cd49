"""What the tests of the op-level API share: a real server, a coordinator in this process (no preload), and the numbers of CPU PyTorch beside its own."""
import asyncio
import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from harness import COORDINATOR, PACKAGES, SERVER, Case, Server, free_ports

sys.path.insert(0, str(PACKAGES))
from djinn.core.coordinator import CoordinatorConfig, DjinnCoordinator, RemoteTensor

try:
    import torch
except ImportError:  # the case is skipped with the reason
    torch = None


def front_door(server):
    """HOST:PORT of a server on TCP, as the README gives it; an ipc endpoint stays what it is."""
    if not server.endpoint.startswith("tcp://"):
        return server.endpoint
    host, port = server.endpoint.removeprefix("tcp://").rsplit(":", 1)
    return f"{host}:{int(port) + 1}"


def tcp_server(*options):
    return Server("--data-ports", "0", *options, endpoint=f"tcp://127.0.0.1:{free_ports()}")


class CoordinatorCase(Case, unittest.IsolatedAsyncioTestCase):
    """One server for the class, one coordinator for each test; `self.run_op(op, *inputs, **keywords)` runs an operator there."""
    needs = (SERVER, COORDINATOR)
    options = ()

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.server = cls.enterClassContext(tcp_server(*cls.options))

    async def asyncSetUp(self):
        torch.manual_seed(0)
        self.target = front_door(self.server)
        self.coordinator = await self.enterAsyncContext(DjinnCoordinator(CoordinatorConfig(node_id="test")))

    async def run_op(self, op, *inputs, **keywords):
        return await asyncio.wait_for(self.coordinator.execute_remote_operation(op, list(inputs), self.target, **keywords), 60)

    def assert_same(self, remote, expected, tolerance=0.0):
        """The numbers, the shape and the dtype; `tolerance` is for ops whose order of additions is not fixed."""
        self.assertIsInstance(remote, RemoteTensor)
        self.assertEqual(remote.shape, expected.shape)
        self.assertEqual(remote.dtype, expected.dtype)
        torch.testing.assert_close(remote.cpu(), expected, rtol=tolerance, atol=tolerance, equal_nan=True)

    def statistics(self):
        return self.coordinator.statistics(self.target)
