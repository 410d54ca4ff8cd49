"""Reads function prototypes from the vendor's headers, by way of the C preprocessor: nothing of theirs is copied into the repository.

This is no C parser. After preprocessing, a header of the CUDA family is a list of typedefs and `type name(parameters);`, and what matters to us is
each parameter's text, name and type. What is emitted from it is compiled against the same headers, so that a misreading is a compiler's error.
"""
import concurrent.futures
import dataclasses
import re
import subprocess


@dataclasses.dataclass(frozen=True)
class Parameter:
    name: str
    type: str  # "const float *"; an array is a pointer
    text: str  # as the header declares it, with a name


@dataclasses.dataclass(frozen=True)
class Prototype:
    name: str
    returns: str
    parameters: tuple
    header: str
    enumerators: tuple = ()  # of the first parameter's type, if it is an enum of this header


ATTRIBUTE = re.compile(r"__attribute__\s*\(\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)\)")
NOISE = re.compile(r"\b(?:__extension__|__inline__|__inline|__restrict__|__restrict|extern|__stdcall)\b")


def preprocess(header, include, fallback):
    command = ["gcc", "-E", "-P", "-x", "c"]
    for folder in include:
        command += ["-isystem", folder]
    for folder in fallback:
        command += ["-idirafter", folder]
    done = subprocess.run(command + ["-include", header, "/dev/null"], capture_output=True, text=True)
    if done.returncode == 0:
        return done.stdout
    if re.search(rf"{re.escape(header)}: No such file", done.stderr):
        return None
    raise RuntimeError(f"{header} cannot be preprocessed:\n{done.stderr}")


def statements(source):
    """The text of each declaration at file level; bodies in braces vanish."""
    found, depth, begin, text = [], 0, 0, []
    for match in re.finditer(r"[{};]", source):
        token = match.group()
        if token == "{":
            if depth == 0:
                text.append(source[begin:match.start()] + "{}")
            depth += 1
        elif token == "}":
            depth -= 1
            begin = match.end()
        elif depth == 0:
            text.append(source[begin:match.start()])
            found.append(" ".join("".join(text).split()))
            text, begin = [], match.end()
    return found


def split_parameters(text):
    """At commas outside of parentheses."""
    parts, depth, begin = [], 0, 0
    for i, c in enumerate(text):
        depth += (c == "(") - (c == ")")
        if c == "," and depth == 0:
            parts.append(text[begin:i].strip())
            begin = i + 1
    parts.append(text[begin:].strip())
    return [] if parts in ([""], ["void"]) else parts


WORDS_OF_TYPES = {"int", "char", "short", "long", "unsigned", "signed", "float", "double", "void", "const", "size_t", "struct", "enum"}


def read_parameter(text, position):
    if "(*" in text.replace(" ", "") or "(" in text:  # a pointer to a function
        match = re.search(r"\(\s*\*\s*(?:const\s+)?(\w+)", text)
        return Parameter(match.group(1) if match else f"p{position}", "void *", text)
    match = re.match(r"^(.*?[\s*&])(\w+)\s*((?:\[[^\]]*\]\s*)*)$", text)
    if not match or match.group(2) in WORDS_OF_TYPES or match.group(1).strip() in ("struct", "enum", "const"):
        return Parameter(f"p{position}", normal(text), f"{text} p{position}")
    kind, name, array = match.groups()
    return Parameter(name, normal(kind + ("*" if array else "")), text)


def normal(kind):
    return " ".join(kind.replace("*", " * ").split()).replace("* *", "**")


def read_enums(source):
    """{type: its enumerators' names}."""
    found = {}
    for tag, body, name in re.findall(r"\benum\s*(\w*)\s*\{([^{}]*)\}\s*(\w*)", source):
        names = tuple(part.split("=")[0].strip() for part in body.split(",") if part.strip())
        found.update({kind: names for kind in (tag, name) if kind})
    return found


def read(source, header, prefix):
    source = re.sub(r"^#pragma.*$", "", source, flags=re.M)
    source = NOISE.sub(" ", ATTRIBUTE.sub(" ", source))
    pattern = re.compile(rf"^((?:const )?(?:struct |enum )?[\w ]+?[\s*]+)({prefix}\w*)\s*\((.*)\)$")
    enums = read_enums(source)
    found = {}
    for statement in statements(source):
        statement = statement.rsplit("{}", 1)[-1].strip()  # what follows the body of an inline function
        if "(" not in statement or statement.startswith(("typedef", "static")):
            continue
        match = pattern.match(statement)
        if match:
            kind, name, parameters = match.groups()
            parts = split_parameters(parameters)
            read_parts = tuple(read_parameter(p, i) for i, p in enumerate(parts))
            found[name] = Prototype(name, normal(kind), read_parts, header, enums.get(read_parts[0].type, ()) if read_parts else ())
    return found


def read_all(apis, include, fallback):
    """{api name: {function: Prototype}}; an api whose headers are missing is left out."""
    headers = sorted({h for api in apis for h in api.headers})
    with concurrent.futures.ThreadPoolExecutor() as pool:
        sources = dict(zip(headers, pool.map(lambda h: preprocess(h, include, fallback), headers)))
    result = {}
    for api in apis:
        if any(sources[h] is None for h in api.headers):
            continue
        result[api.name] = {}
        for header in reversed(api.headers):
            result[api.name].update(read(sources[header], header, api.prefix))
    return result
