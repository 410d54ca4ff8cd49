// See collective.hpp.
#include "interpose/encode/collective.hpp"

#include <algorithm>
#include <chrono>
#include <functional>
#include <utility>

#include "interpose/batch/counters.hpp"
#include "interpose/batch/session.hpp"

namespace djinn {

using namespace std::chrono_literals;
using Kind = CollectiveCall::Kind;

namespace {

// A rank that is late has work to do; one that has not even joined is most likely in another process, where it cannot.
constexpr auto kSayAfter = 10s, kPatience = 600s, kPatienceToJoin = 60s;
constexpr auto kLook = 200ms;  // after the session

std::byte* at(const void* p, uint64_t bytes) { return static_cast<std::byte*>(const_cast<void*>(p)) + bytes; }
uint64_t address(const void* p) { return reinterpret_cast<uint64_t>(p); }

bool post_copy(void* to, const void* from, uint64_t bytes, uint64_t stream) {
  if (to == from || !bytes) return true;
  return post(wire::Opcode::copy, wire::Copy{stream, address(to), bytes, address(from), bytes, bytes, 1}) != 0;
}

bool post_reduce(void* to, std::span<const uint64_t> from, const CollectiveCall& c) {
  if (!c.count) return true;
  std::vector<std::byte>& payload = scratch();
  wire::Writer w(payload);
  w.put(wire::Reduce{c.stream, address(to), c.count, static_cast<wire::ReduceType>(c.type), c.operation});
  w.put_array(from);
  return post(static_cast<uint32_t>(wire::Opcode::reduce), 0, payload) != 0;
}

// What a collective comes to, when all ranks have called it. In-place arrays are the reason for the order: nothing is written that is read later.
bool lower(std::span<const CollectiveCall> ranks) {
  const CollectiveCall& first = ranks[0];
  const size_t n = ranks.size(), root = static_cast<size_t>(first.peer);
  const uint64_t share = first.count * element_bytes(first.type);
  bool posted = true;
  auto copy = [&](size_t to, uint64_t to_share, size_t from, uint64_t from_share) {
    posted = post_copy(at(ranks[to].to, to_share * share), at(ranks[from].from, from_share * share), share, ranks[to].stream) && posted;
  };
  auto reduce = [&](size_t to, uint64_t from_share) {
    std::vector<uint64_t> from;
    for (const CollectiveCall& r : ranks) from.push_back(address(r.from) + from_share * share);
    posted = post_reduce(ranks[to].to, from, ranks[to]) && posted;
  };
  switch (first.kind) {
    case Kind::broadcast:
      for (size_t r = 0; r < n; r++) copy(r, 0, root, 0);
      break;
    case Kind::reduce: reduce(root, 0); break;
    case Kind::all_reduce:
      reduce(0, 0);
      for (size_t r = 1; r < n; r++) posted = post_copy(ranks[r].to, ranks[0].to, share, ranks[r].stream) && posted;
      break;
    case Kind::reduce_scatter:
      for (size_t r = 0; r < n; r++) reduce(r, r);
      break;
    case Kind::all_gather:
      for (size_t r = 0; r < n; r++)
        for (size_t s = 0; s < n; s++) copy(r, s, s, 0);
      break;
    case Kind::all_to_all:
      for (size_t r = 0; r < n; r++)
        for (size_t s = 0; s < n; s++) copy(r, s, s, r);
      break;
    case Kind::gather:
      for (size_t s = 0; s < n; s++) copy(root, s, s, 0);
      break;
    case Kind::scatter:
      for (size_t r = 0; r < n; r++) copy(r, 0, root, r);
      break;
    case Kind::send:
    case Kind::receive: break;  // match_transfers
  }
  return posted;
}

}  // namespace

uint64_t element_bytes(uint32_t type) {
  uint64_t bytes = wire::element_bytes(static_cast<wire::ReduceType>(type));
  return bytes ? bytes : type < kElementTypes ? 1 : 0;  // the two kinds of float8
}

std::string Clique::join(size_t rank, int device) {
  std::lock_guard lock(mutex_);
  if (devices_[rank] >= 0) return "rank " + std::to_string(rank) + " has joined already";
  if (std::find(devices_.begin(), devices_.end(), device) != devices_.end()) return "several ranks on device " + std::to_string(device);
  devices_[rank] = device;
  return {};
}

void Clique::fail(std::string why) {
  if (broken_.empty()) broken_ = std::move(why);
  for (auto* queues : {&waiting_, &sends_, &receives_})
    for (Queue& q : *queues) q.clear();
  changed_.notify_all();
}

void Clique::abort(const std::string& why) {
  std::lock_guard lock(mutex_);
  fail(why);
}

void Clique::match_collectives() {
  while (std::all_of(waiting_.begin(), waiting_.end(), [](const Queue& q) { return !q.empty(); })) {
    std::vector<CollectiveCall> calls;
    for (Queue& q : waiting_) calls.push_back(q.front().call);
    for (const CollectiveCall& c : calls)
      if (c.shape() != calls[0].shape()) return fail("the ranks of a communicator called different collectives");
    if (!lower(calls)) return fail("the session is lost");
    for (Queue& q : waiting_) {
      --*q.front().left;
      q.pop_front();
    }
  }
}

void Clique::match_transfers() {
  for (size_t i = 0; i < sends_.size(); i++)
    for (Queue &out = sends_[i], &in = receives_[i]; !out.empty() && !in.empty(); out.pop_front(), in.pop_front()) {
      const CollectiveCall &from = out.front().call, &to = in.front().call;
      uint64_t bytes = from.count * element_bytes(from.type);
      if (bytes != to.count * element_bytes(to.type)) return fail("a send and its receive are of different sizes");
      if (!post_copy(to.to, from.from, bytes, to.stream)) return fail("the session is lost");
      --*out.front().left;
      --*in.front().left;
    }
}

void Clique::match() {
  match_collectives();
  match_transfers();
  changed_.notify_all();
}

std::string Clique::missing() const {
  std::string list;
  for (size_t r = 0; r < ranks(); r++)
    if (waiting_[r].empty()) list += (list.empty() ? "" : ", ") + std::to_string(r) + (devices_[r] >= 0 ? "" : " (not in this process)");
  return list;
}

// Until nothing is left, or nothing goes on.
void Clique::await(std::unique_lock<std::mutex>& lock, const size_t& left) {
  auto begin = std::chrono::steady_clock::now();
  bool said = false;
  while (!changed_.wait_for(lock, kLook, [&] { return !left || !broken_.empty(); })) {
    auto waited = std::chrono::steady_clock::now() - begin;
    bool all_here = std::find(devices_.begin(), devices_.end(), -1) == devices_.end();
    if (session_error()) fail("the session is lost");
    else if (waited > (all_here ? kPatience : kPatienceToJoin)) fail("gave up waiting for rank " + missing());
    else if (waited > kSayAfter && !std::exchange(said, true)) say(Level::warning, "NCCL: a collective waits for rank %s", missing().c_str());
  }
}

std::string Clique::submit(std::span<const Said> calls) {
  std::unique_lock lock(mutex_);
  if (!broken_.empty()) return broken_;
  size_t left = calls.size();
  for (const Said& s : calls) {
    size_t peer = static_cast<size_t>(s.call.peer);
    Queue& q = s.call.kind == Kind::send      ? sends_[s.rank * ranks() + peer]
               : s.call.kind == Kind::receive ? receives_[peer * ranks() + s.rank]
                                              : waiting_[s.rank];
    q.push_back({s.call, &left});
  }
  count(counters().calls, calls.size());
  match();
  await(lock, left);
  return left ? broken_ : std::string();
}

}  // namespace djinn
