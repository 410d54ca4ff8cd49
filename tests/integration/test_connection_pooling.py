"""One session for each target: opened once, shared by everybody, ended when idle, opened again when needed."""
import asyncio
import concurrent.futures
import pathlib
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from coordinating import CoordinatorCase, CoordinatorConfig, DjinnCoordinator, tcp_server, torch
import djinn


class TestConnectionPooling(CoordinatorCase):
    def opened(self):
        return self.server.stats()["sessions_opened"]

    async def test_one_session_serves_all_calls(self):
        before = self.opened()
        x = torch.randn(16, 16)
        for i in range(20):
            self.assert_same(await self.run_op("aten::add", x, i), x + i)
        self.assertEqual(self.opened() - before, 1)
        s = self.statistics()
        self.assertEqual((s["sessions_opened"], s["operations"], s["round_trips"]), (1, 20, 40))  # each was fetched, too
        self.assertEqual(s["inputs_sent"], 1)

    async def test_an_open_session_costs_one_round_trip_and_one_message(self):
        x = torch.randn(8, 8)
        await self.run_op("aten::relu", x)
        before, begin = self.statistics(), time.monotonic()
        for _ in range(50):
            await self.run_op("aten::relu", x)
        after, seconds = self.statistics(), time.monotonic() - begin
        grown = {name: after[name] - before[name] for name in ("sessions_opened", "round_trips", "inputs_sent", "inputs_reused")}
        self.assertEqual(grown, {"sessions_opened": 0, "round_trips": 50, "inputs_sent": 0, "inputs_reused": 50})
        # besides them heartbeats, and what nobody waited for, now and then
        self.assertIn(after["messages_sent"] - before["messages_sent"], range(50, 60 + int(4 * seconds)))

    async def test_targets_that_cannot_be_reached_do_not_use_up_their_number(self):
        async def attempt(i):
            with self.assertRaises(djinn.TargetUnreachableError) as raised:
                await self.coordinator.execute_remote_operation("aten::neg", [1], f"ipc:///nowhere/{i}")
            return raised.exception.reason
        for start in range(0, 272, 16):
            for reason in await asyncio.gather(*map(attempt, range(start, start + 16))):
                self.assertNotIn("targets already", reason)
        self.assert_same(await self.run_op("aten::neg", torch.ones(2)), -torch.ones(2))

    async def test_no_cache_means_none(self):
        x = torch.randn(8)
        for size in (-1, 1 << 64):
            with self.assertRaises(ValueError):
                CoordinatorConfig(node_id="none", cached_input_bytes=size)
        async with DjinnCoordinator(CoordinatorConfig(node_id="none", cached_input_bytes=0)) as coordinator:
            for _ in range(2):
                self.assert_same(await coordinator.execute_remote_operation("aten::neg", [x], self.target), -x)
            statistics = coordinator.statistics(self.target)
        self.assertEqual((statistics["inputs_sent"], statistics["inputs_reused"]), (2, 0))

    async def test_concurrent_calls_share_a_session_and_keep_apart(self):
        before, inputs = self.opened(), [torch.full((32, 32), float(i)) for i in range(40)]

        async def chain(x):
            product = await self.run_op("aten::matmul", x, x)
            return await self.run_op("aten::sub", product, x)

        for x, result in zip(inputs, await asyncio.gather(*map(chain, inputs))):
            self.assert_same(result, x @ x - x)
        self.assertEqual(self.opened() - before, 1)

    async def test_threads_share_it_too(self):
        before = self.opened()

        def work(i):
            y = self.coordinator.execute("aten::full", [[10], i], self.target)
            return self.coordinator.execute("aten::sum", [y], self.target).item()

        loop = asyncio.get_running_loop()
        with concurrent.futures.ThreadPoolExecutor(8) as threads:
            sums = await asyncio.gather(*[loop.run_in_executor(threads, work, i) for i in range(32)])
        self.assertEqual(sums, [10 * i for i in range(32)])
        self.assertEqual(self.opened() - before, 1)

    async def test_two_targets_are_two_sessions(self):
        x = torch.randn(4)
        with tcp_server() as other:
            self.assert_same(await self.run_op("aten::neg", x), -x)
            there = await self.coordinator.execute_remote_operation("aten::abs", [x], other.endpoint)
            self.assert_same(there, x.abs())
            self.assertEqual(other.total("ops"), 1)
            self.assertEqual(self.coordinator.statistics(other.endpoint)["sessions_opened"], 1)

    async def test_front_door_and_control_port_both_open_sessions(self):
        x = torch.randn(4)
        self.assertNotEqual(self.target, self.server.endpoint)
        for target in (self.target, self.server.endpoint):
            self.assert_same(await self.coordinator.execute_remote_operation("aten::neg", [x], target), -x)

    async def test_idle_sessions_end_and_come_back(self):
        x, config = torch.randn(4), CoordinatorConfig(node_id="idle", idle_timeout=0.3)
        named = lambda stats: [s for s in stats["sessions"] if s["program"] == "idle"]
        async with DjinnCoordinator(config) as coordinator:
            result = await coordinator.execute_remote_operation("aten::neg", [x], self.target)
            self.assertEqual(len(named(self.server.stats())), 1)
            await asyncio.sleep(1)  # three times as long: a session whose handles live is not idle
            self.assert_same(result, -x)
            del result
            self.server.until(lambda stats: not named(stats))
            self.assert_same(await coordinator.execute_remote_operation("aten::neg", [x], self.target), -x)
            self.assertEqual(coordinator.statistics(self.target)["sessions_opened"], 2)

    async def test_stop_ends_the_sessions(self):
        await self.run_op("aten::neg", torch.randn(4))
        named = lambda stats: [s for s in stats["sessions"] if s["program"] == "test"]
        self.assertEqual(len(named(self.server.stats())), 1)
        await self.coordinator.stop()
        self.server.until(lambda stats: not named(stats))
        await self.coordinator.start()
        self.assert_same(await self.run_op("aten::neg", torch.ones(2)), -torch.ones(2))


if __name__ == "__main__":
    unittest.main()
