"""Prints the test cases of a unittest file, one `Class.test_method` per line, read from its source: nothing is imported, so torch need not exist yet."""
import ast
import sys

tree = ast.parse(open(sys.argv[1], encoding="utf-8").read(), sys.argv[1])
cases = [f"{c.name}.{f.name}" for c in tree.body if isinstance(c, ast.ClassDef) for f in c.body
         if isinstance(f, (ast.FunctionDef, ast.AsyncFunctionDef)) and f.name.startswith("test")]
if not cases:
    sys.exit(f"{sys.argv[1]}: no test case found; a file without one would pass by doing nothing")
print("\n".join(cases))
