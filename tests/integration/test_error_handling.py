"""Whatever goes wrong is an exception that names operator, target and reason; the server lives, and the next operator works."""
import asyncio
import multiprocessing
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from coordinating import CoordinatorCase, CoordinatorConfig, DjinnCoordinator, front_door, tcp_server, torch
from harness import BUILD, PACKAGES, Server, clean_environment, free_ports
import djinn


class TestErrorHandling(CoordinatorCase):
    options = ("--memory", "64MiB")

    async def check_fails(self, words, op, *inputs, error=djinn.RemoteOperationError, target=None, **keywords):
        target = target or self.target
        with self.assertRaises(error) as raised:
            await asyncio.wait_for(self.coordinator.execute_remote_operation(op, list(inputs), target, **keywords), 60)
        self.assertIn(words, raised.exception.reason)
        self.assertIn(op, str(raised.exception))
        self.assertIn(target, str(raised.exception))
        return raised.exception

    async def check_works(self):
        self.assert_same(await self.run_op("aten::relu", torch.tensor([-1.0, 2.0])), torch.tensor([0.0, 2.0]))

    async def test_operators_that_do_not_fit(self):
        x, worker = torch.randn(2, 3), None
        cases = [("there is no operator aten::nothing", "aten::nothing", (x,), {}), ("no operator", "matmul", (x, x), {}),
                 ("no overload Nothing", "aten::add.Nothing", (x, x), {}), ("shapes cannot be multiplied", "aten::matmul", (x, x), {}),
                 ("dtype", "aten::matmul", (x, torch.ones(3, 2, dtype=torch.int64)), {}), ("argument 'self' is Tensor, not str", "aten::relu", ("x",), {}),
                 ("is missing", "aten::matmul", (x,), {}), ("takes 1 arguments", "aten::relu", (x, x), {}), ("no argument 'beta'", "aten::relu", (x,), {"beta": 1}),
                 ("out of range", "aten::index_select", (x, 0, torch.tensor([9])), {}), ("ut of range", "aten::softmax", (x, 5), {}),
                 ("not executed by this server", "aten::set_", (x, x), {}), ("not executed by this server", "aten::from_file", ("/etc/passwd",), {}),
                 ("cannot be an argument", "aten::relu", (object(),), {}), ("64 bits", "aten::add", (x, 1 << 70), {}),
                 ("cannot be sent", "aten::relu", (x.to_sparse(),), {}), ("sparse", "aten::_to_sparse", (x,), {}),
                 ("list", "aten::cat", ([x, 1],), {})]
        await self.check_works()
        worker = [s["worker_pid"] for s in self.server.stats()["sessions"]]
        for words, op, inputs, keywords in cases:
            with self.subTest(op=op, words=words):
                error = await self.check_fails(words, op, *inputs, **keywords)
                self.assertIsInstance(error, RuntimeError)
                self.assertEqual((error.op, self.target in error.target), (op, True))
                await self.check_works()
        self.assertEqual([s["worker_pid"] for s in self.server.stats()["sessions"]], worker)
        self.assertEqual(self.statistics()["sessions_opened"], 1)

    async def test_no_memory_there(self):
        await self.check_fails("no memory", "aten::relu", torch.zeros(40 << 20))
        await self.check_fails("no memory", "aten::zeros", [40 << 20])
        await self.check_works()

    async def test_inputs_that_are_kept_make_room(self):
        for i in range(4):  # of 20 MiB; 64 are there
            self.assertEqual((await self.run_op("aten::sum", torch.full((5 << 20,), float(i)))).item(), i * (5 << 20))
        large = await self.run_op("aten::ones", [12 << 20])
        self.assertEqual((await self.run_op("aten::sum", large)).item(), 12 << 20)

    async def test_what_is_refused_leaves_its_arguments_as_they_were(self):
        x, out = torch.randn(2, 2), torch.randn(3)
        handle, result = await self.run_op("aten::clone", x), await self.run_op("aten::clone", out)
        await self.check_fails("match", "aten::add_", handle, torch.ones(3))
        await self.check_fails("match", "aten::mul", x, torch.ones(3), out=result)
        self.assert_same(await self.run_op("aten::neg", handle), -x)
        self.assert_same(await self.run_op("aten::neg", result), -out)
        self.assert_same(handle, x)
        self.assert_same(result, out)

    async def test_nobody_listens(self):
        begin = time.monotonic()
        error = await self.check_fails("nobody listens there", "aten::relu", torch.ones(1), error=djinn.TargetUnreachableError,
                                       target=f"127.0.0.1:{free_ports()}")
        self.assertIsInstance(error, ConnectionError)
        self.assertLess(time.monotonic() - begin, 20)
        await self.check_fails("endpoint", "aten::relu", torch.ones(1), error=djinn.TargetUnreachableError, target="nonsense")
        await self.check_works()

    async def test_calls_that_wait_for_one_open_share_its_outcome(self):
        with socket.create_server(("127.0.0.1", 0)) as silent:  # it accepts and says nothing
            target = f"127.0.0.1:{silent.getsockname()[1]}"
            async with DjinnCoordinator(CoordinatorConfig(node_id="patient", open_timeout=1.0)) as coordinator:
                calls = [coordinator.execute_remote_operation("aten::neg", [1], target) for _ in range(8)]
                begin = time.monotonic()
                outcomes = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 60)
                took = time.monotonic() - begin
        self.assertEqual({type(e) for e in outcomes}, {djinn.TargetUnreachableError})
        self.assertEqual(len({e.reason for e in outcomes}), 1)
        self.assertLess(took, 1.9)  # one attempt; closing it waits for nothing

    async def test_a_server_that_dies_and_comes_back(self):
        x, other = torch.randn(3), tcp_server()
        target, endpoint = front_door(other), other.endpoint
        with other:
            handle = await self.coordinator.execute_remote_operation("aten::neg", [x], target)
            kept = await self.coordinator.execute_remote_operation("aten::neg", [x], target)
            self.assert_same(kept, -x)
            other.kill()
            with self.assertRaises((djinn.TargetUnreachableError, djinn.DeadHandleError)):
                async with asyncio.timeout(60):
                    while True:  # until the loss has been noticed
                        await self.coordinator.execute_remote_operation("aten::neg", [handle], target)
            await self.check_fails("nobody listens there", "aten::neg", x, error=djinn.TargetUnreachableError, target=target)
        with Server("--data-ports", "0", endpoint=endpoint):
            self.assert_same(await self.coordinator.execute_remote_operation("aten::neg", [x], target), -x)
            error = await self.check_fails("dead", "aten::neg", handle, error=djinn.DeadHandleError, target=target)
            self.assertIsInstance(error, RuntimeError)
            with self.assertRaises(djinn.DeadHandleError):
                handle.cpu()
            self.assert_same(kept, -x)  # its numbers are here
        await self.check_works()

    async def test_a_worker_that_dies_costs_its_session_only(self):
        await self.check_works()
        for session in self.server.stats()["sessions"]:
            os.kill(session["worker_pid"], signal.SIGKILL)
        with self.assertRaises(djinn.TargetUnreachableError) as raised:
            async with asyncio.timeout(60):
                while True:
                    await self.run_op("aten::neg", torch.ones(1))
                    if self.statistics()["sessions_opened"] > 1:
                        raise djinn.TargetUnreachableError("", "", "noticed between two calls")
        self.assertTrue(raised.exception.reason)
        await self.check_works()
        self.assertEqual(self.statistics()["sessions_opened"], 2)

    def worker(self, program):
        return next(s["worker_pid"] for s in self.server.stats()["sessions"] if s["program"] == program)

    async def test_a_worker_that_dies_during_an_operator(self):
        await self.check_works()
        worker = self.worker("test")
        os.kill(worker, signal.SIGSTOP)  # so that the call is under way for sure
        call = asyncio.ensure_future(self.run_op("aten::neg", torch.ones(1)))
        await asyncio.sleep(0.2)
        self.assertFalse(call.done())
        os.kill(worker, signal.SIGKILL)
        with self.assertRaises(djinn.TargetUnreachableError) as raised:
            await asyncio.wait_for(call, 30)
        self.assertIn("closed", raised.exception.reason)
        await self.check_works()

    async def test_a_call_that_is_cancelled_harms_nobody(self):
        handle = await self.run_op("aten::ones", [2])
        worker = self.worker("test")
        os.kill(worker, signal.SIGSTOP)
        try:
            with self.assertRaises(asyncio.TimeoutError):
                await asyncio.wait_for(self.coordinator.execute_remote_operation("aten::add_", [handle, 1], self.target), 0.2)
        finally:
            os.kill(worker, signal.SIGCONT)
        self.assert_same(await self.run_op("aten::neg", handle), torch.full((2,), -2.0))  # it was sent, and is done
        self.assertEqual(self.statistics()["sessions_opened"], 1)

    async def test_letting_go_of_a_handle_waits_for_nobody(self):
        large = torch.zeros(4 << 20)
        self.server.until(lambda stats: not stats["sessions"])  # the memory of the test before
        async with DjinnCoordinator(CoordinatorConfig(node_id="dropping", operation_timeout=5.0)) as coordinator:
            handles = [await coordinator.execute_remote_operation("aten::ones", [[1]], self.target) for _ in range(2)]
            worker = self.worker("dropping")
            os.kill(worker, signal.SIGSTOP)
            try:
                # 16 MiB each, of their own: one of them asks for a larger lease, and memory can neither be had nor given back meanwhile
                calls = [asyncio.ensure_future(coordinator.execute_remote_operation("aten::add_", [large, i], self.target)) for i in range(8)]
                await asyncio.sleep(1.5)
                begin = time.monotonic()
                handles.clear()
                waited = time.monotonic() - begin
            finally:
                os.kill(worker, signal.SIGCONT)
            await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 60)
        self.assertLess(waited, 1)

    async def test_a_forked_child(self):
        handle = await self.run_op("aten::ones", [2])
        ours, theirs = multiprocessing.get_context("fork").Pipe()

        def child():
            said = []
            for attempt in (lambda: self.coordinator.execute("aten::neg", [1.0], self.target), handle.cpu):
                try:
                    said.append(str(attempt()))
                except djinn.DjinnError as error:
                    said.append(f"{type(error).__name__}: {error.reason}")
            self.coordinator._finalizer()  # as the interpreter does at its end, which multiprocessing leaves out
            theirs.send(said)

        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        self.addCleanup(process.kill)
        self.assertTrue(await asyncio.to_thread(ours.poll, 30))
        called, fetched = ours.recv()
        await asyncio.to_thread(process.join, 30)
        self.assertEqual(process.exitcode, 0)
        self.assertRegex(called, "TargetUnreachableError.*forked")
        self.assertRegex(fetched, "DeadHandleError.*forked")
        self.assert_same(handle, torch.ones(2))

    async def test_an_answer_that_does_not_come(self):
        config = CoordinatorConfig(node_id="impatient", operation_timeout=0.5)
        async with DjinnCoordinator(config) as coordinator:
            await coordinator.execute_remote_operation("aten::neg", [torch.ones(1)], self.target)
            worker = next(s["worker_pid"] for s in self.server.stats()["sessions"] if s["program"] == "impatient")
            os.kill(worker, signal.SIGSTOP)
            try:
                with self.assertRaises(djinn.TargetUnreachableError) as raised:
                    await asyncio.wait_for(coordinator.execute_remote_operation("aten::neg", [torch.ones(1)], self.target), 30)
                self.assertIn("no answer within 500 ms", raised.exception.reason)
            finally:
                os.kill(worker, signal.SIGCONT)
            await coordinator.execute_remote_operation("aten::neg", [torch.ones(1)], self.target)

    async def test_handles_of_elsewhere_and_of_before(self):
        handle = await self.run_op("aten::ones", [2])
        await self.check_fails("another target", "aten::neg", handle, error=djinn.DeadHandleError, target=self.server.endpoint)
        async with DjinnCoordinator(CoordinatorConfig(node_id="other")) as other:
            with self.assertRaises(djinn.DeadHandleError):
                await other.execute_remote_operation("aten::neg", [handle], self.target)
        await self.coordinator.stop()
        with self.assertRaises(djinn.DeadHandleError) as raised:
            handle.cpu()
        self.assertIn("closed", raised.exception.reason)
        await self.check_fails("not running", "aten::neg", torch.ones(1), error=djinn.TargetUnreachableError)

    async def test_tcp_that_is_ruled_out(self):
        x = torch.ones(2)
        async with DjinnCoordinator(CoordinatorConfig(node_id="ipc", tcp_fallback=False)) as coordinator:
            with self.assertRaises(djinn.TargetUnreachableError) as raised:
                await coordinator.execute_remote_operation("aten::neg", [x], self.target)
            self.assertIn("tcp_fallback", raised.exception.reason)
            with Server() as near:
                self.assert_same(await coordinator.execute_remote_operation("aten::neg", [x], near.endpoint), -x)

    async def test_a_server_without_torch_says_so(self):
        with Server(torch=False) as bare:
            await self.check_fails("no op level", "aten::neg", torch.ones(1), error=djinn.TargetUnreachableError, target=bare.endpoint)

    async def test_the_server_module(self):
        command = [sys.executable, "-m", "djinn.backend.server.server", "--node-id", "server"]
        environment = clean_environment(PYTHONPATH=PACKAGES, DJINN_BUILD=BUILD)
        refused = subprocess.run([*command, "--control-port", "5555", "--data-port", "7000"], capture_output=True, text=True, timeout=60, env=environment)
        self.assertEqual(refused.returncode, 2)
        self.assertIn("--data-port 7000", refused.stderr)
        from djinn.backend.server.server import command as line
        listens = lambda *given: [o for o in line(list(given)) if "://" in o]
        self.assertEqual(listens(), ["tcp://127.0.0.1:5555"])
        self.assertEqual(listens("--listen", "ipc:///x"), ["ipc:///x"])  # given through: instead of the default
        self.assertEqual(listens("--listen=ipc:///x", "--control-port", "7000"), ["--listen=ipc:///x", "tcp://127.0.0.1:7000"])
        port = free_ports()
        read_end, write_end = os.pipe()
        ports = ["--control-port", str(port), "--data-port", str(port + 1), "--data-ports", "0", "--ready-fd", str(write_end)]
        server = subprocess.Popen([*command, *ports], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment, pass_fds=[write_end])
        try:
            os.close(write_end)
            with os.fdopen(read_end) as ready:
                self.assertIn("ready", await asyncio.wait_for(asyncio.to_thread(ready.readline), 60))
            x = torch.randn(3)
            result = await self.coordinator.execute_remote_operation("aten::neg", [x], f"localhost:{port + 1}")
            self.assert_same(result, -x)
        finally:
            server.terminate()
            server.wait(timeout=20)


if __name__ == "__main__":
    unittest.main()
