"""Operators by name on a real server give what CPU PyTorch gives: overloads, composites, dtypes, layouts, several results; and what travels for it."""
import gc
import json
import pathlib
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from coordinating import CoordinatorCase, RemoteTensor, torch
from harness import BUILD, EXAMPLES, PACKAGES, SERVER, clean_environment, run

NUMPY_ONLY = """
import asyncio, sys
sys.modules["torch"] = None  # as if it were not installed
import numpy
from djinn.core.coordinator import CoordinatorConfig, DjinnCoordinator

async def main(target):
    async with DjinnCoordinator(CoordinatorConfig(node_id="numpy")) as coordinator:
        a, b = numpy.arange(12, dtype=numpy.float32).reshape(3, 4), numpy.arange(8.0, dtype=numpy.float32).reshape(2, 4).T
        y = await coordinator.execute_remote_operation("aten::matmul", [a, b], target)
        assert y.shape == (3, 2) and y.dtype == "float32", (y.shape, y.dtype)
        numpy.testing.assert_allclose(y.numpy(), a @ b)
        numpy.testing.assert_allclose(numpy.asarray(y.cpu()), a @ b)
        z = await coordinator.execute_remote_operation("aten::to", [y], target, dtype=numpy.int64)
        assert z.numpy().dtype == numpy.int64
        flipped = a[::-1, ::-2]
        numpy.testing.assert_array_equal((await coordinator.execute_remote_operation("aten::clone", [flipped], target)).numpy(), flipped)
asyncio.run(main(sys.argv[1]))
print("done")
"""


class TestPhase1RemoteExecution(CoordinatorCase):
    async def test_chain_sends_each_input_once_and_one_result_back(self):
        x, y, bias = torch.randn(100, 100), torch.randn(100, 100), torch.randn(100, 100)
        ops, frames, size_before = map(self.server.total, ("ops", "frames", "bytes"))
        product = await self.run_op("aten::matmul", x, y)
        total = await self.run_op("aten::add", product, bias)
        result = await self.run_op("aten::relu", total)
        self.assertEqual(result.shape, (100, 100))
        self.assertTrue(torch.allclose(result, torch.relu(torch.matmul(x, y) + bias)))
        s, size = self.statistics(), 100 * 100 * 4
        self.assertEqual((s["operations"], s["round_trips"], s["inputs_sent"], s["results_fetched"]), (3, 4, 3, 1))
        self.assertEqual((s["input_bytes_sent"], s["result_bytes_fetched"]), (3 * size, size))
        self.assertLess(s["bytes_sent"], 3 * size + 4096)
        self.assertLess(s["bytes_received"], size + 4096)
        # and who looks at the session sees what it runs
        graph = subprocess.run([str(SERVER), "--graph", self.server.endpoint], capture_output=True, text=True, timeout=20, check=True).stdout
        ran = {n["op"]: n for n in json.loads(graph)["nodes"]}
        self.assertLessEqual({"aten::matmul", "aten::add", "aten::relu"}, set(ran))
        self.assertEqual(ran["aten::matmul"]["flops"], 2 * 100 ** 3)
        # as the server counts: whatever nobody waits for leaves with the next call, or in a message of its own half a second later
        self.assertEqual(self.server.total("ops") - ops, 3)
        self.assertIn(self.server.total("frames") - frames, range(4, 8))
        self.assertIn(self.server.total("bytes") - size_before, range(3 * size, 3 * size + 4096))

    async def test_overloads_composites_and_views(self):
        x, y = torch.randn(6, 8), torch.randn(6, 8)
        image, kernel, bias = torch.randn(2, 3, 8, 8), torch.randn(4, 3, 3, 3), torch.randn(4)
        cases = [("aten::add", (x, y), {}, x + y), ("aten::add", (x, 2.5), {}, x + 2.5), ("aten::add.Tensor", (x, y), {"alpha": 2}, torch.add(x, y, alpha=2)),
                 ("aten::sub", (1, y), {}, 1 - y), ("aten::mul", (x, True), {}, x * True), ("aten::sum", (x,), {}, x.sum()),
                 ("aten::sum", (x, 1), {"keepdim": True}, x.sum(1, keepdim=True)), ("aten::mean", (x, [0, 1]), {}, x.mean((0, 1))),
                 ("aten::linear", (x, torch.ones(3, 8)), {}, torch.nn.functional.linear(x, torch.ones(3, 8))),
                 ("aten::conv2d", (image, kernel, bias), {"padding": 1, "stride": [2, 2]}, torch.conv2d(image, kernel, bias, stride=2, padding=1)),
                 ("aten::layer_norm", (x, [8]), {}, torch.layer_norm(x, [8])), ("aten::softmax", (x, -1), {}, x.softmax(-1)),
                 ("aten::transpose", (x, 0, 1), {}, x.t()), ("aten::reshape", (x, [4, -1]), {}, x.reshape(4, -1)),
                 ("aten::expand", (x[:1], [5, 8]), {}, x[:1].expand(5, 8)), ("aten::slice", (x, 1, 1, 7, 2), {}, x[:, 1:7:2]),
                 ("aten::where", (x > 0, x, 0.0), {}, torch.where(x > 0, x, 0.0)), ("aten::clamp", (x,), {"max": 0}, x.clamp(max=0)),
                 ("aten::zeros", ([2, 3],), {"dtype": torch.int32, "device": torch.device("cpu")}, torch.zeros(2, 3, dtype=torch.int32)),
                 ("aten::arange", (5,), {}, torch.arange(5)), ("aten::to", (x, torch.float64), {}, x.double()),
                 ("aten::index", (x, [None, torch.tensor([1, 3])]), {}, x[:, [1, 3]])]
        for op, inputs, keywords, expected in cases:
            with self.subTest(op=op, inputs=[getattr(i, "shape", i) for i in inputs]):
                self.assert_same(await self.run_op(op, *inputs, **keywords), expected, 1e-5)

    async def test_dtypes(self):
        for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
                      torch.complex64, torch.complex128):
            with self.subTest(dtype=dtype):
                x = torch.randn(5, 7).mul(3).to(dtype) if not dtype.is_complex else torch.randn(5, 7, dtype=dtype)
                self.assert_same(await self.run_op("aten::cat", [x, x.t().reshape(5, 7)], 0), torch.cat([x, x.t().reshape(5, 7)]))
                if dtype is not torch.bool:
                    self.assert_same(await self.run_op("aten::mul", x, x), x * x, 1e-6)
        z = torch.randn(4, dtype=torch.complex64)
        self.assert_same(await self.run_op("aten::conj", z.conj()), z)
        self.assert_same(await self.run_op("aten::conj", z), z.conj().resolve_conj())
        self.assert_same(await self.run_op("aten::imag", z.conj()), z.conj().imag.clone())

    async def test_layouts(self):
        x = torch.randn(4, 6, 5)
        views = {"transposed": x.transpose(0, 2), "sliced": x[1:3, ::2], "expanded": x[:1].expand(7, 6, 5), "channels last":
                 torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last), "empty": torch.empty(0, 3), "empty sliced": x[:, 2:2],
                 "scalar": torch.tensor(2.5), "requires grad": torch.randn(3, requires_grad=True), "conjugated": torch.randn(3, dtype=torch.complex64).conj()}
        for name, view in views.items():
            with self.subTest(name):
                self.assert_same(await self.run_op("aten::neg", view), -view.detach(), 0)
        large = torch.randn(3000, 3001).t()  # several pieces each way
        self.assert_same(await self.run_op("aten::abs", large), large.abs())

    async def test_results_of_every_kind(self):
        x = torch.randn(6, 4)
        values, indices = await self.run_op("aten::max", x, 1)
        self.assert_same(values, x.max(1).values)
        self.assert_same(indices, x.max(1).indices)
        pieces = await self.run_op("aten::split", x, 4)
        self.assertEqual(len(pieces), 2)
        for piece, expected in zip(pieces, x.split(4)):
            self.assert_same(piece, expected)
        self.assertEqual(await self.run_op("aten::item", torch.tensor(3)), 3)
        self.assertEqual(await self.run_op("aten::item", torch.tensor(1 + 2j)), 1 + 2j)
        self.assertIs(await self.run_op("aten::equal", x, x.clone()), True)
        self.assertIsNone(await self.run_op("aten::_assert_async", torch.tensor(True)))
        nothing = await self.run_op("aten::nonzero", torch.zeros(3))
        self.assertEqual((nothing.shape, nothing.cpu().dtype), ((0, 1), torch.int64))

    async def test_equal_inputs_travel_once_and_changed_ones_again(self):
        x = torch.randn(64, 64)
        await self.run_op("aten::mul", x, x)
        await self.run_op("aten::mul", x.clone(), 2)
        self.assertEqual(self.statistics()["inputs_sent"], 1)
        x.data[3, 4] += 1  # which no version counter sees
        self.assert_same(await self.run_op("aten::neg", x), -x)
        self.assertEqual(self.statistics()["inputs_sent"], 2)

    async def test_in_place_changes_the_handle_and_nothing_here(self):
        x, y = torch.randn(5), torch.randn(5)
        before, handle = x.clone(), await self.run_op("aten::clone", x)
        self.assert_same(handle, x)
        same = await self.run_op("aten::add_", handle, y)
        self.assert_same(handle, before + y)
        self.assert_same(same, before + y)
        self.assert_same(await self.run_op("aten::add_", x, y), before + y)
        self.assert_same(await self.run_op("aten::neg", x), -before)  # neither here nor the copy there
        self.assertTrue(torch.equal(x, before))
        out = await self.run_op("aten::zeros", [5])
        written = await self.run_op("aten::mul", x, y, out=out)
        self.assert_same(out, x * y)
        self.assert_same(written, x * y)
        mean, var = torch.zeros(3), torch.ones(3)
        for _ in range(2):  # it writes its statistics without a word in its schema
            image = torch.randn(4, 3, 2, 2)
            normed = await self.run_op("aten::batch_norm", image, None, None, mean, var, True, 0.1, 1e-5, False)
            self.assert_same(normed, torch.batch_norm(image, None, None, mean.clone(), var.clone(), True, 0.1, 1e-5, False), 1e-5)
        self.assert_same(await self.run_op("aten::neg", mean), -mean)

    async def test_torch_functions_fetch_once(self):
        x = torch.randn(20, 20)
        result = await self.run_op("aten::relu", x)
        self.assertIn("RemoteTensor(shape=(20, 20), dtype=float32, device='djinn:tcp://", repr(result))
        self.assertTrue(torch.allclose(result, x.relu()))
        self.assertTrue(torch.equal(torch.stack([result, x.relu()])[0], result.cpu()))
        self.assertEqual((result.numpy() == x.relu().numpy()).all(), True)
        self.assertTrue(torch.equal(await result.fetch(), x.relu()))
        self.assertEqual(self.statistics()["results_fetched"], 1)

    async def test_memory_is_given_back(self):
        handles = [await self.run_op("aten::full", [1 << 20], float(i)) for i in range(8)]
        mine = lambda stats: sum(s["memory_bytes"] for s in stats["sessions"])
        self.server.until(lambda stats: mine(stats) >= 8 << 22)
        self.assert_same(handles[5], torch.full((1 << 20,), 5.0))
        handles.clear()
        gc.collect()
        self.server.until(lambda stats: mine(stats) <= 2 << 20)

    def test_without_torch(self):
        done = run(NUMPY_ONLY, None, [self.server.endpoint], preload=False, PYTHONPATH=PACKAGES, DJINN_BUILD=BUILD)
        self.assertEqual(done.out, "done\n", str(done))

    def test_demo(self):
        from coordinating import front_door
        done = run(EXAMPLES / "simple_remote_demo.py", None, [front_door(self.server)], preload=False, DJINN_BUILD=BUILD)
        self.assertIn("All operations correct", done.out)
        self.assertIn("3 inputs sent", done.out)
        self.assertIn("1 result fetched", done.out)

    def test_cpp_program(self):
        done = subprocess.run([BUILD / "tests" / "coordinator_program", self.server.endpoint], capture_output=True, text=True, timeout=60,
                              env=clean_environment())
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("4 round trips, 3 inputs sent, 1 results fetched", done.stdout)


if __name__ == "__main__":
    unittest.main()
