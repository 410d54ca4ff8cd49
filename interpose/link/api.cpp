// The C face of libdjinn_link.so (semantic/abi/link.h), the only symbol that it exports. Nothing throws through it: an exception in here (memory is
// exhausted) ends the process, as it would in the program's own allocations; opening alone reports it, because there is a way to say no.
#include <cstdio>

#include "interpose/link/link.hpp"

struct djinn_link final : djinn::link::Link {
  using Link::Link;
};

namespace djinn::link {

namespace {

std::span<const std::byte> bytes(const void* data, size_t size) { return {static_cast<const std::byte*>(data), size}; }

djinn_link* open(const djinn_link_config* config, const djinn_link_events* events, djinn_link_opened* out, char* error, size_t size) noexcept {
  try {
    auto link = std::make_unique<djinn_link>(*config, *events);
    std::string why = link->open();
    if (why.empty()) {
      link->describe(*out);
      return link.release();
    }
    std::snprintf(error, size, "%s", why.c_str());
  } catch (const std::exception& e) {
    std::snprintf(error, size, "the link could not start: %s", e.what());
  }
  return nullptr;
}

int send(djinn_link* l, const void* frame, size_t size, const djinn_part* bulk, size_t count) noexcept {
  return l->send(bytes(frame, size), {bulk, count});
}
int drive(djinn_link* l, unsigned microseconds) noexcept { return l->drive(std::chrono::microseconds(microseconds)); }
void stats(djinn_link* l, djinn_link_stats* s) noexcept { *s = l->stats(); }

void close(djinn_link* l, unsigned milliseconds) noexcept {
  l->close(std::chrono::milliseconds(milliseconds));
  // kept, because a program thread may still be inside send or drive when the process ends; reachable, so that leak checkers know
  static auto* closed = new std::vector<djinn_link*>;
  static std::mutex mutex;
  std::lock_guard lock(mutex);
  closed->push_back(l);
}

void abandon_in_child(djinn_link* l) noexcept { l->abandon_in_child(); }

}  // namespace

}  // namespace djinn::link

extern "C" __attribute__((visibility("default"))) const djinn_link_api* djinn_link_get(uint32_t version) {
  using namespace djinn::link;
  static const djinn_link_api api = {DJINN_LINK_VERSION, sizeof(djinn_link_api), open, send, drive, stats, close, abandon_in_child};
  return version == DJINN_LINK_VERSION ? &api : nullptr;
}
