// Which module of the program's model posted what: paths by number, which the framework's hook gives, and the number of each ticket that may still be
// under way. An error that arrives names its module by its ticket. The labels that a program gives are texts of the same kind.
#pragma once
#include <array>
#include <atomic>
#include <string>

#include "interpose/client.hpp"

namespace djinn {

// The same number for the same path; 0 when there are too many.
uint32_t module_number(const char* path);
// Empty: none. Valid as long as the process.
const char* module_path(uint32_t number);

// More tickets than can be under way. Written under the log's lock, read by whoever reads reports.
inline std::array<std::atomic<uint32_t>, 2 * wire::kCreditTickets> ticket_modules{};
inline void note_module(Ticket t, uint32_t number) { ticket_modules[t % ticket_modules.size()].store(number, std::memory_order_relaxed); }
inline uint32_t module_of(Ticket t) { return ticket_modules[t % ticket_modules.size()].load(std::memory_order_relaxed); }

}  // namespace djinn
