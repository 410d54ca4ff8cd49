"""The API specification as a whole: the ledger and the library's symbols tell the same story, and the generator refuses what cannot be meant, by name."""
import collections
import json
import pathlib
import subprocess
import sys
import tempfile
import types
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import harness  # noqa: E402

sys.dont_write_bytecode = True
sys.path.insert(0, str(harness.ROOT / "semantic"))
from api.generator import entry, prototypes, rules, vocabulary, wire  # noqa: E402

HEADER = """
typedef enum { TOY_OK = 0, TOY_BAD = 1 } toyStatus_t;
typedef struct toyContext *toyHandle_t;
toyStatus_t toyCreate(toyHandle_t *handle);
toyStatus_t toyDestroy(toyHandle_t handle);
__attribute__((deprecated)) toyStatus_t toyScale(toyHandle_t handle, int n, const float alpha[], float *x, void (*done)(void *, int));
static inline int toyInline(int x) { return x ? toyHidden(x) : 0; }
size_t toyVersion(void);
toyStatus_t toyAdd(toyHandle_t handle, size_t n, const float *x, float *y);
"""


def toy(**more):
    return vocabulary.Api("toy", "toy.h", "toy", "toyStatus_t", success="TOY_OK", unsupported="TOY_BAD", invalid="TOY_BAD", lost="TOY_BAD",
                          pointer=vocabulary.gpu, returns={"size_t": "0"}, **more)


def rows(api):
    return rules.rows_of(api, prototypes.read(HEADER, "toy.h", "toy"))


class Prototypes(unittest.TestCase):
    def test_declarations_are_found_and_definitions_are_not(self):
        self.assertEqual(set(prototypes.read(HEADER, "toy.h", "toy")), {"toyCreate", "toyDestroy", "toyScale", "toyVersion", "toyAdd"})

    def test_parameters(self):
        scale = prototypes.read(HEADER, "toy.h", "toy")["toyScale"]
        self.assertEqual([p.name for p in scale.parameters], ["handle", "n", "alpha", "x", "done"])
        self.assertEqual([p.type for p in scale.parameters][2:4], ["const float *", "float *"])
        self.assertEqual(prototypes.read(HEADER, "toy.h", "toy")["toyVersion"].parameters, ())


class Refusals(unittest.TestCase):
    def refused(self, text, make):
        with self.assertRaises(vocabulary.OverlayError) as caught:
            make()
        self.assertIn(text, str(caught.exception))
        self.assertIn("test_api.py:", str(caught.exception))  # where it was said

    def test_unknown_function(self):
        api = toy()
        api.absent("toyDestory", "because")
        self.refused("no such function in toy.h; did you mean 'toyDestroy'?", lambda: rows(api))

    def test_unknown_parameter(self):
        api = toy()
        api.post("toyAdd", hendle=vocabulary.library)
        self.refused("no parameter 'hendle'; did you mean 'handle'?", lambda: rows(api))

    def test_unknown_mode(self):
        self.refused("unknown mode 'psot'; did you mean 'post'?", lambda: toy().psot("toyAdd"))

    def test_unknown_scope(self):
        api = toy()
        api.absent("toyAdd", "because", scope="dorp")
        self.refused("unknown scope 'dorp'; did you mean 'drop'?", lambda: rows(api))

    def test_declared_twice(self):
        api = toy()
        api.absent("toy{Add,Scale}", "because")
        self.refused("toyAdd is declared twice", lambda: api.local("toyAdd"))

    def test_a_function_without_a_row(self):
        api = toy()
        api.absent("toyAdd", "because")
        with self.assertRaises(vocabulary.OverlayError) as caught:
            rows(api)
        self.assertIn("have no row", str(caught.exception))

    def test_a_role_that_cannot_be_guessed(self):
        api = vocabulary.Api("toy", "toy.h", "toy", "toyStatus_t", success="0", unsupported="1", invalid="1", lost="1")
        api.post("toyAdd", handle=vocabulary.library)
        api.rest("because")
        self.refused("'const float *': its role cannot be guessed", lambda: list(rules.commands_of(api, rows(api))))

    def test_an_unknown_wire_type(self):
        api = toy()
        api.message("toyAdd", n="uint46_t")
        self.refused("no wire type; did you mean 'uint64_t'?", lambda: list(rules.commands_of(api, [])))

    def test_a_return_value_that_nobody_gave(self):
        api = toy()
        api.returns = {}
        api.rest("because")
        self.refused("returns 'size_t'", lambda: list(entry.source(api, rows(api), [])))

    def test_colliding_opcodes(self):
        one = types.SimpleNamespace(name="a", opcode=7, where="test_api.py:1")
        self.refused("same opcode", lambda: rules.refuse_collisions([one, types.SimpleNamespace(name="b", opcode=7, where="test_api.py:2")]))

    def test_a_name_in_the_generator_is_not_special(self):
        """Renaming every function of a family renames every function of what is generated, and changes nothing else but opcodes."""
        def text(prefix):
            header = HEADER.replace("toy", prefix)
            api = vocabulary.Api("t", "t.h", prefix, f"{prefix}Status_t", success="0", unsupported="1", invalid="1", lost="1", pointer=vocabulary.gpu,
                                 returns={"size_t": "0"})
            api.post(f"{prefix}Add", handle=vocabulary.library)
            api.rest("because")
            found = rules.rows_of(api, prototypes.read(header, "t.h", prefix))
            commands = list(rules.commands_of(api, found))
            lines = [*entry.source(api, found, commands), *wire.commands_header(commands, {})]
            return "\n".join(lines).replace(prefix, "toy").replace(f"{commands[0].opcode:#010x}", "")
        strip = lambda t: [line for line in t.splitlines() if "Declared in" not in line]  # noqa: E731
        self.assertEqual(strip(text("toy")), strip(text("cublas")))


class Ledger(harness.Case):
    needs_torch = False

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.rows = json.loads((harness.BUILD / "generated" / "ledger.json").read_text())["functions"]
        out = subprocess.run(["nm", "-D", "--defined-only", str(harness.PRELOAD)], capture_output=True, text=True, check=True).stdout
        cls.symbols = {line.split()[2].split("@")[0]: line.split()[1] for line in out.splitlines()}

    def test_each_function_has_one_row(self):
        twice = [n for n, c in collections.Counter(r["name"] for r in self.rows).items() if c > 1]
        self.assertEqual(twice, [])

    def test_symbols_are_what_the_ledger_says(self):
        """Absent functions are weak, all others strong: a hand-written function of a row that says absent is found, and a row without its function."""
        wrong = [f"{r['name']}: ledger {r['mode']} ({r['where']}), symbol {self.symbols.get(r['name'], 'missing')}" for r in self.rows
                 if self.symbols.get(r["name"]) != ("W" if r["mode"] == "absent" else "T")]
        self.assertEqual(wrong, [])

    def test_nothing_else_is_exported(self):
        known = {r["name"] for r in self.rows}
        self.assertEqual([s for s in self.symbols if s not in known and not s.startswith("djinn_")], [])

    def test_every_absence_has_a_reason(self):
        self.assertEqual([r["name"] for r in self.rows if r["mode"] == "absent" and not r["why"]], [])

    def test_an_absent_function_fails_and_is_named_once(self):
        code = ("import ctypes; lib = ctypes.CDLL(None); p = ctypes.c_void_p(0)\n"
                "print([lib.cudaGraphCreate(ctypes.byref(p), 0) for _ in range(3)], lib.cuLinkCreate_v2(0, p, p, p))")
        done = harness.run(code, "ipc:///nonexistent/djinn")
        self.assertEqual(done.out.split(), "[801, 801, 801] 801".split())
        self.assertEqual(done.err.count("cudaGraphCreate"), 1, done.err)

    def test_missing_headers_are_said(self):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, str(harness.ROOT / "semantic" / "api" / "generate.py"), folder, "--include", str(harness.BUILD)]
            done = subprocess.run(command, capture_output=True, text=True)
            self.assertNotEqual(done.returncode, 0)
            self.assertIn("not found in", done.stderr)


if __name__ == "__main__":
    unittest.main()
