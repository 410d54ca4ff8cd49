// Which module (module_path.hpp) and which line of the program's Python posted what: an error that arrives later names them by its ticket.
//
// A thread that posts has given up the interpreter's lock, and to ask for the line each time (python_line.hpp) would cost more than the post. But its
// own frames cannot change while it is in our call, and to read them needs no lock: a chain of structures whose layout is known for CPython 3.11
// to 3.13 (Include/internal/pycore_frame.h). What is read are addresses, of code and of the instruction in it; which line that is, and whether it is
// PyTorch's own, is asked once for each address, of the interpreter itself. That answer also shows whether the layout is what it was thought to be:
// if not, or in another Python, lines are not known and nothing else changes. some tens of nanoseconds a post; what a step pays is in scripts/bench.
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

// The same of what has this ticket: module and line in one word, of more tickets than can be under way. Written under the log's lock, read by whoever
// reads reports.
inline std::array<std::atomic<uint64_t>, 2 * wire::kCreditTickets> ticket_places{};
inline void note(Ticket t, uint32_t module, uint32_t line) {
  ticket_places[t % ticket_places.size()].store(uint64_t{module} << 32 | line, std::memory_order_relaxed);
}
inline std::string place_of(Ticket t) {
  uint64_t both = ticket_places[t % ticket_places.size()].load(std::memory_order_relaxed);
  return place(static_cast<uint32_t>(both >> 32), static_cast<uint32_t>(both));
}

}  // namespace djinn::error_line
