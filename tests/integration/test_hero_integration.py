"""Everything in one workflow: a server is started as a user starts it, a small network runs on it for several clients at once, errors happen on the
way, and at the end the counters of both sides agree."""
import asyncio
import gc
import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from coordinating import CoordinatorCase, CoordinatorConfig, DjinnCoordinator, torch
import djinn


class TestHeroIntegration(CoordinatorCase):
    async def network(self, images, kernel, weight, bias):
        """conv → relu → pool → linear → softmax, on the server."""
        hidden = await self.run_op("aten::conv2d", images, kernel, padding=1)
        hidden = await self.run_op("aten::relu", hidden)
        hidden, _ = await self.run_op("aten::max_pool2d_with_indices", hidden, [2, 2])
        hidden = await self.run_op("aten::flatten", hidden, 1)
        return await self.run_op("aten::softmax", await self.run_op("aten::linear", hidden, weight, bias), -1)

    async def test_full_workflow_integration(self):
        ops_before, opened_before = self.server.total("ops"), self.server.stats()["sessions_opened"]
        # the README's demo
        x, y, bias = torch.randn(100, 100), torch.randn(100, 100), torch.randn(100, 100)
        result = await self.run_op("aten::matmul", x, y)
        result2 = await self.run_op("aten::add", result, bias)
        result3 = await self.run_op("aten::relu", result2)
        self.assertTrue(torch.allclose(result3, torch.relu(torch.matmul(x, y) + bias)))
        s = self.statistics()
        self.assertEqual((s["inputs_sent"], s["results_fetched"], s["round_trips"]), (3, 1, 4))

        # a network, for eight clients at once; its weights travel once
        kernel, weight, offset = torch.randn(8, 3, 3, 3), torch.randn(10, 8 * 8 * 8), torch.randn(10)
        batches = [torch.randn(4, 3, 16, 16) for _ in range(8)]
        await self.network(batches[0], kernel, weight, offset)
        sent = self.statistics()["inputs_sent"]
        outputs = await asyncio.gather(*[self.network(b, kernel, weight, offset) for b in batches])
        self.assertEqual(self.statistics()["inputs_sent"] - sent, len(batches) - 1)
        for batch, output in zip(batches, outputs):
            hidden = torch.max_pool2d(torch.conv2d(batch, kernel, padding=1).relu(), 2)
            self.assert_same(output, torch.softmax(torch.nn.functional.linear(hidden.flatten(1), weight, offset), -1), 1e-5)

        # errors on the way; nothing that is held is lost
        with self.assertRaises(djinn.RemoteOperationError) as raised:
            await self.run_op("aten::matmul", result3, torch.randn(7, 7))
        self.assertIn("aten::matmul", str(raised.exception))
        with self.assertRaises(djinn.RemoteOperationError):
            await self.run_op("aten::no_such_operator", result3)
        half = await self.run_op("aten::to", result3, torch.bfloat16)
        self.assertEqual(half.dtype, torch.bfloat16)
        self.assert_same(await self.run_op("aten::sum", half, dtype=torch.float32), result3.cpu().bfloat16().sum(dtype=torch.float32), 1e-3)

        # a second coordinator has a session of its own
        async with DjinnCoordinator(CoordinatorConfig(node_id="second")) as second:
            there = await second.execute_remote_operation("aten::neg", [x], self.target)
            self.assert_same(there, -x)
            with self.assertRaises(djinn.DeadHandleError):
                await second.execute_remote_operation("aten::neg", [result3], self.target)
        stats = self.server.until(lambda stats: not [c for c in stats["sessions"] if c["program"] == "second"])
        self.assertEqual(stats["sessions_opened"] - opened_before, 2)

        # both sides counted the same; what is let go of is given back
        s = self.statistics()
        self.assertEqual(self.server.total("ops") - ops_before, s["operations"] + 2 + 1)  # those that failed, and the second's
        mine = next(c for c in self.server.stats()["sessions"] if c["program"] == "test")
        self.assertEqual((mine["frames"] > 0, s["sessions_opened"]), (True, 1))
        del result, result2, result3, half, outputs, output
        gc.collect()
        await self.coordinator.stop()
        self.server.until(lambda stats: not [c for c in stats["sessions"] if c["program"] == "test"])


if __name__ == "__main__":
    unittest.main()
