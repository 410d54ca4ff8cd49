"""Brings headers and overlay together: every function of a header gets exactly one row, and every parameter of a posted function a role and a wire type.
What cannot be meant is refused with the overlay's file and line, and a guess at what was meant."""
import dataclasses
import difflib
import re
import zlib

from .vocabulary import OverlayError, Role, Row, gpu, value

GENERATED_OPCODE = 0x80000000
# The structs of semantic/api/values.hpp and their bytes (which that file asserts); the numbers' widths on the wire.
STRUCTS = {"HandleState": 16, "Scalar": 24, "Matrix": 56, "MatmulDescription": 40}
NUMBERS = {"int32_t": 4, "uint32_t": 4, "int64_t": 8, "uint64_t": 8, "float": 4, "double": 8}
C_NUMBERS = {"int": "int32_t", "unsigned int": "uint32_t", "unsigned": "uint32_t", "size_t": "uint64_t", "int64_t": "int64_t", "uint64_t": "uint64_t",
             "long long": "int64_t", "long long int": "int64_t", "unsigned long long": "uint64_t", "float": "float", "double": "double"}
MODES = ("post", "local", "custom", "absent")


@dataclasses.dataclass(frozen=True)
class Field:
    name: str
    wire: str       # a number's type, or a struct of values.hpp
    role: Role
    parameter: object = None

    @property
    def bytes(self):
        return (NUMBERS.get(self.wire) or STRUCTS[self.wire]) + 7 & ~7


@dataclasses.dataclass(frozen=True)
class Command:
    name: str
    api: str
    opcode: int
    fields: tuple
    where: str

    @property
    def bytes(self):
        return sum(f.bytes for f in self.fields)


def near(word, words):
    close = difflib.get_close_matches(word, list(words), 1)
    return f"; did you mean '{close[0]}'?" if close else ""


def opcode(name):
    """Stable: independent of order, version and neighbours."""
    return GENERATED_OPCODE | zlib.crc32(name.encode()) & 0x7FFFFFFF


def check(api, row, prototypes):
    if row.mode not in MODES:
        raise OverlayError(f"{row.where}: {row.name}: unknown mode '{row.mode}'{near(row.mode, MODES)}")
    if row.name in api.undeclared:
        if row.mode == "post":
            raise OverlayError(f"{row.where}: {row.name}: no header declares it, so that it cannot be posted")
        return None
    if row.name not in prototypes:
        raise OverlayError(f"{row.where}: {row.name}: no such function in {' '.join(api.headers)}{near(row.name, prototypes)}")
    prototype = prototypes[row.name]
    names = [p.name for p in prototype.parameters]
    for name, role in row.roles.items():
        if name not in names:
            raise OverlayError(f"{row.where}: {row.name}: no parameter '{name}'{near(name, names)}")
    if row.mode == "absent" and row.scope not in ("drop", "abort"):
        raise OverlayError(f"{row.where}: {row.name}: unknown scope '{row.scope}'{near(row.scope, ('drop', 'abort'))}")
    if row.shape == "get" and row.of not in api.rows:
        raise OverlayError(f"{row.where}: {row.name}: no row of '{row.of}'{near(row.of, api.rows)}")
    return prototype


def rows_of(api, prototypes):
    """[(Row, Prototype or None)] in order of name; functions that no line names take the `rest` line."""
    found = {name: (row, check(api, row, prototypes)) for name, row in api.rows.items()}
    missing = sorted(set(prototypes) - set(found))
    if missing and api.others is None:
        raise OverlayError(f"{api.name}: {len(missing)} functions of {' '.join(api.headers)} have no row, among them {missing[0]}")
    for name in missing:
        found[name] = (dataclasses.replace(api.others, name=name), prototypes[name])
    return [found[name] for name in sorted(found)]


def role_of(api, row, parameter):
    if parameter.name in row.roles:
        return row.roles[parameter.name]
    if "*" not in parameter.type:
        return value
    if api.pointer and parameter.type.count("*") == 1 and "char" not in parameter.type:
        return api.pointer
    raise OverlayError(f"{row.where}: {row.name}: parameter '{parameter.name}' is '{parameter.type}': its role cannot be guessed, say it")


def field(api, row, parameter):
    role = role_of(api, row, parameter)
    if role.kind == "ignored":
        return None
    if role.kind in ("scalar", "library"):
        return Field(parameter.name, {"scalar": "Scalar", "library": "HandleState"}[role.kind], role, parameter)
    if role == gpu:
        return Field(parameter.name, "uint64_t", role, parameter)
    if role != value:
        raise OverlayError(f"{row.where}: {row.name}: '{parameter.name}': role '{role.kind}' has no wire form")
    plain = re.sub(r"\bconst\b", "", parameter.type).strip()
    # what is no C number is an enum here: the generated static_assert proves it
    return Field(parameter.name, C_NUMBERS.get(plain, "uint32_t"), role, parameter)


def commands_of(api, rows):
    for row, prototype in rows:
        if row.mode == "post":
            fields = tuple(f for f in (field(api, row, p) for p in prototype.parameters) if f)
            yield Command(row.name, api.name, opcode(row.name), fields, row.where)
    for name, (fields, where) in api.messages.items():
        for key, wire in fields.items():
            if wire not in NUMBERS and wire not in STRUCTS:
                raise OverlayError(f"{where}: {name}: '{key}' is '{wire}', which is no wire type{near(wire, [*NUMBERS, *STRUCTS])}")
        yield Command(name, api.name, opcode(name), tuple(Field(k, w, value) for k, w in fields.items()), where)


def refuse_collisions(commands):
    seen = {}
    for command in commands:
        if command.opcode in seen:
            raise OverlayError(f"{command.where}: {command.name} and {seen[command.opcode]} have the same opcode {command.opcode:#x}")
        seen[command.opcode] = command.name
