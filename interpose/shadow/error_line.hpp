// Which line of the program's Python posted what: an error that arrives later names it by its ticket, as it names the module (module_path.hpp).
//
// A thread that posts has given up the interpreter's lock, and to ask for the line each time (python_line.hpp) would cost more than the post. But its
// own frames cannot change while it is in our call, and to read them needs no lock: a chain of structures whose layout is known for CPython 3.11
// to 3.13 (Include/internal/pycore_frame.h). What is read are addresses, of code and of the instruction in it; which line that is, and whether it is
// PyTorch's own, is asked once for each address, of the interpreter itself. That answer also shows whether the layout is what it was thought to be:
// if not, or in another Python, lines are not known and nothing else changes. 20–30 ns a post (tests/bench/post_bench.cpp);
// DJINN_PERF=no_error_lines.
#pragma once
#include <array>
#include <atomic>
#include <cstdint>
#include <string>

#include "interpose/client.hpp"

namespace djinn::error_line {

// With the session: is there a Python whose frames can be read?
void start();
// The number of the innermost line that is not PyTorch's in this thread (python::place); 0: not known.
uint32_t here();
// " in transformer.wte (train.py:31)", of what is known.
std::string place(uint32_t module, uint32_t line);

// As ticket_modules: more tickets than can be under way.
inline std::array<std::atomic<uint32_t>, 2 * wire::kCreditTickets> ticket_lines{};
inline void note(Ticket t, uint32_t line) { ticket_lines[t % ticket_lines.size()].store(line, std::memory_order_relaxed); }
inline uint32_t of(Ticket t) { return ticket_lines[t % ticket_lines.size()].load(std::memory_order_relaxed); }

}  // namespace djinn::error_line
