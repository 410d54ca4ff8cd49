// A session's library calls: the context that semantic code (library_blas.cpp) sees of it.
#include "server/decode/library.hpp"

#include "server/decode/decode.hpp"

namespace djinn::server::decode {

namespace {

class SessionContext final : public LibraryContext {
 public:
  explicit SessionContext(Session& s) : session_(s) {}
  bool live(uint64_t address, uint64_t bytes) const override { return !bytes || session_.device().live(address, bytes); }
  bool known_stream(uint64_t id) const override { return session_.known_stream(id); }
  const Blas& blas() const override { return session_.device().blas(); }

 private:
  Session& session_;
};

Failure run_library_call(Session& s, const Command& c) {
  const LibraryCall* call = find_library(c.head.opcode);
  if (!c.bulk.empty()) return malformed(call->name.data());
  if ((c.head.flags & wire::kFlagScoped) && !s.opened().checks)
    return invalid(call->name.data(), "a scoped call for a server that does not validate (--check)");
  SessionContext context(s);
  context.validate_only = (c.head.flags & wire::kFlagScoped) || s.blind() || s.adding();
  if (s.opened().checks) s.scope_check().saw_words(c.payload);
  if (!context.validate_only) context.blas().set_threads(s.opened().threads);
  if (!s.adding()) ++s.counts().calls;
  wire::Reader r(c.payload);
  return call->run(context, r);
}

}  // namespace

Function find_library_call(uint32_t opcode) { return find_library(opcode) ? run_library_call : nullptr; }

}  // namespace djinn::server::decode
