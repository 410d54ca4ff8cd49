"""What goes into an operator by name and what may be done with a handle: odd arrays, keywords of every name, arguments that are written, truth."""
import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from coordinating import CoordinatorCase, torch
import djinn
import numpy


class TestRemoteValues(CoordinatorCase):
    async def test_arrays_of_numpy(self):
        arrays = {"flipped, one element": numpy.arange(1.0)[::-1], "flipped row": numpy.arange(6.0).reshape(1, 6)[::-1],
                  "0-dimensional": numpy.array(2.5), "big-endian": numpy.arange(3.0).astype(">f8"), "big-endian, 0-dimensional": numpy.array(2.5, dtype=">f4"),
                  "of a structure": numpy.zeros(4, dtype=[("a", "i1"), ("b", "<f4")])["b"], "empty": numpy.zeros((0, 3))}
        for name, array in arrays.items():
            with self.subTest(name):
                result = (await self.run_op("aten::clone", array)).numpy()
                self.assertEqual((result.shape, result.dtype), (array.shape, array.dtype.newbyteorder("=")))
                numpy.testing.assert_array_equal(result, array)
        conjugated = (await self.run_op("aten::conj", torch.tensor(1 + 2j))).numpy()
        self.assertIsInstance(conjugated, numpy.ndarray)
        self.assertEqual(conjugated, 1 - 2j)

    async def test_values_that_cannot_travel_are_refused_in_words(self):
        for words, value in (("longdouble", numpy.longdouble(1)), ("meta", torch.ones(2, device="meta")), ("first", torch.device("cuda:3")),
                             ("shape makes no sense", torch.zeros(1, dtype=torch.complex128).expand(1 << 60))):
            with self.subTest(words), self.assertRaisesRegex(djinn.RemoteOperationError, words):
                await self.run_op("aten::neg", value)
        self.assert_same(await self.run_op("aten::zeros", [2], device=torch.device("cuda:0")), torch.zeros(2))

    async def test_keywords_of_every_name(self):
        x, y, execute = torch.randn(4), torch.randn(4), self.coordinator.execute_remote_operation
        expected = torch.nn.functional.mse_loss(x, y)
        self.assert_same(await execute("aten::mse_loss", [x], self.target, target=y), expected)
        self.assert_same(await execute("aten::mse_loss", [x], target=self.target, keywords={"target": y}), expected)
        self.assert_same(await execute("aten::mse_loss", [], self.target, self=x, target=y), expected)
        self.assert_same(self.coordinator.execute("aten::neg", [x], target=self.target), -x)
        with self.assertRaisesRegex(djinn.RemoteOperationError, "no argument 'op'"):
            await execute("aten::neg", [x], self.target, op=1, inputs=2)
        with self.assertRaisesRegex(djinn.RemoteOperationError, "given twice"):
            await execute("aten::mse_loss", [x], self.target, target=y, keywords={"target": y})
        for nowhere in ({}, {"target": y}):
            with self.assertRaisesRegex(djinn.RemoteOperationError, "the target is a string"):
                await execute("aten::neg", [x], **nowhere)

    async def test_results_that_are_given_by_keyword(self):
        x, zeros = torch.randn(5), torch.zeros(5)
        values, indices = await self.run_op("aten::zeros", [5]), await self.run_op("aten::zeros", [5], dtype=torch.int64)
        self.assert_same(values, zeros)
        await self.run_op("aten::sort", x, values=values, indices=indices)
        self.assert_same(values, x.sort().values)
        self.assert_same(indices, x.sort().indices)
        await self.run_op("aten::neg", zeros)  # now it is kept
        sorted_, _ = await self.run_op("aten::sort", x, values=zeros, indices=torch.zeros(5, dtype=torch.int64))
        self.assert_same(sorted_, x.sort().values)
        noise = torch.ones(5)
        await self.run_op("aten::neg", noise)
        await self.run_op("aten::rrelu_with_noise", x, noise, 0.1, 0.3, True)
        self.assert_same(await self.run_op("aten::neg", zeros), -torch.zeros(5))  # and is what it was
        self.assert_same(await self.run_op("aten::neg", noise), -torch.ones(5))

    async def test_the_truth_of_a_handle(self):
        for value in (torch.tensor(0.0), torch.tensor(3), torch.zeros(1), torch.tensor([[True]])):
            self.assertIs(bool(await self.run_op("aten::clone", value)), bool(value))
        with self.assertRaises(RuntimeError):
            bool(await self.run_op("aten::ones", [2]))

    async def test_functions_of_torch_do_not_write_to_handles(self):
        handle, x = await self.run_op("aten::ones", [2]), torch.ones(2)
        for name, attempt in (("relu_", lambda: torch.relu_(handle)), ("add", lambda: torch.add(x, x, out=handle)),
                              ("relu", lambda: torch.nn.functional.relu(handle, inplace=True)), ("sort", lambda: torch.sort(x, out=(handle, handle)))):
            with self.subTest(name), self.assertRaisesRegex(TypeError, f"^{name} would write"):
                attempt()
        x.add_(handle)
        self.assertEqual(x.tolist(), [2, 2])
        self.assertEqual(torch.add(handle, x).tolist(), [3, 3])

    async def test_operators_in_place_that_give_nothing(self):
        handle = await self.run_op("aten::ones", [2])
        self.assertIsNone(await self.run_op("aten::_foreach_add_", [handle], 1))
        self.assert_same(handle, torch.full((2,), 2.0))
        with self.assertRaisesRegex(djinn.RemoteOperationError, "changes the shape"):
            await self.run_op("aten::squeeze_", handle)
        with self.assertRaisesRegex(djinn.RemoteOperationError, "not executed by this server"):
            await self.run_op("aten::_reshape_alias_copy", handle, [8], [1])


if __name__ == "__main__":
    unittest.main()
