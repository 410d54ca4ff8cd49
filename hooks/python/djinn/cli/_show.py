"""Numbers and tables for people, for the subcommands that print some."""
import shutil
import unicodedata


def scaled(n, unit="", step=1000, letters=("", "k", "M", "G", "T", "P", "E")):
    """1234567 → '1.23 M': three digits, so that a column is read at a glance."""
    n = float(n)
    for letter in letters:
        if abs(n) < step * 0.9995 or letter == letters[-1]:
            break
        n /= step
    digits = f"{n:.0f}" if n >= 99.95 or letter == "" and n == int(n) else f"{n:.1f}" if n >= 9.995 else f"{n:.2f}"
    return f"{digits} {letter}{unit}".rstrip()


def size(n):
    return scaled(n, "B", 1024, ("", "Ki", "Mi", "Gi", "Ti", "Pi"))


def span(nanoseconds):
    """The length of time that an op takes, or a session: 12.3 µs … 2 h 05 min."""
    s = nanoseconds / 1e9
    if s < 99.95:
        return scaled(nanoseconds / 1e3, "µs") if s < 1e-3 else scaled(nanoseconds / 1e6, "ms") if s < 1 else f"{s:.2f} s" if s < 9.995 else f"{s:.1f} s"
    minutes, seconds = divmod(round(s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"


def share(part, whole):
    return f"{100 * part / whole:.0f} %" if whole else "–"


def printable(text):
    """What a stranger named himself must not move the cursor."""
    return "".join("?" if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") else c for c in str(text))


def program(text, most=40):
    """A command line as a name: without the folder that it lies in, and without what nobody reads."""
    words = text.split()
    short = " ".join([words[0].rsplit("/", 1)[-1], *words[1:]]) if words else "–"
    return short if len(short) <= most else short[:most - 1] + "…"


def phase(session):
    """What a session does. At call level it runs no ops, but is told which ones its calls are part of."""
    return session["meaning"]["phase"] if session["ops"] or session["meaning"]["ops"] else "–"


def table(rows, heads, right=(), width=None):
    """Lines of aligned columns. `right`: the heads of those that are numbers. The widest text column gives way when a line is longer than the screen."""
    width = width or shutil.get_terminal_size((160, 40)).columns
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(head), *(len(row[i]) for row in rows)) if rows else len(head) for i, head in enumerate(heads)]
    excess = sum(widths) + 2 * (len(widths) - 1) - width
    texts = [i for i, head in enumerate(heads) if head not in right]
    while excess > 0 and texts:
        widest = max(texts, key=lambda i: widths[i])
        cut = min(excess, widths[widest] - max(len(heads[widest]), 12))
        if cut <= 0:
            break
        widths[widest] -= cut
        excess -= cut

    def line(cells):
        fitted = [cell if len(cell) <= w else "…" + cell[len(cell) - w + 1:] for cell, w in zip(cells, widths)]
        return "  ".join(cell.rjust(w) if head in right else cell.ljust(w) for cell, w, head in zip(fitted, widths, heads)).rstrip()

    return [line(heads)] + [line(row) for row in rows]
