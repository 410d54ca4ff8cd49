"""Python's values as the C interface takes them, and back. Tensors of torch and arrays of numpy are described where they lie; neither library is
imported here unless the program has done so, or a result is asked for in its form."""
import ctypes
import functools
import importlib.util
import sys

from . import _library as c

# c10::ScalarType's numbers: torch's name, numpy's name (None: numpy has no such type), bytes
DTYPES = {0: ("uint8", "uint8", 1), 1: ("int8", "int8", 1), 2: ("int16", "int16", 2), 3: ("int32", "int32", 4), 4: ("int64", "int64", 8),
          5: ("float16", "float16", 2), 6: ("float32", "float32", 4), 7: ("float64", "float64", 8), 8: ("complex32", None, 4),
          9: ("complex64", "complex64", 8), 10: ("complex128", "complex128", 16), 11: ("bool", "bool", 1), 15: ("bfloat16", None, 2),
          23: ("float8_e5m2", None, 1), 24: ("float8_e4m3fn", None, 1), 25: ("float8_e5m2fnuz", None, 1), 26: ("float8_e4m3fnuz", None, 1),
          27: ("uint16", "uint16", 2), 28: ("uint32", "uint32", 4), 29: ("uint64", "uint64", 8)}
BY_TORCH = {names[0]: number for number, names in DTYPES.items()}
BY_NUMPY = {names[1]: number for number, names in DTYPES.items() if names[1]}
LAYOUTS = {"torch.strided": 0}  # c10::Layout; sparse ones cannot be results here
MEMORY_FORMATS = {"torch.contiguous_format": 0, "torch.preserve_format": 1, "torch.channels_last": 2, "torch.channels_last_3d": 3}


@functools.cache
def torch_is_installed():
    """Without importing it: that takes a second."""
    return importlib.util.find_spec("torch") is not None


def _words(numbers):
    return (ctypes.c_int64 * max(len(numbers), 1))(*numbers)


class Encoder:
    """One call's arguments. What they point to is kept alive here until the call is over."""

    def __init__(self):
        self.kept = []

    def array(self, values):
        array = (c.Value * max(len(values), 1))()
        for at, value in zip(array, values):
            self.put(at, value)
        self.kept.append(array)
        return array

    def put(self, at, value):
        torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
        if value is None:
            at.kind = c.NONE
        elif hasattr(value, "_djinn_handle"):
            at.kind, at.remote = c.REMOTE, value._djinn_handle()
            self.kept.append(value)
        elif torch and isinstance(value, torch.Tensor):
            self.put_torch(at, value)
        elif torch and self.put_torch_word(at, torch, value):
            pass
        elif numpy and isinstance(value, numpy.ndarray):
            self.put_numpy(at, numpy, value)
        elif numpy and isinstance(value, numpy.generic):
            self.put_plain(at, value.item())
        elif numpy and isinstance(value, (numpy.dtype, type)):
            at.kind, at.integer = c.INT, self.numpy_number(numpy.dtype(value))
        else:
            self.put_plain(at, value)

    def put_plain(self, at, value):
        if isinstance(value, bool):
            at.kind, at.integer = c.BOOL, value
        elif isinstance(value, int):
            if not -(1 << 63) <= value < 1 << 63:
                raise ValueError(f"{value} does not fit in 64 bits")
            at.kind, at.integer = c.INT, value
        elif isinstance(value, float):
            at.kind, at.real = c.REAL, value
        elif isinstance(value, complex):
            at.kind, at.real, at.imaginary = c.COMPLEX, value.real, value.imag
        elif isinstance(value, str):
            raw = ctypes.create_string_buffer(value.encode())
            self.kept.append(raw)
            at.kind, at.data, at.count = c.STRING, ctypes.addressof(raw), len(raw) - 1
        elif isinstance(value, (list, tuple)):
            at.kind, at.count, at.list = c.LIST, len(value), self.array(value)
        else:
            raise TypeError(f"a value of type {type(value).__qualname__} cannot be an argument of a remote operator")

    def put_torch_word(self, at, torch, value):
        """dtypes and the like, which schemas take as numbers."""
        if isinstance(value, torch.dtype):
            number = BY_TORCH.get(str(value).removeprefix("torch."))
        elif isinstance(value, torch.layout):
            number = LAYOUTS.get(str(value))
        elif isinstance(value, torch.memory_format):
            number = MEMORY_FORMATS.get(str(value))
        elif isinstance(value, torch.device):
            if value.index:
                raise TypeError(f"{value}: a server computes on one device, its first")
            at.kind = c.DEVICE
            return True
        else:
            return False
        if number is None:
            raise TypeError(f"{value} cannot be an argument of a remote operator")
        at.kind, at.integer = c.INT, number
        return True

    def put_host(self, at, dtype, data, sizes, strides):
        sizes, strides = _words(sizes), _words(strides)
        self.kept += [sizes, strides]
        at.kind, at.dtype, at.data, at.sizes, at.strides = c.HOST, dtype, data, sizes, strides

    def put_torch(self, at, tensor):
        number = BY_TORCH.get(str(tensor.dtype).removeprefix("torch."))
        if number is None or tensor.is_quantized or str(tensor.layout) != "torch.strided" or tensor.is_nested or tensor.is_meta:
            kind = ", quantized" if tensor.is_quantized else ", without numbers (meta)" if tensor.is_meta else ""
            raise TypeError(f"a tensor of {tensor.dtype}, {tensor.layout}{kind} cannot be sent")
        tensor = tensor.detach()
        if tensor.device.type != "cpu":
            tensor = tensor.cpu()
        tensor = tensor.resolve_conj().resolve_neg()
        self.kept.append(tensor)
        self.put_host(at, number, tensor.data_ptr(), tensor.shape, tensor.stride())
        at.count = tensor.dim()

    @staticmethod
    def numpy_number(dtype):
        number = BY_NUMPY.get(dtype.name)
        if number is None:
            raise TypeError(f"numpy's {dtype} has no counterpart in PyTorch")
        return number

    def put_numpy(self, at, numpy, array):
        number = self.numpy_number(array.dtype)
        if not array.dtype.isnative or any(stride % array.itemsize for stride in array.strides):
            array = array.astype(array.dtype.newbyteorder("="), order="C")  # ascontiguousarray would give a 0-dimensional one a dimension
        self.kept.append(array)
        self.put_host(at, number, array.ctypes.data, array.shape, [stride // array.itemsize for stride in array.strides])
        at.count = array.ndim


def decode(value, remote):
    """`remote` makes the object for a handle, which it must copy."""
    if value.kind == c.NONE:
        return None
    if value.kind == c.BOOL:
        return bool(value.integer)
    if value.kind == c.INT:
        return value.integer
    if value.kind == c.REAL:
        return value.real
    if value.kind == c.COMPLEX:
        return complex(value.real, value.imaginary)
    if value.kind == c.REMOTE:
        return remote(value.remote)
    if value.kind == c.LIST:
        return [decode(value.list[i], remote) for i in range(value.count)]
    raise TypeError(f"the coordinator's library gave a value of kind {value.kind}")
