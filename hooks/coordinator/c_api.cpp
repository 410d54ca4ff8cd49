// The C face (semantic/abi/coordinator.h). Exceptions end here: each becomes a djinn_failure.
#include <cstdio>
#include <deque>

#include "hooks/coordinator/coordinator.hpp"
#include "semantic/abi/coordinator.h"

using namespace djinn;

struct djinn_coordinator {
  Coordinator coordinator;
};
struct djinn_remote {
  RemoteTensor tensor;
};
struct djinn_results {
  std::deque<std::vector<djinn_value>> lists;  // inner ones
  std::vector<djinn_value> values;
  std::deque<djinn_remote> remotes;
};

namespace {

void say(djinn_failure* f, uint32_t kind, const std::string& op, const std::string& target, const std::string& reason) {
  if (!f) return;
  f->kind = kind;
  std::snprintf(f->op, sizeof f->op, "%s", op.c_str());
  std::snprintf(f->target, sizeof f->target, "%s", target.c_str());
  std::snprintf(f->reason, sizeof f->reason, "%s", reason.c_str());
}

// Runs `work`; what it throws is said, and `otherwise` returned.
template <class Work, class Result>
Result guarded(djinn_failure* f, const char* op, const char* target, Result otherwise, Work&& work) {
  try {
    return work();
  } catch (const OperationError& e) {
    say(f, DJINN_OPERATION_FAILED, e.op, e.target, e.reason);
  } catch (const UnreachableError& e) {
    say(f, DJINN_UNREACHABLE, e.op, e.target, e.reason);
  } catch (const DeadHandleError& e) {
    say(f, DJINN_DEAD_HANDLE, e.op, e.target, e.reason);
  } catch (const std::exception& e) {
    say(f, DJINN_OPERATION_FAILED, op ? op : "", target ? target : "", e.what());
  }
  return otherwise;
}

Value value_of(const djinn_value& v, bool in_list = false) {
  switch (static_cast<djinn_value_kind>(v.kind)) {
    case DJINN_NONE: return {};
    case DJINN_BOOL: return v.integer != 0;
    case DJINN_INT: return v.integer;
    case DJINN_REAL: return v.real;
    case DJINN_COMPLEX: return std::complex<double>(v.real, v.imaginary);
    case DJINN_STRING: return std::string(static_cast<const char*>(v.data), v.count);
    case DJINN_DEVICE: return Device{};
    case DJINN_HOST: {
      HostTensor h{v.data, static_cast<DType>(v.dtype), {v.sizes, v.sizes + v.count}, {}};
      if (v.strides) h.strides.assign(v.strides, v.strides + v.count);
      return h;
    }
    case DJINN_REMOTE:
      if (!v.remote) throw std::invalid_argument("a null handle");
      return v.remote->tensor;
    case DJINN_LIST: {
      if (in_list)
        throw std::invalid_argument("a list whose elements are not all tensors, numbers or strings");  // as encode.cpp; and no deep recursion
      Values list;
      for (uint64_t i = 0; i < v.count; i++) list.push_back(value_of(v.list[i], true));
      return list;
    }
  }
  throw std::invalid_argument("a value of no known kind");
}

djinn_value describe(const Value& v, djinn_results& r) {
  djinn_value out{};
  if (auto* b = std::get_if<bool>(&v)) out.kind = DJINN_BOOL, out.integer = *b;
  if (auto* i = std::get_if<int64_t>(&v)) out.kind = DJINN_INT, out.integer = *i;
  if (auto* d = std::get_if<double>(&v)) out.kind = DJINN_REAL, out.real = *d;
  if (auto* z = std::get_if<std::complex<double>>(&v)) out.kind = DJINN_COMPLEX, out.real = z->real(), out.imaginary = z->imag();
  if (auto* t = std::get_if<RemoteTensor>(&v)) out.kind = DJINN_REMOTE, out.remote = &r.remotes.emplace_back(djinn_remote{*t});
  if (auto* list = std::get_if<Values>(&v)) {
    std::vector<djinn_value> elements;
    for (const Value& e : *list) elements.push_back(describe(e, r));
    auto& kept = r.lists.emplace_back(std::move(elements));
    out.kind = DJINN_LIST, out.list = kept.data(), out.count = kept.size();
  }
  return out;
}

CoordinatorConfiguration configuration_of(const djinn_coordinator_config* given) {
  CoordinatorConfiguration c;
  if (!given) return c;
  auto milliseconds = [](uint64_t ms, std::chrono::milliseconds& to) {
    if (ms) to = std::chrono::milliseconds(ms);
  };
  if (given->node_id) c.node_id = given->node_id;
  milliseconds(given->open_patience_ms, c.open_patience);
  milliseconds(given->call_patience_ms, c.call_patience);
  milliseconds(given->idle_ms, c.idle);
  if (given->cached_input_bytes) c.cached_input_bytes = given->cached_input_bytes == DJINN_CACHE_OFF ? 0 : given->cached_input_bytes;
  if (given->link_library) c.link_library = given->link_library;
  if (given->emulate) c.emulate = given->emulate;
  return c;
}

}  // namespace

extern "C" {

#define EXPORT DJINN_COORDINATOR_API

EXPORT uint32_t djinn_coordinator_version(void) { return DJINN_COORDINATOR_VERSION; }

EXPORT djinn_coordinator* djinn_coordinator_make(const djinn_coordinator_config* config, djinn_failure* f) {
  return guarded(f, nullptr, nullptr, static_cast<djinn_coordinator*>(nullptr),
                 [&] { return new djinn_coordinator{Coordinator(configuration_of(config))}; });
}

EXPORT void djinn_coordinator_close(djinn_coordinator* c) {
  guarded(nullptr, nullptr, nullptr, 0, [&] { return c->coordinator.close(), 1; });
}

EXPORT void djinn_coordinator_release(djinn_coordinator* c) { delete c; }

EXPORT int djinn_coordinator_connect(djinn_coordinator* c, const char* target, djinn_failure* f) {
  return guarded(f, nullptr, target, 0, [&] { return c->coordinator.connect(target), 1; });
}

EXPORT void djinn_coordinator_statistics(djinn_coordinator* c, const char* target, djinn_coordinator_stats* out) {
  *out = {};
  guarded(nullptr, nullptr, target, 0, [&] {
    auto s = c->coordinator.statistics(target);
    *out = {s.sessions_opened, s.operations,       s.round_trips,   s.messages_sent,   s.bytes_sent,           s.messages_received, s.bytes_received,
            s.inputs_sent,     s.input_bytes_sent, s.inputs_reused, s.results_fetched, s.result_bytes_fetched, s.connected};
    return 1;
  });
}

EXPORT djinn_results* djinn_coordinator_call(djinn_coordinator* c, const char* op, const char* target, const djinn_value* values, size_t count,
                                             const char* const* names, size_t keywords, djinn_failure* f) {
  return guarded(f, op, target, static_cast<djinn_results*>(nullptr), [&] {
    if (keywords > count) throw std::invalid_argument("more keywords than values");
    Values arguments;
    Keywords named;
    for (size_t i = 0; i < count - keywords; i++) arguments.push_back(value_of(values[i]));
    for (size_t i = 0; i < keywords; i++) named.emplace_back(names[i], value_of(values[count - keywords + i]));
    auto results = c->coordinator.call(op, arguments, target, named);
    auto out = std::make_unique<djinn_results>();
    for (const Value& v : results) out->values.push_back(describe(v, *out));
    return out.release();
  });
}

EXPORT const djinn_value* djinn_results_values(const djinn_results* r, size_t* count) {
  *count = r->values.size();
  return r->values.data();
}

EXPORT void djinn_results_release(djinn_results* r) { delete r; }

EXPORT djinn_remote* djinn_remote_copy(const djinn_remote* r) {
  return guarded(nullptr, nullptr, nullptr, static_cast<djinn_remote*>(nullptr), [&] { return new djinn_remote(*r); });
}
EXPORT void djinn_remote_release(djinn_remote* r) { delete r; }

EXPORT void djinn_remote_describe(const djinn_remote* r, djinn_remote_info* out) {
  const RemoteTensor& t = r->tensor;
  *out = {static_cast<uint32_t>(t.dtype()),
          t.conjugate(),
          t.negative(),
          static_cast<uint32_t>(t.sizes().size()),
          t.sizes().data(),
          t.elements(),
          t.version(),
          t.target().c_str()};
}

EXPORT int djinn_remote_fetch(const djinn_remote* r, void* to, size_t bytes, djinn_failure* f) {
  return guarded(f, "fetch", r->tensor.target().c_str(), 0, [&] {
    if (bytes != r->tensor.elements() * item_bytes(r->tensor.dtype())) throw std::invalid_argument("the buffer is not as large as the tensor");
    return r->tensor.fetch(to), 1;
  });
}

}  // extern "C"
