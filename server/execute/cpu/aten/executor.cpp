// The C interface (semantic/abi/executor.h) and the tables of a session. No exception leaves this file.
#include "server/execute/cpu/aten/executor.hpp"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>

#include <atomic>
#include <cstring>

#include "semantic/wire/limits.hpp"
#include "semantic/wire/switches.hpp"

namespace djinn::aten {

namespace {

// libtorch warns on stderr about things that the client's own copy has warned about already.
struct Silent : c10::WarningHandler {
  void process(const c10::Warning&) override {}
};

// An unknown name was refused when the server started.
bool switched_on(std::string_view name) { return wire::read_switches(std::getenv("DJINN_PERF")).on(name); }

}  // namespace

Executor::Executor(const djinn_executor_host& host, int threads)
    : host_(host),
      tensors_(host_),
      decoder_(tensors_, scalars_),
      poison_([this](uint64_t address, uint64_t bytes) { return tensors_.memory_live(address, bytes); }),
      threads_(threads),
      placement_(switched_on("placement")) {
  if (switched_on("pool")) install_allocator(host.range_address, host.range_address + host.range_size);
}

Executor::~Executor() {
  now_.clear();
  release_pool();
}

Failure Executor::malformed(const char* why) const { return {kInvalidValue, wire::ErrorClass::refused, "op record", why}; }

Failure Executor::fail(Failure f, const OpSlot& slot) const {
  f.operation = slot.op ? slot.op->base : slot.name;
  return f;
}

Failure Executor::define(std::span<const std::byte> payload) {
  wire::Reader in(payload);
  auto d = in.get<wire::op::OpDefine>();
  auto name = in.get_string(wire::kNameBytesMax), overload = in.get_string(wire::kNameBytesMax);
  if (!in.finished()) return malformed("op_define is malformed");
  if (d.id >= wire::kOpIdsMax) return malformed("op id beyond kOpIdsMax");
  if (ops_.size() <= d.id) ops_.resize(d.id + 1);
  OpSlot& slot = ops_[d.id];
  slot.name = name;
  slot.reason.clear();
  slot.op = find_op(name, overload, slot.reason);  // a refusal is reported when the op is run
  return {};
}

Failure Executor::dispatch(uint32_t opcode, std::span<const std::byte> payload) {
  switch (static_cast<wire::Opcode>(opcode)) {
    case wire::Opcode::op_define: return define(payload);
    case wire::Opcode::tensor_define:
      if (const char* why = tensors_.define(payload)) return malformed(why);
      return {};
    case wire::Opcode::tensor_forget:
      if (const char* why = tensors_.forget(payload)) return malformed(why);
      return {};
    case wire::Opcode::op_run: return run(payload, false);
    case wire::Opcode::op_query: return run(payload, true);
    case wire::Opcode::op_take: return take(payload);
    case wire::Opcode::op_drop: return drop(payload);
    case wire::Opcode::op_call: return call(payload);
    default: return malformed("a command that is not an op's");  // the other opcodes never come here
  }
}

template <class Work>
void Executor::guarded(std::span<const std::byte> payload, djinn_executor_result& result, Work&& work) {
  adopt_pool();
  if (threads_applied_ != threads_) at::set_num_threads(threads_applied_ = threads_);
  reply_.clear();
  Failure f;
  if (payload.size() % 8) {
    f = malformed("a payload that is not whole words");
  } else {
    if (reinterpret_cast<uintptr_t>(payload.data()) % 8) {
      aligned_.resize(payload.size() / 8);
      std::memcpy(aligned_.data(), payload.data(), payload.size());
      payload = std::as_bytes(std::span(aligned_));
    }
    try {
      f = work(payload);
    } catch (...) {
      f = failure_in_flight();
    }
  }
  result = {};
  result.reply = reply_.data();
  result.reply_size = reply_.size();
  if (f.code == kSuccess) return;
  operation_ = std::move(f.operation), text_ = std::move(f.text);
  result.code = f.code;
  result.error_class = static_cast<uint32_t>(f.error_class);
  result.operation = operation_.c_str();
  result.text = text_.c_str();
}

void Executor::execute(uint32_t opcode, std::span<const std::byte> payload, djinn_executor_result& result) {
  guarded(payload, result, [&](auto whole) { return dispatch(opcode, whole); });
}

namespace {

const char* const* ops(size_t* count) {
  *count = op_names().size();
  return op_names().data();
}

void* open(const djinn_executor_host* host, int threads) try {
  if (!host || host->version != DJINN_EXECUTOR_VERSION || host->size < sizeof(djinn_executor_host) || threads < 1) return nullptr;
  return new Executor(*host, threads);
} catch (...) {
  return nullptr;
}

void execute(void* self, uint32_t opcode, uint64_t, const void* payload, size_t size, djinn_executor_result* result) {
  static thread_local Silent silent;
  c10::WarningUtils::WarningHandlerGuard quiet(&silent);
  static_cast<Executor*>(self)->execute(opcode, {static_cast<const std::byte*>(payload), size}, *result);
}

void graph_add(void* self, uint64_t graph, const void* payload, size_t size, djinn_executor_result* result) {
  auto& e = *static_cast<Executor*>(self);
  e.guarded({static_cast<const std::byte*>(payload), size}, *result, [&](auto whole) { return e.graph_add(graph, whole); });
}

void graph_run(void* self, uint64_t graph, uint64_t index, djinn_executor_result* result) {
  static thread_local Silent silent;
  c10::WarningUtils::WarningHandlerGuard quiet(&silent);
  auto& e = *static_cast<Executor*>(self);
  e.guarded({}, *result, [&](auto) { return e.graph_run(graph, index); });
}

void graph_drop(void* self, uint64_t graph) { static_cast<Executor*>(self)->graph_drop(graph); }

void set_threads(void* self, int threads) {
  if (threads > 0) static_cast<Executor*>(self)->set_threads(threads);
}

void close(void* self) try { delete static_cast<Executor*>(self); } catch (...) {
}

}  // namespace

}  // namespace djinn::aten

extern "C" __attribute__((visibility("default"))) const djinn_executor* djinn_executor_load(const char* op_library, char* error, size_t error_size) {
  using namespace djinn::aten;
  static const djinn_executor table{
      DJINN_EXECUTOR_VERSION, sizeof(djinn_executor), DJINN_TORCH_VERSION, ops, open, execute, set_threads, close, graph_add, graph_run, graph_drop};
  auto say = [&](const char* text) {
    if (error && error_size) snprintf(error, error_size, "%s", text);
  };
  try {
    if (auto problem = load_ops(op_library); !problem.empty()) return say(problem.c_str()), nullptr;
    return &table;
  } catch (const std::exception& e) {
    return say(e.what()), nullptr;
  } catch (...) {
    return say("the executor: an exception of unknown type while listing ops"), nullptr;
  }
}
