// See work.hpp.
#include "interpose/shadow/work.hpp"

#include <time.h>

#include <mutex>
#include <set>
#include <string>
#include <unordered_map>

#include "semantic/wire/op.hpp"

namespace djinn::work {

std::atomic<uint32_t> watchers{0};

namespace {

using wire::Opcode;

// A try to measure the offset of the clocks is a round trip; the quickest counts.
constexpr int kClockTries = 4;

struct Names {
  std::mutex mutex;
  std::unordered_map<uint64_t, const char*> ops, kernels;  // by id
  std::set<std::string, std::less<>> texts;                // kept for ever: records point into it
  const char* keep(std::string_view name) {
    auto i = texts.find(name);
    return (i == texts.end() ? texts.emplace(name).first : i)->c_str();
  }
};
Names& all_names() {
  static Names* n = new Names;
  return *n;
}

thread_local const char* next_work = nullptr;

template <class Fixed>
Fixed read(std::span<const std::byte> payload) {
  return wire::Reader(payload).get<Fixed>();
}

template <class Rows>
Work moves(What what, const Rows& r, uint64_t address, uint32_t value = 0) {
  return {what, "", r.width * r.height, address, value};
}

const char* find_name(const std::unordered_map<uint64_t, const char*>& map, uint64_t id, const char* otherwise) {
  auto i = map.find(id);
  return i == map.end() ? otherwise : i->second;
}

}  // namespace

bool describe(uint32_t opcode, std::span<const std::byte> payload, Work& w) {
  std::lock_guard lock(all_names().mutex);
  Names& n = all_names();
  auto computes = [&](const char* name) { return w = {What::kernel, name}, true; };
  if (opcode & wire::kGeneratedOpcode) return computes(next_work ? n.keep(next_work) : "library call");
  switch (static_cast<Opcode>(opcode)) {
    case Opcode::op_run:
    case Opcode::op_query: return computes(find_name(n.ops, read<wire::op::OpHead>(payload).op, "op"));
    case Opcode::launch: return computes(find_name(n.kernels, read<wire::Launch>(payload).kernel, "kernel"));
    case Opcode::reduce: return computes("ncclReduce");
    case Opcode::graph_launch: return computes("CUDA graph");
    case Opcode::upload: {
      auto u = read<wire::Upload>(payload);
      return w = moves(What::upload, u, u.address), true;
    }
    case Opcode::download:
    case Opcode::push_download: {
      auto d = read<wire::Download>(payload);
      return w = moves(What::download, d, d.address), true;
    }
    case Opcode::copy: {
      auto c = read<wire::Copy>(payload);
      return w = moves(What::copy, c, c.destination), true;
    }
    case Opcode::fill: {
      auto f = read<wire::Fill>(payload);
      return w = moves(What::fill, f, f.address, f.value), true;
    }
    default: return false;
  }
}

const char* op_name(uint64_t id) {
  std::lock_guard lock(all_names().mutex);
  return find_name(all_names().ops, id, "op");
}

void name_work(const char* name) { next_work = name; }

bool names(uint32_t opcode) { return opcode == static_cast<uint32_t>(Opcode::op_define) || opcode == static_cast<uint32_t>(Opcode::kernel_get); }

void take_name(uint32_t opcode, std::span<const std::byte> payload) {
  wire::Reader r(payload);
  Names& n = all_names();
  std::lock_guard lock(n.mutex);
  if (opcode == static_cast<uint32_t>(Opcode::op_define)) {
    uint64_t id = r.get<wire::op::OpDefine>().id;
    n.ops[id] = n.keep(r.get_string(wire::kNameBytesMax));
  } else {
    uint64_t id = r.get<wire::KernelGet>().id;
    n.kernels[id] = n.keep(r.get_string(wire::kNameBytesMax));
  }
}

// Asked between two looks at our clock.
bool ask_times(Watcher who, bool on, ServerClock& clock) {
  static std::mutex changing;  // never held while a command is noted
  std::lock_guard one(changing);
  if (!on) unwatch(who);
  if (!on && watched()) return true;
  clock.round_trip = ~0ull;
  for (int i = 0; i < (on ? kClockTries : 1); i++) {
    uint64_t begin = monotonic();
    Reply r = call(Opcode::timings, wire::Timings{on ? uint64_t{1} : 0});
    uint64_t end = monotonic();
    if (r.status) return false;
    if (end - begin >= clock.round_trip) continue;
    clock.round_trip = end - begin;
    clock.ahead =
        static_cast<int64_t>(wire::Reader(r.payload).get<wire::TimingsReply>().nanoseconds) - static_cast<int64_t>(begin + clock.round_trip / 2);
  }
  return true;
}

uint64_t monotonic() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1000000000u + static_cast<uint64_t>(t.tv_nsec);
}

}  // namespace djinn::work
